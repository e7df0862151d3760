package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/store"
)

// Completion: a shell's script asks this program what may come next, so that it knows
// the models in the home and is never out of date.

var (
	//go:embed completion/shoal.bash
	bashScript string
	//go:embed completion/shoal.zsh
	zshScript string
	//go:embed completion/shoal.fish
	fishScript string
)

func completionCommand() *cli.Command {
	script := func(shell, text, how string) *cli.Command {
		return &cli.Command{
			Name: shell, Usage: "print the script for " + shell, Description: "To use it in every shell:\n\n" + how,
			Action: func(c *cli.Context) error {
				if err := noArgs(c); err != nil {
					return err
				}
				_, err := io.WriteString(c.App.Writer, text)
				return err
			},
		}
	}
	return &cli.Command{
		Name: "completion", Usage: "print a script that makes a shell complete commands, flags and models", ArgsUsage: "bash|zsh|fish",
		Description: "`shoal completion SHELL --help` says where to put it; `make install` puts it there.",
		Action:      needSubcommand,
		Subcommands: []*cli.Command{
			script("bash", bashScript, "shoal completion bash > ~/.local/share/bash-completion/completions/shoal"),
			script("zsh", zshScript, "shoal completion zsh > \"${fpath[1]}/_shoal\""),
			script("fish", fishScript, "shoal completion fish > ~/.config/fish/completions/shoal.fish"),
			{
				Name: "words", Hidden: true, ArgsUsage: "-- WORDS", Usage: "for the scripts: list completions of the last word",
				Flags: []cli.Flag{&cli.StringFlag{Name: "describe", Usage: "append each word's description after a tab or colon"}},
				Action: func(c *cli.Context) error {
					for _, w := range complete(c.Context, c.App, c.Args().Slice()) {
						switch {
						case c.String("describe") == "tab" && w.help != "":
							w.text += "\t" + w.help
						case c.String("describe") == "colon":
							w.text = strings.ReplaceAll(w.text, ":", `\:`) + ":" + w.help
						}
						if _, err := fmt.Fprintln(c.App.Writer, w.text); err != nil {
							return err
						}
					}
					return nil
				},
			},
		},
	}
}

// needSubcommand is the action of a command that only groups subcommands.
func needSubcommand(c *cli.Context) error {
	if c.Args().Present() {
		return unknownCommand(c.Command.FullName()+" "+c.Args().First(), c.Args().First(), c.Command.Subcommands)
	}
	return cli.ShowSubcommandHelp(c)
}

// word is a possible completion, with its description.
type word struct{ text, help string }

// complete returns completions of the last of words, which follow the program's name.
// An empty result lets the shell complete file names.
func complete(ctx context.Context, app *cli.App, words []string) (out []word) {
	if len(words) == 0 {
		return nil
	}
	current := words[len(words)-1]
	flags, commands, usage := app.Flags, app.Commands, ""
	var of cli.Flag // that the current word is the value of
	home, positional := "", 0
	for _, w := range words[:len(words)-1] {
		name, value, joined := strings.Cut(strings.TrimLeft(w, "-"), "=")
		switch {
		case of != nil:
			if of.Names()[0] == "home" {
				home = w
			}
			of = nil
		case w == "--":
			return nil // another program's words
		case strings.HasPrefix(w, "-"):
			f := flagNamed(flags, name)
			if joined && f != nil && f.Names()[0] == "home" {
				home = value
			}
			if !joined && f != nil && takesValue(f) {
				of = f
			}
		default:
			if i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(w) }); i >= 0 {
				flags, commands, usage = commands[i].Flags, commands[i].Subcommands, commands[i].ArgsUsage
			} else {
				positional++
			}
		}
	}
	add := func(text, help string) {
		if strings.HasPrefix(text, current) {
			out = append(out, word{text, help})
		}
	}
	if name, value, ok := strings.Cut(current, "="); ok && of == nil && strings.HasPrefix(name, "-") { // --flag=value
		if f := flagNamed(flags, strings.TrimLeft(name, "-")); f != nil {
			for _, w := range values(ctx, f, home) {
				if strings.HasPrefix(w.text, value) {
					out = append(out, word{name + "=" + w.text, w.help})
				}
			}
		}
		return out
	}
	switch {
	case of != nil:
		for _, w := range values(ctx, of, home) {
			add(w.text, w.help)
		}
	case strings.HasPrefix(current, "-"):
		for _, f := range append(slices.Clone(flags), cli.HelpFlag) {
			if v, ok := f.(cli.VisibleFlag); !ok || v.IsVisible() {
				add("--"+f.Names()[0], usageOf(f))
			}
		}
	case len(commands) > 0 && positional == 0:
		for _, c := range commands {
			if !c.Hidden {
				add(c.Name, c.Usage)
			}
		}
	case strings.HasPrefix(strings.TrimPrefix(usage, "["), "MODEL") && positional == 0:
		for _, name := range modelNames(ctx, home) {
			add(name, "model")
		}
	}
	return out
}

func flagNamed(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// usageOf returns a flag's usage text without the backquotes around its value's name.
func usageOf(f cli.Flag) string {
	if d, ok := f.(cli.DocGenerationFlag); ok {
		return strings.ReplaceAll(d.GetUsage(), "`", "")
	}
	return ""
}

// values returns the values that a flag takes, if they are known.
func values(ctx context.Context, f cli.Flag, home string) (out []word) {
	var list []string
	switch f.Names()[0] {
	case "model":
		list = modelNames(ctx, home)
	case "log-level":
		list = []string{"debug", "info", "warn", "error"}
	case "wire":
		list = []string{"auto", "f32", "f16", "q8_0"}
	case "ahead":
		list = []string{"auto", "off"}
	case "kv":
		list = []string{"f16", "f32"}
	case "span":
		list = []string{"auto", "all"}
	}
	for _, s := range list {
		out = append(out, word{text: s})
	}
	return out
}

// askTime limits how long a Tab waits for the node's answer.
const askTime = 500 * time.Millisecond

// modelNames lists the models on the disk and, if a node is running in the home, those
// that its peers serve.
func modelNames(ctx context.Context, dir string) []string {
	if dir == "" {
		if dir = os.Getenv("SHOAL_HOME"); dir == "" {
			dir = defaultHome()
		}
	}
	names := store.Names(home.Home(dir).Store())
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	if cl := running(ctx, dir); cl != nil {
		list, err := cl.Models(ctx)
		for _, m := range list {
			if err == nil && cell(m.Name) == m.Name && !strings.ContainsAny(m.Name, " \"'`$\\") { // a peer's word goes into a command line
				names = append(names, m.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func manCommand() *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "print the manual page", Description: "To read it: shoal man | man -l -",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			_, err := io.WriteString(c.App.Writer, manPage(c.App))
			return err
		},
	}
}
