package llama

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
)

// stateStep is how many positions a sequence can always be taken back.
const stateStep = engine.StateStep

// past is what a sequence of a recurrent model can be taken back with.
type past struct {
	states []*state  // by position, rising
	base   int32     // position of the first row that is kept
	tokens []int32   // the rows' tokens, if the span begins the model
	hidden []float32 // else their hidden states
}

// state is a copy of what the recurrent blocks hold after so many positions.
type state struct {
	after int32
	data  unsafe.Pointer
	size  int64
	users int // sequences that have it
}

// memory is what all sequences' pasts take and may take.
type memory struct {
	states, mostStates int64 // bytes
	rows, mostRows     int64 // rows of hidden states
}

// budget returns how many bytes pasts may take: two copies per sequence and two more,
// and the hidden states behind the older one of two.
func (k *kv) budget(stateBytes int64) int64 {
	if !k.of.shape.recurrent {
		return 0
	}
	seqs := int64(k.of.cfg.MaxSeqs)
	k.pasts.mostStates = (2*seqs+2)*stateBytes + (1 << 20) // the library rounds what it says
	if k.of.info.First() {
		return k.pasts.mostStates
	}
	k.pasts.mostRows = min(seqs*3*stateStep, int64(k.limit)+seqs*stateStep)
	return k.pasts.mostStates + 4*k.pasts.mostRows*int64(k.of.shape.width)
}

// remember keeps the rows of a batch that were computed, all of one sequence or one of
// each, and copies states where it is time to.
func (k *kv) remember(b *engine.Batch, rows span) {
	if !k.of.shape.recurrent {
		return
	}
	width := k.of.shape.width
	for i := rows.from; i < rows.to; i++ {
		s := k.slots[b.Rows[i].Seq]
		if s.past == nil {
			s.past = &past{}
		}
		if len(b.Tokens) > 0 {
			s.past.tokens = append(s.past.tokens, b.Tokens[i])
		} else {
			s.past.hidden = append(s.past.hidden, b.Hidden[i*width:(i+1)*width]...)
			k.pasts.rows++
		}
		if i+1 == rows.to || b.Rows[i+1].Seq != b.Rows[i].Seq {
			k.copyState(s, i > rows.from && b.Rows[i-1].Seq == b.Rows[i].Seq)
		}
	}
	k.shrink()
}

// copyState copies a sequence's state, if its last copy is far enough behind; and
// behind the whole pages of a prompt, where its prefix may be taken up again.
func (k *kv) copyState(s *slot, prompt bool) {
	p := s.past
	n := len(p.states)
	last, before := p.base, p.base
	if n > 0 {
		last = p.states[n-1].after
	}
	if n > 1 {
		before = p.states[n-2].after
	}
	if s.next%engine.PrefixPage != 0 || s.next == last || !prompt && s.next-last < stateStep {
		return
	}
	if n > 0 && last-before < stateStep { // the newest one moves on
		k.release(p.states[n-1])
		p.states = p.states[:n-1]
	}
	size := int64(C.sl_seq_state_size(k.context, C.int(s.id)))
	x := &state{after: s.next, data: C.malloc(C.size_t(max(size, 1))), size: size, users: 1}
	if x.data == nil {
		return // it will be farther to the last one
	}
	if C.sl_seq_state_get(k.context, C.int(s.id), x.data, C.size_t(size)) != C.size_t(size) {
		C.free(x.data)
		return
	}
	k.pasts.states += size
	p.states = append(p.states, x)
}

// release gives up a sequence's share in a copy.
func (k *kv) release(x *state) {
	if x.users--; x.users == 0 {
		C.free(x.data)
		k.pasts.states -= x.size
	}
}

// shrink gives up copies and rows until they fit.
func (k *kv) shrink() {
	for k.pasts.states > k.pasts.mostStates && k.thin() {
	}
	for k.pasts.rows > k.pasts.mostRows && k.shorten() {
	}
}

// needed returns the index of the newest copy that a sequence is to be taken back
// stateStep positions with; -1: none.
func (s *slot) needed() int {
	for i := len(s.past.states) - 1; i >= 0; i-- {
		if s.past.states[i].after <= s.next-stateStep {
			return i
		}
	}
	return -1
}

// thin gives up the copy that is closest to those beside it, of all but the two that
// each sequence needs. It returns false if there is no other.
func (k *kv) thin() bool {
	var of *past
	at, closest := 0, int32(0)
	for _, s := range k.slots {
		if s.past == nil {
			continue
		}
		needed := s.needed()
		for i := range len(s.past.states) - 1 {
			if i == needed {
				continue
			}
			before := s.past.base
			if i > 0 {
				before = s.past.states[i-1].after
			}
			if gap := s.past.states[i+1].after - before; of == nil || gap < closest {
				of, at, closest = s.past, i, gap
			}
		}
	}
	if of == nil {
		return false
	}
	k.release(of.states[at])
	of.states = slices.Delete(of.states, at, at+1)
	return true
}

