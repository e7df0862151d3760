package llama

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"math/bits"
	"time"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
)

// kv is the cache of keys and values, and the library's context that holds it. The
// library lays out a context's cells when it makes one, so a context is made for few
// cells and few sequences, and replaced by a larger or smaller one that takes over
// the state of all sequences.
type kv struct {
	of      *local
	context unsafe.Pointer // nil: none just now
	cells   int            // that it has
	seqs    int            // sequences that it tells apart
	limit   int            // cells, at most
	slots   map[int]*slot
	shared  int  // pages that more than one sequence refers to
	dirty   bool // cells may hold what is not finite
	holes   bool // free cells may lie among taken ones
	ran     bool // the context has made a pass
	pasts   memory
	idle    *time.Timer
}

// slot is a sequence that has positions.
type slot struct {
	id     int     // the library's number for it
	next   int32   // the position that follows
	pages  []*page // in front, those that are or were shared
	past   *past   // of a recurrent model's; nil: nothing yet
	broken bool    // its recurrent state is not that of next
}

// page is PrefixPage cells that sequences share.
type page struct{ users int }

// Cells are laid out in multiples of what the library rounds up to.
const cellStep = 256

// maxIDs is how many sequences the library tells apart.
const maxIDs = 256

// idleTime is how long an engine waits without passes until it gives cells back.
const idleTime = 5 * time.Second

func (k *kv) init(of *local) {
	k.of, k.slots = of, map[int]*slot{}
	k.limit = max(roundUp(of.cfg.KVTokens), k.least())
}

func roundUp(n int) int { return (n + cellStep - 1) / cellStep * cellStep }

// least is how many cells there always are: a pass may be as long.
func (k *kv) least() int { return roundUp(k.of.shape.rows) }

// follow checks that rows stand behind what their sequences have.
func (k *kv) follow(rows []engine.Row) error {
	next := map[int]int32{}
	for _, r := range rows {
		want, ok := next[r.Seq]
		if s := k.slots[r.Seq]; !ok && s != nil {
			want = s.next
		}
		if r.Pos != want {
			return fmt.Errorf("%w: position %d of sequence %d, which has %d", engine.ErrBatch, r.Pos, r.Seq, want)
		}
		next[r.Seq] = want + 1
	}
	for seq := range next {
		if k.slots[seq] == nil {
			id := k.freeID()
			if id == maxIDs {
				return fmt.Errorf("%w: more than %d sequences", engine.ErrBatch, maxIDs)
			}
			k.slots[seq] = &slot{id: id}
		}
	}
	return nil
}

// freeID is the lowest number that no sequence has.
func (k *kv) freeID() int {
	var used [maxIDs + 1]bool
	for _, s := range k.slots {
		used[s.id] = true
	}
	id := 0
	for id < maxIDs && used[id] {
		id++
	}
	return id
}

// used is how many cells are taken.
func (k *kv) used() int {
	n := k.shared * engine.PrefixPage
	for _, s := range k.slots {
		n += max(0, int(s.next)-len(s.pages)*engine.PrefixPage)
	}
	return n
}

// ensure makes room for rows more.
func (k *kv) ensure(rows int) error {
	_, seqs := k.fitting()
	need := min(k.limit, max(k.least(), k.used()+rows))
	if k.context != nil && need <= k.cells && seqs <= k.seqs {
		return nil
	}
	return k.resize(k.larger(need), max(seqs, k.seqs))
}

// larger is how many cells to lay out where there are to be so many: some more than
// there are now, so that they do not move all the time.
func (k *kv) larger(need int) int {
	if need > k.cells {
		need = max(need, k.cells+k.cells/4)
	}
	return min(k.limit, max(k.cells, k.least(), roundUp(need)))
}

// compute has the library compute rows of a batch, which follow has seen.
func (k *kv) compute(b *engine.Batch, rows span, outputs []int8) error {
	n := rows.to - rows.from
	positions, seqs := make([]int32, n), make([]int32, n)
	for i, r := range b.Rows[rows.from:rows.to] {
		positions[i], seqs[i] = r.Pos, int32(k.slots[r.Seq].id)
	}
	for {
		k.ran = true
		r, err := k.of.run(k.context, k.of.shape.encodes, b, rows, positions, seqs, outputs)
		switch {
		case err != nil:
			return err
		case r == 0:
			for _, r := range b.Rows[rows.from:rows.to] {
				k.slots[r.Seq].next = r.Pos + 1
			}
			k.remember(b, rows)
			return nil
		case r != 1:
			for _, r := range b.Rows[rows.from:rows.to] {
				k.slots[r.Seq].broken = true // a recurrent state may have gone on
			}
			return fmt.Errorf("%w: libllama's pass failed with %d", engine.ErrBatch, r)
		case k.cells >= k.limit:
			return fmt.Errorf("%w: no cells for %d rows", engine.ErrBatch, n)
		}
		if err := k.resize(k.larger(k.cells+1), k.seqs); err != nil {
			return err
		}
	}
}

// forget takes the rows of a failed pass back.
func (k *kv) forget(rows []engine.Row) {
	for _, r := range rows {
		s := k.slots[r.Seq]
		switch {
		case s == nil:
		case k.of.shape.recurrent && (s.broken || s.next > r.Pos):
			_ = k.rewind(r.Seq, s, r.Pos) // where that fails, the sequence is empty
		case s.next > r.Pos || s.next == 0:
			k.cut(r.Seq, s, r.Pos)
		}
	}
	if k.dirty {
		k.dirty = false
		if err := k.resize(k.cells, k.seqs); err != nil {
			k.of.log.Warn("the cache could not be laid out once more", "err", err)
		}
	}
}

