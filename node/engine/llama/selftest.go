package llama

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"unsafe"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// What the tiny model of the self-test computes after the tokens 1 to 5: logits of
// the first tokens, the hidden state's first numbers, and the same logits where that
// hidden state enters before the first block once more.
var (
	tinyLogits = []float32{1.4754775, -1.2530823, -0.51699954, -0.355971, 1.1108308, 0.57929456, -0.25970304, -0.5647068}
	tinyHidden = []float32{0.36246523, 2.1405625, -1.0152485, -1.1710978, -0.09520748, 1.9591227, -1.5410748, 1.3855839}
	tinyAgain  = []float32{0.76859516, -1.3968564, -0.526428, -0.466031, 0.89943796, 0.12575759, -0.23841552, -0.55777985}
)

// tinyNear is how far numbers may be from these: processors sum in other orders.
const tinyNear = 2e-3

// Sizes of the tiny model.
const tinyWidth, tinyVocab, tinyWide, tinyBlocks = 32, 32, 64, 2

// tinyFile makes the tiny model: its numbers come from their tensors' names, norms
// about 1, the rest about 0.
func tinyFile() (*memoryFile, error) {
	h := gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "tokenizer.ggml.model", Value: "no_vocab"},
		{Key: "llama.vocab_size", Value: uint32(tinyVocab)},
		{Key: "llama.block_count", Value: uint32(tinyBlocks)},
		{Key: "llama.context_length", Value: uint32(64)},
		{Key: "llama.embedding_length", Value: uint32(tinyWidth)},
		{Key: "llama.feed_forward_length", Value: uint32(tinyWide)},
		{Key: "llama.attention.head_count", Value: uint32(2)},
		{Key: "llama.attention.head_count_kv", Value: uint32(1)},
		{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
	}}
	var data []byte
	add := func(name string, shape ...uint64) {
		t := gguf.Tensor{Name: name, Shape: shape, Offset: uint64(len(data))} // of type F32
		h.Tensors = append(h.Tensors, t)
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(name))
		state, middle := sum.Sum32(), float32(0)
		if strings.Contains(name, "norm") {
			middle = 1
		}
		for range t.Elements() {
			state = state*1664525 + 1013904223
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(middle+(float32(state>>8)/(1<<24)-0.5)/2))
		}
	}
	add("token_embd.weight", tinyWidth, tinyVocab)
	add("output_norm.weight", tinyWidth)
	for i := range tinyBlocks {
		b := fmt.Sprintf("blk.%d.", i)
		add(b+"attn_norm.weight", tinyWidth)
		add(b+"attn_q.weight", tinyWidth, tinyWidth)
		add(b+"attn_k.weight", tinyWidth, tinyWidth/2)
		add(b+"attn_v.weight", tinyWidth, tinyWidth/2)
		add(b+"attn_output.weight", tinyWidth, tinyWidth)
		add(b+"ffn_norm.weight", tinyWidth)
		add(b+"ffn_gate.weight", tinyWidth, tinyWide)
		add(b+"ffn_up.weight", tinyWidth, tinyWide)
		add(b+"ffn_down.weight", tinyWide, tinyWidth)
	}
	raw, err := h.Append(nil)
	if err != nil {
		return nil, err
	}
	for len(raw)%int(h.Alignment()) != 0 {
		raw = append(raw, 0)
	}
	return inMemory(append(raw, data...))
}

// compute has the library compute a model of known numbers on the processor: as a
// whole, and as a span that ends at a tap and one that begins with hidden states.
func (v *version) compute() error {
	file, err := tinyFile()
	if err != nil {
		return err
	}
	defer file.Close()
	path := C.CString(file.path)
	defer C.free(unsafe.Pointer(path))
	p := v.mapped()
	p.setInt(v.model.gpuLayers, 0)
	p.setPointer(v.model.devices, C.sl_no_devices())
	var model unsafe.Pointer
	lines := listen(func() { model = C.sl_model_load(path, p.c()) })
	if model == nil {
		return fmt.Errorf("it does not load the model of the self-test: %s", complaint(lines))
	}
	defer C.sl_model_free(model)
	logits, err := v.tiny(model, nil, nil)
	if err == nil {
		err = likeKnown("logits", logits, tinyLogits)
	}
	if err != nil {
		return err
	}
	name := C.CString("l_out-1")
	defer C.free(unsafe.Pointer(name))
	tap := C.sl_tap_new(name, tinyWidth, 8)
	if tap == nil {
		return errors.New("no memory")
	}
	defer C.sl_tap_free(tap)
	if _, err = v.tiny(model, nil, tap); err != nil {
		return err
	}
	if tap.bad || tap.got != 5 {
		return fmt.Errorf("its pass does not end in hidden states (%d of 5)", tap.got)
	}
	hidden := unsafe.Slice((*float32)(tap.rows), 5*tinyWidth)
	if err := likeKnown("hidden state", hidden[4*tinyWidth:], tinyHidden); err != nil {
		return err
	}
	logits, err = v.tiny(model, hidden, nil)
	if err != nil {
		return err
	}
	return likeKnown("logits after a hidden state", logits, tinyAgain)
}

// tiny makes a pass of five rows and returns the last one's logits.
func (v *version) tiny(model unsafe.Pointer, hidden []float32, tap *C.sl_tap) ([]float32, error) {
	var p params
	C.sl_context_defaults(p.c())
	f := &v.context
	p.setInt(f.cells, 64)
	p.setInt(f.rows, 8)
	p.setInt(f.batch, 8)
	p.setInt(f.threads, 1)
	p.setInt(f.threadsMany, 1)
	p.setInt(f.flash, flashOff)
	p.setBool(f.unified, true)
	if tap != nil {
		p.setPointer(f.eval, C.sl_eval_callback())
		p.setPointer(f.evalUser, unsafe.Pointer(tap))
	}
	var context unsafe.Pointer
	lines := listen(func() { context = C.sl_context(model, p.c()) })
	if context == nil {
		return nil, fmt.Errorf("it makes no context: %s", complaint(lines))
	}
	defer C.sl_context_free(context)
	tokens, positions, seqs, outputs := []int32{1, 2, 3, 4, 5}, []int32{0, 1, 2, 3, 4}, make([]int32, 5), []int8{1, 1, 1, 1, 1}
	var t, h unsafe.Pointer
	if hidden == nil {
		t = unsafe.Pointer(&tokens[0])
	} else {
		h = unsafe.Pointer(&hidden[0])
	}
	if r := C.sl_run(context, false, 5, (*C.int32_t)(t), (*C.float)(h), tinyWidth, (*C.int32_t)(&positions[0]), 1, (*C.int32_t)(&seqs[0]), (*C.int8_t)(&outputs[0])); r != 0 {
		return nil, fmt.Errorf("its pass fails with %d", r)
	}
	if tap != nil {
		return nil, nil
	}
	got := C.sl_logits(context, 4)
	if got == nil {
		return nil, errors.New("it has no logits")
	}
	return append([]float32(nil), unsafe.Slice((*float32)(got), tinyVocab)...), nil
}

// likeKnown compares the first numbers.
func likeKnown(what string, got, want []float32) error {
	for i := range want {
		if math.Abs(float64(got[i]-want[i])) > tinyNear {
			return fmt.Errorf("it computes wrong: %s %d of a known model is %g, not %g", what, i, got[i], want[i])
		}
	}
	return nil
}
