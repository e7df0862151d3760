package cut

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// behind puts a model's header behind some room.
func behind(t testing.TB, h *gguf.Header, room int) (file []byte, moved *gguf.Header) {
	t.Helper()
	raw, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	file = append(make([]byte, room), raw...)
	file = append(file, make([]byte, room+int(h.DataOffset)-len(file))...)
	m := *h
	m.DataOffset += int64(room)
	return file, &m
}

// The library reads the whole model where it lies, behind another header.
func TestInPlace(t *testing.T) {
	const room = 1 << 16
	h := model(t, "llama", 3, false, gguf.KV{Key: "llama.nextn_predict_layers", Value: uint32(1)})
	file, moved := behind(t, h, room)
	l, err := Lay(moved, protocol.Span{From: 0, To: 3}, room)
	if err != nil || !l.InPlace || len(l.Pieces) != 0 {
		t.Fatalf("%+v, %v", l, err)
	}
	if len(l.Header) > room {
		t.Fatalf("a header of %d bytes in a room of %d", len(l.Header), room)
	}
	copy(file, l.Header)
	got, err := gguf.Read(bytes.NewReader(file), 1<<40)
	if err != nil {
		t.Fatal(err)
	}
	if got.DataOffset != moved.DataOffset || !reflect.DeepEqual(got.Tensors, h.Tensors) {
		t.Errorf("data at %d, want %d; tensors %v", got.DataOffset, moved.DataOffset, got.Tensors)
	}
	if got.String("tokenizer.ggml.model") != "no_vocab" || got.Value("tokenizer.ggml.tokens") != nil || got.Blocks() != 3 {
		t.Errorf("tokenizer %q, %d blocks", got.String("tokenizer.ggml.model"), got.Blocks())
	}
	if n, _ := got.Uint("llama.vocab_size"); n != 96 {
		t.Errorf("%d tokens", n)
	}
	if again, err := gguf.Read(bytes.NewReader(file[room:]), 1<<40); err != nil || !reflect.DeepEqual(again.KVs, h.KVs) {
		t.Errorf("the model's own header was damaged: %v", err)
	}
}

func TestNotInPlace(t *testing.T) {
	const room = 1 << 16
	gaps := model(t, "llama", 2, false)
	gaps.Tensors[1].Offset += 32
	gaps = reread(t, gaps)
	for name, c := range map[string]struct {
		h    *gguf.Header
		room int
		to   int
	}{
		"a part":              {model(t, "llama", 2, false), room, 1},
		"gaps":                {gaps, room, 2},
		"too little room":     {model(t, "llama", 2, false), 128, 2},
		"in several files":    {model(t, "llama", 2, false), 0, 2},
		"not aligned":         {model(t, "llama", 2, false), room + 8, 2},
		"of another's header": {model(t, "llama", 2, false), room, 2},
	} {
		t.Run(name, func(t *testing.T) {
			_, moved := behind(t, c.h, c.room)
			if name == "of another's header" {
				moved.DataOffset += 32
			}
			l, err := Lay(moved, protocol.Span{From: 0, To: c.to}, int64(c.room))
			if err != nil {
				t.Fatal(err)
			}
			if l.InPlace || len(l.Pieces) == 0 {
				t.Errorf("%d pieces, in place: %v", len(l.Pieces), l.InPlace)
			}
		})
	}
	if _, err := Lay(model(t, "bert", 2, true), protocol.Span{From: 0, To: 1}, room); err == nil {
		t.Error("what cannot be cut was laid out")
	}
}
