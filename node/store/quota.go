package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
)

// quota limits the bytes of shards without a pin.
type quota struct {
	mu       sync.Mutex // serializes changes and the drops that they need
	limit    int64      // bytes; 0: no limit
	reserved int64      // bytes, by imports under way
}

// SetQuota changes the quota in bytes (0: no limit) and drops what exceeds the
// new one. The error is ErrFull if shards that must not be dropped exceed it.
func (s *Store) SetQuota(bytes int64) error {
	s.quota.mu.Lock()
	s.quota.limit = bytes
	s.quota.mu.Unlock()
	return s.Room(0)
}

// Room makes room for n more bytes of shards by dropping those without a pin,
// least recently used first. It drops no shard in use, and no header: headers
// are small and describe the model. If that would not be enough, it drops
// nothing and returns ErrFull.
func (s *Store) Room(n int64) error {
	done, err := s.reserve(n)
	if err == nil {
		done()
	}
	return err
}

// reserve is Room for bytes that are yet to arrive. done is called when they
// have arrived, or never will.
func (s *Store) reserve(n int64) (done func(), err error) {
	s.quota.mu.Lock()
	defer s.quota.mu.Unlock()
	if err := s.shrink(n); err != nil {
		return nil, err
	}
	s.quota.reserved += n
	return sync.OnceFunc(func() {
		s.quota.mu.Lock()
		s.quota.reserved -= n
		s.quota.mu.Unlock()
	}), nil
}

// Claim makes room for the missing part of a model's shards, in the quota and
// on the disk, and marks the shards as in use until done is called. Until then
// the quota counts them in full, so that several models may be filled at once.
// Errors are ErrFull, and ErrNotFound if the model was removed.
func (s *Store) Claim(m *Model, shards []int) (done func(), err error) {
	s.quota.mu.Lock()
	defer s.quota.mu.Unlock()
	m.mu.Lock()
	if m.gone {
		m.mu.Unlock()
		return nil, m.removed()
	}
	m.touch(shards, 1)
	claim := func(by int) {
		for _, i := range shards {
			m.shards[i].claims += by
		}
	}
	claim(1)
	m.mu.Unlock()
	done = sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		claim(-1)
		m.touch(shards, -1)
	})
	if err = s.shrink(0); err == nil {
		err = SpaceFor(s.dir, s.claimed())
	}
	if err != nil {
		done()
		return nil, err
	}
	m.saveUse()
	return done, nil
}

// claimed returns the bytes that the fetches under way have yet to store.
func (s *Store) claimed() (n int64) {
	for _, m := range s.all() {
		m.mu.RLock()
		for i := range m.shards {
			if m.shards[i].claims > 0 {
				n += m.man.Shards[i].Size - m.shards[i].bytes
			}
		}
		m.mu.RUnlock()
	}
	return n
}

// SpaceFor returns ErrFull if n bytes do not fit on the disk of dir.
func SpaceFor(dir string, n int64) error {
	free := files.FreeSpace(dir)
	if free < 0 || n == 0 || n+n/256 <= free { // the journal and rounding to blocks take less than that
		return nil
	}
	return remedy.For(noRoom(fmt.Sprintf("%s are to come and %s are free on the disk of %s, so %s more are needed",
		SizeText(n), SizeText(free), dir, SizeText(n+n/256-free))), remedy.FreeSpace)
}

// noRoom is an ErrFull whose text says what is full.
type noRoom string

func (e noRoom) Error() string        { return string(e) }
func (e noRoom) Is(target error) bool { return target == ErrFull }

// SizeText formats a number of bytes for people.
func SizeText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

// candidate is a shard that may be dropped.
type candidate struct {
	m     *Model
	shard int
	bytes int64
	used  time.Time
}

// droppable returns the shards that are neither pinned nor in use, least
// recently used first, without headers; and the bytes that count against the
// quota.
func (s *Store) droppable() (all []candidate, unpinned int64) {
	for _, m := range s.all() {
		m.mu.RLock()
		for i := range m.shards {
			sh := &m.shards[i]
			b := sh.bytes
			if sh.claims > 0 {
				b = m.man.Shards[i].Size
			}
			if m.pinned(i) || b == 0 {
				continue
			}
			unpinned += b
			if m.man.Shards[i].Kind != protocol.ShardHeader && sh.users == 0 {
				all = append(all, candidate{m, i, b, m.used(i)})
			}
		}
		unpinned += m.laidUnpinned()
		m.mu.RUnlock()
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.used.Compare(b.used) })
	return all, unpinned
}

