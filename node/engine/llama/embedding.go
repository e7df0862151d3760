package llama

/*
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// embedding looks tokens up for a file that has the model's embedding behind the library's
// tensors (node/engine/cut). Rows are read from the file as they are asked for, and turned
// into numbers by the library, so that they are those that it would have had by itself.
type embedding struct {
	file   *os.File
	at     int64 // of the first row
	kind   gguf.Type
	tokens int
	width  int
	stride int // bytes per row
	scale  float32
	row    []byte // the last one read
}

// errNoRows is why a file cannot be computed from: its embedding is of a type that the
// library does not turn into numbers.
var errNoRows = fmt.Errorf("%w: libllama does not say what the embedding's numbers are", engine.ErrUnsupported)

// openEmbedding returns nil if the library has the embedding itself.
func openEmbedding(path string, width int) (*embedding, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	e, err := embeddingOf(f, width)
	if e == nil || err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return e, nil
}

func embeddingOf(f *os.File, width int) (*embedding, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h, err := gguf.Read(f, info.Size())
	if err != nil {
		return nil, err
	}
	at, apart := h.Uint(cut.EmbeddingAt)
	if !apart {
		return nil, nil
	}
	kind, _ := h.Uint(cut.EmbeddingType)
	tokens, _ := h.Uint(cut.EmbeddingTokens)
	scale, _ := h.Value(cut.EmbeddingScale).(float32)
	row := gguf.Tensor{Type: gguf.Type(kind), Shape: []uint64{uint64(width)}}
	e := &embedding{
		file: f, at: h.DataOffset + int64(at), kind: row.Type, tokens: int(tokens), width: width,
		stride: int(row.Bytes()), scale: scale, row: make([]byte, row.Bytes()),
	}
	if e.stride == 0 || tokens == 0 || scale == 0 || at > uint64(info.Size()) || tokens > uint64(info.Size())/uint64(e.stride) ||
		e.at+int64(tokens)*int64(e.stride) > info.Size() {
		return nil, fmt.Errorf("engine: the file's embedding of %d tokens does not lie in it", tokens)
	}
	if !C.sl_numbers(C.int(e.kind), C.int64_t(row.Type.Block()), C.size_t(e.stride), C.int64_t(width), nil, nil) {
		return nil, errNoRows
	}
	return e, nil
}

// rows returns the hidden states that tokens begin with, which Batch.Check has seen.
func (e *embedding) rows(tokens []int32) ([]float32, error) {
	out := make([]float32, len(tokens)*e.width)
	for i, id := range tokens {
		if _, err := e.file.ReadAt(e.row, e.at+int64(id)*int64(e.stride)); err != nil {
			return nil, fmt.Errorf("engine: the embedding of token %d: %w", id, err)
		}
		C.sl_numbers(C.int(e.kind), C.int64_t(e.kind.Block()), C.size_t(e.stride), C.int64_t(e.width), unsafe.Pointer(&e.row[0]), (*C.float)(&out[i*e.width]))
	}
	if e.scale != 1 {
		for i := range out {
			out[i] *= e.scale
		}
	}
	return out, nil
}

func (e *embedding) close() {
	if e != nil {
		e.file.Close()
	}
}
