package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/store"
)

// Conversion is one directory to be converted.
type Conversion struct {
	Dir      string                  // what a Hugging Face model is in
	Out      string                  // an existing file, for the GGUF model
	Temp     string                  // a directory for temporary files, which goes afterwards
	Quantize string                  // how the weights are quantized; "": not at all
	Progress func(done, total int64) // bytes; may be nil
}

// Converter makes a GGUF file of a directory. Errors about the directory wrap
// engine.ErrUnsupported.
type Converter func(ctx context.Context, c Conversion) error

// convertedName is what a converted directory is called: after itself and what was
// made of it.
func convertedName(dir, quantize string) string {
	name := filepath.Base(dir)
	if quantize != "" {
		name += "-" + quantize
	}
	return strings.ToLower(name)
}

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
	if n.cfg.Convert == nil {
		return "", nil, api.Errorf(api.BadInput, "this program does not convert directories")
	}
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
	if err = f.Close(); err == nil {
		err = n.cfg.Convert(ctx, Conversion{Dir: req.Source, Out: path, Temp: tmp, Quantize: req.Quantize, Progress: progress})
	}
	return path, done, err
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
// being replaced that a crash cut short left behind. The store is open, so no other node is at work
// in this home.
func (n *Node) sweep() {
	files.Sweep(n.cfg.Home)
	for _, pattern := range []string{convertPattern, ownPattern} {
		left, _ := filepath.Glob(filepath.Join(n.cfg.Home, pattern))
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				n.cfg.Log.Warn("what is left of an import cannot be removed", "path", path, "error", err)
			}
		}
	}
}
