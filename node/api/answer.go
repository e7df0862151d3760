package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// answer serves one completion request: one generation per choice, concurrently, as one
// object or as a stream of chunks.
//
//	generations -> events (a channel) -> run: the only goroutine that writes
//
// A generation waits while the client does not read, so that nothing piles up. When one
// fails, or the client disconnects, the others are cancelled, too.
type answer struct {
	*job
	s       *server
	w       http.ResponseWriter
	id      string
	created int64 // Unix seconds
	r       *http.Request

	model       string
	fingerprint string
	promptIDs   int
	begun       bool // a stream's headers are sent
	choices     []choiceState
	line        bytes.Buffer
}

// choiceState is the state of one choice.
type choiceState struct {
	start  *Start
	done   *Done
	text   strings.Builder // for whole answers only, like the next two
	think  strings.Builder
	calls  []ToolCall
	tokens []Token
	called int // function calls sent in a stream so far
	offset int // completions' logprobs: characters so far
}

// Times of a stream.
const (
	writeTime = 60 * time.Second // a client that reads nothing for this long has gone
	quietTime = 15 * time.Second // after this, a comment shows that the stream is alive

	// No empty line follows: some clients take that for an event.
	stillAtIt = ": still at it\n"
)

// traceHeader carries a caller's trace context (W3C Trace Context).
const traceHeader = "Traceparent"

func newAnswer(s *server, w http.ResponseWriter, r *http.Request, j *job) *answer {
	a := &answer{job: j, s: s, w: w, created: time.Now().Unix(), r: r, choices: make([]choiceState, len(j.reqs))}
	a.id = newID("cmpl-")
	if j.chat {
		a.id = newID("chatcmpl-")
	}
	return a
}

func (a *answer) run() error {
	if a.stream {
		deadline := http.NewResponseController(a.w)
		defer func() { _ = deadline.SetWriteDeadline(time.Time{}) }()
	}
	err := a.s.follow(a.r, a.reqs, a.take, func() error {
		if !a.begun {
			return nil
		}
		return a.put(stillAtIt)
	})
	if err != nil {
		return a.fail(err)
	}
	if a.stream {
		return a.endStream()
	}
	a.head(a.w.Header())
	a.w.Header().Set("Server-Timing", a.timing())
	writeJSON(a.w, http.StatusOK, a.whole())
	return nil
}

// failed returns an error as it is reported to the client. If the request's context is
// still alive, a cancelled error means that the node is stopping, so it becomes
// Refused.
func failed(err error) *Error {
	e := AsError(err)
	if e.Kind == Cancelled {
		e = &Error{Kind: Refused, Message: "the node ended the request: it is stopping", Err: err}
	}
	return e
}

// fail ends the request with an error: as a status while that is possible, else
// as the stream's last line. There is no [DONE] after it.
func (a *answer) fail(err error) error {
	if a.r.Context().Err() != nil {
		return a.r.Context().Err()
	}
	e := failed(err)
	if a.begun {
		_ = a.send(e.body())
	}
	return e
}

// take adds an event to its choice; in a stream it is sent immediately.
func (a *answer) take(i int, e Event) error {
	c := &a.choices[i]
	if a.noAnswer {
		left := withoutAnswer(e)
		if left == nil {
			return nil
		}
		e = *left
	}
	switch {
	case e.Start != nil && c.start == nil:
		start := e.Start.sendable()
		c.start = &start
		if ids := a.reqs[i].PromptIDs; ids != nil && !slices.Equal(ids, start.PromptTokens) {
			return Errorf(Internal, "the node read another prompt than the tokens that it was given")
		}
		a.model = cmp.Or(a.model, start.Name, start.Model)
		a.fingerprint = "fp_" + start.Model[max(0, len(start.Model)-12):]
		if i%a.n == 0 {
			a.promptIDs += len(start.PromptTokens)
		}
		if a.echo != nil {
			c.text.WriteString(a.echoed(i))
		}
	case c.start == nil || c.done != nil:
		return Errorf(Internal, "an answer's events came out of order")
	case e.Token != nil:
		token := e.Token.sendable()
		e.Token = &token
		if !a.stream {
			c.add(token.Text, token.Reasoning, token.Calls)
			if a.logprobs || a.ranks || a.details {
				c.tokens = append(c.tokens, token)
			}
		}
	case e.Repair != nil: // Done repeats it for a whole answer
	case e.Done != nil:
		done := e.Done.sendable()
		c.done = &done
		c.add(done.Text, done.Reasoning, done.Calls)
	default:
		return Errorf(Internal, "an answer's events came out of order")
	}
	if !a.stream {
		return nil
	}
	if !a.begun {
		a.begin()
	}
	switch {
	case e.Start != nil:
		return a.startChunk(i)
	case e.Token != nil:
		return a.tokenChunk(i, e.Token)
	case e.Repair != nil:
		if !a.details {
			return nil
		}
		return a.chunk(i, delta{}, nil, nil, &Details{Repair: e.Repair})
	}
	return a.doneChunk(i)
}

