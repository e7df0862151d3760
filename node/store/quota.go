package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// quota bounds the bytes of shards without a pin.
type quota struct {
	mu       sync.Mutex
	limit    int64 // 0: none
	reserved int64 // by imports under way
}

// SetQuota changes the quota and drops what exceeds the new one.
func (s *Store) SetQuota(bytes int64) error {
	s.quota.mu.Lock()
	s.quota.limit = bytes
	s.quota.mu.Unlock()
	return s.Room(0)
}

// Room makes room for n more bytes of shards by dropping those without a pin,
// the longest unused first, but none that are in use, and no headers: they are
// small and tell what a model is. It drops nothing if that would not be
// enough.
func (s *Store) Room(n int64) error {
	done, err := s.reserve(n)
	if err == nil {
		done()
	}
	return err
}

// reserve is Room for bytes that are yet to come. done is called when they
// are there, or will not come.
func (s *Store) reserve(n int64) (done func(), err error) {
	s.quota.mu.Lock()
	defer s.quota.mu.Unlock()
	release := sync.OnceFunc(func() {
		s.quota.mu.Lock()
		s.quota.reserved -= n
		s.quota.mu.Unlock()
	})
	if s.quota.limit <= 0 {
		s.quota.reserved += n
		return release, nil
	}
	type candidate struct {
		m     *Model
		shard int
		bytes int64
		used  time.Time
	}
	var all []candidate
	total, droppable := s.quota.reserved+n, int64(0)
	for _, m := range s.all() {
		m.mu.RLock()
		for i := range m.shards {
			b := m.shards[i].bytes
			if m.pinned(i) || b == 0 {
				continue
			}
			total += b
			if m.man.Shards[i].Kind != protocol.ShardHeader && m.shards[i].users == 0 {
				all = append(all, candidate{m, i, b, m.used(i)})
				droppable += b
			}
		}
		m.mu.RUnlock()
	}
	if total-droppable > s.quota.limit {
		return nil, fmt.Errorf("%w: %d MiB of models without a pin would exceed the quota of %d MiB; raise --quota, pin less or remove models",
			ErrFull, total>>20, s.quota.limit>>20)
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.used.Compare(b.used) })
	for _, c := range all {
		if total <= s.quota.limit {
			break
		}
		if err := c.m.DropShards([]int{c.shard}); err != nil {
			if errors.Is(err, ErrBusy) { // since a moment ago
				continue
			}
			return nil, err
		}
		total -= c.bytes
		s.opt.Log.Info("dropped a shard to keep the quota", "model", c.m.id, "shard", c.shard)
	}
	if total > s.quota.limit {
		return nil, fmt.Errorf("%w: the quota of %d MiB is taken by models in use; try again later or raise --quota", ErrFull, s.quota.limit>>20)
	}
	s.quota.reserved += n
	return release, nil
}

// Use marks the model as in use until the returned function is called: it is
// neither dropped nor removed meanwhile.
func (m *Model) Use() (done func()) { return m.UseShards(m.every()) }

// every lists all shards.
func (m *Model) every() []int {
	all := make([]int, len(m.man.Shards))
	for i := range all {
		all[i] = i
	}
	return all
}

// UseShards is Use for some of the shards.
func (m *Model) UseShards(shards []int) (done func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.touch(shards, 1)
	_ = m.rec.save(m.dir) // when it was used is convenience
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.touch(shards, -1)
	})
}

func (m *Model) touch(shards []int, by int) {
	if m.rec.Used == nil {
		m.rec.Used = map[string]time.Time{}
	}
	now := time.Now().UTC()
	for _, i := range shards {
		m.shards[i].users += by
		m.rec.Used[m.man.Shards[i].Root.String()] = now
	}
}

// free says whether shards (nil: all) are not in use.
func (m *Model) free(shards []int) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i := range m.shards {
		if m.shards[i].users > 0 && (shards == nil || slices.Contains(shards, i)) {
			return fmt.Errorf("model %s: %w; stop serving, pulling or exporting it first", m.id, ErrBusy)
		}
	}
	return nil
}

// Drop gives up all shards but those that keep needs.
func (m *Model) Drop(keep protocol.Span) error {
	stay := m.man.ShardsFor(keep)
	var drop []int
	for i := range m.shards {
		if !slices.Contains(stay, i) {
			drop = append(drop, i)
		}
	}
	return m.DropShards(drop)
}

// DropShards gives shards up, and their disk space back. It refuses, with
// ErrBusy, if one of them is in use.
func (m *Model) DropShards(shards []int) error {
	if err := m.drop(shards); err != nil {
		return err
	}
	return m.Sync()
}

func (m *Model) drop(shards []int) error {
	m.io.Lock()
	defer m.io.Unlock()
	if err := m.free(shards); err != nil {
		return err
	}
	for _, i := range shards {
		m.mu.Lock()
		var err error
		for n := range m.shards[i].held {
			if err = m.note(opDropped, place{i, n}); err != nil {
				break
			}
		}
		m.mu.Unlock()
		if err != nil {
			return err
		}
		for _, r := range m.shards[i].runs {
			if err := punch(m.data, r.at, r.length); err != nil {
				return fmt.Errorf("dropping a shard: %w", err)
			}
		}
	}
	return nil
}

// GC gives back disk space that no held leaf takes: what crashes left, old
// journal records.
func (s *Store) GC() (freed int64, err error) {
	for _, m := range s.all() {
		before := m.Allocated()
		err = errors.Join(err, m.gc())
		freed += before - m.Allocated()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, e := os.ReadDir(s.modelsDir())
	err = errors.Join(err, e)
	for _, entry := range entries {
		path := filepath.Join(s.modelsDir(), entry.Name())
		if strings.HasPrefix(entry.Name(), tmpPrefix) && !s.tmp[path] {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return freed, err
}

func (m *Model) gc() error {
	m.syncing.Lock()
	defer m.syncing.Unlock()
	m.io.Lock()
	defer m.io.Unlock()
	for i := range m.shards {
		s := &m.shards[i]
		for n := range s.held {
			if at, size := s.at(n); !s.held[n] {
				if err := punch(m.data, at, int64(size)); err != nil {
					return err
				}
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.compact()
}
