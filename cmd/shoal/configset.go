package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/urfave/cli/v2/altsrc"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/files"
)

// Settings change in the configuration file first, and then, as far as they can, in the
// node that runs. Both go through the same code: the API of a running node calls it in
// that node's process, and a command that finds no node in its own.

// live names the settings that a running node takes over at once: those that
// node.Node.Adjust does, and those of this process.
var live = map[string]bool{
	"api-key": true, "api-key-file": true, "api-open": true, "api-host": true, "api-origin": true,
	"memory": true, "threads": true, "max-sessions": true, "unload-after": true, "pause": true, "lend-hours": true, "pause-load": true, "lend-on-battery": true, "resume-after": true,
	"lend": true, "use": true,
	"quota": true, "up": true, "down": true, "trust": true, "fastest": true, "log-level": true,
}

// ownSettings are the settings of the node of this process, or of one that would be
// started in a home. It implements api.Settings.
type ownSettings struct {
	app  *cli.App
	line map[string][]string // what the command line sets: the file cannot change it
	path string              // of the configuration file
	home string              // directory that this process may write

	mu     sync.Mutex
	adjust func(node.Config) error // nil: no node runs
	now    []setting               // in effect
	key    string                  // of the API, in effect
	next   map[string]any          // values from the next start on, where they differ
}

// newOwnSettings returns the settings of the node that a context describes. now is what
// settingsNow returned for it, and key the API's key, which now does not show.
func newOwnSettings(c *cli.Context, now []setting, key string) *ownSettings {
	path, _ := configFile(c)
	o := &ownSettings{app: c.App, line: map[string][]string{"link": {c.String("link")}}, path: path, home: c.String("home"), now: now, key: key, next: map[string]any{}}
	for _, s := range now {
		if s.From != "--"+s.Name {
			continue
		}
		if list, ok := s.Value.([]string); ok {
			o.line[s.Name] = list
			continue
		}
		o.line[s.Name] = []string{fmt.Sprint(c.Value(s.Name))} // not s.Value, which hides the key
	}
	return o
}

// bind has changes take effect in a node.
func (o *ownSettings) bind(adjust func(node.Config) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.adjust = adjust
}

// read returns the settings with a configuration file at path.
func (o *ownSettings) read(path string) (cfg node.Config, all []setting, err error) {
	set, flags := flag.NewFlagSet("node", flag.ContinueOnError), nodeFlags()
	set.SetOutput(io.Discard)
	for _, f := range flags {
		if err := f.Apply(set); err != nil {
			return cfg, nil, usageError{err.Error()}
		}
	}
	for name, values := range o.line {
		for _, v := range values {
			if err := set.Set(name, v); err != nil {
				return cfg, nil, usageError{err.Error()}
			}
		}
	}
	if err := set.Set("config", path); err != nil {
		return cfg, nil, err
	}
	c := cli.NewContext(o.app, set, nil)
	if all, err = settingsNow(c, flags); err != nil {
		return cfg, nil, err
	}
	if cfg, err = nodeConfig(c); err != nil {
		return cfg, nil, err
	}
	return cfg, all, cfg.Check()
}

// Settings implements api.Settings.
func (o *ownSettings) Settings(context.Context) ([]api.Setting, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	flags := inFile(nodeFlags())
	out := make([]api.Setting, 0, len(flags))
	for i, f := range flags {
		s := o.now[i]
		out = append(out, api.Setting{
			Name: s.Name, Value: s.Value, Next: o.next[s.Name], Default: defaultSetting(f), From: s.From, Live: live[s.Name], Usage: sentence(usageOf(f)),
		})
	}
	return out, nil
}

// ChangeSettings implements api.Settings.
func (o *ownSettings) ChangeSettings(_ context.Context, change api.SettingsChange) (*api.SettingsChanged, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	set, names, err := parseChange(change)
	if err != nil {
		return nil, err
	}
	old, err := os.ReadFile(o.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the configuration file cannot be read: %w", err)
	}
	text, err := editTOML(string(old), set, change.Unset)
	if err != nil {
		return nil, api.Errorf(api.BadInput, "the configuration file %s: %w", o.path, err)
	}
	cfg, all, err := o.try(text)
	if err != nil {
		return nil, badChange(err, names)
	}
	if err := files.Rewrite(o.path, []byte(text)); err != nil {
		return nil, api.Errorf(api.Refused, "the configuration file cannot be written: %w", err)
	}
	return o.apply(cfg, all, names)
}