// add appends to a choice of a whole answer.
func (c *choiceState) add(text, think string, calls []ToolCall) {
	c.text.WriteString(text)
	c.think.WriteString(think)
	c.calls = append(c.calls, calls...)
}

// ---- a stream -----------------------------------------------------------

// begin sends the headers. The route is known by now; the timing follows as a trailer.
func (a *answer) begin() {
	a.begun = true
	h := a.w.Header()
	h.Set("Content-Type", "text/event-stream")
	a.head(h)
	h.Set("Trailer", "Server-Timing")
	a.w.WriteHeader(http.StatusOK)
}

func (a *answer) startChunk(i int) error {
	c := &a.choices[i]
	var d *Details
	if a.details {
		d = &Details{Start: c.start}
	}
	if !a.chat && a.echo == nil && !a.details {
		return nil
	}
	text := ""
	if a.echo != nil {
		text = a.echoed(i)
	}
	return a.chunk(i, delta{Role: "assistant", Content: &text}, a.promptLogprobs(i), nil, d)
}

func (a *answer) tokenChunk(i int, t *Token) error {
	piece, empty := a.delta(i, t.Text, t.Reasoning, t.Calls)
	if empty && !a.details && !a.logprobs {
		return nil // an incomplete character, or what may be a stop sequence
	}
	var d *Details
	if a.details {
		d = &Details{Tokens: []Token{*t}}
	}
	return a.chunk(i, piece, a.logprobsOf(i, []Token{*t}), nil, d)
}

func (a *answer) doneChunk(i int) error {
	done := a.choices[i].done
	if piece, empty := a.delta(i, done.Text, done.Reasoning, done.Calls); !empty {
		if err := a.chunk(i, piece, nil, nil, nil); err != nil {
			return err
		}
	}
	var d *Details
	if a.details {
		d = &Details{Done: done}
	}
	return a.chunk(i, delta{}, nil, &done.FinishReason, d)
}

// delta returns what was added to a choice; if nothing else was, it has an empty text.
func (a *answer) delta(i int, text, think string, calls []ToolCall) (d delta, empty bool) {
	c := &a.choices[i]
	for _, call := range calls {
		d.ToolCalls = append(d.ToolCalls, callDelta{c.called, call})
		c.called++
	}
	d.reasoning = reasoning{think, think}
	if text != "" || think == "" && calls == nil {
		d.Content = &text
	}
	return d, text == "" && think == "" && calls == nil
}

// chunk sends what was added to a choice, or, with finish, its end.
func (a *answer) chunk(i int, piece delta, logprobs any, finish *string, d *Details) error {
	ch := choice{Index: i, Logprobs: logprobs, FinishReason: finish}
	if a.chat {
		ch.Delta = &piece
	} else {
		ch.Text = cmp.Or(piece.Content, new(string))
	}
	out := a.object(".chunk")
	out.Choices = []choice{ch}
	out.Usage = usageField{shown: a.includeUsage}
	out.Shoal = d
	return a.send(out)
}

func (a *answer) endStream() error {
	if a.includeUsage {
		out := a.object(".chunk")
		out.Choices = []choice{}
		out.Usage = usageField{true, a.usage()}
		if err := a.send(out); err != nil {
			return err
		}
	}
	a.w.Header().Set("Server-Timing", a.timing())
	return a.put("data: [DONE]\n\n")
}

