package node_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// TestPromptLogprobs: what was drawn with some log probability has it again as a
// prompt, whichever stages compute it, and though other sessions share their passes.
func TestPromptLogprobs(t *testing.T) {
	t.Parallel()
	_, addrs := three(t)
	client, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	want, text := []api.Token{}, "Once upon a time"
	req := request(text, 0, 80)
	req.Sampling.Logprobs, req.Sampling.TopLogprobs = true, 3
	if err := client.Generator().Generate(t.Context(), &req, func(e api.Event) error {
		if e.Token != nil {
			want = append(want, *e.Token)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(want) < 70 { // more than one chunk
		t.Fatalf("an answer of %d tokens", len(want))
	}
	ids, first, _ := ask(t, client, request(text, 0, 1))
	ids = append(slices.Clone(first.PromptTokens), ids...)
	for _, w := range want[1 : len(want)-1] {
		ids = append(ids, w.ID)
	}

	score := func() (got []api.Token) {
		one := api.GenerateRequest{Model: tinymodel.Name, Raw: true, PromptIDs: ids, MaxTokens: 1, PromptLogprobs: true, Sampling: req.Sampling}
		if err := client.Generator().Generate(t.Context(), &one, func(e api.Event) error {
			if e.Start != nil {
				got = e.Start.Prompt
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		return got
	}
	results := make(chan []api.Token, 3)
	for range cap(results) {
		go func() { results <- score() }()
	}
	for range cap(results) {
		got := <-results
		if len(got) != len(ids) {
			t.Fatalf("%d of %d tokens have log probabilities", len(got), len(ids))
		}
		if got[0].Logprob != 0 || got[0].Top != nil {
			t.Errorf("the first token follows nothing, and has %+v", got[0])
		}
		for i, g := range got[len(first.PromptTokens):] {
			w := want[i]
			if g.ID != w.ID || math.Abs(g.Logprob-w.Logprob) > 0.02 || len(g.Top) != 3 || math.Abs(g.Top[0].Logprob-w.Top[0].Logprob) > 0.02 {
				t.Errorf("token %d: %+v, drawn as %+v", i, g, w)
			}
		}
		if text := joined(got[:len(first.PromptTokens)]); !strings.Contains(text, "Once upon a time") {
			t.Errorf("the prompt reads %q", text)
		}
	}
}

func joined(tokens []api.Token) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteString(t.Text)
	}
	return b.String()
}