// excess returns what must be dropped so that n more bytes fit in the quota; if
// dropping is not enough, it returns all candidates and ErrFull. Called with
// quota.mu held.
func (s *Store) excess(n int64) ([]candidate, error) {
	if s.quota.limit <= 0 {
		return nil, nil
	}
	all, total := s.droppable()
	total += s.quota.reserved + n
	for i, c := range all {
		if total <= s.quota.limit {
			return all[:i], nil
		}
		total -= c.bytes
	}
	if total > s.quota.limit {
		return all, remedy.For(noRoom(fmt.Sprintf("%s of unpinned models that are in use, being added, or headers would exceed the quota of %s; raise it, or pin or stop serving some",
			SizeText(total), SizeText(s.quota.limit))), remedy.RaiseQuota)
	}
	return all, nil
}

// shrink drops what exceeds the quota: first files that can be made again. Called with
// quota.mu held.
func (s *Store) shrink(n int64) error {
	for {
		list, err := s.excess(n)
		if (err != nil || len(list) > 0) && s.dropLaid() > 0 {
			continue
		}
		if err != nil || len(list) == 0 {
			return err
		}
		if _, err := s.dropAll(list, "to keep the quota"); err != nil {
			return err
		}
	}
}

// dropAll drops the listed shards, except those that have come into use since,
// and returns the dropped ones.
func (s *Store) dropAll(list []candidate, why string) (dropped []candidate, err error) {
	for _, c := range list {
		switch err := c.m.DropShards([]int{c.shard}); {
		case errors.Is(err, ErrBusy), errors.Is(err, ErrNotFound):
		case err != nil:
			return dropped, err
		default:
			dropped = append(dropped, c)
			s.opt.Log.Info("dropped a shard "+why, "model", c.m.id, "shard", c.shard)
		}
	}
	return dropped, nil
}

// take returns a model and marks it as in use; nil if there is no such model.
func (s *Store) take(id cid.Cid) (m *Model, done func()) {
	s.mu.RLock()
	m = s.models[id]
	s.mu.RUnlock()
	if m == nil {
		return nil, nil
	}
	done, here := m.hold(m.Shards())
	if !here {
		return nil, nil
	}
	m.saveUse()
	return m, done
}

// Use marks the model as in use until the returned function is called: until
// then it is neither dropped nor removed.
func (m *Model) Use() (done func()) { return m.UseShards(m.Shards()) }

// UseShards is Use for some of the shards.
func (m *Model) UseShards(shards []int) (done func()) {
	done, _ = m.hold(shards)
	m.saveUse()
	return done
}

// hold is UseShards without recording the time of use; here is false if the
// model was removed.
func (m *Model) hold(shards []int) (done func(), here bool) {
	touch := func(by int) (here bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.touch(shards, by)
		return !m.gone
	}
	here = touch(1)
	return sync.OnceFunc(func() { touch(-1) }), here
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

// free returns ErrBusy if one of the shards (nil: all) is in use. Called with
// mu held.
func (m *Model) free(shards []int) error {
	if m.gone {
		return m.removed()
	}
	var used []int
	for i := range m.shards {
		if m.shards[i].users > 0 && (shards == nil || slices.Contains(shards, i)) {
			used = append(used, i)
		}
	}
	if len(used) > 0 {
		return fmt.Errorf("%w: %s; stop serving, pulling or exporting it first", ErrBusy, strings.Join(ShardNames(m.man, used), ", "))
	}
	return nil
}

// leave moves the model's directory away, unless the model is in use. After a
// crash from here on, the sweep of Open finishes the removal.
func (m *Model) leave(to string) error {
	m.saving.Lock()
	defer m.saving.Unlock()
	mark := func(gone bool) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if gone {
			if err := m.free(nil); err != nil {
				return err
			}
		}
		m.gone = gone
		return nil
	}
	if err := mark(true); err != nil {
		return err
	}
	if err := os.Rename(m.dir, to); err != nil {
		return errors.Join(err, mark(false))
	}
	return nil
}

// Drop deletes all shards but those that keep needs. Errors are those of
// DropShards.
func (m *Model) Drop(keep protocol.Span) error {
	stay := m.man.ShardsFor(keep)
	return m.DropShards(slices.DeleteFunc(m.Shards(), func(i int) bool { return slices.Contains(stay, i) }))
}

