package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// lora makes an adapter's file: rank 4, for attn_q of some of a synthetic model's
// blocks. edit changes its header before it is written; nil: nothing.
func lora(t testing.TB, base []byte, blocks []int, edit func(*gguf.Header)) []byte {
	t.Helper()
	of, err := gguf.Read(bytes.NewReader(base), int64(len(base)))
	if err != nil {
		t.Fatal(err)
	}
	h := &gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.type", Value: "adapter"}, {Key: "general.architecture", Value: "llama"},
		{Key: "adapter.type", Value: "lora"}, {Key: "adapter.lora.alpha", Value: float32(8)},
	}}
	for _, i := range blocks {
		for _, x := range of.Tensors {
			if x.Name == fmt.Sprintf("blk.%d.attn_q.weight", i) {
				h.Tensors = append(h.Tensors, gguf.Tensor{Name: x.Name + ".lora_a", Shape: []uint64{x.Shape[0], 4}}, gguf.Tensor{Name: x.Name + ".lora_b", Shape: []uint64{4, x.Shape[1]}})
			}
		}
	}
	if edit != nil {
		edit(h)
	}
	at := uint64(0)
	for i := range h.Tensors {
		h.Tensors[i].Offset = at
		at += (h.Tensors[i].Bytes() + 31) / 32 * 32
	}
	raw, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	raw = append(raw, make([]byte, (32-len(raw)%32)%32)...)
	for range at {
		raw = append(raw, byte(len(raw)*7))
	}
	return raw
}

func TestAdapter(t *testing.T) {
	raw := synth(rand.New(rand.NewPCG(1, 9)), 6, 0.05)
	own := lora(t, raw, []int{1, 4}, nil)
	a, b := open(t, t.TempDir()), open(t, t.TempDir())
	base := add(t, a, writeFile(t, "Base.gguf", raw), nil)
	path := writeFile(t, "Style.gguf", own)
	m, err := a.Add(t.Context(), path, AddOptions{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	if m.Name() != "base+style" || !m.IsAdapter() || m.man.Blocks != 6 || m.man.Width != base.man.Width || m.man.Architecture != "llama" {
		t.Errorf("%s of %d blocks, width %d", m.Name(), m.man.Blocks, m.man.Width)
	}
	if got, err := m.Base(); err != nil || got != base {
		t.Errorf("its base: %v, %v", got, err)
	}
	if h, err := m.Header(); err != nil || h.Value("tokenizer.ggml.tokens") == nil {
		t.Errorf("the header of both: %v", err)
	}
	var have []string
	for _, i := range m.man.ShardsFor(protocol.Span{From: 0, To: 3}) {
		have = append(have, m.shardName(i))
	}
	if got := strings.Join(have, ", "); got != "header, block 1" {
		t.Errorf("blocks 0-3 take %s", got)
	}
	for word, want := range map[string]*Model{
		"base+style": m, "Base+Style": m, "base": base, "bas": base, "bas+sty": m, m.id.String(): m, base.id.String(): base, base.id.String() + "+style": m,
	} {
		if got, err := a.Find(word); err != nil || got != want {
			t.Errorf("%q: %v, %v", word, got, err)
		}
	}
	for _, word := range []string{"style", "other+style", "base+other", "base+"} {
		if _, err := a.Find(word); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", word, err)
		}
	}
	if err := a.Remove(base.id); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "base+style") {
		t.Errorf("removing what an adapter adds to: %v", err)
	}
	if sumOf(t, export(t, m)) != sumOf(t, path) {
		t.Error("another file came out")
	}

	// A peer's: first without its base.
	got, err := b.AddManifest(m.raw, m.id, "base+style")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := got.Header(); !errors.Is(err, ErrNotFound) {
		t.Errorf("without its base: %v", err)
	}
	pull(t, a, got, got.Shards())
	if _, err := b.AddManifest(base.raw, base.id, "base"); err != nil {
		t.Fatal(err)
	}
	var missing *Missing
	if _, err := got.Header(); !errors.As(err, &missing) {
		t.Errorf("without its base's header: %v", err)
	}
	if err := a.Remove(m.id); err != nil {
		t.Fatal(err)
	}
	if err := a.Remove(base.id); err != nil {
		t.Errorf("after its adapter: %v", err)
	}
}

func TestAdapterRefused(t *testing.T) {
	raw := synth(rand.New(rand.NewPCG(1, 9)), 6, 0.05)
	s := open(t, t.TempDir())
	base := add(t, s, writeFile(t, "base.gguf", raw), nil)
	set := func(key string, v any) func(*gguf.Header) {
		return func(h *gguf.Header) {
			for i := range h.KVs {
				if h.KVs[i].Key == key {
					h.KVs[i].Value = v
				}
			}
		}
	}
	for says, edit := range map[string]func(*gguf.Header){
		"no adapter":                      set("general.type", "model"),
		`type "control"`:                  set("adapter.type", "control"),
		`architecture "gemma3", and base`: set("general.architecture", "gemma3"),
		"no tensors":                      func(h *gguf.Header) { h.Tensors = nil },
		"one half":                        func(h *gguf.Header) { h.Tensors = h.Tensors[:1] },
		"no half of a pair":               func(h *gguf.Header) { h.Tensors[0].Name = "blk.1.attn_q.weight" },
		"does not have": func(h *gguf.Header) {
			h.Tensors[0].Name, h.Tensors[1].Name = "blk.9.attn_q.weight.lora_a", "blk.9.attn_q.weight.lora_b"
		},
		"another shape": func(h *gguf.Header) { h.Tensors[0].Shape[0] = 32 },
		"certain tokens": func(h *gguf.Header) {
			h.KVs = append(h.KVs, gguf.KV{Key: "adapter.alora.invocation_tokens", Value: []uint32{1}})
		},
	} {
		_, err := s.Add(t.Context(), writeFile(t, "a.gguf", lora(t, raw, []int{1}, edit)), AddOptions{Base: base})
		if !errors.Is(err, gguf.ErrFormat) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want one that says %q", err, says)
		}
	}
	if _, err := s.Add(t.Context(), writeFile(t, "a.gguf", lora(t, raw, []int{1}, nil)), AddOptions{}); !errors.Is(err, gguf.ErrFormat) || !strings.Contains(err.Error(), "name the model") {
		t.Errorf("without a base: %v", err)
	}
	if len(s.Models()) != 1 {
		t.Errorf("%d models are left", len(s.Models()))
	}
}

// What a manifest says of its base comes from strangers.
func TestBaseOfStrangers(t *testing.T) {
	raw := synth(rand.New(rand.NewPCG(1, 9)), 6, 0.05)
	s := open(t, t.TempDir())
	base := add(t, s, writeFile(t, "base.gguf", raw), nil)
	other := add(t, s, writeFile(t, "other.gguf", synth(rand.New(rand.NewPCG(2, 9)), 4, 0.05)), nil)
	m, err := s.Add(t.Context(), writeFile(t, "a.gguf", lora(t, raw, []int{1}, nil)), AddOptions{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	for name, id := range map[string]cid.Cid{"a model of other shape": other.id, "an adapter": m.id} {
		man := *m.man
		man.Base = &id
		enc, to, err := man.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.AddManifest(enc, to, "x+y")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := got.Header(); !errors.Is(err, protocol.ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	man := *m.man
	bad := m.man.Shards[0].Root
	man.Base = &bad
	if err := man.Check(); !errors.Is(err, protocol.ErrManifest) {
		t.Errorf("a leaf for a base: %v", err)
	}
}
