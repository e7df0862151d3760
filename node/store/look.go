package store

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/ipfs/go-cid"
)

// Listing is which models a store has, and what they are called. It is safe for concurrent
// use.
type Listing struct{ models map[cid.Cid]*Model }

// Look lists a store's models without opening the store: it changes nothing and needs no
// lock, so it works beside the daemon that uses the store. A model that cannot be read is
// left out, and a store that does not exist has none. Of the models, only what their
// manifests and names say can be used: none of their leaves can be read.
func Look(dir string) *Listing {
	l := &Listing{models: map[cid.Cid]*Model{}}
	entries, _ := os.ReadDir(filepath.Join(dir, "models"))
	for _, e := range entries {
		if m, err := readModel(filepath.Join(dir, "models", e.Name()), slog.New(slog.DiscardHandler)); err == nil {
			m.find = l.Model
			l.models[m.id] = m
		}
	}
	return l
}

// Models is Store.Models.
func (l *Listing) Models() []*Model { return byName(l.models) }

// Model is Store.Model.
func (l *Listing) Model(id cid.Cid) (*Model, error) {
	if m := l.models[id]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("model %s: %w", id, ErrNotFound)
}

// Find is Store.Find.
func (l *Listing) Find(name string) (*Model, error) { return find(name, l.Model, l.Models()) }

// From is Store.From.
func (l *Listing) From(source string) *Model { return addedFrom(source, l.Models()) }
