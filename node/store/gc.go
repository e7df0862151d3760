package store

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/files"
)

// GCOptions say what GC drops besides unreferenced data.
type GCOptions struct {
	Unused bool // drop all shards that are neither pinned nor in use, not only those beyond the quota
	DryRun bool // only report what would be freed
}

// Freed is what GC freed, or would free.
type Freed struct {
	Left    int64 // bytes left by interrupted imports
	Gaps    int64 // bytes that were allocated in models but not held
	Dropped []Dropped
}

// Dropped lists the dropped shards of one model.
type Dropped struct {
	Model  *Model
	Shards []int
	Bytes  int64
}

// GC frees disk space that nothing needs: leftovers of interrupted imports,
// space that is allocated but not held, files laid out for spans that nobody serves,
// and the shards without a pin that
// exceed the quota, least recently used first. Shards that are pinned or in use
// stay, and so do headers and manifests. Errors are those of the disk; what was
// freed before one stays freed.
func (s *Store) GC(opt GCOptions) (*Freed, error) {
	out := &Freed{}
	dropped, err := s.gcShards(opt)
	for _, c := range dropped {
		i := slices.IndexFunc(out.Dropped, func(d Dropped) bool { return d.Model == c.m })
		if i < 0 {
			i = len(out.Dropped)
			out.Dropped = append(out.Dropped, Dropped{Model: c.m})
		}
		d := &out.Dropped[i]
		d.Shards, d.Bytes = append(d.Shards, c.shard), d.Bytes+c.bytes
	}
	for _, d := range out.Dropped {
		slices.Sort(d.Shards)
	}
	for _, m := range s.all() {
		n, e := m.gc(opt.DryRun)
		err = errors.Join(err, e)
		out.Gaps += n
	}
	entries, e := os.ReadDir(s.modelsDir())
	err = errors.Join(err, e)
	s.mu.Lock() // any directory listed from now on that has an owner is in tmp by now
	tmp := maps.Clone(s.tmp)
	out.Left = s.swept
	if !opt.DryRun {
		s.swept = 0
	}
	s.mu.Unlock()
	for _, entry := range entries {
		path := filepath.Join(s.modelsDir(), entry.Name())
		switch {
		case !strings.HasPrefix(entry.Name(), tmpPrefix) || tmp[path]:
		case opt.DryRun:
			out.Left += used(path)
		default:
			out.Left += sweep(path)
		}
	}
	return out, err
}

func (s *Store) gcShards(opt GCOptions) (dropped []candidate, err error) {
	s.quota.mu.Lock()
	defer s.quota.mu.Unlock()
	list, _ := s.excess(0) // shards in use may by themselves exceed the quota
	if opt.Unused {
		list, _ = s.droppable()
	}
	if opt.DryRun {
		return list, nil
	}
	return s.dropAll(list, "that nothing needs")
}

// diskBlock is the block size of most file systems; where it differs, a dry
// run's figures are estimates.
const diskBlock = 4096

// gc frees what is allocated but not held, and rewrites the journal if it has
// outdated records. It returns how many bytes that freed.
func (m *Model) gc(dry bool) (freed int64, err error) {
	m.syncing.Lock()
	defer m.syncing.Unlock()
	m.io.Lock()
	defer m.io.Unlock()
	m.mu.RLock()
	gone := m.gone
	m.mu.RUnlock()
	if gone {
		return 0, nil
	}
	if dry {
		m.mu.RLock()
		_, unused := m.laidUnused()
		m.mu.RUnlock()
		st, err := m.data.Stat()
		if err != nil {
			return 0, m.failed(err)
		}
		freed = files.Allocated(st)
		if m.servable() {
			freed -= roundUp(min(m.base[0], written(m.data)), diskBlock)
		}
		for _, r := range m.heldRuns() {
			freed -= roundUp(r.at+r.length, diskBlock) - r.at/diskBlock*diskBlock
		}
		return max(0, freed) + unused, nil
	}
	before := m.Allocated()
	m.dropLaid(nil)
	err = m.punchGaps(nil)
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.compact(); e != nil && !errors.Is(e, ErrFull) { // then the journal stays as it is
		err = errors.Join(err, e)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", m.id, err)
	}
	return max(0, before-m.allocated()), nil
}
