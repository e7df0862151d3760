package convert

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	fsggml "github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/ml/backend/ggml"
	"golang.org/x/sync/errgroup"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// Tensor types, in ggml's numbering.
const (
	f32  = gguf.Type(0)
	f16  = gguf.Type(1)
	q5_0 = gguf.Type(6)
	q5_1 = gguf.Type(7)
	q8_0 = gguf.Type(8)
	q4K  = gguf.Type(12)
	q5K  = gguf.Type(13)
	q6K  = gguf.Type(14)
	bf16 = gguf.Type(30)
)

// quantization describes how a model's matrices are converted. keep leaves them
// unchanged.
type quantization struct {
	fileType uint32 // value of general.file_type
	base     gguf.Type
	keep     bool
}

func parseQuantization(s string) (quantization, error) {
	switch strings.ToLower(s) {
	case "":
		return quantization{keep: true}, nil
	case "f16":
		return quantization{1, f16, false}, nil
	case "q8_0":
		return quantization{7, q8_0, false}, nil
	case "q4_k_m":
		return quantization{15, q4K, false}, nil
	}
	return quantization{}, errf("quantization %.40q; q8_0, q4_K_M and f16 are supported", s)
}

// mixer chooses the type of each tensor. Q4_K_M is a mixture: the tensors that
// a model is most sensitive to get more bits. The rules are those of
// llama.cpp's quantizer (llama_tensor_get_type) in the version in
// github.com/ollama/ollama (server/quantization.go, in a package that does not
// build as a dependency), for the tensors of the architectures supported here.
type mixer struct {
	q       quantization
	blocks  int
	experts uint64
	tied    bool
	values  int // attn_v matrices so far
	downs   int // ffn_down matrices so far
}

// sensitive reports whether a block is in the first or last eighth, or every
// third in between.
func (m *mixer) sensitive(i int) bool {
	eighth := m.blocks / 8
	return i < eighth || i >= 7*m.blocks/8 || (i-eighth)%3 == 2
}

func (m *mixer) typeOf(t gguf.Tensor) gguf.Type {
	is := func(part string) bool { return strings.Contains(t.Name, part) }
	if m.q.keep || len(t.Shape) < 2 || !strings.HasSuffix(t.Name, "weight") || is("_norm.weight") || is("ffn_gate_inp") || smallTable(t.Name) ||
		t.Type != f32 && t.Type != f16 && t.Type != bf16 {
		return t.Type
	}
	kind := m.q.base
	if kind == q4K {
		kind = m.mixed(t.Name, is)
	}
	return fitting(kind, t.Shape[0])
}

// mixed returns the type of a matrix in Q4_K_M.
func (m *mixer) mixed(name string, is func(string) bool) gguf.Type {
	switch {
	case name == "output.weight", m.tied && name == "token_embd.weight":
		return q6K
	case is("attn_v.weight"):
		m.values++
		switch {
		case m.experts == 8:
			return q8_0
		case m.sensitive(m.values - 1):
			return q6K
		}
	case is("attn_k.weight") && m.experts == 8:
		return q8_0
	case is("ffn_down"):
		m.downs++
		if m.sensitive(m.downs - 1) {
			return q6K
		}
	case is("attn_output.weight") && m.experts == 8:
		return q5K
	}
	return q4K
}

// fitting returns kind, or the nearest type whose blocks divide a row.
func fitting(kind gguf.Type, row uint64) gguf.Type {
	if row%256 != 0 {
		switch kind {
		case q4K:
			kind = q5_0
		case q5K:
			kind = q5_1
		case q6K:
			kind = q8_0
		}
	}
	if row%32 != 0 {
		return f16
	}
	return kind
}

// chunk is how many numbers are converted at once.
const chunk = 1 << 20

// job is a tensor to write.
type job struct {
	from, to gguf.Tensor
	at       int64 // position of its data in the source file, in bytes
	into     int64 // position in the final file, in bytes
}

