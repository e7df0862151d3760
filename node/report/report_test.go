package report

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/fence"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

// A span that waits for its model shows what was asked for, and no figures.
func TestServing(t *testing.T) {
	span := protocol.Span{From: 1, To: 3}
	got := servingOf(serve.Snapshot{Spans: []serve.Span{
		{Target: "wanted", State: "looking for the model", Stage: stage.Status{Sessions: 9}},
		{Target: "loaded", Span: span, Loaded: true, Ready: true, EnginePID: 7, KVTokens: 5, Stage: stage.Status{Sessions: 2, KVFree: 4},
			Engine: engine.Info{Weights: 1, KV: 2, Graph: 3, Fence: &fence.Report{Holds: []string{"net"}}, Devices: []engine.Device{{Library: "CUDA", Name: "card"}}}},
	}})
	if s := got[0]; s.Name != "wanted" || s.Model != "" || s.Sessions != 0 || s.Ready {
		t.Errorf("%+v", s)
	}
	if s := got[1]; s.Sessions != 2 || s.KVFree != 4 || s.KVTokens != 5 || s.Memory != 6 || s.EnginePID != 7 || s.From != 1 || s.To != 3 || len(s.Fence) != 1 || s.Devices[0] != "CUDA card" {
		t.Errorf("%+v", s)
	}
	if s := servingOf(serve.Snapshot{}); s == nil {
		t.Error("nothing served is null in JSON")
	}
}

// Lists are never null in JSON, and no figure of a peer keeps an answer from being
// written.
func TestForJSON(t *testing.T) {
	raw, err := json.Marshal(coverageOf([]survey.Coverage{{Name: "m", Missing: []protocol.Span{{From: 1, To: 2}}}}))
	if want := `[{"model":"b","name":"m","blocks":0,"nodes":0,"missing":["1-2"],"coming":[]}]`; err != nil || string(raw) != want {
		t.Errorf("%s %v, want %s", raw, err, want)
	}
	if raw, _ := json.Marshal(coverageOf(nil)); string(raw) != "[]" {
		t.Errorf("%s", raw)
	}
	for in, want := range map[float64]float64{math.Inf(1): 0, -1: 0, 1e9: 0, 2.5: 2.5, math.Inf(-1): 0} {
		if got := finite(in); got != want {
			t.Errorf("%v: %v, want %v", in, got, want)
		}
	}
	if finite(math.NaN()) != 0 {
		t.Error("NaN")
	}
}

// What is served without the exact results that were asked for is a warning that says
// why, one per model; and nothing is where they were not asked for.
func TestInexact(t *testing.T) {
	span := func(name string, change func(*serve.Span)) serve.Span {
		s := serve.Span{Target: name, Loaded: true, Engine: engine.Info{Back: -1, Devices: []engine.Device{{Library: "CPU"}}}}
		change(&s)
		return s
	}
	snap := &serve.Snapshot{Spans: []serve.Span{
		span("exact", func(s *serve.Span) { s.Engine.Exact = true }),
		span("waits", func(s *serve.Span) { s.Loaded = false }),
		span("hybrid", func(s *serve.Span) { s.Engine.Back = 64 }),
		span("hybrid", func(s *serve.Span) { s.Engine.Back = 64 }),
		span("card", func(s *serve.Span) { s.Engine.Devices[0].Library = "CUDA" }),
		span("texts", func(s *serve.Span) { s.Engine.Pooling = engine.PoolMean }),
		span("other", func(*serve.Span) {}),
	}}
	own := []string{"of the program"}
	got := New(Config{Exact: true, Warnings: own}).warnings(snap)
	for i, words := range [][]string{{"of the program"}, {"hybrid is not", "recurrent"}, {"card is not", "graphics card"}, {"texts is not", "embeddings"}, {"other is not", "cannot"}} {
		for _, w := range words {
			if len(got) != 5 || !strings.Contains(got[i], w) {
				t.Errorf("warning %d does not say %q: %q", i, w, got)
			}
		}
	}
	if got := New(Config{Warnings: own}).warnings(snap); len(got) != 1 || len(own) != 1 {
		t.Errorf("not asked for: %q", got)
	}
}

// Histograms of lookups have all their bounds, also before there was any lookup, and where
// networks without any are added up.
func TestLookups(t *testing.T) {
	sum := network.Lookups{}.Plus(network.Lookups{}).Plus(network.Lookups{Hops: network.Distribution{Count: 2, Within: []uint64{0, 1, 2, 2, 2, 2, 2, 2}}})
	got := lookupsOf(sum.Plus(network.Lookups{}))
	if len(got.Hops.Buckets) != len(network.HopBounds) || got.Hops.Buckets[2] != 1 || got.Hops.Buckets[12] != 2 {
		t.Errorf("hops: %v", got.Hops)
	}
	if len(got.First.Buckets) != len(network.FirstBounds) || got.First.Buckets[8] != 0 {
		t.Errorf("first: %v", got.First)
	}
}
