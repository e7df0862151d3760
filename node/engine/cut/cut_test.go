package cut

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// model returns the header of a model, as if it had been read: blocks blocks of two
// tensors, an embedding, and an output head unless it is tied.
func model(t testing.TB, arch string, blocks int, tied bool, more ...gguf.KV) *gguf.Header {
	t.Helper()
	h := &gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.architecture", Value: arch},
		{Key: arch + ".block_count", Value: uint32(blocks)},
		{Key: arch + ".embedding_length", Value: uint32(256)},
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.tokens", Value: slices.Repeat([]string{"x"}, 96)},
	}}
	h.KVs = append(h.KVs, more...)
	if heads := arch + ".attention.head_count"; !slices.ContainsFunc(more, func(kv gguf.KV) bool { return kv.Key == heads }) {
		h.KVs = append(h.KVs, gguf.KV{Key: heads, Value: uint32(4)})
	}
	at := uint64(0)
	add := func(name string, kind gguf.Type, shape ...uint64) {
		x := gguf.Tensor{Name: name, Type: kind, Shape: shape, Offset: at}
		h.Tensors = append(h.Tensors, x)
		at += (x.Bytes() + 31) / 32 * 32
	}
	add("token_embd.weight", 8, 256, 96)
	add("rope_freqs.weight", 0, 4)
	for i := range blocks {
		add(fmt.Sprintf("blk.%d.attn_norm.weight", i), 0, 256)
		add(fmt.Sprintf("blk.%d.ffn_up.weight", i), 8, 256, 256)
	}
	add("output_norm.weight", 0, 256)
	if !tied {
		add("output.weight", 8, 256, 96)
	}
	return reread(t, h)
}