// try reads the settings as they would be with another text of the file.
func (o *ownSettings) try(text string) (cfg node.Config, all []setting, err error) {
	f, err := os.CreateTemp(o.home, "config"+files.Mark)
	if err != nil {
		return cfg, nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return cfg, nil, err
	}
	cfg, all, err = o.read(f.Name())
	if e := (*settingError)(nil); errors.As(err, &e) {
		e.file = o.path
	}
	for i := range all {
		all[i].From = strings.Replace(all[i].From, f.Name()+",", o.path+",", 1)
	}
	return cfg, all, err
}

// ReloadSettings implements api.Settings.
func (o *ownSettings) ReloadSettings(context.Context) (*api.SettingsChanged, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	path := o.path
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		path = os.DevNull
	}
	cfg, all, err := o.read(path)
	if err != nil {
		return nil, badChange(err, nil)
	}
	return o.apply(cfg, all, nil)
}

// apply takes over what has changed, and reports it, together with the settings in
// asked that something else decides. Called with mu held.
func (o *ownSettings) apply(cfg node.Config, all []setting, asked []string) (*api.SettingsChanged, error) {
	done := &api.SettingsChanged{}
	otherKey := cfg.APIKey != o.key // settings do not show it, so they look alike
	for i, s := range all {
		why := overridden(s)
		switch same := reflect.DeepEqual(s.Value, o.now[i].Value) && !(otherKey && s.Name == "api-key" && s.Value != ""); {
		case why != "" && slices.Contains(asked, s.Name):
			done.Overridden = append(done.Overridden, api.Overridden{Name: s.Name, Why: why})
		case same:
			if slices.Contains(asked, s.Name) && o.adjust != nil {
				done.Applied = append(done.Applied, s.Name)
			}
			delete(o.next, s.Name)
			o.now[i] = s
		case o.adjust != nil && live[s.Name]:
			done.Applied = append(done.Applied, s.Name)
			o.now[i] = s
		default:
			if asked == nil || slices.Contains(asked, s.Name) || !reflect.DeepEqual(o.next[s.Name], s.Value) {
				done.Restart = append(done.Restart, s.Name)
			}
			o.next[s.Name] = s.Value
		}
	}
	if o.adjust == nil {
		return done, nil
	}
	o.key = cfg.APIKey
	for _, s := range all {
		if s.Name == "log-level" {
			level, _ := parseLevel(s.Value.(string)) // checked by read
			logLevel.Set(level)
			quietLibraries(level)
		}
	}
	if err := o.adjust(cfg); err != nil {
		return nil, fmt.Errorf("the settings are in effect, but: %w", err)
	}
	return done, nil
}

// overridden returns why the file's value of a setting is not used; "" if it is.
func overridden(s setting) string {
	switch {
	case s.From == "--"+s.Name:
		return s.Name + " is given on the command line, which takes precedence until the next start"
	case s.From != "default" && !strings.Contains(s.From, ", line "):
		return fmt.Sprintf("%s is set by %s in the node's environment, which takes precedence", s.Name, s.From)
	}
	return ""
}

// parseChange returns what a change sets, in the form that the file uses and sorted, and
// the names of all that it changes.
func parseChange(change api.SettingsChange) (set []assigned, names []string, err error) {
	flags := nodeFlags()
	known := map[string]fileFlag{}
	for _, f := range inFile(flags) {
		known[f.Names()[0]] = f
	}
	names = append(slices.Sorted(maps.Keys(change.Set)), change.Unset...)
	for i, name := range names {
		f, ok := known[name]
		switch {
		case !ok:
			return nil, nil, &api.Error{Kind: api.BadInput, Param: name, Message: unknownSetting(flags, name)}
		case name == "home":
			return nil, nil, &api.Error{Kind: api.BadInput, Param: name, Message: "home is where the settings are: it is chosen when the node is started"}
		case i >= len(change.Set):
			continue
		}
		value, err := settingFrom(f, change.Set[name])
		if err != nil {
			return nil, nil, &api.Error{Kind: api.BadInput, Param: name, Message: err.Error()}
		}
		set = append(set, assigned{name, value})
	}
	return set, names, nil
}

