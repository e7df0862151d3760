package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/cmd/shoal/doctor"
	"github.com/shoalnet/shoal/cmd/shoal/install"
	"github.com/shoalnet/shoal/node/engine/llama"
	"github.com/shoalnet/shoal/node/remedy"
)

// A model that only llama.cpp's library computes, asked for where there is none: a person
// at a terminal is offered to have it installed, everyone else is told what to type.

// installWanted installs llama.cpp's library after err if that helps and the person at
// the terminal agrees; nil: the command may go on. Else it returns err, with what to type.
func installWanted(c *cli.Context, err error) error {
	r := remedy.Of(err)
	if r == nil || r.Kind != remedy.InstallEngine || c.String("api") != "" { // or a node elsewhere lacks it
		return err
	}
	named := c.String("llama")
	if named == "" {
		named = os.Getenv(llama.Variable)
	}
	if named != "" { // no other one is looked for
		return err
	}
	b, none := wantedBuild(c)
	if none == nil && isTerminal(os.Stdin) && isTerminal(c.App.ErrWriter) {
		remark(c.App.ErrWriter, err.Error())
		if !confirmed(c.App.ErrWriter, fmt.Sprintf("Install llama.cpp's library now (%s; licence %s)?", b.Name(), install.Licence)) {
			return toInstall(c, errors.New("llama.cpp's library is not installed"))
		}
		if _, err := installBuild(c); err != nil {
			return err
		}
		return nil
	}
	return toInstall(c, err)
}

// toInstall adds to an error how the library is installed into the command's home.
func toInstall(c *cli.Context, err error) error {
	typed, usual := c.String("home"), os.Getenv("SHOAL_HOME")
	if usual == "" {
		usual = defaultHome()
	}
	if typed == usual {
		return remedy.For(err, remedy.InstallEngine)
	}
	if abs, absErr := filepath.Abs(typed); absErr == nil {
		typed = abs
	}
	// Not wrapped: its own remedy would name the usual home.
	return fmt.Errorf("%s; `shoal engine install --home %s` fetches it, and `shoal engine ls` shows what is here", err.Error(), doctor.Quote(typed))
}

// confirmed asks a question at the terminal; an empty line means yes.
func confirmed(w io.Writer, question string) bool {
	fmt.Fprint(w, question+" [Y/n] ")
	answer, err := readLine(os.Stdin)
	if err != nil {
		fmt.Fprintln(w)
		return false
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "", "y", "yes":
		return true
	}
	return false
}

// readLine reads one line and nothing after it, which is whatever reads next's.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < 1024; {
		n, err := r.Read(b)
		if n == 1 && b[0] == '\n' {
			break
		}
		line = append(line, b[:n]...)
		if err != nil {
			return "", err
		}
	}
	return string(line), nil
}
