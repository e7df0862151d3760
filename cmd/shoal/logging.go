package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	golog "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p/gologshim"
	"github.com/urfave/cli/v2"
	"github.com/urfave/cli/v2/altsrc"
	"go.uber.org/zap/zapcore"
)

// logLevel is that of this process. It may change while a node runs.
var logLevel slog.LevelVar

// logFlags are the flags of logging, which every command has before its name, and which
// are settings of a node, too.
func logFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "log-level", Value: "warn", EnvVars: []string{"SHOAL_LOG_LEVEL"}, Usage: "debug, info, warn or error; logs go to stderr, and contain neither prompts nor keys"},
		&cli.StringFlag{Name: "log-format", Value: "text", EnvVars: []string{"SHOAL_LOG_FORMAT"}, Usage: "text or json, one object per line"},
	}
}

func logSettings() (out []cli.Flag) {
	for _, f := range logFlags() {
		out = append(out, altsrc.NewStringFlag(f.(*cli.StringFlag)))
	}
	return out
}

// inheritLogs takes over the flags that were given before the command's name.
func inheritLogs(c *cli.Context) error {
	for _, name := range []string{"log-level", "log-format"} {
		for _, outer := range c.Lineage()[1:] {
			if outer.Command != nil && outer.IsSet(name) && !c.IsSet(name) {
				if err := c.Set(name, outer.String(name)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// setLogs makes this process log in a format from a level on.
func setLogs(level, format string, w io.Writer) error {
	if err := checkLogs(level, format); err != nil {
		return err
	}
	l, _ := parseLevel(level)
	logLevel.Set(l)
	opts := &slog.HandlerOptions{Level: &logLevel}
	if format == "json" {
		opts.ReplaceAttr = secondsOf
		slog.SetDefault(slog.New(slog.NewJSONHandler(w, opts)))
	} else {
		slog.SetDefault(slog.New(slog.NewTextHandler(w, opts)))
	}
	quietLibraries(l)
	return nil
}

// checkLogs returns an error if a level or a format is not one.
func checkLogs(level, format string) error {
	if _, err := parseLevel(level); err != nil {
		return err
	}
	if format != "text" && format != "json" {
		return usageError{fmt.Sprintf("--log-format %q: use text or json", format)}
	}
	return nil
}

// secondsOf gives times that something took a unit, which JSON's numbers do not have.
func secondsOf(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.Float64(a.Key+"_s", a.Value.Duration().Seconds())
	}
	return a
}

func parseLevel(s string) (l slog.Level, err error) {
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return l, usageError{fmt.Sprintf("--log-level %q: use debug, info, warn or error", s)}
	}
	return l, nil
}

// quietLibraries discards the libraries' own logs unless the level is debug: they
// repeat, less clearly, what is returned as an error anyway. At debug their warnings go
// the way of all others.
func quietLibraries(level slog.Level) {
	if level > slog.LevelDebug {
		gologshim.SetDefaultHandler(slog.DiscardHandler)
		golog.SetAllLoggers(golog.LevelFatal)
		return
	}
	gologshim.SetDefaultHandler(atLeast{slog.Default().Handler(), slog.LevelWarn})
	golog.SetPrimaryCore(libraryCore{})
	golog.SetAllLoggers(golog.LevelWarn)
}

// atLeast is a handler without what is below a level.
type atLeast struct {
	slog.Handler
	level slog.Level
}

func (h atLeast) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.level && h.Handler.Enabled(ctx, l)
}

func (h atLeast) WithAttrs(a []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(a), h.level}
}
func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Handler.WithGroup(name), h.level}
}

// libraryCore passes what IPFS's libraries log on to slog, one line each: they have
// messages of several lines.
type libraryCore struct{ fields []zapcore.Field }

// Enabled implements zapcore.Core.
func (libraryCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (c libraryCore) With(f []zapcore.Field) zapcore.Core {
	return libraryCore{append(c.fields[:len(c.fields):len(c.fields)], f...)}
}

// Check implements zapcore.Core.
func (c libraryCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c libraryCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(enc)
	}
	attrs := []any{"library", e.LoggerName}
	for name, v := range enc.Fields {
		attrs = append(attrs, name, strings.Join(strings.Fields(fmt.Sprint(v)), " "))
	}
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	slog.Log(context.Background(), level, strings.Join(strings.Fields(e.Message), " "), attrs...)
	return nil
}

// Sync implements zapcore.Core.
func (libraryCore) Sync() error { return nil }
