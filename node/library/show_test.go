package library

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/survey"
)

// A model that only peers have is listed under one name before its first use and after
// it, whatever it is asked for by.
func TestOneSpelling(t *testing.T) {
	v := newVariants(t, 2)
	for _, asked := range []string{"smollm2-135m.q4_1", "SMOLLM2-135M.Q4_1", "SmolLM2:135m-q4_1", "smol", v.ids[0].String(), "other-name", "smollm2-135m.q4_1:latest"} {
		l := libraryOf(t, v, &crowd{
			claims:    []*survey.Claim{{ID: v.ids[0], Names: []string{"SmolLM2-135M.Q4_1", "smollm2-135m.q4_1", "other-name"}, Served: true, Whole: true, Groups: 1}},
			manifests: map[string][]byte{v.ids[0].KeyString(): v.raw[0]},
		})
		before, err := l.List(t.Context())
		if err != nil || len(before) != 1 || !before[0].Remote || !before[0].Served {
			t.Fatalf("%+v, %v", before, err)
		}
		m, _, err := l.Pick(t.Context(), asked)
		if err != nil {
			t.Errorf("%s: %v", asked, err)
			continue
		}
		after, err := l.List(t.Context())
		if err != nil || len(after) != 1 || after[0].Name != before[0].Name || m.Name() != before[0].Name || !after[0].Served {
			t.Errorf("%s: %+v, then %+v, %v", asked, before, after, err)
		}
		if again, _, err := l.Pick(t.Context(), asked); err != nil || again.ID() != m.ID() {
			t.Errorf("%s, again: %v", asked, err)
		}
	}
}

// Show of a model that only peers have gets its manifest, and says nothing of what only
// its header would say, which nobody has here.
func TestShowRemote(t *testing.T) {
	v := newVariants(t, 2)
	l := libraryOf(t, v, &crowd{
		claims:    []*survey.Claim{{ID: v.ids[0], Names: []string{"tales"}, Served: true, Whole: true, Groups: 1, Blocks: 8}, {ID: v.ids[1], Names: []string{"gone"}, Served: true, Blocks: 8}},
		manifests: map[string][]byte{v.ids[0].KeyString(): v.raw[0]},
	})
	synctest.Test(t, func(t *testing.T) {
		for _, name := range []string{"tales:latest", "tales"} {
			d, err := l.Show(t.Context(), name)
			if err != nil || d.Name != "tales" || d.Context == 0 || d.Architecture == "" || d.Facts != nil || d.Template != "" {
				t.Errorf("%s: %+v, %v", name, d, err)
			}
		}
		if d, err := l.Show(t.Context(), "gone:latest"); err != nil || d.Name != "gone" || !d.Remote || d.Context != 0 {
			t.Errorf("without a manifest: %+v, %v", d, err)
		}
		if _, err := l.Show(t.Context(), "nope"); api.AsError(err).Kind != api.UnknownModel {
			t.Errorf("of nobody: %v", err)
		}
	})
}

// Show of a model here has its header's facts.
func TestShowFacts(t *testing.T) {
	v := newVariants(t, 2)
	l := libraryOf(t, v, &crowd{})
	if _, err := l.Add(t.Context(), api.AddRequest{Source: v.files[0], Name: "tales"}, nil); err != nil {
		t.Fatal(err)
	}
	d, err := l.Show(t.Context(), "tales:latest")
	if err != nil || d.Template == "" || d.Facts["general.architecture"] != d.Architecture || d.Facts["tokenizer.ggml.tokens"] != nil || d.Facts["tokenizer.chat_template"] != nil {
		t.Errorf("%+v, %v", d, err)
	}
	s, err := l.Split(t.Context(), "tales", "The fox", false, true)
	if err != nil || len(s.IDs) == 0 || len(s.Pieces) != len(s.IDs) || s.Context != d.Context {
		t.Fatalf("%+v, %v", s, err)
	}
	if text, err := l.Join(t.Context(), "tales", s.IDs); err != nil || text != "The fox" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := l.Join(t.Context(), "tales", []int32{-1}); api.AsError(err).Kind != api.BadInput {
		t.Errorf("of no token: %v", err)
	}
	if s, err := l.Split(t.Context(), "tales", "", false, true); err != nil || s.IDs == nil {
		t.Errorf("of nothing: %+v, %v", s, err)
	}
	if sp, err := l.Special(t.Context(), "tales"); err != nil || sp.EOS == "" || sp.Template != d.Template {
		t.Errorf("%+v, %v", sp, err)
	}
}

// A name that nobody knows is sought for long only while the node meets its peers.
func TestPatience(t *testing.T) {
	l := libraryOf(t, newVariants(t, 2), &crowd{})
	synctest.Test(t, func(t *testing.T) {
		v := &resolver{store: l.store, names: l.names, net: &crowd{claims: []*survey.Claim{{Names: []string{"x"}}}}, began: time.Now()}
		v.survey = v.net.(*crowd)
		v.manifest = func(context.Context, cid.Cid) ([]byte, error) { return nil, exchange.ErrNotFound }
		var waits []time.Duration
		for range 2 {
			begin := time.Now()
			r, err := v.lookUp(t.Context(), &query{name: "nope"})
			if r != nil || err != nil {
				t.Fatal(r, err)
			}
			waits = append(waits, time.Since(begin))
			time.Sleep(meetingEnd)
		}
		if !slices.Equal(waits, []time.Duration{lookNew, lookLater}) {
			t.Errorf("waited %v", waits)
		}
	})
}

// The program's own model is found by its name with a tag, too, where there is no other.
func TestFindTagged(t *testing.T) {
	l := libraryOf(t, newVariants(t, 2), &crowd{})
	for _, name := range []string{"tinytales:latest", "tinytales", "tinytales:latest"} {
		if m, _, err := l.Pick(t.Context(), name); err != nil || m.Name() != "tinytales" {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	if _, err := l.Find(t.Context(), "tales:9m:latest", Want{}); api.AsError(err).Kind != api.UnknownModel {
		t.Errorf("a tag on a tag: %v", err)
	}
}
