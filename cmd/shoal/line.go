package main

import (
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// The command line as people type it: flags may stand before or behind arguments, and
// those of the whole program anywhere. The library stops at the first argument, so the
// words are put into its order before it sees them.

// arranged is a command line in the order that the library reads.
type arranged struct {
	args []string // with the program's name
	path []string // the command's name, such as model, pin; none if there is no command
	set  []string // names of the command's flags that were given
}

// givenFlags is the key of an app's metadata with the names of the flags that were given
// on the command line. The library's own word does not tell those from the environment's.
const givenFlags = "given flags"

// arrange puts flags before arguments and the program's own flags first. "--" ends the
// flags. A command that runs another program keeps what follows its first argument.
func arrange(app *cli.App, args []string) arranged {
	if len(args) == 0 {
		return arranged{}
	}
	a := &arranger{program: app.Flags, flags: app.Flags, commands: app.Commands}
	words := spelledOut(args[1:])
	for len(words) > 0 && !a.done {
		words = a.take(words)
	}
	rest := append(a.positional, words...)
	if len(rest) > 0 && len(a.commands) > 0 && !a.runs { // an unknown command, whose flags mean nothing
		return arranged{args: args, path: a.path}
	}
	out := append([]string{args[0]}, a.global...)
	out = append(append(out, a.line...), a.own...)
	if len(rest) > 0 {
		out = append(append(out, "--"), rest...)
	}
	return arranged{out, a.path, a.set}
}

// spelledOut replaces the words `help` and `help COMMAND` by the flag. A command of that
// name would take the flag's place in the library.
func spelledOut(words []string) []string {
	if len(words) == 0 || words[0] != "help" {
		return words
	}
	return append(slices.Clone(words[1:]), "--help")
}

// arranger sorts the words of a command line.
type arranger struct {
	program  []cli.Flag     // of the program
	flags    []cli.Flag     // of the command that has been reached
	commands []*cli.Command // below it
	runs     bool           // the command runs another program, given as its arguments

	path, global, line, own, positional []string // line: commands above, with their flags
	set                                 []string // names of flags of the command
	done                                bool     // the rest are arguments
}

// take sorts the first of the words, with the value that may follow it, and returns the
// others.
func (a *arranger) take(words []string) []string {
	w, rest := words[0], words[1:]
	switch {
	case w == "--":
		a.done = true
		return rest
	case len(w) > 1 && w[0] == '-':
		return a.flag(w, rest)
	case len(a.positional) == 0:
		if i := slices.IndexFunc(a.commands, func(c *cli.Command) bool { return c.HasName(w) }); i >= 0 {
			a.enter(a.commands[i], w)
			return rest
		}
	}
	a.positional = append(a.positional, w)
	a.done = a.runs
	return rest
}

// enter goes on with a command's own flags and subcommands. w is the name that was used.
func (a *arranger) enter(c *cli.Command, w string) {
	a.line = append(append(a.line, a.own...), w)
	a.own, a.set, a.path = nil, nil, append(a.path, c.Name)
	a.flags, a.commands = c.Flags, c.Subcommands
	a.runs = strings.HasPrefix(c.ArgsUsage, "[-- ")
}

// flag sorts a flag and its value. A flag of the program that the command has as well,
// since a file may set it, goes to both.
func (a *arranger) flag(w string, rest []string) []string {
	f, global := flagOf(a.flags, w), flagOf(a.program, w)
	of := f
	if of == nil {
		of = global
	}
	words := []string{w}
	if of != nil && takesValue(of) && !strings.Contains(w, "=") && len(rest) > 0 {
		words, rest = append(words, rest[0]), rest[1:]
	}
	if f != nil {
		a.set = append(a.set, f.Names()[0])
	}
	if global != nil {
		a.global = append(a.global, words...)
	}
	if len(a.path) > 0 && (f != nil || global == nil) {
		a.own = append(a.own, words...)
	} else if global == nil {
		a.global = append(a.global, words...)
	}
	return rest
}

// flagOf returns the flag that a word sets: by its name or, of several letters behind
// one dash, the last, which alone may take a value. nil: there is none.
func flagOf(flags []cli.Flag, w string) cli.Flag {
	name, _, joined := strings.Cut(strings.TrimLeft(w, "-"), "=")
	if f := flagNamed(flags, name); f != nil {
		return f
	}
	if strings.HasPrefix(w, "--") || joined || len(name) < 2 {
		return nil
	}
	var last cli.Flag
	for _, r := range name {
		if last = flagNamed(flags, string(r)); last == nil {
			return nil
		}
	}
	return last
}

// dropEmpty removes variables of the environment that are set to nothing: they set
// nothing, while the library takes them for values that hide the configuration file.
func dropEmpty(app *cli.App) {
	each(app.Flags, app.Commands, func(f cli.Flag) {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			return
		}
		for _, name := range d.GetEnvVars() {
			if value, set := os.LookupEnv(name); set && value == "" {
				_ = os.Unsetenv(name)
			}
		}
	})
}

// each calls do with each flag of commands and their subcommands.
func each(flags []cli.Flag, commands []*cli.Command, do func(cli.Flag)) {
	for _, f := range flags {
		do(f)
	}
	for _, c := range commands {
		each(c.Flags, c.Subcommands, do)
	}
}