// remove forgets a sequence's positions >= from.
func (k *kv) remove(seq int, from int32) error {
	s := k.slots[seq]
	if s == nil || from >= s.next {
		return nil
	}
	if k.of.shape.recurrent {
		return k.rewind(seq, s, max(0, from))
	}
	k.cut(seq, s, max(0, from))
	return nil
}

// cut forgets a sequence's positions >= from, and the sequence if that is all.
func (k *kv) cut(seq int, s *slot, from int32) {
	k.shortenSlot(s, from)
	k.holes = k.holes || seq != k.of.info.MaxSeqs && len(k.slots) > 1
	if from == 0 {
		k.forgetPast(s)
		delete(k.slots, seq)
	}
	k.rest()
}

// shortenSlot removes a sequence's positions >= from, and its share in their pages.
func (k *kv) shortenSlot(s *slot, from int32) {
	if k.context != nil && s.next > 0 && bool(C.sl_context_remembers(k.context)) {
		C.sl_remove(k.context, C.int(s.id), C.int(from))
	}
	s.next = from
	for keep := (int(from) + engine.PrefixPage - 1) / engine.PrefixPage; len(s.pages) > keep; s.pages = s.pages[:len(s.pages)-1] {
		last := s.pages[len(s.pages)-1]
		if last.users--; last.users == 0 {
			k.shared--
		}
	}
}

// copyPrefix makes dst share src's positions < n.
func (k *kv) copyPrefix(src, dst int, n int32) error {
	from := k.slots[src]
	if n <= 0 || n%engine.PrefixPage != 0 || from == nil || from.next < n || k.slots[dst] != nil {
		return fmt.Errorf("%w: sequence %d has no prefix of %d positions for sequence %d", engine.ErrBatch, src, n, dst)
	}
	if err := k.follow([]engine.Row{{Seq: dst}}); err != nil {
		return err
	}
	to := k.slots[dst]
	if err := k.ensure(0); err != nil {
		delete(k.slots, dst)
		return err
	}
	if k.of.shape.recurrent {
		err := k.branch(from, dst, to, n)
		if err != nil {
			k.cut(dst, to, 0)
		}
		return err
	}
	C.sl_copy(k.context, C.int(from.id), C.int(to.id), C.int(n))
	k.share(from, to, n)
	to.next = n
	return nil
}

// share notes that two sequences have cells in common.
func (k *kv) share(from, to *slot, n int32) {
	for i := range int(n) / engine.PrefixPage {
		if i == len(from.pages) {
			from.pages = append(from.pages, &page{users: 1})
			k.shared++
		}
		from.pages[i].users++
		to.pages = append(to.pages, from.pages[i])
	}
}

// rest gives cells back some time after sequences have ended.
func (k *kv) rest() {
	if k.idle != nil {
		k.idle.Stop()
	}
	if k.cells > k.least() || k.seqs > 1 {
		k.idle = time.AfterFunc(idleTime, k.of.rested)
	}
}

// rested lays the cache out for what there is.
func (l *local) rested() {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := &l.kv
	if l.closed || k.context == nil {
		return
	}
	if cells, seqs := k.fitting(); cells < k.cells || seqs < k.seqs {
		if err := k.resize(cells, seqs); err != nil {
			l.log.Warn("the cache could not be laid out smaller", "err", err)
		}
	}
}

// fitting returns the fewest cells and sequences that hold what there is.
func (k *kv) fitting() (cells, seqs int) {
	seqs = 1
	for _, s := range k.slots {
		seqs = max(seqs, 1<<bits.Len(uint(s.id)))
	}
	return min(k.limit, max(k.least(), roundUp(k.used()))), seqs
}

// resize replaces the context by one for other numbers of cells and sequences, and
// moves the state of all sequences. If that fails, the old one is made once more.
func (k *kv) resize(cells, seqs int) error {
	var state unsafe.Pointer
	var size C.size_t
	if k.context != nil {
		if len(k.slots) > 0 && k.used() > 0 {
			size = C.sl_state_size(k.context)
			if state = C.malloc(size); state == nil {
				return tooLarge(fmt.Errorf("%w: %w: moving the cache", engine.ErrBatch, engine.ErrMemory))
			}
			defer C.free(state)
			size = C.sl_state_get(k.context, state, size)
		}
		C.sl_context_free(k.context)
		k.context = nil
	}
	err := k.make(cells, seqs, state, size)
	if err != nil && k.cells > 0 {
		if again := k.make(k.cells, k.seqs, state, size); again != nil {
			k.forgetPasts()
			k.slots, k.shared = map[int]*slot{}, 0 // the next pass tries with an empty one
			return again
		}
	}
	if err == nil {
		k.cells, k.seqs = cells, seqs
	}
	return err
}

// make makes a context with a state.
func (k *kv) make(cells, seqs int, state unsafe.Pointer, size C.size_t) error {
	var err error
	if k.context, _, err = k.of.newContext(cells, seqs); err != nil {
		return err
	}
	if size > 0 && C.sl_state_set(k.context, state, size) != size {
		C.sl_context_free(k.context)
		k.context = nil
		return fmt.Errorf("%w: libllama did not take its own state", engine.ErrBatch)
	}
	k.ran = false
	return nil
}

func (k *kv) close() {
	if k.idle != nil {
		k.idle.Stop()
	}
	k.forgetPasts()
	if k.context != nil {
		C.sl_context_free(k.context)
		k.context = nil
	}
}
