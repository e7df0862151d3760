package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/shoalnet/shoal/node/home"
	"github.com/urfave/cli/v2"
	"github.com/urfave/cli/v2/altsrc"
)

// A node's settings come from flags, then the environment, then the configuration file.

func configCommand() *cli.Command {
	flags := nodeFlags()
	var settings []setting
	return &cli.Command{
		Name: "config", Usage: "print the settings of a node, and where each comes from",
		Description: "Prints what `shoal node` would run with, given the same flags, as a configuration file.\n" +
			"It starts nothing, and refuses whatever `shoal node` would refuse.",
		Flags: append([]cli.Flag{
			jsonFlag(),
			&cli.BoolFlag{Name: "reference", Usage: "print a configuration file with every setting, its default and its meaning"},
		}, flags...),
		Subcommands: []*cli.Command{configSetCommand(), configUnsetCommand(), configGetCommand(), configReloadCommand()},
		Before: func(c *cli.Context) (err error) {
			if c.Bool("reference") || c.Args().Present() {
				return nil
			}
			if err = inheritLogs(c); err != nil {
				return err
			}
			settings, err = settingsNow(c, flags)
			return err
		},
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			if c.Bool("reference") {
				_, err := io.WriteString(c.App.Writer, configReference())
				return err
			}
			cfg, err := nodeConfig(c)
			if err == nil {
				err = cfg.Check()
			}
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, settings)
			}
			for _, s := range settings {
				line := assignment(s.Name, s.Value)
				if _, err := fmt.Fprintf(c.App.Writer, "%-40s # %s\n", line, s.From); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// setting is one of a node's settings with its value in effect.
type setting struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
	From  string `json:"from"` // default, --NAME, an environment variable, or FILE, line N
}

// secret is printed in place of an API key.
const secret = "(not shown)"

// settingsNow loads the configuration file and returns all settings in effect.
func settingsNow(c *cli.Context, flags []cli.Flag) (out []setting, err error) {
	given, _ := c.App.Metadata[givenFlags].([]string)
	inEnv := map[string]bool{} // before the file is read, after which a flag is set, too
	for _, f := range inFile(flags) {
		inEnv[f.Names()[0]] = f.IsSet()
	}
	if err := loadConfig(c, flags); err != nil {
		return nil, err
	}
	path, present := configFile(c)
	var keys []string
	if present {
		if keys, err = readSettings(path); err != nil {
			return nil, err
		}
	}
	for _, f := range inFile(flags) {
		name := f.Names()[0]
		s := setting{Name: name, Value: settingValue(c, f), From: "default"}
		switch {
		case slices.Contains(given, name):
			s.From = "--" + name
		case inEnv[name]:
			for _, env := range f.GetEnvVars() {
				if _, set := os.LookupEnv(env); set {
					s.From = env
					break
				}
			}
		case slices.Contains(keys, name):
			s.From = fmt.Sprintf("%s, line %d", path, lineOf(path, name))
		}
		if rules, ok := s.Value.([]string); ok && present && strings.HasPrefix(s.From, path) {
			if err := checkRules(path, name, rules); err != nil {
				return nil, err
			}
		}
		if name == "api-key" && s.Value != "" {
			s.Value = secret
		}
		out = append(out, s)
	}
	return out, nil
}

// fileFlag is a flag that the configuration file may set.
type fileFlag interface {
	altsrc.FlagInputSourceExtension
	cli.DocGenerationFlag
}

func inFile(flags []cli.Flag) (out []fileFlag) {
	for _, f := range flags {
		if f, ok := f.(fileFlag); ok {
			out = append(out, f)
		}
	}
	return out
}

// settingValue returns a flag's value in the form that the file uses.
func settingValue(c *cli.Context, f fileFlag) any {
	name := f.Names()[0]
	switch f.(type) {
	case *altsrc.BoolFlag:
		return c.Bool(name)
	case *altsrc.IntFlag:
		return c.Int(name)
	case *altsrc.DurationFlag:
		return durationText(c.Duration(name))
	case *altsrc.StringSliceFlag:
		return append([]string{}, listOf(name, c.StringSlice(name))...)
	}
	return c.String(name)
}

// durationText writes 1m30s, and 30m rather than 30m0s.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// assignment is a line of TOML.
func assignment(name string, value any) string {
	var b bytes.Buffer
	if err := toml.NewEncoder(&b).Encode(map[string]any{name: value}); err != nil {
		panic(err) // cannot happen: values have one of four types that it can encode
	}
	return strings.TrimSpace(b.String())
}