// send writes a line of the stream.
func (a *answer) send(v any) error {
	a.line.Reset()
	a.line.WriteString("data: ")
	enc := json.NewEncoder(&a.line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	a.line.WriteByte('\n')
	return a.put(a.line.String())
}

func (a *answer) put(text string) error { return put(a.w, []byte(text)) }

// ---- a whole answer -----------------------------------------------------

func (a *answer) whole() *completion {
	out := a.object("")
	for at, i := range a.best() {
		c := &a.choices[i]
		text := c.text.String()
		ch := choice{Index: at, FinishReason: &c.done.FinishReason, Logprobs: a.logprobsOf(i, slices.Concat(a.scored(i), c.tokens))}
		if a.chat {
			ch.Message = &message{Role: "assistant", ToolCalls: c.calls, reasoning: reasoning{c.think.String(), c.think.String()}}
			if text != "" || c.calls == nil {
				ch.Message.Content = &text
			}
		} else {
			ch.Text = &text
		}
		out.Choices = append(out.Choices, ch)
	}
	out.Usage = usageField{true, a.usage()}
	if a.details {
		c := &a.choices[0]
		out.Shoal = &Details{Start: c.start, Tokens: c.tokens, Done: c.done}
	}
	return out
}

// ---- what both share ----------------------------------------------------

// object returns an answer without choices; chat's chunks have another object name.
func (a *answer) object(chunk string) *completion {
	name := "text_completion"
	if a.chat {
		name = "chat.completion" + chunk
	}
	return &completion{ID: a.id, Object: name, Created: a.created, Model: a.model, SystemFingerprint: a.fingerprint}
}

func (a *answer) usage() *usage {
	u := &usage{PromptTokens: a.promptIDs}
	for i := range a.choices {
		done := a.choices[i].done
		u.CompletionTokens += done.Tokens
		if a := done.Ahead; a != nil {
			u.CompletionDetails.AcceptedPrediction += a.Kept
			u.CompletionDetails.RejectedPrediction += a.Sent - a.Kept
		}
		if i%a.n == 0 { // further choices of a prompt find it cached by the first
			u.PromptDetails.CachedTokens += done.Cached
		}
	}
	u.TotalTokens = u.PromptTokens + u.CompletionTokens
	return u
}

// head sets the headers of the first choice that has begun.
func (a *answer) head(h http.Header) {
	for i := range a.choices {
		if start := a.choices[i].start; start != nil {
			start.head(h)
			return
		}
	}
}

// head sets an answer's headers: its route and, if there is one, the warning.
func (s *Start) head(h http.Header) {
	h.Set("X-Shoal-Route", routeText(s.Route))
	if len(s.Route) > 0 { // a route lies in one network
		h.Set("X-Shoal-Swarm", cmp.Or(s.Route[0].Swarm, "open"))
	}
	if s.Warning != "" {
		h.Set("X-Shoal-Warning", s.Warning)
	}
}

// routeText formats a route for X-Shoal-Route: PEER:FROM-TO,...
func routeText(route []Hop) string {
	hops := make([]string, len(route))
	for i, h := range route {
		hops[i] = fmt.Sprintf("%s:%d-%d", h.Peer, h.From, h.To)
	}
	return strings.Join(hops, ",")
}

// timing returns the first choice's Server-Timing.
func (a *answer) timing() string { return timingText(a.choices[0].done) }

// timingText formats the value of Server-Timing.
func timingText(d *Done) string {
	text := fmt.Sprintf("ttft;dur=%.1f, decode;desc=\"%.2f tokens/s\"", d.TTFTMs, d.TokensPerS)
	if a := d.Ahead; a != nil {
		gain := ""
		if a.Gain > 0 {
			gain = fmt.Sprintf(", gain %.2f", a.Gain)
		}
		text += fmt.Sprintf(", ahead;desc=\"%d sent, %d kept%s\"", a.Sent, a.Kept, gain)
	}
	return text
}

// logprobsOf returns the log probabilities of consecutive tokens in the endpoint's
// format; nil if none were asked for.
func (a *answer) logprobsOf(i int, tokens []Token) any {
	if !a.logprobs {
		return nil
	}
	if a.chat {
		return &chatLogprobs{Content: chatLogprobsOf(tokens)}
	}
	c := &a.choices[i]
	out := &textLogprobs{Tokens: []string{}, TokenLogprobs: []*float64{}, TopLogprobs: []map[string]float64{}, TextOffset: []int{}}
	for _, t := range tokens {
		text := tokenText(t.Bytes, t.Text)
		out.Tokens = append(out.Tokens, text)
		out.TextOffset = append(out.TextOffset, c.offset)
		c.offset += utf8.RuneCountInString(text)
		if t.first {
			out.TokenLogprobs, out.TopLogprobs = append(out.TokenLogprobs, nil), append(out.TopLogprobs, nil)
			continue
		}
		out.TokenLogprobs = append(out.TokenLogprobs, new(t.Logprob))
		top := map[string]float64{}
		for _, x := range t.Top {
			if text := tokenText(x.Bytes, x.Text); !has(top, text) { // incomplete characters look alike: keep the most likely
				top[text] = x.Logprob
			}
		}
		out.TopLogprobs = append(out.TopLogprobs, top)
	}
	return out
}

func chatLogprobsOf(tokens []Token) []chatLogprob {
	out := []chatLogprob{}
	for _, t := range tokens {
		l := chatLogprob{Token: tokenText(t.Bytes, t.Text), Logprob: t.Logprob, Bytes: tokenBytes(t.Bytes, t.Text), Top: []chatTopLogprob{}}
		for _, x := range t.Top {
			l.Top = append(l.Top, chatTopLogprob{tokenText(x.Bytes, x.Text), x.Logprob, tokenBytes(x.Bytes, x.Text)})
		}
		out = append(out, l)
	}
	return out
}

func has(m map[string]float64, key string) bool { _, ok := m[key]; return ok }

// tokenText returns a token's text as OpenAI's API has it: a part of a character appears
// as U+FFFD, next to its bytes.
func tokenText(raw []byte, text string) string {
	if len(raw) == 0 {
		return text
	}
	return strings.ToValidUTF8(string(raw), "\uFFFD")
}

func tokenBytes(raw []byte, text string) []int {
	if len(raw) == 0 {
		raw = []byte(text)
	}
	out := make([]int, len(raw))
	for i, b := range raw {
		out[i] = int(b)
	}
	return out
}
