package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

// narrow is a Generator that has room for few answers at once.
type narrow struct {
	speller
	room    int64
	running atomic.Int64
	most    atomic.Int64
}

func (n *narrow) Generate(ctx context.Context, req *GenerateRequest, emit func(Event) error) error {
	now := n.running.Add(1)
	defer n.running.Add(-1)
	for most := n.most.Load(); now > most && !n.most.CompareAndSwap(most, now); most = n.most.Load() {
	}
	if now > n.room {
		return Errorf(Refused, "no room")
	}
	return n.speller.Generate(ctx, req, emit)
}

// TestBatch: many prompts and choices are generated a few at a time, and what finds no
// room beside the request's own others waits for them.
func TestBatch(t *testing.T) {
	for _, room := range []int64{1, 3, 1000} {
		n := &narrow{room: room}
		srv := start(t, &speller{}, func(c *Config) { c.Generator = n })
		prompts, err := json.Marshal(strings.Fields(strings.Repeat("ab cd ", 64)))
		if err != nil {
			t.Fatal(err)
		}
		resp, body := post(t, srv.URL+"/v1/completions", fmt.Sprintf(`{"prompt":%s}`, prompts))
		var got completion
		if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 || len(got.Choices) != 128 {
			t.Fatalf("room for %d: %d %.200s", room, resp.StatusCode, body)
		}
		for i, c := range got.Choices {
			if want := []string{"ab", "cd"}[i%2]; *c.Text != want || c.Index != i {
				t.Errorf("room for %d: choice %d is %q", room, i, *c.Text)
			}
		}
		if n.most.Load() > mostTogether {
			t.Errorf("%d at once", n.most.Load())
		}
	}
	n := &narrow{room: 0}
	srv := start(t, &speller{}, func(c *Config) { c.Generator = n })
	if resp, body := post(t, srv.URL+"/v1/completions", `{"prompt":["a","b"]}`); resp.StatusCode != 503 {
		t.Errorf("without room: %d %s", resp.StatusCode, body)
	}
}

// dice is a Generator whose choices differ in how likely they are, by their seed.
type dice struct{ speller }

func (d *dice) Generate(ctx context.Context, req *GenerateRequest, emit func(Event) error) error {
	return d.speller.Generate(ctx, req, func(e Event) error {
		if e.Token != nil {
			e.Token.Logprob = -float64(*req.Sampling.Seed % 5)
		}
		return emit(e)
	})
}

func TestBestOf(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.Generator = &dice{} })
	resp, body := post(t, srv.URL+"/v1/completions", `{"prompt":["x","y"],"seed":2,"n":2,"best_of":4}`)
	var got struct {
		Choices []struct {
			Index    int
			Text     string
			Logprobs any
		}
		Usage struct {
			CompletionTokens int `json:"completion_tokens"`
			PromptTokens     int `json:"prompt_tokens"`
		}
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	want := []string{"5:x", "2:x", "5:y", "2:y"}
	for i, c := range got.Choices {
		if c.Text != want[i] || c.Index != i || c.Logprobs != nil {
			t.Errorf("choice %d: %+v, want %q", i, c, want[i])
		}
	}
	if len(got.Choices) != 4 || got.Usage.CompletionTokens != 24 || got.Usage.PromptTokens != 2 {
		t.Errorf("%s", body)
	}
}
