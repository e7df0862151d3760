package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	golog "github.com/ipfs/go-log/v2"

	"github.com/shoalnet/shoal/node"
)

// TestLogs: each line is one object with units, libraries' lines included, and the level
// can change.
func TestLogs(t *testing.T) {
	old := slog.Default()
	defer func() {
		slog.SetDefault(old)
		quietLibraries(slog.LevelWarn)
	}()
	var b bytes.Buffer
	library := golog.Logger("shoal-test") // libraries have theirs from the start
	if err := setLogs("debug", "json", &b); err != nil {
		t.Fatal(err)
	}
	slog.Info("asked", "took", 1500*time.Millisecond)
	library.Warnw("two\n\n  lines", "peer", "a\nb")
	logLevel.Set(slog.LevelWarn)
	slog.Info("no more")
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	var first, second map[string]any
	if len(lines) != 2 || json.Unmarshal([]byte(lines[0]), &first) != nil || json.Unmarshal([]byte(lines[1]), &second) != nil {
		t.Fatal(b.String())
	}
	if first["took_s"] != 1.5 || second["msg"] != "two lines" || second["library"] != "shoal-test" || second["peer"] != "a b" {
		t.Error(b.String())
	}
	for _, bad := range [][2]string{{"loud", "json"}, {"info", "xml"}} {
		if err := setLogs(bad[0], bad[1], &b); err == nil {
			t.Error(bad)
		}
	}
}

// TestLogSettings: the level may be given before the command's name or behind it, and in
// the file.
func TestLogSettings(t *testing.T) {
	home := t.TempDir()
	for want, args := range map[string][]string{
		"warn":  {"config", "--json", "--home", home},
		"info":  {"--log-level", "info", "config", "--json", "--home", home},
		"debug": {"--log-level", "info", "config", "--json", "--home", home, "--log-level", "debug"},
	} {
		var out, errs bytes.Buffer
		if code := run(append([]string{"shoal"}, args...), &out, &errs); code != 0 || !strings.Contains(out.String(), `"log-level","value":"`+want+`"`) {
			t.Errorf("%v: exit %d\n%s%s", args, code, &out, &errs)
		}
	}
}

// TestEventsHaveTime: in the form of RFC 3339.
func TestEventsHaveTime(t *testing.T) {
	var b bytes.Buffer
	jsonEvents(&b)(node.Event{Event: "stopped"})
	var e struct {
		Time  time.Time
		Event string
	}
	if err := json.Unmarshal(b.Bytes(), &e); err != nil || time.Since(e.Time) > time.Hour || e.Event != "stopped" {
		t.Errorf("%v %s", err, &b)
	}
}
