package llama

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"
)

// Whole is a model that the library computes as a whole in this process, as its own
// programs do: with its default parameters, and nothing of this package's engine around
// it. The engine is measured against it. It is not safe for concurrent use.
type Whole struct {
	model, context unsafe.Pointer
	outputs        []int8
	seqs           []int32
}

// LoadWhole loads a model's own file with the library in a folder ("": looked for), for
// passes of up to rows rows and sequences of up to cells positions.
func LoadWhole(folder, path string, threads, rows, cells int) (*Whole, error) {
	lib, _ := Find(folder)
	if lib == nil {
		return nil, errors.New("there is no libllama where it is looked for")
	}
	loading.Lock()
	defer loading.Unlock()
	v, err := open(lib)
	if err != nil {
		return nil, err
	}
	w := &Whole{outputs: make([]int8, rows), seqs: make([]int32, rows)}
	m := v.mapped()
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	lines := listen(func() { w.model = C.sl_model_load(name, m.c()) })
	if w.model == nil {
		return nil, fmt.Errorf("libllama does not load %s: %s", path, complaint(lines))
	}
	var p params
	C.sl_context_defaults(p.c())
	p.setInt(v.context.cells, cells)
	p.setInt(v.context.batch, rows)
	p.setInt(v.context.threads, threads)
	p.setInt(v.context.threadsMany, threads)
	lines = listen(func() { w.context = C.sl_context(w.model, p.c()) })
	if w.context == nil {
		w.Close()
		return nil, fmt.Errorf("libllama makes no context: %s", complaint(lines))
	}
	return w, nil
}

// Run computes tokens at positions from at on, and the logits after the last of them.
func (w *Whole) Run(tokens []int32, at int) error {
	n := len(tokens)
	positions := make([]int32, n)
	for i := range positions {
		positions[i] = int32(at + i)
	}
	clear(w.outputs)
	w.outputs[n-1] = 1
	r := C.sl_run(w.context, false, C.int(n), (*C.int32_t)(&tokens[0]), nil, 0, (*C.int32_t)(&positions[0]), 1,
		(*C.int32_t)(&w.seqs[0]), (*C.int8_t)(&w.outputs[0]))
	if r != 0 {
		return fmt.Errorf("libllama's pass failed with %d", r)
	}
	if C.sl_logits(w.context, C.int(n-1)) == nil { // which waits for the pass
		return errors.New("libllama has no logits")
	}
	return nil
}

// Remove forgets positions from at on.
func (w *Whole) Remove(at int) { C.sl_remove(w.context, 0, C.int(at)) }

// Close frees everything.
func (w *Whole) Close() {
	if w.context != nil {
		C.sl_context_free(w.context)
	}
	C.sl_model_free(w.model)
	w.model, w.context = nil, nil
}
