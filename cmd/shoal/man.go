package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/urfave/cli/v2"
)

// manPage renders the command tree as a manual page, via Markdown.
func manPage(app *cli.App) string {
	var b strings.Builder
	changed := ""
	if t := builtAt(); !t.IsZero() {
		changed = t.Format(time.DateOnly)
	}
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("%% SHOAL 1 %q %q \"User commands\"", changed, "shoal "+app.Version)
	p("# NAME\n\nshoal - %s\n", app.Usage)
	p("# SYNOPSIS\n\n**shoal** [**--log-level** *LEVEL*] *COMMAND* [*OPTIONS*] [*ARGUMENTS*]\n")
	p("# DESCRIPTION\n\nEach node lends what it can spare: it fetches the part of a model that it serves, and passes activations on to the next node. Together they answer prompts that none of them could answer alone. Flags may stand before or behind arguments; **--** ends them.\n")
	p("```\n%s\n```\n", firstSteps)
	p("# OPTIONS\n")
	manFlags(p, app.Flags)
	p("# COMMANDS\n")
	for _, c := range app.Commands {
		manCommands(p, c, "shoal")
	}
	p("# FILES\n")
	for _, f := range [][2]string{
		{"~/.shoal", "the home of a node, unless **--home** or **SHOAL_HOME** says otherwise"},
		{"config.toml", "in the home: the flags of **shoal node**, as settings of the same names, such as `memory = \"8GiB\"`. A flag takes precedence over the environment, and the environment over the file."},
		{"swarms", "in the home: the private swarms that it is in, with its key in each, and the root keys of those that were founded here. Keep them secret."},
		{"key", "in the home: the node's private key in the open network, which is its identity there. Keep it secret."},
		{"store", "in the home: the models"},
	} {
		p("**%s**\n:   %s\n", f[0], f[1])
	}
	p("# EXIT STATUS\n")
	for _, line := range strings.Split(exitCodes, "\n")[1:] {
		code, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		p("**%s**\n:   %s\n", code, strings.TrimSpace(text))
	}
	return string(md2man.Render([]byte(b.String())))
}

// manCommands writes the sections of commands and their subcommands.
func manCommands(p func(string, ...any), c *cli.Command, above string) {
	if c.Hidden {
		return
	}
	name := above + " " + c.Name
	args := ""
	if c.ArgsUsage != "" {
		args = " " + c.ArgsUsage
	}
	p("### %s%s\n\n%s.\n", name, args, sentence(c.Usage))
	if c.Description != "" {
		p("%s\n", c.Description)
	}
	manFlags(p, c.Flags)
	for _, s := range c.Subcommands {
		manCommands(p, s, name)
	}
}

// sentence returns s with its first letter in upper case.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func manFlags(p func(string, ...any), flags []cli.Flag) {
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		if v, visible := f.(cli.VisibleFlag); !ok || visible && !v.IsVisible() || slices.Contains(f.Names(), "help") {
			continue
		}
		var names []string
		for _, n := range f.Names() {
			names = append(names, "**"+strings.Repeat("-", min(2, len(n)))+n+"**")
		}
		text, value := d.GetUsage(), ""
		if d.TakesValue() {
			value = " *VALUE*"
			if parts := strings.SplitN(text, "`", 3); len(parts) == 3 {
				value, text = " *"+parts[1]+"*", strings.Join(parts, "")
			}
			if v := d.GetDefaultText(); v != "" && v != `""` && v != "0" && v != "-1" && !strings.Contains(text, "(default") {
				text += " (default: " + strings.ReplaceAll(v, defaultHome(), "~/.shoal") + ")"
			}
		}
		if env := d.GetEnvVars(); len(env) > 0 {
			text += " [" + strings.Join(env, ", ") + "]"
		}
		p("%s%s\n:   %s\n", strings.Join(names, ", "), value, strings.ReplaceAll(sentence(text), "_", `\_`))
	}
}
