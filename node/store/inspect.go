package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Inspection is the result of inspecting a model on disk.
type Inspection struct {
	ID, Name string
	Dir      string
	Blocks   int
	Damaged  []string     // names of shards with damaged leaves, including those not yet fetched again: header, embedding, block N, output
	Leaves   int          // damaged leaves
	Checked  int64        // bytes read
	Held     int64        // bytes held according to the journal
	Pinned   bool         // as a whole or in part
	Header   *gguf.Header // not verified; nil if it is not here, or damaged
	Err      error        // why it cannot be read at all

	model *Model // nil if Err is set
}

// Matches reports whether a setting refers to the model: by a name or CID,
// possibly shortened, or by the file that it came from.
func (in *Inspection) Matches(setting string) bool {
	return in.model != nil && in.model.match(filepath.Base(setting)) != protocol.MatchNone
}

// Inspect checks a store's models without opening the store: it changes nothing
// and needs no lock, so it works beside the daemon that uses the store. It
// reads at most limit bytes of leaves (0: all), spread evenly over the models.
// It returns ctx's error, or that of a directory that cannot be read; what is
// wrong with a model is in its Inspection.
func Inspect(ctx context.Context, dir string, limit int64, progress func(done, total int64)) ([]Inspection, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "models"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Inspection
	var models []*Model
	defer func() {
		for _, m := range models {
			_ = m.closeFiles()
		}
	}()
	var total, done int64
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tmpPrefix) || !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, "models", e.Name())
		in := Inspection{ID: e.Name(), Dir: path, Name: e.Name()}
		m, err := peek(path)
		if err != nil {
			in.Err = err
		} else {
			models = append(models, m)
			in.model, in.Name, in.Held, in.Blocks, in.Pinned = m, m.Name(), m.Held(), int(m.man.Blocks), len(m.PinnedShards()) > 0
			in.Header = m.headerHere()
			total += in.Held
		}
		out = append(out, in)
	}
	every := int64(1) // check one leaf in every so many
	if limit > 0 && total > limit {
		every = (total + limit - 1) / limit
	}
	i := 0
	for k := range out {
		if out[k].Err != nil {
			continue
		}
		if err := out[k].check(ctx, models[i], int(every), func(n int64) {
			done += n
			if progress != nil {
				progress(done, total/every)
			}
		}); err != nil {
			return out, err
		}
		i++
	}
	return out, nil
}

// peek opens a model read-only.
func peek(dir string) (*Model, error) {
	m, err := readModel(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	open := func(name string) (f *os.File) {
		f, e := os.Open(filepath.Join(m.dir, name))
		err = errors.Join(err, e)
		return f
	}
	m.data, m.journal, m.nodesF = open(dataName), open("journal"), open("nodes")
	if err != nil {
		return nil, errors.Join(err, m.closeFiles())
	}
	m.scanNodes()
	for i := range m.shards {
		if _, err := m.learn(i); err != nil {
			return nil, errors.Join(err, m.closeFiles())
		}
	}
	m.scanHeld()
	return m, nil
}

// headerHere reads a header as it is on disk, or returns nil.
func (m *Model) headerHere() *gguf.Header {
	if m.IsAdapter() { // it is another model's that is computed with
		return nil
	}
	for i := range m.man.Shards {
		if m.man.Shards[i].Kind == protocol.ShardHeader && m.Whole([]int{i}) {
			h, _ := gguf.Read(m.file(0), m.man.Files[0].Size)
			return h
		}
	}
	return nil
}

// scanHeld replays the journal.
func (m *Model) scanHeld() {
	scanJournal(io.NewSectionReader(m.journal, 0, 1<<62), func(_ int64, op, x, y uint32) {
		if op != opDurable && int64(x) < int64(len(m.shards)) && int64(y) < int64(len(m.shards[x].held)) {
			m.mark(place{int(x), int(y)}, op)
		}
	})
}

// check hashes one in every so many of the held leaves.
func (in *Inspection) check(ctx context.Context, m *Model, every int, read func(int64)) error {
	buf := make([]byte, protocol.LeafSize)
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		bad := len(s.bad)
		for leaf, held := range s.held {
			if !held {
				continue
			}
			if n++; n%every != 0 {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			at, size := s.at(leaf)
			raw := buf[:size]
			_, err := m.data.ReadAt(raw, at)
			in.Checked += int64(size)
			read(int64(size))
			if err == nil && s.leaves != nil && digest(sha256.Sum256(raw)) == s.leaves[leaf] {
				continue
			}
			if m.scanHeld(); s.held[leaf] { // it was not dropped in the meantime
				bad++
			}
		}
		if bad > 0 {
			in.Leaves += bad
			in.Damaged = append(in.Damaged, m.shardName(i))
		}
	}
	return nil
}

func (m *Model) shardName(i int) string {
	s := &m.man.Shards[i]
	return shardKey{s.Kind, s.Block}.String()
}

// Unpinned returns the bytes that count against the quota.
func (s *Store) Unpinned() (n int64) {
	for _, m := range s.all() {
		m.mu.RLock()
		for i := range m.shards {
			if !m.pinned(i) {
				n += m.shards[i].bytes
			}
		}
		n += m.laidUnpinned()
		m.mu.RUnlock()
	}
	return n
}

// Names returns the names of a store's models without opening the store.
func Names(dir string) (names []string) {
	for _, m := range Look(dir).Models() {
		names = append(names, m.Name())
	}
	return names
}
