package library

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/store"
)

// Conversion is one directory to be converted.
type Conversion struct {
	Dir      string                  // of a Hugging Face model
	Out      string                  // an empty file, for the GGUF model
	Temp     string                  // a directory for temporary files, which is removed afterwards
	Quantize string                  // as in api.AddRequest
	Progress func(done, total int64) // bytes of the weights; may be nil
}

// Converter makes a GGUF file of a directory. If it fails because of the directory,
// its errors wrap one of Config.BadInput.
type Converter func(ctx context.Context, c Conversion) error

// convertPattern names the directories in the home in which models are converted.
const convertPattern = "convert-*"

// isDirectory reports that a source is a directory of this machine.
func isDirectory(source string) bool {
	st, err := os.Stat(source)
	return err == nil && st.IsDir()
}

// convertedName is what a converted directory is called: after itself and how its
// weights were quantized.
func convertedName(dir, quantize string) string {
	name := filepath.Base(dir)
	if quantize != "" {
		name += "-" + quantize
	}
	return strings.ToLower(name)
}

// convertDirectory makes a GGUF file of a Hugging Face directory. done removes
// it.
func (l *Library) convertDirectory(ctx context.Context, req api.AddRequest, progress func(done, total int64)) (path string, done func(), err error) {
	if l.cfg.Convert == nil {
		return "", nil, api.Errorf(api.BadInput, "this program does not convert directories")
	}
	if req.Quantize == "" { // then the result is as large as the weights
		if err := store.SpaceFor(l.cfg.Home, weights(req.Source)); err != nil {
			return "", nil, err
		}
	}
	tmp, err := os.MkdirTemp(l.cfg.Home, convertPattern)
	if err != nil {
		return "", nil, err
	}
	l.conversions.Add(1)
	done = func() {
		os.RemoveAll(tmp)
		l.conversions.Done()
	}
	defer func() {
		if err != nil {
			done()
		}
		if files.Full(err) {
			err = errors.Join(store.ErrFull, err)
		}
	}()
	path = filepath.Join(tmp, "model.gguf")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return "", nil, err
	}
	return path, done, l.cfg.Convert(ctx, Conversion{Dir: req.Source, Out: path, Temp: tmp, Quantize: req.Quantize, Progress: progress})
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
