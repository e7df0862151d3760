// Package randommodel writes GGUF files of random weights: llamas of any size and
// of any common weight type, for tests and benchmarks. What they say means nothing,
// but they compute as real models of their shape and type do.
//
// A quantized block is random bits behind a scale that was chosen so that the weights'
// variance is the wanted one. No quantizer is needed, so a file takes as long as its
// bytes take to write.
package randommodel

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// Config describes a model. All of it is required but Seed.
type Config struct {
	Type           gguf.Type // of all matrices; vectors are F32
	Blocks         int
	Width          int // elements of a hidden state; a multiple of Heads, and of the type's block
	Heads, KVHeads int
	FF             int // width of the feed-forward part; a multiple of the type's block
	Vocab          int
	Context        int // tokens
	Seed           uint64
}

// Small is a model of a few hundred thousand weights.
func Small(t gguf.Type) Config {
	return Config{Type: t, Blocks: 2, Width: 256, Heads: 4, KVHeads: 2, FF: 512, Vocab: 512, Context: 4096}
}

// Medium is a model of about 150 million weights, the shape of a small real one.
func Medium(t gguf.Type) Config {
	return Config{Type: t, Blocks: 20, Width: 768, Heads: 12, KVHeads: 4, FF: 2048, Vocab: 32000, Context: 4096}
}

// block is how a type lays out its weights. Scales and offsets are half-precision
// floats at these bytes of a block.
type block struct {
	weights, bytes int
	scaleAt        int
	unit           float64 // weights' root mean square for a scale of 1 and random bits
	offsetAt       int     // -1: it has none
	offset         float64 // per scale, so that the mean is 0
}

var blocks = map[string]block{
	"Q4_0":   {32, 18, 0, 4.61, -1, 0},
	"Q4_1":   {32, 20, 0, 4.61, 2, -7.5},
	"Q5_0":   {32, 22, 0, 9.23, -1, 0},
	"Q5_1":   {32, 24, 0, 9.23, 2, -15.5},
	"Q8_0":   {32, 34, 0, 73.9, -1, 0},
	"IQ4_NL": {32, 18, 0, 67.4, -1, 0},
	"Q2_K":   {256, 84, 80, 13.9, 82, 1.5},
	"Q3_K":   {256, 110, 108, 43.4, -1, 0},
	"Q4_K":   {256, 144, 0, 258, 2, 7.5},
	"Q5_K":   {256, 176, 0, 526, 2, 15.5},
	"Q6_K":   {256, 210, 208, 1367, -1, 0},
	"IQ4_XS": {256, 136, 0, 1247, -1, 0},
}

// Types lists the types that Write knows, in ggml's order.
func Types() []gguf.Type {
	var types []gguf.Type
	for t := range gguf.Type(64) {
		if _, quantized := blocks[t.String()]; quantized || slices.Contains([]string{"F32", "F16", "BF16"}, t.String()) {
			types = append(types, t)
		}
	}
	return types
}

// TypeOf returns the type of a name such as Q4_K.
func TypeOf(name string) (gguf.Type, error) {
	for _, t := range Types() {
		if t.String() == name {
			return t, nil
		}
	}
	return 0, fmt.Errorf("no weight type %q; there are %v", name, Types())
}

// Write writes a model. The same Config makes the same file.
func Write(w io.Writer, c Config) error {
	if b, ok := blocks[c.Type.String()]; ok && (c.Width%b.weights != 0 || c.FF%b.weights != 0) {
		return fmt.Errorf("widths %d and %d are not multiples of %d, as %s needs", c.Width, c.FF, b.weights, c.Type)
	}
	h, err := header(c)
	if err != nil {
		return err
	}
	head, err := h.Append(nil)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 1<<20)
	if _, err := out.Write(padded(head, int(h.Alignment()))); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(c.Seed, uint64(c.Type)))
	var data []byte
	for _, t := range h.Tensors {
		data = appendTensor(data[:0], rng, t)
		if _, err := out.Write(padded(data, int(h.Alignment()))); err != nil {
			return err
		}
	}
	return out.Flush()
}

func padded(b []byte, align int) []byte {
	return append(b, make([]byte, (align-len(b)%align)%align)...)
}