// settingFrom converts a value from JSON or from the command line to the form that the
// file uses.
func settingFrom(f fileFlag, v any) (any, error) {
	name := f.Names()[0]
	wrong := func(what string) error { return fmt.Errorf("%s %q: write %s", name, fmt.Sprint(v), what) }
	switch f.(type) {
	case *altsrc.StringSliceFlag:
		switch v := v.(type) {
		case string:
			return append([]string{}, listOf(name, []string{v})...), nil
		case []any:
			list := []string{}
			for _, e := range v {
				s, ok := e.(string)
				if !ok {
					return nil, wrong("a list of texts")
				}
				list = append(list, s)
			}
			return list, nil
		}
		return nil, wrong("a list of texts")
	}
	text, ok := scalarText(v)
	switch f.(type) {
	case *altsrc.BoolFlag:
		if b, err := strconv.ParseBool(text); ok && err == nil {
			return b, nil
		}
		return nil, wrong("true or false")
	case *altsrc.IntFlag:
		if n, err := strconv.Atoi(text); ok && err == nil {
			return n, nil
		}
		return nil, wrong("a whole number")
	case *altsrc.DurationFlag:
		if d, err := time.ParseDuration(text); ok && err == nil {
			return durationText(d), nil
		}
		return nil, wrong("a time like 90s, 2m or 1h30m")
	}
	if !ok {
		return nil, wrong("a text")
	}
	return text, nil
}

// scalarText returns a string, number or truth value as it is written.
func scalarText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// badChange is the refusal of a change, with the setting at fault as its Param. Settings
// have no dashes there, as in the file.
func badChange(err error, names []string) error {
	e := &api.Error{Kind: api.BadInput, Message: err.Error(), Err: err}
	for _, name := range names {
		if strings.Contains(e.Message, name) && len(name) > len(e.Param) {
			e.Param = name
		}
	}
	for _, f := range inFile(nodeFlags()) {
		name := f.Names()[0]
		if rest, ok := strings.CutPrefix(e.Message, "--"+name); ok && (rest == "" || rest[0] == ' ' || rest[0] == ':') {
			e.Message, e.Param = name+rest, name
		}
	}
	return e
}

// configFlags are those of the commands that change settings.
func configFlags() []cli.Flag {
	return []cli.Flag{
		homeFlag(), jsonFlag(),
		&cli.StringFlag{Name: "config", EnvVars: []string{"SHOAL_CONFIG"}, Usage: "the file to change, if no node is running (default: config.toml in the home)"},
	}
}

// settingsHere returns the settings of the node that runs in a context's home, or, if
// none does, those of the file.
func settingsHere(c *cli.Context) (s settingsClient, runs bool, err error) {
	if cl := running(c.Context, c.String("home")); cl != nil {
		return cl, true, nil
	}
	o, err := fileSettings(c)
	return o, false, err
}

// fileSettings returns the settings of the file in a context's home.
func fileSettings(c *cli.Context) (*ownSettings, error) {
	path, _ := configFile(c)
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	o := &ownSettings{app: c.App, line: map[string][]string{"home": {c.String("home")}}, path: path, home: c.String("home"), next: map[string]any{}}
	if err := os.MkdirAll(o.home, 0o700); err != nil {
		return nil, err
	}
	// A file with a mistake in it must not keep a command from mending that.
	if _, o.now, err = o.read(os.DevNull); err != nil {
		return nil, err
	}
	return o, nil
}

// settingsClient is what the commands use: a node, or the file alone.
type settingsClient interface {
	Settings(context.Context) ([]api.Setting, error)
	ChangeSettings(context.Context, api.SettingsChange) (*api.SettingsChanged, error)
}

