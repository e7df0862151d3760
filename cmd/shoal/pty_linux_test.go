package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty is a terminal that a program can be given: what is written to master is
// typed, what is read from it is shown.
func pty(t *testing.T, columns, rows int) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	resize(t, master, columns, rows)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

func resize(t *testing.T, master *os.File, columns, rows int) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(columns), Row: uint16(rows)}); err != nil {
		t.Fatal(err)
	}
}

// On a terminal `shoal top` redraws, follows its size, leaves at q and at
// Ctrl-C, and leaves the terminal as it was.
func TestTopTerminal(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.add(`model = ["tinytales"]`, `span = "all"`)
	p.node()
	for name, leave := range map[string]string{"q": "q", "Ctrl-C": "\x03"} {
		t.Run(name, func(t *testing.T) {
			master, slave := pty(t, 80, 24)
			before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			cmd := p.command("top", "--home", p.home)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			screen := show(master)
			count := func(what string) int { return bytes.Count([]byte(screen()), []byte(what)) }
			eventually(t, 10*time.Second, "two pages", func() bool { return count("q quits") >= 2 })
			frames := count("\r\n") / count("q quits")
			if frames != 23 {
				t.Errorf("%d line ends a page of 24 lines", frames)
			}
			n := len(screen())
			resize(t, master, 120, 40)
			eventually(t, 10*time.Second, "a page of the new size", func() bool {
				return bytes.Count([]byte(screen()[n:]), []byte("\r\n")) >= 39
			})
			if _, err := master.WriteString(leave); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("it left with %v", err)
			}
			eventually(t, 5*time.Second, "the first screen is back", func() bool { return bytes.HasSuffix([]byte(screen()), []byte(leaveScreen)) })
			after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil || *after != *before {
				t.Errorf("the terminal was %+v and is %+v, %v", before, after, err)
			}
		})
	}
}

// TestZsh has zsh complete a line as it is typed, on a terminal of its own.
func TestZsh(t *testing.T) {
	if _, err := exec.LookPath("zsh"); err != nil {
		t.Skip("zsh is not installed")
	}
	master, slave := pty(t, 200, 40)
	cmd := exec.CommandContext(t.Context(), "zsh", "-f", "-i")
	cmd.Env = shellHome(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	shown := show(master)
	type_ := func(s string) {
		if _, err := master.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	type_("autoload -U compinit && compinit -D; source <(shoal completion zsh) && echo rea''dy\n")
	eventually(t, 20*time.Second, "zsh is there", func() bool { return strings.Contains(shown(), "ready\r\n") })
	type_("shoal doc\t--help\n") // the help of what it was completed to
	eventually(t, 20*time.Second, "a command is completed", func() bool { return strings.Contains(shown(), "shoal doctor - say what is wrong") })
	type_("shoal model show --json t\t\n")
	eventually(t, 20*time.Second, "a model is completed", func() bool { return strings.Contains(shown(), `"name":"tales:tiny"`) })
	type_("exit\n")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// show gathers what a terminal shows.
func show(master *os.File) func() string {
	var mu sync.Mutex
	var shown bytes.Buffer
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			mu.Lock()
			shown.Write(b[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return shown.String()
	}
}
