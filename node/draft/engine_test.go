package draft_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
)

const (
	small = 50 // tokens of the drafter's vocabulary
	large = 40 // of the large model's
)

// ruled is an engine that has no weights: the logits of a token follow from the two before
// it. It keeps what is in each slot, as an engine's cache does, and fails where a pass does
// not go on from that, or needs more cells than there are.
type ruled struct {
	info  engine.Info
	takes time.Duration // per pass

	mu      sync.Mutex
	slots   [][]int32
	failing error   // of the next pass
	poison  int32   // a token that it refuses; 0: none
	wrong   []error // what it was asked for that it should not have been
	passes  int
	most    int // rows of a pass
}

func newRuled(slots, cells, rows int) *ruled {
	return &ruled{
		info:  engine.Info{Vocab: small, MaxSeqs: slots, KVTokens: cells, MaxBatch: rows, Rollback: 64, Blocks: 1, To: 1},
		slots: make([][]int32, slots),
	}
}

// logits are those of the token after two others.
func logits(before []int32) []float32 {
	x := uint32(7)
	for _, id := range before[max(0, len(before)-2):] {
		x = x*31 + uint32(id)
	}
	z := make([]float32, small)
	for i := range z {
		x = x*1664525 + 1013904223
		z[i] = float32(x>>16%1000) / 200
	}
	return z
}

func (e *ruled) Info() engine.Info { return e.info }

func (e *ruled) Run(ctx context.Context, b *engine.Batch) (*engine.Result, error) {
	time.Sleep(e.takes)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failing != nil {
		return nil, e.failing
	}
	if err := b.Check(&e.info); err != nil {
		return nil, e.bad(err)
	}
	if e.poison != 0 && slices.Contains(b.Tokens, e.poison) {
		return nil, fmt.Errorf("%w: poison", engine.ErrBatch)
	}
	e.passes++
	e.most = max(e.most, len(b.Rows))
	res := &engine.Result{}
	for i, r := range b.Rows {
		if int(r.Pos) != len(e.slots[r.Seq]) {
			return nil, e.bad(fmt.Errorf("position %d of slot %d, which has %d", r.Pos, r.Seq, len(e.slots[r.Seq])))
		}
		e.slots[r.Seq] = append(e.slots[r.Seq], b.Tokens[i])
		for _, o := range b.Outputs {
			if o.Row == i {
				if int(o.Position) != len(e.slots[r.Seq]) {
					return nil, e.bad(fmt.Errorf("a token at %d after %d", o.Position, len(e.slots[r.Seq])))
				}
				res.Tokens = append(res.Tokens, sample.Sample(logits(e.slots[r.Seq]), o.Sampling, o.Sampled, o.Position, o.Allowed))
			}
		}
	}
	cells := 0
	for _, s := range e.slots {
		cells += len(s)
	}
	if cells > e.info.KVTokens {
		return nil, e.bad(fmt.Errorf("%d cells of %d", cells, e.info.KVTokens))
	}
	return res, nil
}

func (e *ruled) bad(err error) error {
	e.wrong = append(e.wrong, err)
	return err
}

func (e *ruled) Remove(seq int, from int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.slots[seq] = e.slots[seq][:min(int(from), len(e.slots[seq]))]
	return e.failing
}

// fail makes all further passes fail.
func (e *ruled) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failing = err
}
