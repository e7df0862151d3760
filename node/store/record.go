package store

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/shoalnet/shoal/node/files"

	"github.com/shoalnet/shoal/protocol"
)

// record is what a node knows about a model besides its manifest. Losing it
// loses names and pins, never a byte of the model.
type record struct {
	Names   []string             `json:"names,omitempty"`
	Origins []string             `json:"origins,omitempty"`
	Near    []string             `json:"near,omitempty"` // origins in a private network that a person named
	Added   time.Time            `json:"added"`
	Pinned  bool                 `json:"pinned,omitempty"` // the whole model
	Pins    []string             `json:"pins,omitempty"`   // roots of pinned shards
	Used    map[string]time.Time `json:"used,omitempty"`   // last use by shard root; absent: same as Added
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

// addRecord merges another record's names, origins and pins.
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

// change changes the record, first on disk and then in memory: if the disk
// write fails, nothing changes.
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
	rec.Used = m.rec.Used // it may have changed in the meantime
	m.rec = rec
	return nil
}

// snapshot returns a copy of the record, and whether the model was removed.
func (m *Model) snapshot() (rec record, gone bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.rec.clone(), m.gone
}

// saveUse writes down when shards were used. This is a convenience, so a
// failure is not reported.
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

// isNear reports whether an origin may lie in a private network.
func (r *record) isNear(origin string) bool { return slices.Contains(r.Near, origin) }

// Note remembers a name for the model, and origins (in the forms that Add
// takes) from which it can be downloaded. They are read from public addresses
// only, unless own says that the operator named them. Errors are ErrSource for
// an origin that is not valid, and those of writing the record.
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

// Name returns the model's first name here.
func (m *Model) Name() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.rec.Names) == 0 {
		return defaultName(m.man)
	}
	return m.rec.Names[0]
}

// Names returns all names of the model.
func (m *Model) Names() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.rec.Names)
}

// Called returns all by which the model may be meant: its names here, the one that it has
// by itself, and its ID. It returns nothing for nil.
func (m *Model) Called() []string {
	if m == nil {
		return nil
	}
	return append(m.Names(), defaultName(m.man), slug(m.man.Name), m.id.String())
}

// NamesOf returns all by which a model may be meant, as Model.Called does; nothing if it
// is not here.
func (s *Store) NamesOf(id cid.Cid) []string {
	m, _ := s.Model(id)
	return m.Called()
}

// Origins returns the paths or URLs that the model was added from: for a split
// model, those of all parts.
func (m *Model) Origins() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.rec.Origins)
}

// match says how well a word names the model.
func (m *Model) match(word string) protocol.Match {
	names := append(m.Names(), defaultName(m.man), slug(m.man.Name))
	if m.IsAdapter() { // by its own name it would be taken for a model
		return max(protocol.MatchModel(word, m.id, m.Names()), m.matchAdapted(word))
	}
	return protocol.MatchModel(word, m.id, names)
}

// Pin protects the whole model from the quota, or ends that protection; either
// way it removes the pins of single shards. Errors are those of writing the
// model's record.
func (m *Model) Pin(on bool) error {
	return m.change(func(rec *record) { rec.Pinned, rec.Pins = on, nil })
}

// PinShards protects shards from the quota, or ends that protection. A shard
// need not be held: what arrives of it later is protected. Errors are those of
// writing the model's record.
func (m *Model) PinShards(shards []int, on bool) error {
	return m.change(func(rec *record) {
		if rec.Pinned && on {
			return
		}
		if rec.Pinned { // all but these stay pinned
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

// Pinned reports whether the whole model is protected from the quota and GC.
func (m *Model) Pinned() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.rec.Pinned
}

// PinnedShards returns the shards that are protected from the quota and GC.
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

// pinned and used refer to one shard; called with mu held.
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

// slug turns a name into one that is easy to type.
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
