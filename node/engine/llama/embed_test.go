package llama

import (
	"math"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/node/engine/llama/random"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// A causal embedding model gives the same embeddings whole and in three spans, of many
// texts in a pass and of each alone.
func TestEmbedCausal(t *testing.T) {
	library(t)
	for _, m := range enginetest.RandomModels() {
		if m.Name != "qwen3" {
			continue
		}
		for name, kind := range map[string]uint32{"last": 3, "mean": 1} {
			path := m.File(t, 3, gguf.KV{Key: "qwen3.pooling_type", Value: kind})
			texts := [][]int32{enginetest.RandomPrompt(5), enginetest.RandomPrompt(1), enginetest.RandomPrompt(40)}
			together := embedThrough(t, path, texts, 0, 3)
			split := embedThrough(t, path, texts, 0, 1, 2, 3)
			for i, text := range texts {
				alone := embedThrough(t, path, [][]int32{text}, 0, 3)[0]
				if c := cosine(together[i], alone); c < 0.9999 {
					t.Errorf("%s: text %d in company: cosine %v", name, i, c)
				}
				if c := cosine(split[i], alone); c < 0.9999 {
					t.Errorf("%s: text %d in three spans: cosine %v", name, i, c)
				}
			}
			if c := cosine(together[0], together[1]); c > 0.999 {
				t.Errorf("%s: two texts have the same embedding", name)
			}
		}
	}
}

// embedThrough computes texts in one pass of each span, and returns their embeddings.
func embedThrough(t *testing.T, path string, texts [][]int32, cuts ...int) [][]float32 {
	t.Helper()
	b := &engine.Batch{Embed: true}
	for i, ids := range texts {
		b.Tokens = append(b.Tokens, ids...)
		for pos := range ids {
			b.Rows = append(b.Rows, engine.Row{Seq: i, Pos: int32(pos)})
		}
	}
	for i := range len(cuts) - 1 {
		e, err := Load(t.Context(), engine.Config{
			Path: stageFile(t, path, cuts[i], cuts[i+1]), From: cuts[i], To: cuts[i+1], KVTokens: 256, MaxSeqs: 8, MaxBatch: 128, Threads: 1, Embeds: true,
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := e.Run(t.Context(), b)
		if err == nil && i == len(cuts)-2 { // nothing of the texts has stayed
			res, err = e.Run(t.Context(), b)
		}
		_ = e.Close()
		if err != nil {
			t.Fatal(err)
		}
		if i == len(cuts)-2 {
			if len(res.Embeddings) != len(texts) {
				t.Fatalf("%d embeddings for %d texts", len(res.Embeddings), len(texts))
			}
			return res.Embeddings
		}
		b.Tokens, b.Hidden = nil, res.Hidden
	}
	return nil
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}

// Models of random weights make the library's own embeddings, of many texts in a pass
// and of each alone; causal ones in spans as well.
func TestEmbedRandom(t *testing.T) {
	lib := library(t)
	for _, m := range random.Embedders() {
		t.Run(m.Name, func(t *testing.T) {
			path, err := m.Write(lib.Dir, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			texts := [][]int32{enginetest.RandomPrompt(5), enginetest.RandomPrompt(1), enginetest.RandomPrompt(80)[20:], enginetest.RandomPrompt(30)[13:]}
			together := embedThrough(t, path, texts, 0, m.Blocks)
			var split [][]float32
			if m.Keys["attention.causal"] == nil {
				split = embedThrough(t, path, texts, 0, 1, 3, m.Blocks)
			}
			for i, text := range texts {
				want, err := random.Embed(lib.Dir, path, text, len(together[i]))
				if err != nil {
					t.Fatal(err)
				}
				for how, got := range map[string][]float32{"in company": together[i], "alone": embedThrough(t, path, [][]int32{text}, 0, m.Blocks)[0]} {
					if d := apart(got, want); d > 0.015 { // keys and values are of 16 bits in one of the two
						t.Errorf("text %d %s: apart by %v: %.4v, want %.4v", i, how, d, got[0], want[0])
					}
				}
				if split != nil && apart(split[i], want) > 0.015 {
					t.Errorf("text %d in spans: apart by %v", i, apart(split[i], want))
				}
			}
			if apart(together[2], together[0]) < 0.1 && apart(together[3], together[0]) < 0.1 {
				t.Errorf("other texts have nearly the same embedding: %v", together)
			}
		})
	}
}

// apart is how long the difference of two vectors is, as a part of the second's length
// or, where that is shorter, of 1: a score may be near 0.
func apart(a, b []float32) float64 {
	var diff, bb float64
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		diff += d * d
		bb += float64(b[i]) * float64(b[i])
	}
	return math.Sqrt(diff / max(bb, 1))
}
