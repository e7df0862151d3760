package node_test

import (
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
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

// TestEcho: a completion that repeats its prompt, as programs ask that compare the
// likelihood of given texts.
func TestEcho(t *testing.T) {
	t.Parallel()
	n, _ := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
	type reply struct {
		Choices []struct {
			Text     string
			Finish   string `json:"finish_reason"`
			Logprobs *struct {
				Tokens []string
				Values []*float64           `json:"token_logprobs"`
				Top    []map[string]float64 `json:"top_logprobs"`
				Offset []int                `json:"text_offset"`
			}
		}
		Usage struct {
			Prompt int `json:"prompt_tokens"`
			Answer int `json:"completion_tokens"`
		}
	}
	complete := func(body string) (all reply) {
		t.Helper()
		w := httptest.NewRecorder()
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/v1/completions", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		n.Handler().ServeHTTP(w, req)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", body, w.Code, w.Body)
		}
		for line := range strings.Lines(w.Body.String()) {
			line = strings.TrimPrefix(strings.TrimSpace(line), "data: ")
			var one reply
			if line == "" || line == "[DONE]" {
				continue
			}
			if err := json.Unmarshal([]byte(line), &one); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			for i, c := range one.Choices {
				if len(all.Choices) <= i {
					all.Choices = append(all.Choices, c)
					continue
				}
				was := &all.Choices[i]
				was.Text += c.Text
				if c.Logprobs != nil {
					was.Logprobs.Values = append(was.Logprobs.Values, c.Logprobs.Values...)
					was.Logprobs.Offset = append(was.Logprobs.Offset, c.Logprobs.Offset...)
				}
			}
			if one.Usage.Prompt > 0 {
				all.Usage = one.Usage
			}
		}
		return all
	}
	ids, err := n.Client().Tokenize(t.Context(), tinymodel.Name, "Once upon a time there was a fox.", false)
	if err != nil {
		t.Fatal(err)
	}
	list, _ := json.Marshal(ids)
	for _, answer := range []int{0, 1} {
		body, _ := json.Marshal(map[string]any{"prompt": []json.RawMessage{list}, "max_tokens": answer, "echo": true, "logprobs": 2, "temperature": 0})
		got := complete(string(body))
		c := got.Choices[0]
		if got.Usage.Prompt != len(ids) || got.Usage.Answer != answer || !strings.HasPrefix(c.Text, "Once upon a time there was a fox.") || c.Logprobs == nil {
			t.Fatalf("%d tokens of an answer: %+v", answer, got)
		}
		l := c.Logprobs
		if len(l.Values) != len(ids)+answer || len(l.Tokens) != len(l.Values) || len(l.Top) != len(l.Values) || len(l.Offset) != len(l.Values) {
			t.Fatalf("lists of other lengths than the %d tokens: %+v", len(ids)+answer, l)
		}
		for i, v := range l.Values {
			if (v == nil) != (i == 0) || (l.Top[i] == nil) != (i == 0) || v != nil && *v > 0 {
				t.Errorf("token %d: %v %v", i, v, l.Top[i])
			}
		}
		stream := complete(strings.TrimSuffix(string(body), "}") + `,"stream":true}`)
		if s := stream.Choices[0]; s.Text != c.Text || !slices.Equal(s.Logprobs.Offset, l.Offset) {
			t.Errorf("streamed: %+v, whole: %+v", s, c)
		}
	}
	if got := complete(`{"prompt":"The fox","max_tokens":0}`); got.Choices[0].Text != "" || got.Usage.Answer != 0 || got.Choices[0].Finish != "length" {
		t.Errorf("no answer, and no echo: %+v", got)
	}
	if got := complete(`{"prompt":[` + string(list[1:len(list)-1]) + `],"max_tokens":2,"echo":true,"n":2}`); len(got.Choices) != 2 || !strings.HasPrefix(got.Choices[1].Text, "Once upon a time") || got.Choices[0].Logprobs != nil {
		t.Errorf("an echo of IDs without log probabilities: %+v", got)
	}
}