// Only returns the shards that a span needs and no other held block does; never
// the header, which describes the model.
func (m *Model) Only(span protocol.Span) []int {
	var others []int
	for i, held := range m.Holds() {
		sh := &m.man.Shards[i]
		if b := int(sh.Block); held && sh.Kind == protocol.ShardBlock && (b < span.From || b >= span.To) {
			others = append(others, m.man.ShardsFor(protocol.Span{From: b, To: b + 1})...)
		}
	}
	return slices.DeleteFunc(m.man.ShardsFor(span), func(i int) bool {
		return m.man.Shards[i].Kind == protocol.ShardHeader || slices.Contains(others, i)
	})
}

// DropShards deletes shards and frees their disk space. If one of them is in
// use, it deletes none and returns ErrBusy. It works on a full disk too. Other
// errors are ErrNotFound if the model was removed, and those of the disk.
func (m *Model) DropShards(shards []int) error {
	if err := m.drop(shards); err != nil {
		return err
	}
	return m.Sync()
}

func (m *Model) drop(shards []int) error {
	m.io.Lock()
	defer m.io.Unlock()
	note := func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if err := m.free(shards); err != nil {
			return err
		}
		for _, i := range shards {
			for n := range m.shards[i].held {
				if err := m.note(opDropped, place{i, n}); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var runs []run
	for _, i := range shards {
		runs = append(runs, m.shards[i].runs...)
	}
	err := note()
	if errors.Is(err, ErrFull) {
		// The journal cannot grow, so the space is freed first. After a crash
		// at this point the journal names leaves that are zeros, which fail
		// their check.
		for _, r := range runs {
			if err := punch(m.data, r.at, r.length); err != nil {
				return fmt.Errorf("dropping a shard: %w", m.failed(err))
			}
		}
		err = note()
	}
	if err != nil {
		return err
	}
	m.dropLaid(shards)
	return m.punchGaps(runs)
}

// servable reports whether more than the model's header is held, so that a span
// of it may be loaded.
func (m *Model) servable() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i := range m.shards {
		if m.man.Shards[i].Kind != protocol.ShardHeader && m.shards[i].count > 0 {
			return true
		}
	}
	return false
}

// heldRuns returns the held ranges of the data file in order, adjacent ones
// joined.
func (m *Model) heldRuns() (out []run) {
	m.mu.RLock()
	for i := range m.shards {
		s := &m.shards[i]
		for _, r := range s.runs {
			for off := int64(0); off < r.length; off += protocol.LeafSize {
				if s.held[r.leaf+int(off/protocol.LeafSize)] {
					out = append(out, run{at: r.at + off, length: min(r.length-off, protocol.LeafSize)})
				}
			}
		}
	}
	m.mu.RUnlock()
	return joined(out)
}

// joined returns ranges in order, adjacent ones joined.
func joined(runs []run) []run {
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.at, b.at) })
	out := runs[:0]
	for _, r := range runs {
		if n := len(out); n > 0 && out[n-1].at+out[n-1].length == r.at {
			out[n-1].length += r.length
		} else {
			out = append(out, r)
		}
	}
	return out
}

// punchGaps frees the disk space between held leaves, where it touches one of
// the given ranges (nil: everywhere). A gap is punched as a whole: the disk
// works in blocks, and a block that two dropped shards share is a part of
// neither. The room for a stage header is freed when nothing is left to load.
// Called with io held exclusively.
func (m *Model) punchGaps(near []run) error {
	if !m.servable() {
		if err := punch(m.data, 0, m.base[0]); err != nil {
			return fmt.Errorf("giving disk space back: %w", m.failed(err))
		}
	}
	last := len(m.base) - 1
	end := roundUp(m.base[last]+m.man.Files[last].Size, 1<<20) // also frees the block that the file ends in
	at := m.base[0]
	for _, r := range append(m.heldRuns(), run{at: end}) {
		gap := run{at: at, length: r.at - at}
		at = r.at + r.length
		touches := func(n run) bool { return n.at <= gap.at+gap.length && gap.at <= n.at+n.length }
		if gap.length == 0 || near != nil && !slices.ContainsFunc(near, touches) {
			continue
		}
		if err := punch(m.data, gap.at, gap.length); err != nil {
			return fmt.Errorf("giving disk space back: %w", m.failed(err))
		}
	}
	return nil
}
