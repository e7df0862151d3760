package scriptmodel

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// TestDictation: the file is read as a model, whose logits grow with a token's length.
func TestDictation(t *testing.T) {
	d := Dictation{Name: "dictated", Pieces: []string{"a", " ab", "\n\té", "ab"}, Blocks: 3}
	file, err := d.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := text.New(h)
	if err != nil {
		t.Fatal(err)
	}
	var output []byte
	for _, x := range h.Tensors {
		if x.Name == "output.weight" {
			output = file[h.DataOffset+int64(x.Offset):]
		}
	}
	logit := func(i int) float32 {
		return math.Float32frombits(binary.LittleEndian.Uint32(output[i*width*4:]))
	}
	for i, p := range d.Pieces {
		if got := tok.Token(int32(i)); got != p {
			t.Errorf("token %d is %q, not %q", i, got, p)
		}
		for j, q := range d.Pieces {
			if len(p) > len(q) != (logit(i) > logit(j)) {
				t.Errorf("%q %v, %q %v", p, logit(i), q, logit(j))
			}
		}
	}
	if logit(len(d.Pieces)) != 0 || !slices.Contains(tok.EOG(), int32(len(d.Pieces))) {
		t.Error("the token behind the pieces does not end answers")
	}
	if _, err := (Dictation{Blocks: 3}).GGUF(); err == nil {
		t.Error("a model without tokens")
	}
}