// shorten gives up the oldest rows of the sequence with most, up to a copy behind them.
// It returns false if none can be done without.
func (k *kv) shorten() bool {
	var of *slot
	for _, s := range k.slots {
		if s.past == nil || s.needed() < 0 || s.past.states[s.needed()].after == s.past.base {
			continue
		}
		if of == nil || s.next-s.past.base > of.next-of.past.base {
			of = s
		}
	}
	if of == nil {
		return false
	}
	p := of.past
	if p.states[0].after == p.base {
		k.release(p.states[0])
		p.states = slices.Delete(p.states, 0, 1)
	}
	gone := p.states[0].after - p.base
	p.hidden = slices.Clone(p.hidden[int(gone)*k.of.shape.width:])
	p.base += gone
	k.pasts.rows -= int64(gone)
	return true
}

// truncate forgets what lies at position from and behind it.
func (k *kv) truncate(p *past, from int32) {
	for n := len(p.states); n > 0 && p.states[n-1].after > from; n-- {
		k.release(p.states[n-1])
		p.states = p.states[:n-1]
	}
	keep := int(max(0, from-p.base))
	if keep < len(p.tokens) {
		p.tokens = p.tokens[:keep]
	}
	if width := k.of.shape.width; keep*width < len(p.hidden) {
		k.pasts.rows -= int64(len(p.hidden)/width - keep)
		p.hidden = p.hidden[:keep*width]
	}
}

// reach returns the newest copy from which a sequence can be brought to position at;
// nil: it begins with nothing. ok is false if there is no way.
func (p *past) reach(at int32) (x *state, ok bool) {
	for _, s := range p.states {
		if s.after <= at && s.after >= p.base {
			x = s
		}
	}
	return x, x != nil || p.base == 0
}

// rewind takes a sequence of a recurrent model back to its first from positions.
func (k *kv) rewind(seq int, s *slot, from int32) error {
	if s.past == nil || from == 0 {
		k.cut(seq, s, 0)
		return nil
	}
	x, ok := s.past.reach(from)
	if !ok {
		k.cut(seq, s, 0)
		return fmt.Errorf("%w: sequence %d has given up what its first %d positions need", engine.ErrBatch, seq, from)
	}
	if err := k.restore(seq, s, x, s.past, from); err != nil {
		k.cut(seq, s, 0)
		return err
	}
	return nil
}

// restore puts a copy of p's in place as a sequence's state, forgets the positions
// behind it, and computes p's rows from there to position to.
func (k *kv) restore(seq int, s *slot, x *state, p *past, to int32) error {
	at, width := int32(0), k.of.shape.width
	if x != nil {
		at = x.after
	}
	again := &engine.Batch{}
	for i := at; i < to; i++ {
		again.Rows = append(again.Rows, engine.Row{Seq: seq, Pos: i})
	}
	if p.tokens != nil {
		again.Tokens = slices.Clone(p.tokens[at-p.base : to-p.base])
	} else {
		again.Hidden = slices.Clone(p.hidden[int(at-p.base)*width : int(to-p.base)*width])
	}
	if x == nil {
		C.sl_remove(k.context, C.int(s.id), 0)
	} else if C.sl_seq_state_set(k.context, C.int(s.id), x.data, C.size_t(x.size)) != C.size_t(x.size) {
		return fmt.Errorf("%w: libllama did not take its own state", engine.ErrBatch)
	}
	k.shortenSlot(s, at)
	k.truncate(s.past, at)
	s.broken = false
	if len(again.Rows) == 0 {
		return nil
	}
	if err := k.ensure(len(again.Rows)); err != nil {
		return err
	}
	for _, rows := range k.of.parts(again) {
		if err := k.compute(again, rows, k.of.outputs(again, rows)); err != nil {
			return err
		}
	}
	return nil
}

// branch makes dst, an empty sequence of a recurrent model, the first n positions of src.
func (k *kv) branch(from *slot, dst int, to *slot, n int32) error {
	if from.past == nil {
		return fmt.Errorf("%w: the sequence has no past", engine.ErrBatch)
	}
	x, ok := from.past.reach(n)
	if !ok {
		return fmt.Errorf("%w: the sequence has given up what its first %d positions need", engine.ErrBatch, n)
	}
	p := &past{base: from.past.base, states: slices.Clone(from.past.states), tokens: slices.Clone(from.past.tokens), hidden: slices.Clone(from.past.hidden)}
	for _, x := range p.states {
		x.users++
	}
	k.pasts.rows += int64(len(p.hidden) / k.of.shape.width)
	to.past = p
	if x != nil {
		C.sl_copy(k.context, C.int(from.id), C.int(to.id), C.int(x.after))
		k.share(from, to, x.after)
		to.next = x.after
	}
	err := k.restore(dst, to, x, p, n)
	k.shrink()
	return err
}

// forgetPast gives up all of a sequence's past.
func (k *kv) forgetPast(s *slot) {
	if s.past != nil {
		k.truncate(s.past, 0)
		k.pasts.rows -= int64(len(s.past.hidden) / k.of.shape.width)
		s.past = nil
	}
}

// forgetPasts gives up those of all sequences.
func (k *kv) forgetPasts() {
	for _, s := range k.slots {
		k.forgetPast(s)
	}
}
