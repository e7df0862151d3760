package enginetest

import (
	"encoding/json"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

// reference is a prompt with what a reference implementation made of it.
type reference struct {
	Prompt []int32
	Greedy []int32
	Steps  []map[int32]float64 // best tokens with logits or log probabilities
}

func readReference(t *testing.T, path string) (r reference) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		PromptTokens []int32           `json:"prompt_tokens"`
		PromptIDs    []int32           `json:"prompt_ids"`
		Tokens       []int32           `json:"tokens"`
		Greedy       []int32           `json:"greedy_tokens"`
		GreedyIDs    []int32           `json:"greedy_ids"`
		Steps        []json.RawMessage `json:"steps"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	r.Prompt = append(file.PromptTokens, file.PromptIDs...)
	r.Greedy = slices.Concat(file.Tokens, file.Greedy, file.GreedyIDs)
	for _, s := range file.Steps {
		var pairs struct {
			Top [][2]float64 `json:"top"`
		}
		var named struct {
			Top []struct {
				ID      int32
				Logprob float64
				Logit   float64
			}
		}
		top := map[int32]float64{}
		if json.Unmarshal(s, &pairs) == nil {
			for _, p := range pairs.Top {
				top[int32(p[0])] = p[1]
			}
		} else if err := json.Unmarshal(s, &named); err == nil {
			for _, p := range named.Top {
				top[p.ID] = p.Logprob + p.Logit
			}
		} else {
			t.Fatal(err)
		}
		r.Steps = append(r.Steps, top)
	}
	if len(r.Greedy) == 0 {
		for _, top := range r.Steps {
			best, at := math.Inf(-1), int32(-1)
			for id, v := range top {
				if v > best {
					best, at = v, id
				}
			}
			r.Greedy = append(r.Greedy, at)
		}
	}
	return r
}

// gap is how far the best token of a step is before the next.
func gap(step map[int32]float64) float64 {
	best := slices.Sorted(maps.Values(step))
	if len(best) < 2 {
		return math.Inf(1)
	}
	return best[len(best)-1] - best[len(best)-2]
}

// testReferences: text and numbers are those of the reference implementations.
func (b Backend) testReferences(t *testing.T) {
	for _, c := range []struct {
		model, file string
		equal       int     // greedy tokens that must be equal; 0: all
		near        float64 // log probabilities relative to the best
		steps       int     // so many of them
	}{
		{"stories260K.gguf", "stories260K.p1.json", 150, b.NearFull, 8},
		{"stories260K.gguf", "stories260K.p2.json", 150, b.NearFull, 8},
		{"SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2.p1.json", 0, b.NearQuantized, 8},
		{"SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2.p2.json", 0, b.NearQuantized, 8},
		{"tinytales/tinytales-f32.gguf", "tinytales/tinytales.p1.json", 0, b.NearFull, 8},
		{"tinytales/tinytales-f32.gguf", "tinytales/tinytales.p2.json", 0, b.NearFull, 8},
	} {
		t.Run(filepath.Base(c.file), func(t *testing.T) {
			ref := readReference(t, b.shared(t, c.file))
			e := b.cut(t, b.shared(t, c.model), 1)
			want := ref.Greedy
			if c.equal > 0 && c.equal < len(want) {
				want = want[:c.equal]
			}
			got := e.Generate(t, 0, ref.Prompt, len(want), 64, &protocol.Sampling{TopLogprobs: 5})
			if g := IDs(got); !slices.Equal(g, want) {
				n := 0
				for n < len(want) && g[n] == want[n] {
					n++
				}
				if n >= len(ref.Steps) || gap(ref.Steps[n]) > c.near {
					t.Errorf("greedy text differs from token %d of %d on", n, len(want))
				}
				t.Logf("the text differs from token %d on, where two tokens are as good", n)
				got = got[:n+1]
			}
			worst, sum, n := 0.0, 0.0, 0
			for i := range min(c.steps, len(ref.Steps), len(got)) {
				best := got[i].Top[0]
				for _, a := range got[i].Top[1:] {
					ra, ok1 := ref.Steps[i][a.ID]
					rb, ok2 := ref.Steps[i][best.ID]
					if ok1 && ok2 { // differences, whether the file gives logits or log probabilities
						off := math.Abs(float64(a.Logprob-best.Logprob) - (ra - rb))
						worst, sum, n = max(worst, off), sum+off, n+1
					}
				}
			}
			mean := sum / float64(max(1, n))
			t.Logf("%d tokens, largest difference %.4f, mean %.4f", len(want), worst, mean)
			if worst > c.near || mean > c.near/3 {
				t.Errorf("a log probability is off by %.4f, more than %.2f, or all by %.4f, more than a third of that", worst, c.near, mean)
			}
		})
	}
}
