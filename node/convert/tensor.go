package convert

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strings"

	library "github.com/ollama/ollama/convert"
	"github.com/ollama/ollama/ml/backend/ggml"
	"github.com/x448/float16"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// tensor is one of the directory's tensors as the library's converters take it.
// The library has a type of its own for this, which writes every matrix of F32 as
// F16: what is quantized later would be rounded twice, and numbers above 65,504
// lost. This one keeps them.
type tensor struct {
	src    *source
	stored stored
	name   string // GGUF's
	shape  []uint64
	repack library.Repacker // nil: the numbers stay where they are
}

// tensors returns the directory's tensors under the names that the library's
// replacements make, in the order of files, then names.
func (s *source) tensors(all map[string]stored, rename *strings.Replacer) ([]library.Tensor, error) {
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if c := strings.Compare(all[a].file, all[b].file); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	out := make([]library.Tensor, len(names))
	seen := make(map[string]string, len(names))
	for i, name := range names {
		t := &tensor{src: s, stored: all[name], name: rename.Replace(name)}
		if first, twice := seen[t.name]; twice {
			return nil, errf("the tensors %.80q and %.80q are the same to a GGUF file (%.80q)", first, name, t.name)
		}
		seen[t.name] = name
		for _, n := range t.stored.Shape {
			t.shape = append(t.shape, uint64(n))
		}
		out[i] = t
	}
	return out, nil
}

func (t *tensor) Name() string                    { return t.name }
func (t *tensor) Shape() []uint64                 { return t.shape }
func (t *tensor) SetRepacker(by library.Repacker) { t.repack = by }

func (t *tensor) Clone() library.Tensor {
	c := *t
	c.shape = slices.Clone(t.shape)
	return &c
}

// Kind is the type in which the tensor is written: matrices in their own, and all
// else in F32, as the engine wants it.
func (t *tensor) Kind() uint32 {
	if len(t.shape) == 1 || strings.HasSuffix(t.name, ".ffn_gate_inp.weight") || strings.HasSuffix(t.name, ".bias") || smallTable(t.name) {
		return uint32(f32)
	}
	switch t.stored.DType {
	case "F32":
		return uint32(f32)
	case "BF16":
		return uint32(bf16)
	}
	return uint32(f16) // or bytes (U8), for which the converters that know them name another
}

// smallTable reports whether a matrix is one of those whose rows are added to others,
// which the engines want in F32.
func smallTable(name string) bool {
	return name == "position_embd.weight" || name == "token_types.weight"
}

// types are those of safetensors that hold numbers.
var types = map[string]gguf.Type{"F32": f32, "F16": f16, "BF16": bf16}

// WriteTo writes the tensor's numbers.
func (t *tensor) WriteTo(w io.Writer) (int64, error) {
	f, err := t.src.Open(filepath.ToSlash(t.stored.file))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		return 0, errors.New("the weights are no file")
	}
	size := t.stored.Offsets[1] - t.stored.Offsets[0]
	r := io.NewSectionReader(at, t.stored.base+t.stored.Offsets[0], size)
	from, numeric := types[t.stored.DType]
	if !numeric || t.repack == nil && uint32(from) == t.Kind() {
		return io.Copy(w, r)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return 0, err
	}
	numbers := numbersOf(raw, from)
	if t.repack != nil {
		if numbers, err = t.repack(t.name, numbers, t.shape); err != nil {
			return 0, err
		}
	}
	n, err := w.Write(bytesOf(numbers, gguf.Type(t.Kind())))
	return int64(n), err
}

// numbersOf reads numbers of F32, F16 or BF16.
func numbersOf(raw []byte, from gguf.Type) []float32 {
	if from != f32 {
		return ggml.ConvertToF32(raw, uint32(from), uint64(len(raw)/2))
	}
	out := make([]float32, len(raw)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out
}

// bytesOf writes numbers as F32, or as F16 or BF16 what comes from there: nothing is
// rounded.
func bytesOf(numbers []float32, to gguf.Type) []byte {
	out := make([]byte, 0, 4*len(numbers))
	for _, x := range numbers {
		switch to {
		case f32:
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
		case bf16:
			out = binary.LittleEndian.AppendUint16(out, uint16(math.Float32bits(x)>>16))
		default:
			out = binary.LittleEndian.AppendUint16(out, float16.Fromfloat32(x).Bits())
		}
	}
	return out
}
