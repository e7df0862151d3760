package llama

import (
	"slices"

	"github.com/shoalnet/shoal/node/engine"
)

// With Config.Exact a row computes the same whoever else is there, to the last bit. What
// keeps the library from that, found by comparing its results:
//   - Matrices of F32 and BF16 are multiplied by another routine for one row, and those
//     that are repacked into groups of four rows by another one for the rest.
//   - Attention takes another way for one row with 512 cells and more, where it also
//     depends on the number of threads, and a third way from 64 rows on.
//   - Attention sums in the order of cells, and a sequence's next rows fill any hole that
//     another has left.
//
// So passes have a multiple of four rows and fewer than 64, and after a removal that leaves
// a hole among the cells the cache is laid out without it.
const (
	exactRows = 4  // a pass's rows are a multiple of it
	exactMost = 60 // rows per pass
)

// exact reports whether rows are to compute the same in any company. A recurrent model's
// parts are of one sequence, so that it has none; where there is one sequence, there are no
// companions.
func (l *local) exact() bool {
	return l.cfg.Exact && !l.shape.recurrent && !l.shape.encodes && !single[l.info.Arch]
}

// companions adds rows of another sequence up to a multiple of exactRows.
func (l *local) companions(b *engine.Batch) *engine.Batch {
	more := *b
	more.Rows, more.Tokens, more.Hidden = slices.Clone(b.Rows), slices.Clone(b.Tokens), slices.Clone(b.Hidden)
	last := len(b.Rows) - 1
	for i := 0; len(more.Rows)%exactRows != 0; i++ {
		more.Rows = append(more.Rows, engine.Row{Seq: l.info.MaxSeqs, Pos: int32(i)})
		if l.info.First() {
			more.Tokens = append(more.Tokens, b.Tokens[last])
		} else {
			more.Hidden = append(more.Hidden, b.Hidden[last*l.shape.width:]...)
		}
	}
	return &more
}

// evenOut marks more rows as outputs, up to a multiple of exactRows: the library leaves
// out the others before the end of the model.
func evenOut(outputs []int8) {
	n := 0
	for _, o := range outputs {
		n += int(o)
	}
	for i := 0; i < len(outputs) && n%exactRows != 0; i++ {
		if outputs[i] == 0 {
			outputs[i] = 1
			n++
		}
	}
}

// compact lays the cache out without holes.
func (k *kv) compact() error {
	if !k.holes {
		return nil
	}
	k.holes = false
	if k.context == nil || k.used() == 0 {
		return nil
	}
	return k.resize(k.cells, k.seqs)
}