// write converts all tensors. progress is called with the total bytes read so
// far.
func write(ctx context.Context, in, out *os.File, jobs []job, progress func(int64)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, runtime.GOMAXPROCS(0)))
	var done atomic.Int64
	for _, j := range jobs {
		row := max(1, j.from.Shape[0])
		rows := j.from.Elements() / row
		step := max(1, chunk/row)
		fromRow, toRow := rowBytes(j.from, rows), rowBytes(j.to, rows)
		for at := uint64(0); at < rows; at += step {
			n := min(step, rows-at)
			g.Go(func() error {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				raw := make([]byte, n*fromRow)
				if _, err := in.ReadAt(raw, j.at+int64(at*fromRow)); err != nil {
					return fmt.Errorf("reading tensor %s again: %w", j.from.Name, err)
				}
				made, err := requantize(raw, j.from, j.to.Type, row, n)
				if err != nil {
					return err
				}
				if _, err := out.WriteAt(made, j.into+int64(at*toRow)); err != nil {
					return err
				}
				progress(done.Add(int64(len(raw))))
				return nil
			})
		}
	}
	return g.Wait()
}

func rowBytes(t gguf.Tensor, rows uint64) uint64 { return t.Bytes() / max(1, rows) }

// requantize converts rows from one type to another. raw has shape [rows][row]
// in t's type.
func requantize(raw []byte, t gguf.Tensor, to gguf.Type, row, rows uint64) ([]byte, error) {
	if t.Type != f32 && t.Type != f16 && t.Type != bf16 {
		return raw, nil
	}
	numbers := numbersOf(raw, t.Type)
	var most float32
	for _, x := range numbers {
		if x-x != 0 { // not finite; ggml would corrupt the whole block, or end the process
			return nil, errf("the tensor %s holds numbers that are not finite", t.Name)
		}
		most = max(most, x, -x)
	}
	if to == t.Type {
		return raw, nil
	}
	const largest = 65504 // of F16
	if to == f16 && most > largest {
		return nil, errf("the tensor %s holds %g, which is too large for f16; take q8_0, or leave the numbers as they are", t.Name, most)
	}
	made := ggml.Quantize(fsggml.TensorType(to), numbers, []uint64{row, rows})
	if most > largest { // so may be a block's scale, which has 16 bits
		for _, x := range ggml.ConvertToF32(made, uint32(to), row*rows) {
			if x-x != 0 {
				return nil, errf("the tensor %s holds %g, which is too large for %s; leave the numbers as they are", t.Name, most, to)
			}
		}
	}
	return made, nil
}

// write writes the final file: the header, then each tensor in the type that
// the mixture selects.
func (m *model) write(ctx context.Context, in *os.File, mix *mixer, out *os.File, progress func(done, total int64)) error {
	if !mix.q.keep {
		m.md.set("general.file_type", mix.q.fileType)
	}
	final := &gguf.Header{Version: 3, KVs: m.md.kvs}
	var jobs []job
	var offset uint64
	var total int64
	for _, t := range m.tensors {
		to := t
		to.Type = mix.typeOf(t)
		to.Offset = offset
		offset += (to.Bytes() + 31) / 32 * 32
		final.Tensors = append(final.Tensors, to)
		jobs = append(jobs, job{from: t, to: to, at: m.data + int64(t.Offset)})
		total += int64(t.Bytes())
	}
	head, err := final.Append(nil)
	if err != nil {
		return err
	}
	head = append(head, make([]byte, (32-len(head)%32)%32)...)
	for i := range jobs {
		jobs[i].into = int64(len(head)) + int64(final.Tensors[i].Offset)
	}
	if _, err := out.Write(head); err != nil {
		return err
	}
	if err := out.Truncate(int64(len(head)) + int64(offset)); err != nil {
		return err
	}
	return write(ctx, in, out, jobs, func(n int64) { progress(n, total) })
}
