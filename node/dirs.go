package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/convert"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/store"
)

// ConvertChild is the hidden command by which this program converts.
const ConvertChild = "convert-child"

// convertPattern names the directories in the home in which models are
// converted; one that is there when a node starts was left by a crash.
const convertPattern = "convert-*"

// ownPattern names the files in the home from which the program's own model is
// imported.
const ownPattern = tinymodel.Name + "-*.gguf"

// isDirectory says that a source is a directory of this machine.
func isDirectory(source string) bool {
	st, err := os.Stat(source)
	return err == nil && st.IsDir()
}

// convertDirectory makes a GGUF file of a Hugging Face directory. done removes
// it.
func (n *Node) convertDirectory(ctx context.Context, req api.AddRequest, progress func(done, total int64)) (path string, done func(), err error) {
	if req.Quantize == "" { // then what is made is as large as the weights
		if err := store.SpaceFor(n.cfg.Home, weights(req.Source)); err != nil {
			return "", nil, err
		}
	}
	tmp, err := os.MkdirTemp(n.cfg.Home, convertPattern)
	if err != nil {
		return "", nil, err
	}
	n.convert.Add(1)
	done = func() {
		os.RemoveAll(tmp)
		n.convert.Done()
	}
	defer func() {
		if err != nil {
			done()
		}
		if errors.Is(err, syscall.ENOSPC) {
			err = errors.Join(store.ErrFull, err)
		}
	}()
	path = filepath.Join(tmp, "model.gguf")
	f, err := os.Create(path)
	if err != nil {
		return "", nil, err
	}
	opt := convert.Options{
		Quantize: req.Quantize, Temp: tmp, Check: func(md interface{ Value(key string) any }) error { return engine.Check(md) }, Progress: progress,
	}
	if n.cfg.InProcess {
		err = convert.Directory(ctx, req.Source, f, opt)
	} else {
		err = convert.InChild(ctx, []string{n.cfg.Command[0], ConvertChild}, req.Source, path, opt)
	}
	return path, done, errors.Join(err, f.Close())
}

// weights counts the bytes of a directory's safetensors.
func weights(dir string) (n int64) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	for _, f := range files {
		if st, err := os.Stat(f); err == nil {
			n += st.Size()
		}
	}
	return n
}

// sweep removes what conversions, imports of the program's own model, and files
// of the home that a crash cut short left behind. The store is open, so no other node is at work
// in this home.
func (n *Node) sweep() {
	for _, pattern := range []string{convertPattern, ownPattern, "*" + files.Mark + "*"} {
		left, _ := filepath.Glob(filepath.Join(n.cfg.Home, pattern))
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				n.cfg.Log.Warn("what is left of an import cannot be removed", "path", path, "error", err)
			}
		}
	}
}
