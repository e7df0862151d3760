package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/convert"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/store"
)

// ConvertChild is the hidden command by which this program converts.
const ConvertChild = "convert-child"

// convertPattern names the directories in the home in which models are
// converted; one that is there when a node starts was left by a crash.
const convertPattern = "convert-*"

// isDirectory says that a source is a directory of this machine.
func isDirectory(source string) bool {
	st, err := os.Stat(source)
	return err == nil && st.IsDir()
}

// convertDirectory makes a GGUF file of a Hugging Face directory. done removes
// it.
func (n *Node) convertDirectory(ctx context.Context, req api.AddRequest, progress func(done, total int64)) (path string, done func(), err error) {
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

// sweep removes what conversions that a crash cut short left behind. The store
// is open, so no other node is at work in this home.
func (n *Node) sweep() {
	left, err := filepath.Glob(filepath.Join(n.cfg.Home, convertPattern))
	if err != nil {
		return
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			n.cfg.Log.Warn("what is left of a conversion cannot be removed", "directory", dir, "error", err)
		}
	}
}
