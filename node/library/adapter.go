package library

import (
	"context"
	"errors"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/store"
)

// addAdapter imports an adapter (LoRA) that adds to a model, of which this node needs
// no more than the manifest. Errors are those of Add.
func (l *Library) addAdapter(ctx context.Context, req api.AddRequest, w Want) (*store.Model, error) {
	if isDirectory(req.Source) || req.Quantize != "" {
		return nil, api.Errorf(api.BadInput, "an adapter is added from a GGUF file; %s is none", req.Source)
	}
	base, err := l.Find(ctx, req.Base, Want{May: Pull, Sure: true})
	if err != nil {
		return nil, err
	}
	return l.addToStore(ctx, req.Source, store.AddOptions{Name: req.Name, Base: base, Span: w.Span, Progress: w.Progress})
}

// base returns the model that an adapter adds to, with its manifest here; nil if m is no
// adapter. Errors are those of Find.
func (l *Library) base(ctx context.Context, m *store.Model) (*store.Model, error) {
	base, err := m.Base()
	if errors.Is(err, store.ErrNotFound) {
		if _, err = l.Find(ctx, m.Manifest().Base.String(), Want{May: Pull, Sure: true}); err != nil {
			return nil, err
		}
		base, err = m.Base()
	}
	return base, err
}
