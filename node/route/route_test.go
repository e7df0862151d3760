package route

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

type distances map[string]time.Duration

func (d distances) OneWay(a, b string) (time.Duration, bool) {
	if a > b {
		a, b = b, a
	}
	w, ok := d[a+" "+b]
	return w, ok
}

const ms = time.Millisecond

func cand(peer string, from, to int, perBlock time.Duration) Candidate {
	return Candidate{Peer: peer, Span: protocol.Span{From: from, To: to}, Decode: perBlock, KVFree: 4096, MaxContext: 4096}
}

func hops(r *Route) string {
	var b strings.Builder
	for _, h := range r.Hops {
		fmt.Fprintf(&b, "%s:%s ", h.Peer, h.Span)
	}
	return strings.TrimSpace(b.String())
}

func TestPlan(t *testing.T) {
	near := distances{"a b": 1 * ms, "b c": 1 * ms, "a c": 1 * ms, "a far": 80 * ms, "b far": 80 * ms, "c far": 80 * ms}
	thirds := []Candidate{cand("a", 0, 10, ms), cand("b", 10, 20, ms), cand("c", 20, 30, ms)}
	for name, c := range map[string]struct {
		cands []Candidate
		req   Request
		want  string
		step  time.Duration // without what each stage costs besides
	}{
		"three":                 {thirds, Request{}, "a:0-10 b:10-20 c:20-30", 33 * ms},
		"one is faster":         {append(slices.Clone(thirds), cand("d", 0, 30, ms)), Request{}, "d:0-30", 30 * ms},
		"one is slower":         {append(slices.Clone(thirds), cand("d", 0, 30, 2*ms)), Request{}, "a:0-10 b:10-20 c:20-30", 33 * ms},
		"a span that cannot be": {append(slices.Clone(thirds), cand("d", 0, 15, ms/2), cand("e", 15, 30, ms/2)), Request{Cuts: &protocol.Cuts{Blocks: 30, Edges: []int{10, 20}}}, "a:0-10 b:10-20 c:20-30", 33 * ms},
		"at most one stage":     {append(slices.Clone(thirds), cand("d", 0, 30, 2*ms)), Request{MaxStages: 1}, "d:0-30", 60 * ms},
		"the closing hop":       {[]Candidate{cand("far", 0, 10, 0), cand("a", 0, 10, 9*ms), cand("b", 10, 30, ms)}, Request{}, "a:0-10 b:10-30", 112 * ms},
		"an excluded peer":      {append(slices.Clone(thirds), cand("d", 0, 30, 3*ms)), Request{Exclude: map[string]bool{"b": true}}, "d:0-30", 90 * ms},
		"queues count":          {[]Candidate{cand("a", 0, 30, ms), {Peer: "b", Span: protocol.Span{From: 0, To: 30}, Decode: ms, Queue: 5 * ms, KVFree: 9999, MaxContext: 9999}}, Request{}, "a:0-30", 30 * ms},
		"forced, though worse":  {append(slices.Clone(thirds), cand("d", 0, 30, ms)), Request{Forced: []Hop{{"a", protocol.Span{From: 0, To: 10}}, {"b", protocol.Span{From: 10, To: 20}}, {"c", protocol.Span{From: 20, To: 30}}}}, "a:0-10 b:10-20 c:20-30", 33 * ms},
	} {
		c.req.Blocks, c.req.Client, c.req.Prompt, c.req.MaxTokens = 30, "a", 100, 100
		r, err := Plan(c.req, c.cands, near)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.step += time.Duration(len(r.Hops)) * StageCost
		if hops(r) != c.want || r.Prediction.Step != c.step {
			t.Errorf("%s: %s at %s, want %s at %s", name, hops(r), r.Prediction.Step, c.want, c.step)
		}
		if note := Compare(r, c.req, c.cands, near); (note != "") != strings.HasPrefix(name, "forced") {
			t.Errorf("%s: %q", name, note)
		}
	}
}

// A part of a ring is planned between its neighbours, and a kept prompt counts.
func TestPlanPart(t *testing.T) {
	d := distances{"x a": 1 * ms, "a y": 1 * ms, "b x": 30 * ms, "b y": 30 * ms}
	part := protocol.Span{From: 10, To: 20}
	req := Request{Blocks: 30, Span: part, Before: "x", After: "y", Prompt: 640, MaxTokens: 64}
	cands := []Candidate{cand("a", 10, 20, 2*ms), cand("b", 10, 20, ms), cand("whole", 0, 30, ms)}
	r, err := Plan(req, cands, d)
	if err != nil || hops(r) != "a:10-20" {
		t.Errorf("%v %v", r, err)
	}
	cands[1].Kept = 608
	if r, err = Plan(req, cands, d); err != nil || hops(r) != "b:10-20" {
		t.Errorf("with a kept prompt: %v %v", r, err)
	}
	req.Exclude = map[string]bool{"a": true, "b": true}
	if _, err = Plan(req, cands, d); err == nil || err.Error() != "nobody serves blocks 10-20" {
		t.Error(err)
	}
	cands[0].Unproven, req.Exclude = true, map[string]bool{"b": true}
	if _, err = Plan(req, cands, d); !errors.Is(err, ErrNotReady) {
		t.Error(err)
	}
	req.Unproven = true
	if r, err = Plan(req, cands, d); err != nil || hops(r) != "a:10-20" {
		t.Errorf("for a probe: %v %v", r, err)
	}
}

