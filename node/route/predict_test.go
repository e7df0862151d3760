package route

import (
	"testing"
	"time"
)

// Guesses that are right save a trip, and cost the slowest machine's time; stages of one
// machine do not compute at once.
func TestPredictAhead(t *testing.T) {
	far := distances{"a b": 20 * ms, "b c": 20 * ms, "a c": 20 * ms}
	for name, c := range map[string]struct {
		guessed  float64
		machines string // of a, b and c, one letter each
		want     time.Duration
	}{
		"without guesses":        {0, "   ", 90 * ms},
		"all are right":          {1, "   ", 10 * ms},
		"half of them":           {0.5, "   ", 50 * ms},
		"two share a machine":    {1, "xx ", 20 * ms},
		"one is alone":           {1, "x y", 10 * ms},
		"all share a machine":    {0.5, "xxx", 60 * ms},
		"more than all is all":   {7, "   ", 10 * ms},
		"less than none is none": {-7, "   ", 90 * ms},
	} {
		list := []Candidate{cand("a", 0, 10, ms), cand("b", 10, 20, ms), cand("c", 20, 30, ms)}
		for i := range list {
			list[i].Decode -= StageCost / 10
			if m := c.machines[i]; m != ' ' {
				list[i].Machine = string(m)
			}
		}
		r, err := Plan(Request{Client: "a", Blocks: 30, Prompt: 100, MaxTokens: 100, Guessed: c.guessed}, list, far)
		if err != nil {
			t.Fatal(err)
		}
		if p := r.Prediction; p.Token != c.want || p.Step != 90*ms {
			t.Errorf("%s: %s per token and %s per trip, want %s and 90ms", name, p.Token, p.Step, c.want)
		}
	}
}

// The chunks of a prompt are computed at once by stages of different machines, and one
// after the other by those of one.
func TestPredictSharedPrefill(t *testing.T) {
	ttft := func(machine string) time.Duration {
		list := []Candidate{cand("a", 0, 10, ms), cand("b", 10, 20, ms)}
		for i := range list {
			list[i].Prefill, list[i].Machine = ms/10, machine
		}
		r, err := Plan(Request{Client: "a", Blocks: 20, Prompt: 3 * Chunk, MaxTokens: 1}, list, distances{"a b": 0})
		if err != nil {
			t.Fatal(err)
		}
		return r.Prediction.TTFT
	}
	chunk := 64*ms + StageCost
	if apart, together := ttft(""), ttft("x"); apart != 4*chunk || together != 6*chunk {
		t.Errorf("%s apart and %s together, want %s and %s", apart, together, 4*chunk, 6*chunk)
	}
}

// One stage alone has no ring in which guesses could travel.
func TestPredictAlone(t *testing.T) {
	r, err := Plan(Request{Client: "a", Blocks: 10, Prompt: 1, MaxTokens: 1, Guessed: 1}, []Candidate{cand("a", 0, 10, ms)}, distances{})
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Prediction; p.Token != p.Step {
		t.Errorf("%s per token, want %s", p.Token, p.Step)
	}
}
