package cut

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// adapter returns the header of an adapter of rank 4.
func adapter(t testing.TB, names ...string) *gguf.Header {
	t.Helper()
	h := &gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.type", Value: "adapter"}, {Key: "general.architecture", Value: "llama"}, {Key: "adapter.lora.alpha", Value: float32(8)},
	}}
	at := uint64(0)
	for _, n := range names {
		x := gguf.Tensor{Name: n, Shape: []uint64{256, 4}, Offset: at}
		h.Tensors = append(h.Tensors, x)
		at += x.Bytes()
	}
	return reread(t, h)
}

func TestAdapter(t *testing.T) {
	base := model(t, "llama", 6, false)
	h := adapter(t, "token_embd.weight.lora_a", "blk.1.ffn_up.weight.lora_a", "blk.1.attn_norm.weight", "blk.3.ffn_up.weight.lora_b", "output.weight.lora_a")
	for span, want := range map[protocol.Span]map[string]string{
		{From: 0, To: 2}: {"token_embd.weight.lora_a": "token_embd.weight.lora_a", "blk.1.ffn_up.weight.lora_a": "blk.1.ffn_up.weight.lora_a"},
		{From: 2, To: 5}: {"blk.1.ffn_up.weight.lora_b": "blk.3.ffn_up.weight.lora_b"},
		{From: 4, To: 5}: {},
		{From: 3, To: 6}: {"blk.0.ffn_up.weight.lora_b": "blk.3.ffn_up.weight.lora_b", "output.weight.lora_a": "output.weight.lora_a"},
	} {
		s, err := Adapter(h, base, span)
		if err != nil {
			t.Fatal(err)
		}
		got, err := gguf.Read(bytes.NewReader(s.Header), s.Size)
		if err != nil {
			t.Fatal(err)
		}
		contiguous(t, s, got)
		have := map[string]string{}
		for _, x := range got.Tensors {
			have[x.Name] = source(s, h, got, x)
		}
		if !reflect.DeepEqual(have, want) {
			t.Errorf("%s: %v, want %v", span, have, want)
		}
		if got.String("general.type") != "adapter" || got.Value("adapter.lora.alpha") != float32(8) {
			t.Errorf("%s: %v", span, got.KVs)
		}
	}
	if _, err := Adapter(h, base, protocol.Span{From: 0, To: 7}); !errors.Is(err, protocol.ErrCut) {
		t.Errorf("%v", err)
	}
}

func FuzzAdapter(f *testing.F) {
	raw, err := adapter(f, "blk.1.ffn_up.weight.lora_a", "blk.3.ffn_up.weight.lora_b").Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, 1, 3)
	base := model(f, "llama", 6, false)
	f.Fuzz(func(t *testing.T, raw []byte, from, to int) {
		h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		s, err := Adapter(h, base, protocol.Span{From: from, To: to})
		if err != nil {
			return
		}
		got, err := gguf.Read(bytes.NewReader(s.Header), s.Size)
		if err != nil {
			t.Fatal(err)
		}
		contiguous(t, s, got)
	})
}
