package library

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/store"
)

// sources is what was imported from where: a model that is here is not read again only
// because it is named by its file or address. It is safe for concurrent use.
type sources struct {
	path string

	saving sync.Mutex // held while the file is written, which may take a while
	mu     sync.Mutex
	of     map[string]sourced // by source, as store.Source has it
}

// sourced is what a source was when it was read.
type sourced struct {
	Model string     `json:"model"` // the CID
	Mark  store.Mark `json:"mark,omitempty"`
}

func openSources(dir string) (*sources, error) {
	s := &sources{path: home.Home(dir).Sources(), of: map[string]sourced{}}
	raw, err := os.ReadFile(s.path)
	if os.IsNotExist(err) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(raw, &s.of) != nil || s.of == nil { // null is no map
		return nil, fmt.Errorf("%s, which remembers where models came from, is damaged; remove it to forget that", s.path)
	}
	return s, nil
}

// get returns what is known of a source.
func (s *sources) get(from string) (sourced, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.of[from]
	return v, ok
}

// set notes what a source was.
func (s *sources) set(from string, v sourced) error {
	s.mu.Lock()
	same := s.of[from] == v
	s.of[from] = v
	s.mu.Unlock()
	if same {
		return nil
	}
	return s.save()
}

// forget removes the sources of a model.
func (s *sources) forget(id cid.Cid) {
	s.mu.Lock()
	before := len(s.of)
	maps.DeleteFunc(s.of, func(_ string, v sourced) bool { return v.Model == id.String() })
	changed := len(s.of) != before
	s.mu.Unlock()
	if changed {
		_ = s.save() // at worst a source is named whose model is not here
	}
}

func (s *sources) save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	raw, err := json.MarshalIndent(s.of, "", "  ")
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return files.Replace(s.path, append(raw, '\n'), 0o600) // an address may have a secret in it
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
