package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
)

// What makes a node the one that it is fits into a small file: everything in its home
// but models, sockets and what is found out again.

// backedUp returns the paths in a home that a backup has, relative to it. Those that
// end in a slash are directories; a star stands for any folder's name.
func backedUp() []string {
	h := home.Home("")
	return []string{h.Key(), h.Chosen(), h.Kept(), h.Port(), h.Config(), h.Keys(), h.APIToken(), h.Standing(), h.Ledger(), h.Names(), h.Editions(), h.CatalogDir() + "/", h.Swarms() + "/*/"}
}

const (
	mostBackup  = 64 << 20 // bytes of one file
	mostBacked  = 1000     // files
	restoreHint = "restore it with `shoal backup restore FILE` into an empty home"
)

func backupCommand() *cli.Command {
	return &cli.Command{
		Name: "backup", Usage: "save what makes this node the one it is: its keys, swarms, port, settings, API keys and catalogues; no models", ArgsUsage: "FILE",
		Description: "Writes a tar file that only you can read; whoever has it can pretend to be this node, so keep it like a key.\n" +
			"A running node need not be stopped.\n\n" +
			"shoal backup --home /var/lib/shoal shoal-backup.tar   (-: to standard output)\n" +
			"shoal backup restore --home /var/lib/shoal shoal-backup.tar",
		Flags: []cli.Flag{homeFlag(), jsonFlag(), &cli.BoolFlag{Name: "list", Usage: "list what FILE has, instead of writing it"}},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "FILE")
			if err != nil {
				return err
			}
			if c.Bool("list") {
				return listBackup(c, args[0])
			}
			names, raw, err := packHome(c.String("home"))
			if err != nil {
				return err
			}
			if args[0] == "-" {
				_, err = c.App.Writer.Write(raw)
				return err
			}
			if err := files.Replace(args[0], raw, 0o600); err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c.App.Writer, names)
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s has %s; %s\n", args[0], strings.Join(names, ", "), restoreHint)
			return err
		},
		Subcommands: []*cli.Command{{
			Name: "restore", Usage: "put a backup into an empty home", ArgsUsage: "FILE", Flags: []cli.Flag{homeFlag(), jsonFlag()},
			Action: func(c *cli.Context) error {
				args, err := arguments(c, "FILE")
				if err != nil {
					return err
				}
				names, err := restoreHome(c.String("home"), args[0])
				if err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c.App.Writer, names)
				}
				_, err = fmt.Fprintf(c.App.Writer, "%s has again: %s\n", c.String("home"), strings.Join(names, ", "))
				return err
			},
		}},
	}
}

// packHome returns a tar file of a home, and what is in it.
func packHome(dir string) (names []string, raw []byte, err error) {
	var paths []string
	for _, p := range backedUp() {
		sub, isDir := strings.CutSuffix(p, "/")
		if !isDir {
			paths = append(paths, p)
			continue
		}
		found, err := fs.Glob(os.DirFS(dir), path.Join(sub, "*"))
		if err != nil {
			return nil, nil, err
		}
		paths = append(paths, found...)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, p := range paths {
		content, err := os.ReadFile(filepath.Join(dir, p)) // follows links: config.toml may be one
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: p, Mode: 0o600, Size: int64(len(content)), ModTime: time.Now(), Format: tar.FormatPAX})
		}
		if err == nil {
			_, err = w.Write(content)
		}
		if err != nil {
			return nil, nil, err
		}
		names = append(names, p)
	}
	if !slices.ContainsFunc(names, isKey) {
		return nil, nil, usageError{fmt.Sprintf("%s is no node's home: it has no key", dir)}
	}
	return names, buf.Bytes(), w.Close()
}

// isKey reports whether a path in a home is that of a node's key, in the open network or
// in a swarm.
func isKey(name string) bool {
	in, _ := path.Match(home.Home("").Swarm("*")+"/key", name)
	return in || name == home.Home("").Key()
}

// backup is what a backup's file has.
type backup struct {
	names   []string
	content map[string][]byte
}

// readBackup reads a backup, and refuses a file with anything that a backup does not
// have.
func readBackup(r io.Reader) (*backup, error) {
	b := &backup{content: map[string][]byte{}}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("this is no backup: %w", err)
		}
		switch {
		case h.Typeflag != tar.TypeReg || !mayRestore(h.Name):
			return nil, fmt.Errorf("this is no backup of a node: it has %q", h.Name)
		case h.Size > mostBackup || len(b.names) >= mostBacked || b.content[h.Name] != nil:
			return nil, fmt.Errorf("this is no backup of a node: %q is too large, or there is too much", h.Name)
		}
		raw, err := io.ReadAll(t)
		if err != nil {
			return nil, fmt.Errorf("the backup is damaged: %w", err)
		}
		b.names = append(b.names, h.Name)
		b.content[h.Name] = append([]byte{}, raw...)
	}
	if !slices.ContainsFunc(b.names, isKey) {
		return nil, errors.New("this is no backup of a node: it has no key")
	}
	return b, nil
}

// mayRestore reports whether a path is one that a backup has.
func mayRestore(name string) bool {
	return slices.ContainsFunc(backedUp(), func(p string) bool {
		if sub, isDir := strings.CutSuffix(p, "/"); isDir {
			dir, file := path.Split(name)
			same, _ := path.Match(p, dir)
			return same && !strings.Contains(dir, "..") && file != "" && file != "." && file != ".." && !strings.ContainsAny(file, "\\\x00") && sub != ""
		}
		return p == name
	})
}

func openBackup(file string) (*backup, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := readBackup(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

func listBackup(c *cli.Context, file string) error {
	b, err := openBackup(file)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, b.names)
	}
	_, err = fmt.Fprintln(c.App.Writer, strings.Join(b.names, "\n"))
	return err
}

// restoreHome writes a backup into a home that has none of its files.
func restoreHome(dir, file string) ([]string, error) {
	b, err := openBackup(file)
	if err != nil {
		return nil, err
	}
	for _, p := range backedUp() {
		p, _, _ = strings.Cut(p, "/*")
		if _, err := os.Lstat(filepath.Join(dir, p)); err == nil {
			return nil, usageError{fmt.Sprintf("%s has a node already (%s is there): restore into an empty home", dir, p)}
		}
	}
	for _, name := range b.names {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return nil, err
		}
		if err := files.Replace(to, b.content[name], 0o600); err != nil {
			return nil, err
		}
	}
	return b.names, nil
}
