package install

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/files"
)

const (
	maxFiles    = 256
	maxUnpacked = 4 << 30 // bytes
	noteFile    = "build.json"
)

// Note is what a folder keeps of where it came from.
type Note struct {
	Package   string           `json:"package"`
	Version   string           `json:"version"`
	Llama     string           `json:"llama"`
	Accel     string           `json:"accel"`
	Integrity string           `json:"integrity"`
	Licence   string           `json:"licence"`
	Origin    string           `json:"origin"`
	Files     map[string]int64 `json:"files"` // bytes of each
}

// place unpacks an archive that was verified beside its folder, and renames it.
func (b Build) place(archive io.Reader, under string) (dir string, err error) {
	dir = filepath.Join(under, b.Dir())
	tmp, err := os.MkdirTemp(under, unfinished+b.Dir()+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	unpacked, err := unpack(archive, tmp)
	if err != nil {
		return "", fmt.Errorf("unpacking %s: %w", b.File(), err)
	}
	note, err := json.MarshalIndent(Note{b.Name(), b.Version, b.Llama, b.Accel, b.Integrity, Licence, origin, unpacked}, "", " ")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(tmp, noteFile), append(note, '\n'), 0o644); err != nil {
		return "", err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil { // what is there is damaged: see There
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", err
	}
	return dir, files.SyncDir(under)
}

// unpack writes the libraries of an npm archive, and its licence, into a folder that is
// empty. All of them lie in one folder of the archive, so only the last part of a name
// counts, and nothing is written elsewhere.
func unpack(archive io.Reader, dir string) (sizes map[string]int64, err error) {
	zipped, err := gzip.NewReader(archive)
	if err != nil {
		return nil, err
	}
	sizes, total := map[string]int64{}, int64(0)
	for r := tar.NewReader(zipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Base(h.Name)
		if h.Typeflag != tar.TypeReg || !wanted(name) {
			continue
		}
		if total += h.Size; len(sizes) >= maxFiles || total > maxUnpacked {
			return nil, errors.New("it has more in it than a library")
		}
		if _, twice := sizes[name]; twice {
			return nil, fmt.Errorf("it has %q twice", name)
		}
		if err := write(filepath.Join(dir, name), r); err != nil {
			return nil, err
		}
		sizes[name] = h.Size
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(sizes)), func(name string) bool { return strings.HasPrefix(strings.TrimPrefix(name, "lib"), "llama.") }) {
		return nil, errors.New("there is no libllama in it")
	}
	return sizes, nil
}

// wanted reports whether a file of an archive is a library, or its licence.
func wanted(name string) bool {
	if name == "LICENSE" {
		return true
	}
	if !plainName(name) || strings.HasPrefix(name, "libllama-common") || strings.HasPrefix(name, "llama-common") {
		return false // which only the package's own program uses
	}
	switch path.Ext(name) {
	case ".so", ".dylib", ".dll", ".metal", ".metallib":
		return true
	}
	return false
}

// plainName reports whether a name can be a file's on every system, in the folder alone.
func plainName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsFunc(name, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-+", r))
	})
}

func write(path string, from io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close()) // a file that a power cut has emptied has another size: see whole
}

// There reports whether a build is under a directory, and whole.
func There(under string, b Build) bool { return whole(filepath.Join(under, b.Dir())) }

// whole reports whether every file that a folder's note names is there, with its size.
func whole(dir string) bool {
	n, err := ReadNote(dir)
	if err != nil || len(n.Files) == 0 {
		return false
	}
	for name, size := range n.Files {
		if info, err := os.Stat(filepath.Join(dir, filepath.Base(name))); err != nil || info.Size() != size {
			return false
		}
	}
	return true
}

// ReadNote reads what a folder keeps of where it came from.
func ReadNote(dir string) (n Note, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, noteFile))
	if err == nil {
		err = json.Unmarshal(raw, &n)
	}
	return n, err
}
