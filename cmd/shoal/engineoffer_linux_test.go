package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/engine/llama"
)

// Who runs a model that only llama.cpp's library computes, where that is not installed, is
// offered to install it at a terminal, and told what to type in a pipe.
func TestInstallOffered(t *testing.T) {
	t.Parallel()
	if os.Getenv(llama.Variable) == "" && len(llama.All("")) > 0 {
		t.Skip("this system has the library")
	}
	p := newPatient(t)
	file := filepath.Join(t.TempDir(), "zebra.gguf")
	if err := os.WriteFile(file, bytes.ReplaceAll(tinymodel.GGUF(), []byte("llama"), []byte("zebra")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.env = append(p.env, "npm_config_registry=http://127.0.0.1:1/")
	typed := "`shoal engine install --home " + p.home + "` fetches it"
	t.Run("a pipe", func(t *testing.T) {
		cmd := p.command("run", "--home", p.home, file)
		cmd.Stdin = strings.NewReader("Hello\n")
		out, err := cmd.CombinedOutput()
		if text := string(out); err == nil || !strings.Contains(text, typed) || strings.Contains(text, "[Y/n]") || strings.Count(strings.TrimSpace(text), "\n") > 0 {
			t.Errorf("%v: %s", err, out)
		}
	})
	for name, c := range map[string]struct{ answer, says string }{
		"no":  {"n\n", "is not installed; " + typed},
		"yes": {"\n", "the package cannot be fetched"},
	} {
		t.Run(name, func(t *testing.T) {
			master, slave := pty(t, 1000, 24)
			cmd := p.command("run", "--home", p.home, file, "Hello")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			screen := show(master)
			eventually(t, 30*time.Second, "a question", func() bool { return strings.Contains(screen(), "[Y/n]") })
			if !strings.Contains(screen(), `architecture "zebra"`) {
				t.Errorf("it does not say why: %s", screen())
			}
			if _, err := master.WriteString(c.answer); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("it ran")
			}
			eventually(t, 5*time.Second, c.says, func() bool { return strings.Contains(screen(), c.says) })
		})
	}
}
