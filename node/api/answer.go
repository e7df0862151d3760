package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// answer serves one completion request: n choices for each prompt, generated
// side by side, as one object or as a stream of chunks.
type answer struct {
	s      *server
	w      http.ResponseWriter
	r      *http.Request
	q      *completionRequest
	g      []*GenerateRequest
	id     string
	object string
	chat   bool

	mu      sync.Mutex
	created int64
	begun   bool
	choices []choiceState
	model   string
	prompt  int // tokens
	failed  error
}

type choiceState struct {
	text   strings.Builder
	tokens []Token
	start  *Start
	done   *Done
}

func (a *answer) serve() error {
	a.created = now()
	n := len(a.g) * a.q.count()
	a.choices = make([]choiceState, n)
	ctx, cancel := context.WithCancel(a.r.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range n {
		g := *a.g[i/a.q.count()]
		if g.Sampling.Seed != nil && i%a.q.count() > 0 { // choices of one seed must differ
			seed := *g.Sampling.Seed + uint64(i%a.q.count())
			g.Sampling.Seed = &seed
		}
		wg.Go(func() {
			if err := a.s.Generator.Generate(ctx, &g, func(e Event) error { return a.event(i, e) }); err != nil {
				a.mu.Lock()
				if a.failed == nil {
					a.failed = err
				}
				a.mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	if a.failed != nil {
		if !a.begun {
			return a.failed
		}
		a.endStream(a.failed)
		return a.failed
	}
	if a.q.Stream {
		a.endStream(nil)
		return nil
	}
	a.headers()
	writeJSON(a.w, http.StatusOK, a.whole())
	return nil
}

func (a *answer) details() bool { return a.q.Shoal != nil && a.q.Shoal.Details }

// event takes what a generation tells. In a stream it goes on at once.
func (a *answer) event(i int, e Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &a.choices[i]
	switch {
	case e.Start != nil:
		c.start = e.Start
		a.model = e.Start.Name
		if i%a.q.count() == 0 {
			a.prompt += len(e.Start.PromptTokens)
		}
	case e.Token != nil:
		c.text.WriteString(e.Token.Text)
		c.tokens = append(c.tokens, *e.Token)
	case e.Done != nil:
		c.text.WriteString(e.Done.Text)
		c.done = e.Done
	}
	if !a.q.Stream {
		return nil
	}
	if !a.begun {
		a.begun = true
		a.headers()
		a.w.Header().Set("Content-Type", "text/event-stream")
		a.w.Header().Set("Cache-Control", "no-cache")
		a.w.WriteHeader(http.StatusOK)
	}
	return a.chunk(i, e)
}

// headers tells the route, which is known before the first token.
func (a *answer) headers() {
	for _, c := range a.choices {
		if c.start != nil {
			var hops []string
			for _, h := range c.start.Route {
				hops = append(hops, fmt.Sprintf("%s:%d-%d", h.Peer, h.From, h.To))
			}
			a.w.Header().Set("X-Shoal-Route", strings.Join(hops, ","))
			if c.done != nil {
				a.w.Header().Set("Server-Timing", fmt.Sprintf("ttft;dur=%.1f, tokens;desc=\"%.1f/s\"", c.done.TTFTMs, c.done.TokensPerS))
			}
			return
		}
	}
}

// The objects of OpenAI's API.
type (
	completion struct {
		ID      string   `json:"id"`
		Object  string   `json:"object"`
		Created int64    `json:"created"`
		Model   string   `json:"model"`
		Choices []choice `json:"choices"`
		Usage   *usage   `json:"usage,omitempty"`
		Shoal   *Details `json:"shoal,omitempty"`
	}
	choice struct {
		Index        int     `json:"index"`
		Message      *delta  `json:"message,omitempty"`
		Delta        *delta  `json:"delta,omitempty"`
		Text         *string `json:"text,omitempty"`
		Logprobs     any     `json:"logprobs"`
		FinishReason *string `json:"finish_reason"`
	}
	delta struct {
		Role    string  `json:"role,omitempty"`
		Content *string `json:"content,omitempty"`
		Refusal *string `json:"refusal,omitempty"`
	}
	usage struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
	}
	chatLogprobs struct {
		Content []chatLogprob `json:"content"`
	}
	chatLogprob struct {
		Token   string        `json:"token"`
		Logprob float64       `json:"logprob"`
		Bytes   []int         `json:"bytes"`
		Top     []chatLogprob `json:"top_logprobs,omitempty"`
	}
	textLogprobs struct {
		Tokens        []string             `json:"tokens"`
		TokenLogprobs []float64            `json:"token_logprobs"`
		TopLogprobs   []map[string]float64 `json:"top_logprobs"`
		TextOffset    []int                `json:"text_offset"`
	}
)

func (a *answer) logprobs(i int, tokens []Token) any {
	if !a.g[i/a.q.count()].Sampling.Logprobs {
		return nil
	}
	if a.chat {
		out := chatLogprobs{Content: []chatLogprob{}}
		for _, t := range tokens {
			l := chatLogprob{Token: t.Text, Logprob: t.Logprob, Bytes: bytesOf(t.Text)}
			for _, alt := range t.Top {
				l.Top = append(l.Top, chatLogprob{Token: alt.Text, Logprob: alt.Logprob, Bytes: bytesOf(alt.Text)})
			}
			out.Content = append(out.Content, l)
		}
		return out
	}
	out := textLogprobs{Tokens: []string{}, TokenLogprobs: []float64{}, TextOffset: []int{}}
	at := 0
	for _, t := range tokens {
		out.Tokens = append(out.Tokens, t.Text)
		out.TokenLogprobs = append(out.TokenLogprobs, t.Logprob)
		out.TextOffset = append(out.TextOffset, at)
		at += len(t.Text)
		top := map[string]float64{}
		for _, alt := range t.Top {
			top[alt.Text] = alt.Logprob
		}
		out.TopLogprobs = append(out.TopLogprobs, top)
	}
	return out
}

func bytesOf(s string) []int {
	out := []int{}
	for _, b := range []byte(s) {
		out = append(out, int(b))
	}
	return out
}

func (a *answer) usage() *usage {
	u := &usage{PromptTokens: a.prompt}
	for i := range a.choices {
		u.CompletionTokens += len(a.choices[i].tokens)
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// whole is the answer as one object.
func (a *answer) whole() *completion {
	out := &completion{ID: a.id, Object: a.object, Created: a.created, Model: a.model, Usage: a.usage()}
	for i := range a.choices {
		c := &a.choices[i]
		text := c.text.String()
		ch := choice{Index: i, FinishReason: &c.done.FinishReason, Logprobs: a.logprobs(i, c.tokens)}
		if a.chat {
			ch.Message = &delta{Role: "assistant", Content: &text}
		} else {
			ch.Text = &text
		}
		out.Choices = append(out.Choices, ch)
	}
	if a.details() {
		c := &a.choices[0]
		out.Shoal = &Details{Start: c.start, Tokens: c.tokens, Done: c.done}
	}
	return out
}

// chunk writes one event of a stream. Called with mu held.
func (a *answer) chunk(i int, e Event) error {
	object := a.object
	if a.chat {
		object += ".chunk"
	}
	out := &completion{ID: a.id, Object: object, Created: a.created, Model: a.model}
	ch := choice{Index: i}
	text := ""
	d := &delta{}
	switch {
	case e.Start != nil:
		if !a.chat && !a.details() {
			return nil
		}
		d.Role, d.Content = "assistant", &text
	case e.Token != nil:
		text = e.Token.Text
		if text == "" && !a.details() && !a.g[i/a.q.count()].Sampling.Logprobs {
			return nil // a character that is not whole yet
		}
		ch.Logprobs = a.logprobs(i, []Token{*e.Token})
		d.Content = &text
	case e.Done != nil:
		ch.FinishReason = &e.Done.FinishReason
		if text = e.Done.Text; text != "" {
			d.Content = &text
		}
	}
	if a.chat {
		ch.Delta = d
	} else {
		ch.Text = &text
	}
	out.Choices = []choice{ch}
	if a.details() {
		out.Shoal = &Details{Start: e.Start, Done: e.Done}
		if e.Token != nil {
			out.Shoal.Tokens = []Token{*e.Token}
		}
	}
	return a.write(out)
}

func (a *answer) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(a.w, "data: %s\n\n", b); err != nil {
		return err
	}
	return http.NewResponseController(a.w).Flush()
}

// endStream ends a stream: with usage if asked for, or with an error that came
// too late to be a status.
func (a *answer) endStream(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		e := AsError(err)
		out := struct {
			errorBody
			Shoal *Details `json:"shoal,omitempty"`
		}{errorBody: e.body()}
		if a.details() {
			out.Shoal = &Details{Error: e}
		}
		_ = a.write(out)
		return
	}
	if o := a.q.StreamOptions; o != nil && o.IncludeUsage {
		object := a.object
		if a.chat {
			object += ".chunk"
		}
		_ = a.write(&completion{ID: a.id, Object: object, Created: a.created, Model: a.model, Choices: []choice{}, Usage: a.usage()})
	}
	_, _ = fmt.Fprint(a.w, "data: [DONE]\n\n")
	_ = http.NewResponseController(a.w).Flush()
}
