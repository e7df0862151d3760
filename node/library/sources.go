package library

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/store"
)

// sources is what was imported from where, by source, as store.Source has it: a model
// that is here is not read again only because it is named by its file or address.
type sources struct{ *memo[sourced] }

// sourced is what a source was when it was read.
type sourced struct {
	Model string     `json:"model"` // the CID
	Mark  store.Mark `json:"mark,omitempty"`
}

func openSources(dir string) (*sources, error) {
	m, err := openMemo[sourced](home.Home(dir).Sources(), 0o600, "where models came from") // an address may have a secret in it
	return &sources{m}, err
}

// forget removes the sources of a model.
func (s *sources) forget(id cid.Cid) {
	s.memo.forget(func(v sourced) bool { return v.Model == id.String() })
}

// quantized is the key of a source that is converted before it is imported.
func quantized(from, quantize string) string {
	if quantize == "" {
		return store.Source(from)
	}
	return store.Source(from) + " as " + quantize
}

// from returns the store's model that was imported from a source; nil if there is none.
// The source is not asked, and may be gone.
func (v *resolver) from(source string) *store.Model {
	if known, ok := v.sources.get(store.Source(source)); ok {
		if id, err := cid.Decode(known.Model); err == nil {
			if m, err := v.store.Model(id); err == nil {
				return m
			}
		}
	}
	return v.store.From(source)
}

// unchanged returns the model that a source was imported as, if all of what is wanted
// of it is here and the source has not changed since; else nil. Of the source nothing
// is read but what it is. Errors are those of asking it.
func (l *Library) unchanged(ctx context.Context, req api.AddRequest, w Want) (*store.Model, error) {
	known, ok := l.sources.get(quantized(req.Source, req.Quantize))
	if !ok || known.Mark == "" || req.Source == tinymodel.Name {
		return nil, nil
	}
	id, err := cid.Decode(known.Model)
	if err != nil {
		return nil, nil //nolint:nilerr // the file was edited: it is read again
	}
	m, err := l.store.Model(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	shards := m.Shards()
	if w.Span != nil {
		if !w.Span.Valid(m.Manifest().All().To) { // the import says so
			return nil, nil
		}
		shards = m.Manifest().ShardsFor(*w.Span)
	}
	if !m.Whole(shards) {
		return nil, nil
	}
	now := store.Mark("")
	if isDirectory(req.Source) {
		now = store.DirMark(req.Source)
	} else if now, err = store.MarkOf(ctx, req.Source, false); err != nil {
		return nil, err
	}
	if now != known.Mark {
		return nil, nil
	}
	if req.Name != "" {
		err = m.Note(req.Name, false)
	}
	return m, err
}
