package library

import (
	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/store"
)

// Whole returns the name under which a model can be served from this disk alone, which
// is whole there or inside this program; "": there is none. name may be empty if there
// is only one.
func (l *Library) Whole(name string) string {
	if name == "" {
		only := ""
		for _, m := range l.store.Models() {
			switch {
			case !m.Whole(m.Shards()):
			case only != "":
				return ""
			default:
				only = m.ID().String()
			}
		}
		return only
	}
	if m := l.known(name); m != nil {
		if m.Whole(m.Shards()) {
			return m.ID().String()
		}
		return ""
	}
	if name == tinymodel.Name {
		return name
	}
	return ""
}

// known returns the model of the store that a name or the catalogue's word for it
// means; nil: none.
func (l *Library) known(name string) *store.Model {
	if m, err := l.store.Find(name); err == nil {
		return m
	}
	if e := l.names.Find(name); e != nil {
		if m, err := l.store.Find(e.Name); err == nil {
			return m
		}
		if id := l.names.meaning(e); id.Defined() {
			if m, err := l.store.Model(id); err == nil {
				return m
			}
		}
	}
	return nil
}
