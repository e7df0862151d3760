package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Export writes the model's original file to path, or a split model's files
// into the directory path, and checks their hashes while writing. No file is
// visible before it has been checked. Errors are a *Missing if the model is not
// held in full, ErrCorrupt if its bytes do not match its hashes, ErrFull, those
// of package os, and ctx's.
func (m *Model) Export(ctx context.Context, path string, progress func(done, total int64)) error {
	if progress == nil {
		progress = func(int64, int64) {}
	}
	done, here := m.hold(m.Shards())
	defer done()
	if !here {
		return m.removed()
	}
	m.saveUse()
	if err := m.missing(m.Shards()); err != nil {
		return err
	}
	name := slug(m.Name()) // a peer may have chosen it
	if name == "" {
		name = m.id.String()
	}
	st, err := os.Stat(path)
	isDir := err == nil && st.IsDir()
	if n := len(m.man.Files); n > 1 && !isDir {
		if err == nil {
			return fmt.Errorf("the model has %d files; name a directory to export them to; %s is a file", n, path)
		}
		if err := os.Mkdir(path, 0o755); err != nil {
			return full(err)
		}
	}
	where := path
	if !isDir && len(m.man.Files) == 1 {
		where = filepath.Dir(path)
	}
	if err := SpaceFor(where, m.man.Size()); err != nil {
		return err
	}
	var written int64
	for i, f := range m.man.Files {
		to := path
		switch n := len(m.man.Files); {
		case n > 1:
			to = filepath.Join(path, fmt.Sprintf("%s-%05d-of-%05d.gguf", name, i+1, n))
		case isDir:
			to = filepath.Join(path, name+".gguf")
		}
		err := m.exportFile(ctx, to, m.file(i), f.Sha256, func(n int) {
			written += int64(n)
			progress(written, m.man.Size())
		})
		if err != nil {
			return needs(err, m.man.Size())
		}
	}
	return nil
}

func (m *Model) exportFile(ctx context.Context, to string, r io.Reader, sum []byte, wrote func(int)) (err error) {
	f, err := os.CreateTemp(filepath.Dir(to), ".shoal-export-")
	if err != nil {
		return full(err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, rerr := r.Read(buf)
		h.Write(buf[:n])
		if _, err := f.Write(buf[:n]); err != nil {
			return full(err)
		}
		wrote(n)
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, rerr)
		}
	}
	if !bytes.Equal(h.Sum(nil), sum) {
		damaged, err := m.Verify(ctx, nil, true)
		if err == nil {
			// Each leaf is intact but the whole file is not, so the manifest is
			// wrong.
			err = errors.New("the leaves are intact but the manifest's sha256 is wrong: its author made a mistake, or lied")
		}
		return fmt.Errorf("%w: %d leaves: %w", ErrCorrupt, damaged, err)
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return full(err)
	}
	return full(os.Rename(f.Name(), to))
}
