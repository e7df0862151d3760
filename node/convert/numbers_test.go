package convert_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	fsggml "github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/ml/backend/ggml"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// numbers are n numbers that testdata/scripts/quants.py makes as well.
func numbers(n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		unit := float64(uint32(uint64(i)*2654435761))/(1<<32) - 0.5
		out[i] = float32(unit * math.Ldexp(1, i/32%48-28))
	}
	return out
}

const (
	downName = "model.layers.1.mlp.down_proj.weight"
	qName    = "model.layers.1.self_attn.q_proj.weight"
	kName    = "model.layers.1.self_attn.k_proj.weight"
)

// numbered is a model with matrices of such numbers, all its matrices of a type.
func numbered(t *testing.T, dtype string) *hf {
	h := random(t, "LlamaForCausalLM", vocab)
	for name, w := range h.tensors {
		if w.dtype = dtype; slices.Contains([]string{downName, qName, kName}, name) {
			w.data = numbers(len(w.data))
		}
		h.tensors[name] = w
	}
	return h
}

// bytesIn returns the bytes of a tensor of a file.
func bytesIn(t *testing.T, path string, h *gguf.Header, name string) (gguf.Tensor, []byte) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, ten := range h.Tensors {
		if ten.Name == name {
			at := h.DataOffset + int64(ten.Offset)
			return ten, raw[at : at+int64(ten.Bytes())]
		}
	}
	t.Fatal("no tensor ", name)
	return gguf.Tensor{}, nil
}

// Matrices quantized to q8_0 have the bytes that PyPI's gguf makes of the same
// numbers, which are rounded once.
func TestQuantizedLikeReference(t *testing.T) {
	raw, err := os.ReadFile("testdata/quants.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]map[string]string
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	for dtype, sums := range want {
		path, head, err := run(t, t.Context(), numbered(t, dtype).write(t, 1), "q8_0")
		if err != nil {
			t.Fatal(err)
		}
		for part, sum := range sums {
			_, got := bytesIn(t, path, head, "blk.1."+part+".weight")
			if s := sha256.Sum256(got); hex.EncodeToString(s[:]) != sum {
				t.Errorf("%s, %s: other bytes than the reference's", dtype, part)
			}
		}
	}
}

// The mixture is quantized from the same numbers.
func TestMixtureFromF32(t *testing.T) {
	h := numbered(t, "F32")
	path, head, err := run(t, t.Context(), h.write(t, 1), "q4_K_M")
	if err != nil {
		t.Fatal(err)
	}
	ten, got := bytesIn(t, path, head, "blk.1.ffn_down.weight")
	want := ggml.Quantize(fsggml.TensorType(ten.Type), h.tensors[downName].data, []uint64{inner, width})
	if !strings.Contains(ten.Type.String(), "_K") || !bytes.Equal(got, want) {
		t.Errorf("%s: other bytes than of the numbers themselves", ten.Type)
	}
}

// Without a quantization numbers stay as they are, whatever their type.
func TestNumbersStay(t *testing.T) {
	for dtype, size := range map[string]int{"F32": 4, "BF16": 2} {
		h := numbered(t, dtype)
		path, head, err := run(t, t.Context(), h.write(t, 1), "")
		if err != nil {
			t.Fatal(err)
		}
		ten, got := bytesIn(t, path, head, "blk.1.ffn_down.weight")
		var want []byte
		for _, x := range h.tensors[downName].data {
			want = append(want, binary.LittleEndian.AppendUint32(nil, math.Float32bits(x))[4-size:]...)
		}
		if ten.Type.String() != dtype || !bytes.Equal(got, want) {
			t.Errorf("%s became %s, or other numbers", dtype, ten.Type)
		}
	}
}

// Numbers that a type cannot hold are refused by it, and not by others.
func TestLargeNumbers(t *testing.T) {
	for _, c := range []struct {
		x        float32
		quantize string
		says     string // "": it is taken
	}{
		{1e30, "", ""}, {70_000, "q8_0", ""}, {-70_000, "q4_K_M", ""}, {70_000, "f16", "too large for f16"},
		{9e6, "q8_0", "too large for Q8_0"}, {1e30, "q4_K_M", "too large"}, {float32(math.Inf(1)), "", "not finite"},
	} {
		h := random(t, "LlamaForCausalLM", vocab)
		w := h.tensors[downName]
		w.dtype, w.data = "F32", slices.Clone(w.data)
		w.data[len(w.data)/2] = c.x
		h.tensors[downName] = w
		path, head, err := run(t, t.Context(), h.write(t, 1), c.quantize)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%g as %q: %v, want %q", c.x, c.quantize, err, c.says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%g as %q: %v", c.x, c.quantize, err)
			continue
		}
		ten, raw := bytesIn(t, path, head, "blk.1.ffn_down.weight")
		back := float64(c.x)
		if ten.Type != 0 {
			back = float64(ggml.ConvertToF32(raw, uint32(ten.Type), ten.Elements())[len(w.data)/2])
		}
		if math.Abs(back/float64(c.x)-1) > 0.1 {
			t.Errorf("%g as %q is %g again", c.x, c.quantize, back)
		}
	}
}
