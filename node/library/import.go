package library

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/catalog"
	"github.com/shoalnet/shoal/node/store"
)

// ownPattern names the files in the home from which the program's own model is
// imported.
const ownPattern = tinymodel.Name + "-*.gguf"

// importListed imports a model of the catalogue from the first of its origins that
// has what the catalogue says. name may be "" for the catalogue's.
func (l *Library) importListed(ctx context.Context, e *catalog.Entry, name string, w Want) (*store.Model, error) {
	if len(e.Origins) == 0 {
		return nil, api.Errorf(api.UnknownModel, "the catalogue knows no origin of %s, and no peer that can be reached has it", e.Name)
	}
	if name == "" {
		name = e.Name
	}
	id := l.names.meaning(e)
	var errs []error
	for _, from := range e.Origins {
		m, err := l.addToStore(ctx, from, store.AddOptions{
			Name: name, Span: w.Span, Progress: w.Progress, Listed: !e.Own, Expect: store.Expect{ID: id, Size: e.Size, Sha256: e.Sums()},
		})
		if err == nil {
			return m, l.names.remember(e, m.ID())
		}
		if ctx.Err() != nil || !errors.Is(err, store.ErrSource) {
			return nil, err
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if id.Defined() && e.CID == "" {
		return nil, fmt.Errorf("%s, which meant model %s here: %w", e.Name, id, err)
	}
	return nil, fmt.Errorf("%s: %w", e.Name, err)
}

// importSource imports a model from a file, a directory, an address, or this program
// itself.
func (l *Library) importSource(ctx context.Context, req api.AddRequest, w Want) (*store.Model, error) {
	var mark store.Mark
	opt := store.AddOptions{Name: req.Name, Span: w.Span, Progress: w.Progress, Read: &mark}
	from := req.Source
	dir := isDirectory(from)
	if dir {
		before := store.DirMark(from)
		path, done, err := l.convertDirectory(ctx, req, w.Progress)
		if err != nil {
			return nil, err
		}
		defer done()
		if opt.Name == "" {
			opt.Name = convertedName(from, req.Quantize)
		}
		from, opt.Transient, opt.Read, mark = path, true, nil, before
	} else if req.Quantize != "" {
		return nil, api.Errorf(api.BadInput, "only a directory of safetensors is quantized; %s is none", req.Source)
	}
	if from == tinymodel.Name {
		path, err := l.writeOwn()
		if err != nil {
			return nil, err
		}
		defer os.Remove(path)
		from, opt.Transient = path, true
		if opt.Name == "" {
			opt.Name = tinymodel.Name
		}
	}
	m, err := l.addToStore(ctx, from, opt)
	if err == nil && (dir || !opt.Transient) {
		err = l.sources.set(quantized(req.Source, req.Quantize), sourced{m.ID().String(), mark})
	}
	return m, err
}

// writeOwn writes the program's own model into a temporary file.
func (l *Library) writeOwn() (path string, err error) {
	f, err := os.CreateTemp(l.cfg.Home, ownPattern)
	if err != nil {
		return "", err
	}
	_, err = f.Write(tinymodel.GGUF())
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// addToStore imports a model, and counts what comes over the network.
func (l *Library) addToStore(ctx context.Context, from string, opt store.AddOptions) (*store.Model, error) {
	progress, last := opt.Progress, int64(0)
	opt.Progress = func(done, total int64) {
		if isRemote(from) {
			l.imported.Add(uint64(done - last))
		}
		if last = done; progress != nil {
			progress(done, total)
		}
	}
	m, err := l.store.Add(ctx, from, opt)
	if err == nil {
		l.cfg.Exchange.Gained(m.ID())
		l.gained()
	}
	return m, err
}

// gained tells of what has come.
func (l *Library) gained() {
	l.cfg.Changed()
	if l.cfg.Gained != nil {
		l.cfg.Gained()
	}
}

// Imported is how many bytes of models were read from origins when they were
// imported.
func (l *Library) Imported() uint64 { return l.imported.Load() }