func configSetCommand() *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "change a setting, at once if a node is running here", ArgsUsage: "NAME VALUE", Flags: configFlags(),
		Description: "Writes it into the configuration file, whose comments and order stay. For example:\n\n" +
			"shoal config set lend-hours \"22:00-07:00\"\n\n" +
			"Lists have commas: shoal config set model \"smollm2:135m,qwen3:8b\"\n" +
			"So do rules: shoal config set lend \"strangers: share 10%; sessions 2, swarm lab: share 100%\"",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME", "VALUE")
			if err != nil {
				return err
			}
			return changeSettings(c, api.SettingsChange{Set: map[string]any{args[0]: args[1]}})
		},
	}
}

func configUnsetCommand() *cli.Command {
	return &cli.Command{
		Name: "unset", Usage: "take a setting out of the configuration file", ArgsUsage: "NAME", Flags: configFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return changeSettings(c, api.SettingsChange{Unset: args})
		},
	}
}

func configGetCommand() *cli.Command {
	return &cli.Command{
		Name: "get", Usage: "print a setting as it is in effect", ArgsUsage: "NAME", Flags: configFlags(),
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			s, runs, err := settingsHere(c)
			if err != nil {
				return err
			}
			if !runs { // what a node that starts now would have
				if o := s.(*ownSettings); fileExists(o.path) {
					if _, o.now, err = o.read(o.path); err != nil {
						return err
					}
				}
			}
			all, err := s.Settings(c.Context)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all, func(s api.Setting) bool { return s.Name == args[0] })
			if i < 0 {
				return usageError{unknownSetting(nodeFlags(), args[0])}
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, all[i])
			}
			_, err = fmt.Fprintln(c.App.Writer, valueText(all[i].Value))
			return err
		},
	}
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// valueText is a setting's value as `config set` takes it.
func valueText(v any) string {
	switch v := v.(type) {
	case []string:
		return strings.Join(v, ",")
	case []any: // from JSON
		var list []string
		for _, e := range v {
			list = append(list, fmt.Sprint(e))
		}
		return strings.Join(list, ",")
	}
	return fmt.Sprint(v)
}

func configReloadCommand() *cli.Command {
	return &cli.Command{
		Name: "reload", Usage: "have the running node read its configuration file again", Flags: configFlags(),
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			cl := running(c.Context, c.String("home"))
			if cl == nil {
				return fmt.Errorf("no node is running in %s", c.String("home"))
			}
			done, err := cl.ReloadSettings(c.Context)
			if err != nil {
				return err
			}
			return printChanged(c, done, true)
		},
	}
}

func changeSettings(c *cli.Context, change api.SettingsChange) error {
	s, runs, err := settingsHere(c)
	if err != nil {
		return err
	}
	done, err := s.ChangeSettings(c.Context, change)
	if cl, ok := s.(*api.Client); ok && errors.Is(err, &api.Error{Kind: api.Refused}) {
		done, err = changeFile(c, cl, change)
	}
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Kind == api.BadInput {
		return usageError{withRemedy(err)}
	}
	if err != nil {
		return err
	}
	return printChanged(c, done, runs)
}

// changeFile changes the file of a running node that may not write it itself: a service
// has its settings in /etc, which its administrator owns.
func changeFile(c *cli.Context, cl *api.Client, change api.SettingsChange) (*api.SettingsChanged, error) {
	o, err := fileSettings(c)
	if err != nil {
		return nil, err
	}
	if _, err := o.ChangeSettings(c.Context, change); err != nil {
		return nil, err
	}
	return cl.ReloadSettings(c.Context)
}

// printChanged reports what became of a change.
func printChanged(c *cli.Context, done *api.SettingsChanged, runs bool) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, done)
	}
	var lines []string
	if len(done.Applied) > 0 {
		lines = append(lines, "in effect: "+strings.Join(done.Applied, ", "))
	}
	if len(done.Restart) > 0 && runs {
		lines = append(lines, "from the node's next start on: "+strings.Join(done.Restart, ", "))
	}
	if !runs {
		lines = append(lines, "written; no node is running here, so it counts from the next start on")
	}
	for _, o := range done.Overridden {
		lines = append(lines, o.Why)
	}
	if len(lines) == 0 {
		lines = []string{"nothing has changed"}
	}
	_, err := fmt.Fprintln(c.App.Writer, strings.Join(lines, "\n"))
	return err
}
