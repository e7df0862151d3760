package llama

/*
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
)

// embed computes whole texts, one per sequence, and returns their embeddings. What
// they leave in the cache is forgotten: a text is computed once.
func (l *local) embed(b *engine.Batch, res *engine.Result) error {
	if !l.cfg.Embeds {
		return fmt.Errorf("%w: this engine was not loaded for embeddings", engine.ErrBatch)
	}
	defer l.kv.forget(b.Rows)
	if err := l.kv.follow(b.Rows); err != nil {
		return err
	}
	if err := l.kv.ensure(len(b.Rows)); err != nil {
		return err
	}
	texts := wholeTexts(b.Rows)
	for len(texts) > 0 { // as many at once as the library takes
		n, last := 0, 0
		for n < len(texts) && texts[n].to-texts[0].from <= l.shape.rows {
			last = texts[n].to
			n++
		}
		if n == 0 {
			return fmt.Errorf("%w: a text of %d rows, of which at most %d can be", engine.ErrBatch, texts[0].to-texts[0].from, l.shape.rows)
		}
		if err := l.embedTexts(b, span{texts[0].from, last}, texts[:n], res); err != nil {
			return err
		}
		texts = texts[n:]
	}
	return nil
}

// wholeTexts are the rows of each sequence, which are together.
func wholeTexts(rows []engine.Row) (texts []span) {
	for i, r := range rows {
		if i == 0 || r.Seq != rows[i-1].Seq {
			texts = append(texts, span{i, i})
		}
		texts[len(texts)-1].to = i + 1
	}
	return texts
}

func (l *local) embedTexts(b *engine.Batch, rows span, texts []span, res *engine.Result) error {
	all := slices.Repeat([]int8{1}, rows.to-rows.from)
	if err := l.kv.compute(b, rows, all); err != nil {
		return err
	}
	for _, text := range texts {
		seq := C.int(l.kv.slots[b.Rows[text.from].Seq].id)
		n, at := int(C.sl_model_width_out(l.model)), C.sl_embedding(l.kv.context, seq)
		switch C.sl_context_pooling(l.kv.context) {
		case poolingRank:
			n = int(C.sl_model_classes(l.model))
		case poolingNone: // the last row stands for the text
			at = C.sl_row_embedding(l.kv.context, C.int(text.to-1-rows.from))
		}
		if at == nil {
			return fmt.Errorf("engine: libllama has no embedding of sequence %d", b.Rows[text.from].Seq)
		}
		embedding := slices.Clone(unsafe.Slice((*float32)(at), n))
		if !finite(embedding) {
			return l.poisoned()
		}
		res.Embeddings = append(res.Embeddings, embedding)
	}
	return nil
}
