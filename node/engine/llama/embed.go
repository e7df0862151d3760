package llama

/*
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"slices"
	"strconv"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
)

// How the span that ends a model makes embeddings.
//
// A causal model that pools the last position needs nothing of the library's pooling:
// the normed hidden states of the texts' last rows are all there is to it. They are
// tapped before the output head, which is not computed, and a text may go through
// several of the library's passes.
//
// All others pool in the library, which then wants each text whole in one of its passes:
// encoders see what follows, and heads come after the pooling.

// lastNorm is what the library calls the normed hidden states of the rows that are
// outputs.
const lastNorm = "result_norm"

// describeEmbeddings reads what embeddings the model makes, if the engine is for these.
func (l *local) describeEmbeddings() error {
	if !l.cfg.Embeds {
		return nil
	}
	md := stageMetadata{l}
	i, s := &l.info, &l.shape
	if i.Pooling = engine.PoolingOf(md); i.Pooling == engine.NoPooling {
		return fmt.Errorf("%w: %s generates text, and makes no embeddings", engine.ErrUnsupported, i.Arch)
	}
	i.Embedded = engine.EmbeddingWidth(md)
	s.lastRow = i.Pooling == engine.PoolLast && !s.encodes && !engine.IsEncoder(md)
	s.pools = i.Last() && !s.lastRow
	if !i.First() && s.pools && engine.IsEncoder(md) {
		return fmt.Errorf("%w: blocks %d-%d of an encoder, which is computed whole", engine.ErrUnsupported, i.From, i.To)
	}
	return nil
}

// stageMetadata are the metadata of a stage file as the library reads them.
type stageMetadata struct{ of *local }

// Value returns a number, a flag or a text; nil: there is no such key. The library has
// all of them as text.
func (m stageMetadata) Value(key string) any {
	v, ok := m.of.text(key)
	if !ok {
		return nil
	}
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		return uint32(n)
	}
	if v == "true" || v == "false" {
		return v == "true"
	}
	return v
}

// pooling is the library's number of how a context pools.
func (l *local) pooling() int {
	if !l.shape.pools {
		return poolingNone
	}
	return l.info.Pooling.Number()
}

// embed computes whole texts, and returns an embedding per text if the span ends the
// model. The texts' slots are empty afterwards, whatever happens.
func (l *local) embed(b *engine.Batch, res *engine.Result) error {
	defer func() {
		for _, r := range b.Rows {
			if r.Pos == 0 && l.kv.slots[r.Seq] != nil {
				l.kv.cut(r.Seq, l.kv.slots[r.Seq], 0)
			}
		}
	}()
	for _, r := range b.Rows {
		if r.Pos == 0 && l.kv.slots[r.Seq] != nil {
			return fmt.Errorf("%w: slot %d is not empty", engine.ErrBatch, r.Seq)
		}
	}
	if err := l.kv.follow(b.Rows); err != nil {
		return err
	}
	if !l.shape.pools {
		if l.info.Last() {
			b = l.lastRows(b)
		}
		return l.pass(b, res)
	}
	if len(b.Rows) > l.shape.rows {
		return fmt.Errorf("%w: %d rows of texts, where one pass has %d", engine.ErrBatch, len(b.Rows), l.shape.rows)
	}
	if err := l.kv.ensure(len(b.Rows)); err != nil {
		return err
	}
	if err := l.kv.compute(b, span{0, len(b.Rows)}, slices.Repeat([]int8{1}, len(b.Rows))); err != nil {
		return err
	}
	for _, r := range b.Rows {
		if r.Pos != 0 {
			continue
		}
		at := C.sl_embedding(l.kv.context, C.int(l.kv.slots[r.Seq].id))
		if at == nil {
			return fmt.Errorf("engine: libllama has no embedding of a text")
		}
		e := slices.Clone(unsafe.Slice((*float32)(at), l.info.Embedded))
		if !finite(e) {
			return l.poisoned()
		}
		res.Embeddings = append(res.Embeddings, e)
	}
	return nil
}

// lastRows returns a batch with an output after the last row of each text.
func (l *local) lastRows(b *engine.Batch) *engine.Batch {
	out := *b
	out.Outputs = nil
	for i := range b.Rows {
		if i+1 == len(b.Rows) || b.Rows[i+1].Pos == 0 {
			out.Outputs = append(out.Outputs, engine.Output{Row: i})
		}
	}
	return &out
}
