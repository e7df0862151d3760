package random

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// Sizes of the models.
const (
	Vocab   = 300  // tokens: three marks, a token for each byte, some words
	Context = 4096 // positions
	Window  = 12   // positions that a block with a sliding window sees

	width   = 64
	heads   = 4
	kvHeads = 2
	head    = width / heads
	ff      = 96
	experts = 4
)

// Write writes a model to dir and returns its path. The library in the folder lib
// lists its tensors. Edits of the metadata come last; a nil value removes an entry.
func (m Model) Write(lib, dir string, edits ...gguf.KV) (string, error) {
	h := gguf.Header{Version: 3, KVs: m.metadata()}
	for _, kv := range edits {
		h.KVs = slices.DeleteFunc(h.KVs, func(old gguf.KV) bool { return old.Key == kv.Key })
		if kv.Value != nil {
			h.KVs = append(h.KVs, kv)
		}
	}
	path := filepath.Join(dir, strings.ReplaceAll(m.Name, " ", "-")+".gguf")
	list, err := tensors(lib, h, m.with())
	if err != nil {
		return "", fmt.Errorf("%s: %w", m.Name, err)
	}
	if m.Draft {
		h.KVs, list = m.draft(h.KVs, list)
	}
	var data []byte
	for _, t := range list {
		t.Offset = uint64(len(data))
		h.Tensors = append(h.Tensors, t)
		if data, err = appendWeights(data, t); err != nil {
			return "", err
		}
		data = pad(data, 32)
	}
	raw, err := h.Append(nil)
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, append(pad(raw, 32), data...), 0o600)
}

func pad(b []byte, n int) []byte {
	for len(b)%n != 0 {
		b = append(b, 0)
	}
	return b
}

// draft adds a block that drafts tokens: a copy of the last one, with what joins a
// hidden state and the embedding of the token after it.
func (m Model) draft(kvs []gguf.KV, list []gguf.Tensor) ([]gguf.KV, []gguf.Tensor) {
	last, next := fmt.Sprintf("blk.%d.", m.Blocks-1), fmt.Sprintf("blk.%d.", m.Blocks)
	for _, t := range list {
		if rest, ok := strings.CutPrefix(t.Name, last); ok {
			t.Name = next + rest
			list = append(list, t)
		}
	}
	list = append(list, gguf.Tensor{Name: next + "nextn.eh_proj.weight", Shape: []uint64{2 * width, width}},
		gguf.Tensor{Name: next + "nextn.enorm.weight", Shape: []uint64{width}}, gguf.Tensor{Name: next + "nextn.hnorm.weight", Shape: []uint64{width}},
		gguf.Tensor{Name: next + "nextn.shared_head_norm.weight", Shape: []uint64{width}})
	kvs = slices.Clone(kvs)
	for i := range kvs {
		if kvs[i].Key == m.Arch+".block_count" {
			kvs[i].Value = uint32(m.Blocks + 1)
		}
	}
	return append(kvs, gguf.KV{Key: m.Arch + ".nextn_predict_layers", Value: uint32(1)}), list
}

// with lists the names of the tensors that the model has although it need not.
func (m Model) with() []string {
	var names []string
	for _, name := range m.With {
		if !strings.Contains(name, "%") {
			names = append(names, name)
			continue
		}
		for i := range m.Blocks {
			names = append(names, strings.Replace(name, "%", strconv.Itoa(i), 1))
		}
	}
	return names
}

// appendWeights appends a tensor's numbers. They depend on its name and shape alone.
func appendWeights(b []byte, t gguf.Tensor) ([]byte, error) {
	hash := fnv.New64a()
	hash.Write([]byte(t.Name))
	rng := rand.New(rand.NewPCG(hash.Sum64(), 7))
	draw := drawer(t, rng)
	le := binary.LittleEndian
	for i := range t.Elements() {
		switch t.Type {
		case typeF32:
			b = le.AppendUint32(b, math.Float32bits(float32(draw(i))))
		case typeI32:
			b = le.AppendUint32(b, uint32(rng.IntN(2)))
		default:
			return nil, fmt.Errorf("tensor %s has %s numbers, which this package does not make", t.Name, t.Type)
		}
	}
	return b, nil
}

const (
	typeF32 = gguf.Type(0)
	typeI32 = gguf.Type(26)
)

// drawer returns what draws a tensor's numbers, on a scale at which the model
// neither explodes nor repeats one token.
func drawer(t gguf.Tensor, rng *rand.Rand) func(i uint64) float64 {
	near := func(mean, spread float64) func(uint64) float64 {
		return func(uint64) float64 { return mean + spread*rng.NormFloat64() }
	}
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(t.Name, p) })
	}
	switch {
	case strings.HasPrefix(t.Name, "output_norm") && strings.HasSuffix(t.Name, "weight"):
		// Large, so that logits are not flat, and of both signs, so that a tied
		// output matrix does not repeat its input.
		return near(0, 3)
	case has("rope_freqs", "rope_factors"): // one per pair: slower rotation
		return func(uint64) float64 { return 1 + 0.3*math.Abs(rng.NormFloat64()) }
	case has("altup_predict_coef", "altup_correct_coef"): // which mix the streams of each block
		return near(0, 0.1)
	case has("laurel_post_norm", ".post_norm"): // of what is added to several streams
		return near(0.2, 0.05)
	case strings.HasSuffix(t.Name, "ssm_a"): // decay, which must be negative
		return func(uint64) float64 { return -math.Exp(rng.NormFloat64()) }
	case strings.HasSuffix(t.Name, "time_mix_decay.weight"), strings.HasSuffix(t.Name, "time_mix_w0.weight"):
		return near(-2, 1)
	case has("lerp"):
		return func(uint64) float64 { return rng.Float64() }
	case has("sinks"):
		return near(0, 1)
	case strings.HasSuffix(t.Name, ".bias"), has("time_mix_first", "time_mix_r_k", "time_mix_a0", "time_mix_v0"):
		return near(0, 0.2)
	case has("norm", "ssm_d", "scale", "time_mix_ln", "time_mix_k_k", "time_mix_k_a"):
		return near(1, 0.2)
	default:
		return near(0, 1.5/math.Sqrt(float64(t.Shape[0])))
	}
}