// reread writes a header and reads it, which gives it what a file's has.
func reread(t testing.TB, h *gguf.Header) *gguf.Header {
	t.Helper()
	raw, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err = gguf.Read(bytes.NewReader(raw), int64(len(raw))+1<<40)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// stage cuts a model and reads the header of the file that comes out.
func stage(t testing.TB, h *gguf.Header, from, to int) (*Stage, *gguf.Header) {
	t.Helper()
	s, err := Of(h, protocol.Span{From: from, To: to})
	if err != nil {
		t.Fatal(err)
	}
	got, err := gguf.Read(bytes.NewReader(s.Header), s.Size)
	if err != nil {
		t.Fatal(err)
	}
	if got.DataOffset != int64(len(s.Header)) {
		t.Fatalf("the data begin at %d behind a header of %d bytes", got.DataOffset, len(s.Header))
	}
	return s, got
}

// contiguous checks what the library demands of a file's tensors.
func contiguous(t testing.TB, s *Stage, h *gguf.Header) {
	t.Helper()
	at := uint64(0)
	for _, x := range h.Tensors {
		if x.Offset != at {
			t.Fatalf("tensor %s lies at %d, where the library expects %d", x.Name, x.Offset, at)
		}
		at += (x.Bytes() + h.Alignment() - 1) / h.Alignment() * h.Alignment()
	}
	end := h.DataOffset + int64(at)
	if behind, apart := h.Uint(EmbeddingAt); apart {
		if behind != at {
			t.Fatalf("its embedding lies at %d, the tensors end at %d", behind, at)
		}
		end += roundUp(int64(embeddingIn(h).Bytes()), int64(h.Alignment()))
	}
	if end != s.Size {
		t.Fatalf("its data end at %d of %d bytes", end, s.Size)
	}
}

// embeddingIn returns the embedding that lies behind a file's tensors.
func embeddingIn(h *gguf.Header) gguf.Tensor {
	width, _ := h.Uint(h.Arch("embedding_length"))
	at, _ := h.Uint(EmbeddingAt)
	kind, _ := h.Uint(EmbeddingType)
	tokens, _ := h.Uint(EmbeddingTokens)
	return gguf.Tensor{Type: gguf.Type(kind), Shape: []uint64{width, tokens}, Offset: at}
}

// source finds the tensor of the model whose bytes one of a stage has; "": a hole.
func source(s *Stage, h, got *gguf.Header, x gguf.Tensor) string {
	at := got.DataOffset + int64(x.Offset)
	for _, p := range s.Pieces {
		if p.At <= at && at+int64(x.Bytes()) <= p.At+p.Length {
			from := p.From + at - p.At
			i := slices.IndexFunc(h.Tensors, func(y gguf.Tensor) bool { return h.DataOffset+int64(y.Offset) == from })
			return h.Tensors[i].Name
		}
	}
	return ""
}

func TestSpans(t *testing.T) {
	for _, tied := range []bool{false, true} {
		h := model(t, "llama", 6, tied)
		for _, span := range []protocol.Span{{From: 0, To: 2}, {From: 2, To: 5}, {From: 5, To: 6}, {From: 0, To: 6}} {
			s, got := stage(t, h, span.From, span.To)
			contiguous(t, s, got)
			first, last := span.From == 0, span.To == 6
			vocab := uint64(32)
			if last {
				vocab = 96
			}
			want := map[string]string{"token_embd.weight": "", "output_norm.weight": "", "rope_freqs.weight": "rope_freqs.weight"}
			if first && last || last && tied {
				want["token_embd.weight"] = "token_embd.weight"
			}
			if apart := first && !last; apart && source(s, h, got, embeddingIn(got)) != "token_embd.weight" {
				t.Errorf("%s: the embedding is not where the header says", span)
			} else if _, ok := got.Uint(EmbeddingAt); ok != apart {
				t.Errorf("%s: an embedding behind the tensors: %v", span, ok)
			}
			if last {
				want["output_norm.weight"] = "output_norm.weight"
			}
			if !tied || first && !last {
				want["output.weight"] = map[bool]string{true: "output.weight"}[last]
			}
			for i := range span.Len() {
				for _, name := range []string{"attn_norm", "ffn_up"} {
					want[fmt.Sprintf("blk.%d.%s.weight", i, name)] = fmt.Sprintf("blk.%d.%s.weight", i+span.From, name)
				}
			}
			have := map[string]string{}
			for _, x := range got.Tensors {
				have[x.Name] = source(s, h, got, x)
				if (x.Name == "token_embd.weight" || x.Name == "output.weight") && x.Shape[1] != vocab {
					t.Errorf("%s: %s has %d rows, want %d", span, x.Name, x.Shape[1], vocab)
				}
			}
			if !reflect.DeepEqual(have, want) {
				t.Errorf("%s, tied %v: tensors\n%v\nwant\n%v", span, tied, have, want)
			}
			if n, _ := got.Uint("llama.vocab_size"); n != vocab || got.String("tokenizer.ggml.model") != "no_vocab" || got.Value("tokenizer.ggml.tokens") != nil {
				t.Errorf("%s: %d tokens, tokenizer %q", span, n, got.String("tokenizer.ggml.model"))
			}
			if got.Blocks() != span.Len() {
				t.Errorf("%s: %d blocks", span, got.Blocks())
			}
		}
	}
}

// The longest range lies in the file as it does in the model in relation to blocks of
// the disk, whatever precedes it.
func TestSharable(t *testing.T) {
	for n := range 40 {
		h := model(t, "llama", 6, false, gguf.KV{Key: "general.name", Value: strings.Repeat("n", 97*n)})
		for _, span := range []protocol.Span{{From: 0, To: 2}, {From: 1, To: 5}, {From: 3, To: 6}} {
			s, got := stage(t, h, span.From, span.To)
			contiguous(t, s, got)
			longest := slices.MaxFunc(s.Pieces, func(a, b gguf.Piece) int { return int(a.Length - b.Length) })
			if (longest.From-longest.At)%4096 != 0 {
				t.Errorf("%s behind a name of %d bytes: from %d to %d", span, 97*n, longest.From, longest.At)
			}
		}
	}
}

// What architectures have per block, and what they leave to the library.
func TestMetadata(t *testing.T) {
	kv := func(key string, v any) gguf.KV { return gguf.KV{Key: key, Value: v} }
	for _, c := range []struct {
		name, arch string
		blocks     int
		from, to   int
		has, want  []gguf.KV // want with a nil value: absent
	}{
		{"heads per block", "deci", 4, 1, 3, []gguf.KV{kv("deci.attention.head_count", []uint32{1, 2, 3, 4}), kv("deci.rope.dimension_sections", []int32{5, 6, 7, 8})},
			[]gguf.KV{kv("deci.attention.head_count", []uint32{2, 3}), kv("deci.rope.dimension_sections", []int32{5, 6, 7, 8})}},
		{"a list of the future", "deci", 4, 1, 3, []gguf.KV{kv("deci.more", []float32{1, 2, 3, 4})}, []gguf.KV{kv("deci.more", []float32{2, 3})}},
		{"xIELU", "apertus", 3, 1, 2, []gguf.KV{kv("xielu.beta", []float32{1, 2, 3})}, []gguf.KV{kv("xielu.beta", []float32{2})}},
		{"windows assumed", "gemma3", 8, 4, 8, []gguf.KV{kv("gemma3.attention.sliding_window", uint32(64))}, []gguf.KV{kv("gemma3.attention.sliding_window_pattern", []bool{true, false, true, true})}},
		{"windows by a number", "gemma3", 8, 1, 4, []gguf.KV{kv("gemma3.attention.sliding_window", uint32(64)), kv("gemma3.attention.sliding_window_pattern", uint32(2))},
			[]gguf.KV{kv("gemma3.attention.sliding_window_pattern", []bool{false, true, false})}},
		{"windows by a list", "gemma4", 4, 1, 3, []gguf.KV{kv("gemma4.attention.sliding_window_pattern", []bool{true, false, true, true}), kv("gemma4.attention.shared_kv_layers", uint32(0))},
			[]gguf.KV{kv("gemma4.attention.sliding_window_pattern", []bool{false, true}), kv("gemma4.attention.shared_kv_layers", uint32(0))}},
		{"no window first", "cohere2moe", 8, 3, 6, []gguf.KV{kv("cohere2moe.leading_dense_block_count", uint32(4))},
			[]gguf.KV{kv("cohere2moe.attention.sliding_window_pattern", []bool{true, false, true}), kv("cohere2moe.leading_dense_block_count", uint32(1))}},
		{"every block with a window", "olmo2", 4, 1, 3, []gguf.KV{kv("olmo2.attention.sliding_window", uint32(64)), kv("olmo2.attention.sliding_window_pattern", uint32(0))},
			[]gguf.KV{kv("olmo2.attention.sliding_window_pattern", []bool{true, true})}},
		{"no windows", "gemma3", 4, 1, 3, nil, []gguf.KV{kv("gemma3.attention.sliding_window_pattern", nil), kv("gemma3.attention.recurrent_layers", nil)}},
		{"hybrid assumed", "qwen35", 8, 2, 5, nil, []gguf.KV{kv("qwen35.attention.recurrent_layers", []bool{true, false, true})}},
		{"hybrid by a number", "qwen3next", 6, 1, 4, []gguf.KV{kv("qwen3next.full_attention_interval", uint32(2))},
			[]gguf.KV{kv("qwen3next.attention.recurrent_layers", []bool{false, true, false})}},
		{"hybrid by a list", "qwen35moe", 4, 1, 3, []gguf.KV{kv("qwen35moe.attention.recurrent_layers", []bool{true, false, true, true})},
			[]gguf.KV{kv("qwen35moe.attention.recurrent_layers", []bool{false, true})}},
		{"more predictions", "glm4moe", 5, 2, 5, []gguf.KV{kv("glm4moe.nextn_predict_layers", uint32(1)), kv("glm4moe.attention.head_count", []uint32{1, 2, 3, 4, 5}), kv("glm4moe.leading_dense_block_count", uint32(3))},
			[]gguf.KV{kv("glm4moe.block_count", uint32(2)), kv("glm4moe.nextn_predict_layers", uint32(0)), kv("glm4moe.attention.head_count", []uint32{3, 4}),
				kv("glm4moe.leading_dense_block_count", uint32(1)), kv("glm4moe.rope.dimension_sections", []int32{1, 1, 0, 0})}},
		{"positions as they are", "glm4moe", 4, 0, 2, nil, []gguf.KV{kv("glm4moe.rope.dimension_sections", nil)}},
		{"dense blocks behind", "deepseek2", 8, 4, 6, []gguf.KV{kv("deepseek2.leading_dense_block_count", uint32(1)), kv("deepseek2.attention.q_lora_rank", uint32(64)), kv("deepseek2.expert_gating_func", uint32(2))},
			[]gguf.KV{kv("deepseek2.leading_dense_block_count", uint32(0)), kv("deepseek2.expert_gating_func", uint32(2))}},
		{"a plain query", "deepseek2", 27, 0, 9, nil, []gguf.KV{kv("deepseek2.attention.q_lora_rank", uint32(0)), kv("deepseek2.expert_gating_func", uint32(1))}},
		{"shared keys", "gemma4", 10, 5, 10, []gguf.KV{kv("gemma4.attention.shared_kv_layers", uint32(3))}, []gguf.KV{kv("gemma4.attention.shared_kv_layers", uint32(3))}},
		{"no shared keys in part", "gemma4", 12, 0, 6, []gguf.KV{kv("gemma4.attention.shared_kv_layers", uint32(3)), kv("gemma4.attention.sliding_window_pattern", append(slices.Repeat([]bool{true, false}, 5), true, false))},
			[]gguf.KV{kv("gemma4.attention.shared_kv_layers", uint32(0))}},
		{"a scale of embeddings", "granite", 4, 1, 3, []gguf.KV{kv("granite.embedding_scale", float32(12))}, []gguf.KV{kv("granite.embedding_scale", float32(1))}},
		{"a scale of embeddings at first", "granite", 4, 0, 3, []gguf.KV{kv("granite.embedding_scale", float32(12)), kv("granite.deepstack_mapping", []int32{0, -1, 1, 2})},
			[]gguf.KV{kv("granite.embedding_scale", float32(12)), kv("granite.deepstack_mapping", nil)}},
		{"images", "qwen3vl", 4, 1, 3, []gguf.KV{kv("qwen3vl.n_deepstack_layers", uint32(3))}, []gguf.KV{kv("qwen3vl.n_deepstack_layers", uint32(0))}},
		{"images at first", "qwen3vl", 4, 0, 3, []gguf.KV{kv("qwen3vl.n_deepstack_layers", uint32(3))}, []gguf.KV{kv("qwen3vl.n_deepstack_layers", uint32(0))}},
		{"a residual's scale", "minicpm", 4, 2, 4, nil, []gguf.KV{kv("minicpm.residual_scale", float32(0.7))}},
		{"exact tensors", "llama", 4, 1, 3, []gguf.KV{
			kv("general.tensor_extra.name", []string{"blk.0.x.weight", "blk.2.x.weight", "output.weight"}), kv("general.tensor_extra.prec_a4", []bool{true, false, true})},
			[]gguf.KV{kv("general.tensor_extra.name", []string{"blk.1.x.weight", "output.weight"}), kv("general.tensor_extra.prec_a4", []bool{false, true})}},
		{"a part of a split model", "llama", 4, 1, 3, []gguf.KV{kv("split.count", uint16(2)), kv("general.alignment", uint64(32))},
			[]gguf.KV{kv("split.count", nil), kv("general.alignment", uint32(32)), kv("shoal.span", "1-3 of 4")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, got := stage(t, model(t, c.arch, c.blocks, true, c.has...), c.from, c.to)
			for _, w := range c.want {
				if have := got.Value(w.Key); !reflect.DeepEqual(have, w.Value) {
					t.Errorf("%s = %#v, want %#v", w.Key, have, w.Value)
				}
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		arch             string
		blocks, from, to int
		has              []gguf.KV
		says             string
	}{
		{"llama", 4, 2, 5, nil, "the model has blocks 0-4"},
		{"llama", 4, 2, 2, nil, "the model has blocks 0-4"},
		{"llama", 0, 0, 0, nil, "0 blocks"},
		{"llama", 600, 0, 600, nil, "512 are possible"},
		{"smollm3", 8, 2, 8, []gguf.KV{{Key: "general.name", Value: "Small"}}, "blocks 2-8 of Small: each part begins at a multiple of 4; nearest: "},
		{"deci", 4, 1, 3, []gguf.KV{{Key: "deci.attention.head_count", Value: []uint32{1, 2}}}, "has 2 elements for 4 blocks"},
		{"llama", 4, 1, 3, []gguf.KV{{Key: "general.tensor_extra.name", Value: []string{"a"}}}, "general.tensor_extra.prec_a4 has 0"},
	} {
		t.Run(fmt.Sprintf("%s %d-%d of %d", c.arch, c.from, c.to, c.blocks), func(t *testing.T) {
			_, err := Of(model(t, c.arch, c.blocks, true, c.has...), protocol.Span{From: c.from, To: c.to})
			if !errors.Is(err, protocol.ErrCut) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want one that says %q", err, c.says)
			}
		})
	}
	if _, err := Of(model(t, "lfm2", 4, true), protocol.Span{From: 2, To: 4}); err != nil {
		t.Error(err)
	}
	if _, err := Of(model(t, "lfm2", 4, false), protocol.Span{From: 2, To: 4}); !errors.Is(err, protocol.ErrCut) {
		t.Errorf("a norm that another stage has: %v", err)
	}
	odd := model(t, "llama", 4, true)
	odd.Tensors[0].Name = "somewhere.weight"
	for span, ok := range map[protocol.Span]bool{{From: 0, To: 4}: true, {From: 0, To: 2}: false, {From: 2, To: 4}: false} {
		_, err := Of(odd, span)
		c, _ := Cuts(odd)
		if (err == nil) != ok || c.Allows(span) != ok || err != nil && (!errors.Is(err, protocol.ErrCut) || !strings.Contains(err.Error(), `"somewhere.weight"; nearest: 0-4`)) {
			t.Errorf("a tensor of unknown place in blocks %s: %v", span, err)
		}
	}
}

// A header is as hostile as the peer that it came from.
func FuzzOf(f *testing.F) {
	for _, arch := range []string{"llama", "gemma3", "gemma4", "qwen35", "glm4moe", "deepseek2"} {
		raw, err := model(f, arch, 4, true).Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, 1, 3)
	}
	f.Fuzz(func(t *testing.T, raw []byte, from, to int) {
		h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		s, err := Of(h, protocol.Span{From: from, To: to})
		if err != nil {
			if !errors.Is(err, protocol.ErrCut) {
				t.Fatal(err)
			}
			return
		}
		got, err := gguf.Read(bytes.NewReader(s.Header), s.Size)
		if err != nil {
			t.Fatal(err)
		}
		contiguous(t, s, got)
		end := got.DataOffset
		for _, p := range s.Pieces {
			if p.At < end || p.Length <= 0 || p.From < 0 || p.At+p.Length > s.Size {
				t.Fatalf("pieces %v in %d bytes", s.Pieces, s.Size)
			}
			end = p.At + p.Length
		}
	})
}

// A tensor of unknown place is in the file of the whole model, and a part of the model is
// refused by the tensor's name; one that names no block is refused everywhere.
func TestUnknownTensors(t *testing.T) {
	for _, c := range []struct {
		name string
		span protocol.Span
		says string // "": it is in the file
	}{
		{"mystery.weight", protocol.Span{From: 0, To: 4}, ""},
		{"mystery.weight", protocol.Span{From: 0, To: 2}, `"mystery.weight"`},
		{"mystery.weight", protocol.Span{From: 2, To: 4}, `"mystery.weight"`},
		{"blk.x.weight", protocol.Span{From: 0, To: 4}, `"blk.x.weight" names no block`},
		{"blk.4.weight", protocol.Span{From: 0, To: 2}, `"blk.4.weight" names no block`},
	} {
		h := model(t, "llama", 4, false)
		h.Tensors = append(h.Tensors, gguf.Tensor{Name: c.name, Shape: []uint64{32}, Type: 0, Offset: 1 << 20})
		s, err := Of(h, c.span)
		switch {
		case c.says != "":
			if !errors.Is(err, protocol.ErrCut) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s in %s: %v", c.name, c.span, err)
			}
		case err != nil || !bytes.Contains(s.Header, []byte(c.name)):
			t.Errorf("%s in %s is left out: %v", c.name, c.span, err)
		}
	}
}
