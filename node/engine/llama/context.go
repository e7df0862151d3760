package llama

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
)

// newContext makes a context for so many cells and sequences. It returns what the
// library said of it, too.
func (l *local) newContext(cells, seqs int) (unsafe.Pointer, []line, error) {
	context, lines := l.contextOf(cells, seqs)
	if context == nil {
		err := fmt.Errorf("libllama lays out no cache of %d cells: %s", cells, complaint(lines))
		if complains(lines, "allocate", "alloc") {
			return nil, lines, tooLarge(fmt.Errorf("%w: %w", engine.ErrMemory, err))
		}
		return nil, lines, err
	}
	return context, lines, nil
}

func (l *local) contextOf(cells, seqs int) (context unsafe.Pointer, lines []line) {
	var p params
	C.sl_context_defaults(p.c())
	f, s := &l.version.context, &l.shape
	p.setInt(f.cells, cells)
	p.setInt(f.batch, s.rows)
	p.setInt(f.rows, s.rows)
	p.setInt(f.seqs, seqs)
	p.setInt(f.outputs, max(s.outputs, seqs))
	p.setInt(f.threads, l.tuner.Number())
	p.setInt(f.threadsMany, l.tuner.Number())
	p.setInt(f.flash, l.flash())
	p.setInt(f.keys, l.cellType())
	p.setInt(f.values, l.cellType())
	p.setBool(f.wholeWindow, true) // so that rows can be taken back
	p.setBool(f.unified, true)
	if l.cfg.Embeds {
		p.setInt(f.pooling, l.pooling())
	}
	p.setBool(f.embeddings, l.shape.pools)
	if l.tap != nil {
		p.setPointer(f.eval, C.sl_eval_callback())
		p.setPointer(f.evalUser, unsafe.Pointer(l.tap))
	}
	lines = listen(func() { context = C.sl_context(l.model, p.c()) })
	if context != nil && l.pool != nil {
		C.sl_context_pool(context, l.pool)
	}
	if context == nil || len(l.lora) == 0 {
		return context, lines
	}
	if C.sl_context_adapt(context, &l.lora[0], C.int(len(l.lora))) != 0 {
		C.sl_context_free(context)
		return nil, append(lines, line{levelError, "the adapters do not fit"})
	}
	return context, lines
}

// setThreads changes how many threads compute from the next pass on.
func (l *local) setThreads(n int) {
	if l.kv.context != nil {
		C.sl_context_threads(l.kv.context, C.int(n), C.int(n))
	}
}

// flash reports whether attention is computed in one step. Quantized values need it.
func (l *local) flash() int {
	return flashOn
}

// cellType is the type of keys and values.
func (l *local) cellType() int {
	switch l.cfg.KVType {
	case "f32":
		return typeF32
	case "q8_0":
		return typeQ8
	}
	return typeF16
}

// run has the library compute rows of a batch. The result is the library's: 0, or 1
// where it lacks cells, or another number; the error is about the rows' tokens.
func (l *local) run(context unsafe.Pointer, encode bool, b *engine.Batch, rows span, positions, seqs []int32, outputs []int8) (int, error) {
	n := rows.to - rows.from
	var tokens *C.int32_t
	var hidden *C.float
	switch {
	case l.embedding != nil:
		h, err := l.embedding.rows(b.Tokens[rows.from:rows.to])
		if err != nil {
			return 0, err
		}
		hidden = (*C.float)(&l.wide(h)[0])
	case len(b.Tokens) > 0:
		tokens = (*C.int32_t)(&b.Tokens[rows.from])
	default:
		hidden = (*C.float)(&l.wide(b.Hidden[rows.from*l.shape.width : rows.to*l.shape.width])[0])
	}
	if l.tap != nil {
		l.tap.got, l.tap.bad = 0, false
	}
	perRow := l.shape.perRow
	if tokens != nil {
		perRow = 1
	}
	return int(C.sl_run(context, C.bool(encode), C.int(n), tokens, hidden, C.int64_t(l.shape.widthIn),
		(*C.int32_t)(&positions[0]), C.int(perRow), (*C.int32_t)(&seqs[0]), (*C.int8_t)(&outputs[0]))), nil
}

// wide pads hidden states to what the library takes: models with pictures have room
// beside them for what is added later, which is nothing in text.
func (l *local) wide(hidden []float32) []float32 {
	if l.shape.widthIn == l.shape.width {
		return hidden
	}
	n := len(hidden) / l.shape.width
	out := make([]float32, n*l.shape.widthIn)
	for i := range n {
		copy(out[i*l.shape.widthIn:], hidden[i*l.shape.width:][:l.shape.width])
	}
	return out
}