// configReference is a configuration file with every setting and its default,
// all commented out.
func configReference() string {
	var b strings.Builder
	b.WriteString(`# The settings of a shoal node: config.toml in its home, or the file that --config
# names. Uncomment a line to change it. A flag of ` + "`shoal node`" + ` takes precedence
# over the environment, and the environment over this file; ` + "`shoal config`" + ` prints
# the settings in effect and where each comes from. Written by ` + "`shoal config --reference`" + `.
`)
	for _, f := range inFile(nodeFlags()) {
		name := f.Names()[0]
		text := sentence(usageOf(f))
		b.WriteString("\n")
		for _, line := range wrap(text+".", 86) {
			b.WriteString("# " + line + "\n")
		}
		fmt.Fprintf(&b, "# --%s, %s\n#%s\n", name, strings.Join(f.GetEnvVars(), ", "), assignment(name, defaultSetting(f)))
	}
	return b.String()
}

// defaultSetting is a flag's value if nothing sets it.
func defaultSetting(f fileFlag) any {
	switch f := f.(type) {
	case *altsrc.BoolFlag:
		return f.Value
	case *altsrc.IntFlag:
		return f.Value
	case *altsrc.DurationFlag:
		return durationText(f.Value)
	case *altsrc.StringSliceFlag:
		return []string{}
	case *altsrc.StringFlag:
		return strings.ReplaceAll(f.Value, defaultHome(), "/var/lib/shoal") // the real one differs per machine
	}
	panic(fmt.Sprintf("%T", f))
}

// wrap breaks a text into lines.
func wrap(text string, width int) (lines []string) {
	for _, w := range strings.Fields(text) {
		if n := len(lines); n > 0 && len(lines[n-1])+1+len(w) <= width {
			lines[n-1] += " " + w
		} else {
			lines = append(lines, w)
		}
	}
	return lines
}

// settingError is a mistake in the configuration file.
type settingError struct {
	file      string
	line      int    // 0: not known
	key, near string // the setting, and the one that was probably meant
	message   string
}

func (e *settingError) Error() string {
	if e.line > 0 {
		return fmt.Sprintf("the configuration file %s, line %d: %s", e.file, e.line, e.message)
	}
	return fmt.Sprintf("the configuration file %s: %s", e.file, e.message)
}

func (e *settingError) Is(target error) bool { return target == errUsage }

// configFile returns the path of the configuration file and whether to read it: one
// that --config names must exist, the one in the home need not.
func configFile(c *cli.Context) (path string, present bool) {
	if path = c.String("config"); path != "" {
		return path, true
	}
	path = home.Home(c.String("home")).Config()
	_, err := os.Stat(path)
	return path, !os.IsNotExist(err)
}

// loadConfig reads the configuration file; flags and the environment take precedence.
func loadConfig(c *cli.Context, flags []cli.Flag) error {
	path, present := configFile(c)
	if !present {
		return nil
	}
	keys, err := readSettings(path)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if !slices.ContainsFunc(inFile(flags), func(f fileFlag) bool { return f.Names()[0] == key }) {
			return &settingError{path, lineOf(path, key), key, nearest(flags, key), unknownSetting(flags, key)}
		}
	}
	src, err := altsrc.NewTomlSourceFromFile(path)
	if err != nil {
		return &settingError{file: path, message: err.Error()}
	}
	if err := altsrc.ApplyInputSourceValues(c, src, flags); err != nil {
		e := &settingError{file: path, message: err.Error()}
		for _, key := range keys { // the library names it in quotes
			if strings.Contains(e.message, "'"+key+"'") {
				e.line, e.key, e.message = lineOf(path, key), key, fmt.Sprintf("%s has a value of the wrong type; `shoal config --reference` shows what it takes", key)
			}
		}
		return e
	}
	return nil
}

// readSettings returns the names that a configuration file sets, sorted.
func readSettings(path string) ([]string, error) {
	var keys map[string]any
	if _, err := toml.DecodeFile(path, &keys); err != nil {
		e := &settingError{file: path, message: err.Error()}
		var at toml.ParseError
		if errors.As(err, &at) {
			e.line, e.key, e.message = at.Position.Line, at.LastKey, at.Message
		}
		return nil, e
	}
	return slices.Sorted(maps.Keys(keys)), nil
}

// lineOf returns the line of a configuration file that sets key; 0 if there is none.
func lineOf(path, key string) int {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for i, line := range strings.Split(string(raw), "\n") {
		name, _, ok := strings.Cut(line, "=")
		if ok && strings.Trim(name, " \t\"'") == key {
			return i + 1
		}
	}
	return 0
}

// unknownSetting is the message for a setting that does not exist, with the name that
// was probably meant.
func unknownSetting(flags []cli.Flag, key string) string {
	message := fmt.Sprintf("there is no setting %q", key)
	if near := nearest(flags, key); near != "" {
		return message + fmt.Sprintf("; did you mean %q?", near)
	}
	return message + "; `shoal config --reference` lists them"
}

// nearest returns the setting that a word was probably meant to be, or "".
func nearest(flags []cli.Flag, word string) string {
	var names []string
	for _, f := range inFile(flags) {
		names = append(names, f.Names()[0])
	}
	return nearestWord(word, names)
}
