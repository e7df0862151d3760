package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/contrib/launchd"
	"github.com/shoalnet/shoal/contrib/systemd"
	"github.com/shoalnet/shoal/node/files"
)

func serviceCommand() *cli.Command {
	return &cli.Command{
		Name: "service", Usage: "run a node in the background, from login on", Subcommands: []*cli.Command{
			{
				Name: "install", Usage: "make this program a service of yours, and start it", Flags: []cli.Flag{homeFlag()},
				Description: "It is a user's service of systemd, or an agent of launchd on macOS. Its settings are in config.toml in the home.\n\n" +
					"A service of the whole machine, with a user of its own, comes with the packages and with make install: sudo systemctl enable --now shoal",
				Action: onService(service.install),
			},
			{Name: "uninstall", Usage: "stop the service and remove it; the home stays", Action: onService(service.uninstall)},
			{Name: "status", Usage: "print what the service manager knows of it", Action: onService(service.status)},
		},
	}
}

// service is a file that a service manager reads, and the commands that make it act.
type service struct {
	file    string
	content func(exe, home string) (string, error)
	check   []string   // fails where the manager does not run
	missing string     // what to do then
	start   [][]string // after the file is there; the last one's error counts
	stop    [][]string // before it is removed
	look    []string
	then    string // what to type next
}

// mark is in each file that the program has written, and in no other.
const mark = "written by `shoal service install`"

func onService(do func(service, *cli.Context) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := noArgs(c); err != nil {
			return err
		}
		s, err := serviceHere()
		if err != nil {
			return err
		}
		return do(s, c)
	}
}

func serviceHere() (service, error) {
	dir, err := os.UserHomeDir()
	if err != nil {
		return service{}, err
	}
	switch runtime.GOOS {
	case "linux":
		config, err := os.UserConfigDir()
		return systemdService(config), err
	case "darwin":
		return launchdService(dir, os.Getuid()), nil
	}
	return service{}, fmt.Errorf("there is no service for %s; have the system run `shoal node` at login", runtime.GOOS)
}

func systemdService(config string) service {
	user := func(args ...string) []string { return append([]string{"systemctl", "--user"}, args...) }
	return service{
		file: filepath.Join(config, "systemd", "user", "shoal.service"),
		content: func(exe, home string) (string, error) {
			text := strings.Replace(systemd.UserUnit, systemd.Exec, systemdWord(exe)+" node --home "+systemdWord(home), 1)
			return "# This file is " + mark + "; changes belong into a drop-in: systemctl --user edit shoal\n" + text, nil
		},
		check:   user("show-environment"),
		missing: "no systemd of yours runs here, as in a container or after su; log in yourself, or have the whole machine run it: sudo systemctl enable --now shoal",
		start:   [][]string{user("daemon-reload"), user("enable", "shoal"), user("restart", "shoal")},
		stop:    [][]string{user("disable", "--now", "shoal")},
		look:    user("--no-pager", "status", "shoal"),
		then:    "logs: journalctl --user -u shoal; to keep it running while you are logged out: loginctl enable-linger",
	}
}

// systemdWord quotes a word of a command in a unit.
func systemdWord(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$", "\n", `\n`).Replace(s) + `"`
}

func launchdService(dir string, uid int) service {
	domain := fmt.Sprintf("gui/%d", uid)
	file := filepath.Join(dir, "Library", "LaunchAgents", launchd.Label+".plist")
	return service{
		file: file,
		content: func(exe, home string) (string, error) {
			var b strings.Builder
			if err := xml.EscapeText(&b, []byte(shellWord(exe)+" node --home "+shellWord(home))); err != nil {
				return "", err
			}
			text := strings.Replace(launchd.Agent, launchd.Exec, b.String(), 1)
			return strings.Replace(text, "<plist", "<!-- This file is "+mark+". -->\n<plist", 1), nil
		},
		check:   []string{"launchctl", "print", domain},
		missing: "launchd has no session of yours, as over SSH; log in at the machine itself",
		start:   [][]string{{"launchctl", "bootout", domain + "/" + launchd.Label}, {"launchctl", "bootstrap", domain, file}},
		stop:    [][]string{{"launchctl", "bootout", domain + "/" + launchd.Label}},
		look:    []string{"launchctl", "print", domain + "/" + launchd.Label},
		then:    "logs: ~/Library/Logs/shoal.log",
	}
}

// shellWord quotes a word for a shell.
func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (s service) install(c *cli.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	home, err := filepath.Abs(c.String("home"))
	if err != nil {
		return err
	}
	if err := s.mine(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.reachable(c.Context); err != nil {
		return err
	}
	text, err := s.content(exe, home)
	if err != nil {
		return err
	}
	st, err := foresee(c) // nobody sees the first lines of its start
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(s.file), 0o755); err != nil {
		return err
	}
	if err := files.Replace(s.file, []byte(text), 0o644); err != nil {
		return err
	}
	if err := inTurn(c.Context, s.start); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "installed and started: %s\nsettings: %s\n%s\n", s.file, filepath.Join(home, "config.toml"), s.then)
	remark(c.App.Writer, "who may use it: "+foreseenText(&st))
	return nil
}

func (s service) uninstall(c *cli.Context) error {
	err := s.mine()
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no service of yours: %s does not exist", s.file)
	}
	if err != nil {
		return err
	}
	if err := inTurn(c.Context, s.stop); err != nil {
		fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", safe(err.Error()))
	}
	if err := os.Remove(s.file); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "removed %s\n", s.file)
	return nil
}

func (s service) status(c *cli.Context) error {
	if err := s.reachable(c.Context); err != nil {
		return err
	}
	cmd := exec.CommandContext(c.Context, s.look[0], s.look[1:]...)
	cmd.Stdout, cmd.Stderr = c.App.Writer, c.App.ErrWriter
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return errors.New("the service does not run; `shoal service install` starts it")
	}
	return err
}

// mine returns an error if the service's file is not one that this program has written.
func (s service) mine() error {
	raw, err := os.ReadFile(s.file)
	if err == nil && !strings.Contains(string(raw), mark) {
		return fmt.Errorf("%s was not %s, and stays as it is; move it away first", s.file, mark)
	}
	return err
}

// reachable returns an error that says what to do if the service manager does not answer.
func (s service) reachable(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, s.check[0], s.check[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s (%s)", s.missing, firstLine(string(out), err))
	}
	return nil
}

// inTurn runs commands one after another. Only the last one's error counts: those before
// it prepare, and fail where there is nothing to prepare.
func inTurn(ctx context.Context, commands [][]string) (err error) {
	for _, args := range commands {
		var out []byte
		if out, err = exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			err = fmt.Errorf("%s: %s", strings.Join(args, " "), firstLine(string(out), err))
		}
	}
	return err
}

func firstLine(out string, err error) string {
	if line, _, _ := strings.Cut(strings.TrimSpace(out), "\n"); line != "" {
		return line
	}
	return err.Error()
}
