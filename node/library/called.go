package library

import (
	"context"

	"github.com/shoalnet/shoal/node/catalog"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/store"
)

// Called returns all by which rules may mean the model that a person calls so: the names
// that it has here and its ID. A model that only the catalogue knows has those that it would
// get here. Nothing means that the name is not known here, or is short for several models.
// Peers are not asked.
func (l *Library) Called(name string) []string { return l.resolver.meant(name) }

// LookCalled returns Library.Called for a home whose node does not run, with a catalogue
// (see LookCatalog). It changes nothing there. Errors are those of New.
func LookCalled(dir string, c *catalog.Catalog) (called func(name string) []string, err error) {
	names, err := openNames(dir, c)
	if err != nil {
		return nil, err
	}
	from, err := openSources(dir)
	if err != nil {
		return nil, err
	}
	v := &resolver{store: store.Look(home.Home(dir).Store()), names: names, sources: from}
	return v.meant, nil
}

// meant is Library.Called.
func (v *resolver) meant(name string) []string {
	q := v.query(name, Want{May: Import})
	for _, rule := range []func(context.Context, *query) (*resolution, error){v.here, v.source} {
		r, err := rule(context.Background(), q)
		if err != nil {
			return nil
		}
		if r != nil {
			return r.model.Called() // nil of what is still to be imported
		}
	}
	if q.entry == nil {
		return nil
	}
	called := []string{q.entry.Name}
	if q.id.Defined() {
		called = append(called, q.id.String())
	}
	return called
}
