package store

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/protocol"
)

// record is what a node knows of a model besides its manifest. Losing it
// loses names and pins, never a byte of the model.
type record struct {
	Names   []string             `json:"names,omitempty"`
	Origins []string             `json:"origins,omitempty"`
	Near    []string             `json:"near,omitempty"` // those of them that lie in a private network, as a person said
	Added   time.Time            `json:"added"`
	Pinned  bool                 `json:"pinned,omitempty"` // all of it
	Pins    []string             `json:"pins,omitempty"`   // roots of shards
	Used    map[string]time.Time `json:"used,omitempty"`   // by shard root; else as Added
}

func newRecord(name string) record {
	r := record{Added: time.Now().UTC()}
	if name != "" {
		r.Names = []string{name}
	}
	return r
}

func (r *record) save(dir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return files.Replace(filepath.Join(dir, "record.json"), raw, 0o644)
}

// addRecord adds another's names, origins and pins.
func (m *Model) addRecord(r record) error {
	return m.change(func(rec *record) {
		add := func(to *[]string, what []string) {
			for _, x := range what {
				if !slices.Contains(*to, x) {
					*to = append(*to, x)
				}
			}
		}
		add(&rec.Names, r.Names)
		add(&rec.Origins, r.Origins)
		add(&rec.Near, r.Near)
		add(&rec.Pins, r.Pins)
		rec.Pinned = rec.Pinned || r.Pinned
	})
}

// change changes the record, on disk and then here: where the disk takes it no
// more, all stays as it was.
func (m *Model) change(how func(*record)) error {
	m.saving.Lock()
	defer m.saving.Unlock()
	was, gone := m.snapshot()
	if gone {
		return m.removed()
	}
	rec := was.clone()
	how(&rec)
	if rec.Pinned == was.Pinned && slices.Equal(rec.Names, was.Names) && slices.Equal(rec.Origins, was.Origins) && slices.Equal(rec.Near, was.Near) && slices.Equal(rec.Pins, was.Pins) {
		return nil
	}
	if err := rec.save(m.dir); err != nil {
		return m.failed(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	rec.Used = m.rec.Used // it has changed meanwhile
	m.rec = rec
	return nil
}

// snapshot returns the record as it is now, and whether the model was removed.
func (m *Model) snapshot() (rec record, gone bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.rec.clone(), m.gone
}

// saveUse writes down when shards were used. That is convenience, so a failure is
// not reported.
func (m *Model) saveUse() {
	m.saving.Lock()
	defer m.saving.Unlock()
	if rec, gone := m.snapshot(); !gone {
		_ = rec.save(m.dir)
	}
}

func (r *record) clone() record {
	c := *r
	c.Names, c.Origins, c.Near, c.Pins, c.Used = slices.Clone(r.Names), slices.Clone(r.Origins), slices.Clone(r.Near), slices.Clone(r.Pins), maps.Clone(r.Used)
	return c
}

// isNear says that an origin may lie in a private network.
func (r *record) isNear(origin string) bool { return slices.Contains(r.Near, origin) }

// Note remembers a name, and origins (as Add takes them) that the model can be
// had from. They are read from public addresses only, unless they are the
// operator's own. An origin that cannot be one is an ErrSource.
func (m *Model) Note(name string, own bool, origins ...string) error {
	r := record{}
	if name != "" {
		r.Names = []string{name}
	}
	for _, o := range origins {
		src, err := findSource(o, own)
		if err != nil {
			return err
		}
		r.Origins = append(r.Origins, src.origins()...)
	}
	if own {
		r.Near = r.Origins
	}
	return m.addRecord(r)
}

// Name is what the model is called here.
func (m *Model) Name() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.rec.Names) == 0 {
		return defaultName(m.man)
	}
	return m.rec.Names[0]
}

// Names are all the names.
func (m *Model) Names() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.rec.Names)
}

// Origins are the paths or URLs that the model was added from, of a split
// model those of all parts.
func (m *Model) Origins() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.rec.Origins)
}

// match says how well a word names the model.
func (m *Model) match(word string) protocol.Match {
	return protocol.MatchModel(word, m.id, append(m.Names(), defaultName(m.man), slug(m.man.Name)))
}

// Pin protects the whole model from the quota, or ends that; so it removes the
// pins of single shards, too. Errors are those of writing the model's record.
func (m *Model) Pin(on bool) error {
	return m.change(func(rec *record) { rec.Pinned, rec.Pins = on, nil })
}

// PinShards protects shards from the quota, or ends that. A shard need not be
// held: what comes of it later is protected. Errors are those of writing the
// model's record.
func (m *Model) PinShards(shards []int, on bool) error {
	return m.change(func(rec *record) {
		if rec.Pinned && on {
			return
		}
		if rec.Pinned { // all but these
			rec.Pinned, rec.Pins = false, nil
			for i := range m.man.Shards {
				rec.Pins = append(rec.Pins, m.man.Shards[i].Root.String())
			}
		}
		for _, i := range shards {
			root := m.man.Shards[i].Root.String()
			rec.Pins = slices.DeleteFunc(rec.Pins, func(p string) bool { return p == root })
			if on {
				rec.Pins = append(rec.Pins, root)
			}
		}
	})
}

// Pinned says that the quota and GC drop nothing of the model.
func (m *Model) Pinned() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.rec.Pinned
}

// PinnedShards lists the shards that the quota and GC do not drop.
func (m *Model) PinnedShards() []int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []int
	for i := range m.shards {
		if m.pinned(i) {
			out = append(out, i)
		}
	}
	return out
}

// pinned and used are of a shard; called with mu held.
func (m *Model) pinned(i int) bool {
	return m.rec.Pinned || slices.Contains(m.rec.Pins, m.man.Shards[i].Root.String())
}

func (m *Model) used(i int) time.Time {
	if t, ok := m.rec.Used[m.man.Shards[i].Root.String()]; ok {
		return t
	}
	return m.rec.Added
}

func defaultName(man *protocol.Manifest) string {
	name := man.Name
	if name == "" {
		name = man.Architecture
	}
	return slug(name + "." + man.Quantization)
}

// slug is a name that is easy to type.
func slug(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '.', r == '_', r == ':':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	return strings.Trim(name, "-.")
}
