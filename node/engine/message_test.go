package engine

import (
	"errors"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
)

func FuzzMessages(f *testing.F) {
	b := &Batch{Rows: []Row{{1, 2}}, Tokens: []int32{3}, Outputs: []Output{{Sampling: &protocol.Sampling{Seed: 1 << 63, TopK: 3, History: []int32{7}}, Sampled: []int32{1}, Allowed: []uint64{1 << 63, 5}}}}
	f.Add(b.append(nil))
	f.Add((&Batch{Rows: []Row{{0, 0}, {0, 1}, {1, 0}}, Hidden: []float32{1, 2, 3}, Embed: true}).append(nil))
	f.Add((&Result{Embeddings: [][]float32{{1, 2}, nil, {3}}}).append(nil))
	f.Add((&Result{Hidden: []float32{1}, Tokens: []sample.Token{{ID: 4, Top: []sample.Top{{ID: 5}}, Labels: []float32{-1, -2}}}}).append(nil))
	f.Add(appendError(nil, remedy.For(ErrMemory, remedy.RaiseMemory, "a")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if b, err := parseBatch(raw); err == nil {
			if again, err := parseBatch(b.append(nil)); err != nil || len(again.Rows) != len(b.Rows) || again.Embed != b.Embed || !slices.EqualFunc(again.Outputs, b.Outputs, func(x, y Output) bool { return slices.Equal(x.Allowed, y.Allowed) }) {
				t.Fatal(err)
			}
		}
		if refused, malformed := parseError(opMemory, raw); malformed == nil && !errors.Is(refused, ErrMemory) {
			t.Fatal(refused)
		}
		if r, err := parseResult(raw); err == nil {
			again, err := parseResult(r.append(nil))
			if err != nil || !slices.EqualFunc(again.Embeddings, r.Embeddings, func(x, y []float32) bool { return len(x) == len(y) }) ||
				!slices.EqualFunc(again.Tokens, r.Tokens, func(x, y sample.Token) bool { return len(x.Labels) == len(y.Labels) }) {
				t.Fatal(err)
			}
		}
	})
}
