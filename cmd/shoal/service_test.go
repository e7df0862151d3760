package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestService installs, refuses to overwrite a file of somebody else's, and removes,
// with a systemctl that notes what it is asked.
func TestService(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("systemd runs on Linux alone")
	}
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	notes, unit := filepath.Join(dir, "notes"), filepath.Join(dir, "config", "systemd", "user", "shoal.service")
	systemctl := func(script string) {
		if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shoal := func(args ...string) (int, string) {
		var out bytes.Buffer
		return run(append([]string{"shoal", "service"}, args...), &out, &out), out.String()
	}

	systemctl("echo 'Failed to connect to bus' >&2; exit 1")
	if code, out := shoal("install"); code != 1 || !strings.Contains(out, "Failed to connect to bus") || !strings.Contains(out, "sudo systemctl enable --now shoal") {
		t.Errorf("no systemd of this user: %d %s", code, out)
	}
	if _, err := os.Stat(unit); !errors.Is(err, os.ErrNotExist) {
		t.Error("a file was left where nothing reads it")
	}

	systemctl(`echo "$@" >> ` + notes)
	home := filepath.Join(dir, `a "home" of 100 %`)
	if code, out := shoal("install", "--home", home); code != 0 || !strings.Contains(out, unit) || !strings.Contains(out, "who may use it: only your own machines") {
		t.Fatalf("%d %s", code, out)
	}
	raw, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	exe, _ := os.Executable()
	want := `ExecStart="` + exe + `" node --home "` + dir + `/a \"home\" of 100 %%"`
	if !strings.Contains(string(raw), want+"\n") {
		t.Errorf("the unit lacks %s:\n%s", want, raw)
	}
	if asked, _ := os.ReadFile(notes); !strings.Contains(string(asked), "--user daemon-reload\n--user enable shoal\n--user restart shoal\n") {
		t.Errorf("systemctl was asked for\n%s", asked)
	}
	if verify, err := exec.LookPath("systemd-analyze"); err == nil {
		if err := os.MkdirAll(home, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), verify, "--user", "verify", unit).CombinedOutput(); strings.Contains(string(out), "ExecStart") {
			t.Errorf("systemd reads the unit otherwise: %v\n%s", err, out)
		}
	}
	if code, out := shoal("install"); code != 0 {
		t.Errorf("again: %d %s", code, out)
	}
	if code, out := shoal("uninstall"); code != 0 {
		t.Errorf("uninstall: %d %s", code, out)
	}
	if code, out := shoal("uninstall"); code != 1 || !strings.Contains(out, "no service of yours") {
		t.Errorf("uninstall of nothing: %d %s", code, out)
	}
	if err := os.WriteFile(unit, []byte("[Service]\nExecStart=/bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, do := range []string{"install", "uninstall"} {
		if code, out := shoal(do); code != 1 || !strings.Contains(out, "stays as it is") {
			t.Errorf("%s over somebody else's file: %d %s", do, code, out)
		}
	}
	systemctl(`[ "$2" != --no-pager ] || exit 3`)
	if code, out := shoal("status"); code != 1 || !strings.Contains(out, "service install") {
		t.Errorf("status of a service that does not run: %d %s", code, out)
	}
}

// TestLaunchAgent: the agent is XML whose shell command has the program and the home
// as they are.
func TestLaunchAgent(t *testing.T) {
	s := launchdService("/Users/ann", 501)
	text, err := s.content("/opt/it's <here>/shoal", "/Users/ann/a & b")
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if chars, ok := token.(xml.CharData); ok {
			words = append(words, string(chars))
		}
	}
	want := `exec '/opt/it'\''s <here>/shoal' node --home '/Users/ann/a & b' 2>>"$HOME/Library/Logs/shoal.log"`
	if !strings.Contains(strings.Join(words, "\n"), want) {
		t.Errorf("the agent runs %q", words)
	}
	if s.file != "/Users/ann/Library/LaunchAgents/net.shoal.node.plist" {
		t.Error(s.file)
	}
}
