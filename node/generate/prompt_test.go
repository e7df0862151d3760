package generate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text"
)

// oneModel is the tiny model, in a store.
type oneModel struct {
	*store.Model
	tools *Tools
}

func tiny(t *testing.T) *oneModel {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tales.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.TempDir(), store.Options{Check: func(interface{ Value(string) any }) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	m, err := s.Add(t.Context(), file, store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := m.Header()
	if err != nil {
		t.Fatal(err)
	}
	return &oneModel{m, toolsOf(t, h)}
}

func (m *oneModel) Pick(_ context.Context, name string) (*store.Model, string, error) {
	if name != "" && name != m.Name() {
		return nil, "", api.Errorf(api.UnknownModel, "there is no model %q", name)
	}
	return m.Model, "", nil
}

func (m *oneModel) Tools(context.Context, *store.Model) (*Tools, error) { return m.tools, nil }

func (m *oneModel) Encode(ctx context.Context, by *text.Tokenizer, t string, opt text.EncodeOptions) ([]int32, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return by.Encode(ctx, t, opt)
}

// A prompt that no tokens of the model could hold is refused before it is tokenized.
func TestPromptTooLong(t *testing.T) {
	m := tiny(t)
	g := New(Config{Models: m})
	read := func(ctx context.Context, req *api.GenerateRequest) error {
		one := &generation{Generator: g, req: req}
		return one.readPrompt(ctx)
	}
	gone, leave := context.WithCancel(t.Context())
	leave() // so that nothing is tokenized
	long := strings.Repeat("word ", 1<<20)
	for _, req := range []*api.GenerateRequest{{Raw: true, Prompt: long}, {Messages: []api.Message{{Role: "user", Content: long}}}} {
		if err := read(gone, req); api.AsError(err).Kind != api.TooLong {
			t.Errorf("%v", err)
		}
	}
	if err := read(gone, &api.GenerateRequest{Raw: true, Prompt: "short"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that left got %v", err)
	}
	if err := read(t.Context(), &api.GenerateRequest{Raw: true, Prompt: "short"}); err != nil {
		t.Error(err)
	}
	// The bound holds for the densest text there is.
	densest := ""
	for id := range m.tools.VocabSize() {
		if s := m.tools.Token(int32(id)); len(s) > len(densest) {
			densest = s
		}
	}
	ids, err := m.tools.Encode(t.Context(), strings.Repeat(densest, 100), text.EncodeOptions{ParseSpecial: true})
	if err != nil || len(ids)*m.tools.Longest() < 100*len(densest) {
		t.Errorf("%d tokens of at most %d bytes for %d, %v", len(ids), m.tools.Longest(), 100*len(densest), err)
	}
}

// A prompt is refused with the kind that says what to change.
func TestPromptRefused(t *testing.T) {
	m := tiny(t)
	g := New(Config{Models: m})
	most := int(m.Manifest().Context)
	for name, test := range map[string]struct {
		req  api.GenerateRequest
		kind api.Kind
	}{
		"another model":       {api.GenerateRequest{Model: "other", Raw: true, Prompt: "a"}, api.UnknownModel},
		"nothing":             {api.GenerateRequest{Raw: true, PromptIDs: []int32{}}, api.BadInput},
		"a token of no model": {api.GenerateRequest{Raw: true, PromptIDs: []int32{int32(m.tools.VocabSize())}}, api.BadInput},
		"a full context":      {api.GenerateRequest{Raw: true, PromptIDs: make([]int32, most)}, api.TooLong},
	} {
		one := &generation{Generator: g, req: &test.req}
		err := one.readPrompt(t.Context())
		if err == nil || api.AsError(err).Kind != test.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	one := &generation{Generator: g, req: &api.GenerateRequest{Raw: true, PromptIDs: make([]int32, most-3), MaxTokens: 100}}
	if err := one.readPrompt(t.Context()); err != nil || one.limit != 3 {
		t.Errorf("limited to %d tokens, %v; there is room for 3", one.limit, err)
	}
}

// A prediction becomes tokens, no more of them than the answer has room for.
func TestPrediction(t *testing.T) {
	m := tiny(t)
	g := New(Config{Models: m})
	for _, test := range []struct {
		text        string
		limit, want int
	}{{"", 100, 0}, {"Once upon a time", 100, -1}, {strings.Repeat("Once upon a time é", 1<<16), 20, 20}} {
		one := &generation{Generator: g, req: &api.GenerateRequest{Raw: true, Prompt: "a", Prediction: test.text, MaxTokens: test.limit}}
		if err := one.readPrompt(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := m.tools.Encode(t.Context(), test.text[:min(len(test.text), 190)], text.EncodeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if test.want < 0 {
			test.want = len(all)
		}
		if len(one.expect) != test.want || !slices.Equal(one.expect, all[:test.want]) {
			t.Errorf("%.20q: %v, want %d tokens of %v", test.text, one.expect, test.want, all)
		}
		for _, limit := range []int{one.limit, 3} {
			if got := one.request(&planned{Route: &route.Route{}, limit: limit}).Expected; len(got) != min(limit, test.want) {
				t.Errorf("%d of %d tokens come with a session with room for %d", len(got), test.want, limit)
			}
		}
	}
}