func TestNoRoute(t *testing.T) {
	thirds := []Candidate{cand("a", 0, 10, ms), cand("b", 10, 20, ms), cand("c", 20, 30, ms)}
	var gap *Uncovered
	_, err := Plan(Request{Blocks: 30}, []Candidate{thirds[0], thirds[2]}, distances{})
	if !errors.As(err, &gap) || !errors.Is(err, ErrNoServer) || err.Error() != "nobody serves blocks 10-20" {
		t.Error(err)
	}
	if _, err := Plan(Request{Blocks: 30, Prompt: 5000}, thirds, distances{}); !errors.Is(err, ErrNoRoom) {
		t.Error(err)
	}
	if _, err := Plan(Request{Blocks: 30}, []Candidate{cand("a", 0, 16, ms), cand("b", 12, 30, ms)}, distances{}); !errors.Is(err, ErrNoJoin) || !strings.Contains(err.Error(), "block 16") {
		t.Error(err)
	}
	if _, err := Plan(Request{Blocks: 30, Forced: []Hop{{"a", protocol.Span{From: 0, To: 10}}}}, thirds, distances{}); !errors.Is(err, ErrNoJoin) {
		t.Error(err)
	}
}

// The dynamic programme against trying everything.
func TestPlanIsBest(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 500 {
		blocks := 3 + rng.IntN(4)
		var cands []Candidate
		for i := range 3 + rng.IntN(6) {
			from := rng.IntN(blocks)
			cands = append(cands, cand(fmt.Sprint(i), from, from+1+rng.IntN(blocks-from), time.Duration(rng.IntN(9))*ms))
		}
		d := distances{}
		for i := range cands {
			for j := range i {
				d[fmt.Sprintf("%d %d", j, i)] = time.Duration(rng.IntN(30)) * ms
			}
		}
		req := Request{Blocks: blocks, MaxStages: rng.IntN(4)}
		best := time.Duration(math.MaxInt64)
		var try func(path []Candidate, at int)
		try = func(path []Candidate, at int) {
			if at == blocks {
				cost := time.Duration(0)
				for i, c := range path {
					w, _ := d.OneWay(c.Peer, path[(i+1)%len(path)].Peer)
					cost += c.decode(blocks) + w
				}
				best = min(best, cost)
				return
			}
			if req.MaxStages > 0 && len(path) == req.MaxStages {
				return
			}
			for _, c := range cands {
				if c.Span.From == at {
					try(append(slices.Clone(path), c), c.Span.To)
				}
			}
		}
		try(nil, 0)
		r, err := Plan(req, cands, d)
		if (err != nil) != (best == math.MaxInt64) {
			t.Fatalf("%v, best %s, of %v", err, best, cands)
		}
		if err == nil && r.Prediction.Step != best {
			t.Fatalf("%s at %s, best %s", hops(r), r.Prediction.Step, best)
		}
	}
}

// Whatever peers claim, there is neither a panic nor an overflow.
func FuzzPlan(f *testing.F) {
	f.Add(0, 10, int64(1), int64(1), int64(1), 100, 10, 20)
	f.Fuzz(func(t *testing.T, from, to int, decode, queue, oneWay int64, kv, from2, to2 int) {
		c := []Candidate{
			{Peer: "a", Span: protocol.Span{From: from, To: to}, Decode: time.Duration(decode), Queue: time.Duration(queue), KVFree: kv, MaxContext: 1 << 30},
			{Peer: "b", Span: protocol.Span{From: from2, To: to2}, Decode: time.Duration(queue), Prefill: time.Duration(decode), KVFree: 1 << 30, MaxContext: 1 << 30},
		}
		r, err := Plan(Request{Blocks: 20, Prompt: 10, MaxTokens: 10}, c, distances{"a b": time.Duration(oneWay)})
		if err == nil && (r.Prediction.Step < 0 || r.Prediction.TTFT < 0) {
			t.Fatal(r.Prediction)
		}
	})
}