func header(c Config) (*gguf.Header, error) {
	tokens, kinds := make([]string, c.Vocab), make([]int32, c.Vocab)
	for i := range tokens {
		tokens[i], kinds[i] = "t"+strconv.Itoa(i), 1
	}
	key := func(k string, v any) gguf.KV { return gguf.KV{Key: "llama." + k, Value: v} }
	h := &gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.architecture", Value: "llama"},
		{Key: "general.name", Value: "random " + c.Type.String()},
		key("block_count", uint32(c.Blocks)),
		key("context_length", uint32(c.Context)),
		key("embedding_length", uint32(c.Width)),
		key("feed_forward_length", uint32(c.FF)),
		key("attention.head_count", uint32(c.Heads)),
		key("attention.head_count_kv", uint32(c.KVHeads)),
		key("attention.layer_norm_rms_epsilon", float32(1e-5)),
		key("rope.dimension_count", uint32(c.Width/c.Heads)),
		key("rope.freq_base", float32(10000)),
		key("vocab_size", uint32(c.Vocab)),
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.tokens", Value: tokens},
		{Key: "tokenizer.ggml.token_type", Value: kinds},
		{Key: "tokenizer.ggml.merges", Value: []string{"t 0", "t 1"}},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(0)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(1)},
	}}
	width, ff, kv := uint64(c.Width), uint64(c.FF), uint64(c.Width/c.Heads*c.KVHeads)
	at := uint64(0)
	add := func(name string, shape ...uint64) {
		kind := c.Type
		if len(shape) == 1 {
			kind = 0
		}
		t := gguf.Tensor{Name: name, Type: kind, Shape: shape, Offset: at}
		h.Tensors = append(h.Tensors, t)
		at += (t.Bytes() + h.Alignment() - 1) / h.Alignment() * h.Alignment()
	}
	add("token_embd.weight", width, uint64(c.Vocab))
	for i := range c.Blocks {
		b := "blk." + strconv.Itoa(i) + "."
		add(b+"attn_norm.weight", width)
		add(b+"attn_q.weight", width, width)
		add(b+"attn_k.weight", width, kv)
		add(b+"attn_v.weight", width, kv)
		add(b+"attn_output.weight", width, width)
		add(b+"ffn_norm.weight", width)
		add(b+"ffn_gate.weight", width, ff)
		add(b+"ffn_up.weight", width, ff)
		add(b+"ffn_down.weight", ff, width)
	}
	add("output_norm.weight", width)
	add("output.weight", width, uint64(c.Vocab))
	if slices.ContainsFunc(h.Tensors, func(t gguf.Tensor) bool { return t.Bytes() == 0 }) {
		return nil, fmt.Errorf("a model of %+v has an empty tensor", c)
	}
	return h, nil
}

// appendTensor draws the weights of a tensor: matrices keep their input's scale and
// a little more, so that answers do not repeat one token; vectors are about 1.
func appendTensor(data []byte, rng *rand.Rand, t gguf.Tensor) []byte {
	if len(t.Shape) == 1 {
		for range t.Elements() {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(1+0.2*rng.NormFloat64())))
		}
		return data
	}
	rms := 1.5 / math.Sqrt(float64(t.Shape[0]))
	b, ok := blocks[t.Type.String()]
	if !ok {
		return appendFloats(data, rng, t, rms)
	}
	at := len(data)
	for range t.Bytes() / 8 {
		data = binary.LittleEndian.AppendUint64(data, rng.Uint64())
	}
	for range t.Bytes() % 8 {
		data = append(data, byte(rng.Uint32()))
	}
	scale := rms / b.unit
	for ; at < len(data); at += b.bytes {
		binary.LittleEndian.PutUint16(data[at+b.scaleAt:], half(scale))
		if b.offsetAt >= 0 {
			binary.LittleEndian.PutUint16(data[at+b.offsetAt:], half(scale*b.offset))
		}
	}
	return data
}

// appendFloats draws from an even distribution, which is quick.
func appendFloats(data []byte, rng *rand.Rand, t gguf.Tensor, rms float64) []byte {
	for range t.Elements() {
		v := rms * math.Sqrt(3) * (2*rng.Float64() - 1)
		switch t.Type.String() {
		case "F32":
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(v)))
		case "F16":
			data = binary.LittleEndian.AppendUint16(data, half(v))
		case "BF16":
			data = binary.LittleEndian.AppendUint16(data, uint16(math.Float32bits(float32(v))>>16))
		}
	}
	return data
}

// half is a number in half precision, cut off. It is for numbers of about the size of
// weights: smaller ones become denormal, larger ones than a half can hold do not occur.
func half(v float64) uint16 {
	var sign uint16
	if v < 0 {
		sign, v = 1<<15, -v
	}
	if v < 1.0/(1<<14) {
		return sign | uint16(v*(1<<24))
	}
	frac, exp := math.Frexp(v) // v = frac * 2^exp, frac in [0.5, 1)
	return sign | uint16(exp+14)<<10 | uint16((2*frac-1)*1024)
}
