package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"
)

// responses answers POST /v1/responses, OpenAI's newer endpoint for chat. Answers are kept
// for a while, so that a request can continue from one.
func (s *server) responses(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	past := s.kept.of(r)
	j, err := decodeResponse(body, past)
	if err != nil {
		return err
	}
	leave, err := s.admit(1)
	if err != nil {
		return err
	}
	defer leave()
	a := &responseWriter{responseJob: j, w: w}
	a.out = a.begun(time.Now())
	if j.stream {
		defer func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }()
	}
	if err := a.follow(s, r); err != nil {
		if r.Context().Err() != nil {
			return r.Context().Err()
		}
		return a.fail(j.asAsked(failed(err)))
	}
	past.keep(j, a.out)
	// The last event of a stream comes after the answer is kept: who has read it may
	// continue from it.
	if j.stream {
		return a.send(&responseEvent{Type: "response." + a.out.Status, Response: a.out})
	}
	writeJSON(w, http.StatusOK, a.out)
	return nil
}

// inputTokens answers POST /v1/responses/input_tokens: how many tokens a request has.
func (s *server) inputTokens(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	j, err := decodeResponse(body, s.kept.of(r))
	if err != nil {
		return err
	}
	n, err := s.count(r, j.job)
	if err != nil {
		return j.asAsked(err)
	}
	writeJSON(w, http.StatusOK, struct {
		Object string `json:"object"`
		Tokens int    `json:"input_tokens"`
	}{"response.input_tokens", n})
	return nil
}

// count returns how many tokens the prompt of a job with one choice has.
func (s *server) count(r *http.Request, j *job) (int, error) {
	if s.Counter == nil {
		return 0, Errorf(NotFound, "this node does not count tokens")
	}
	req := j.reqs[0]
	var err error
	if req.Model, err = visitOf(r.Context()).modelFor(req.Model); err != nil {
		return 0, err
	}
	return s.Counter.Count(r.Context(), req)
}

// follow generates the answer. If the request wants it, the oldest turns of a
// conversation that does not fit are dropped until it does.
func (a *responseWriter) follow(s *server, r *http.Request) error {
	for {
		err := s.follow(r, a.reqs, func(_ int, e Event) error { return a.take(e) }, func() error {
			if !a.streaming {
				return nil
			}
			return put(a.w, []byte(stillAtIt))
		})
		if a.asked.Truncation != "auto" || a.start != nil || !errors.Is(err, &Error{Kind: TooLong}) {
			return err
		}
		shorter := dropOldest(a.reqs[0].Messages)
		if shorter == nil {
			return err
		}
		a.reqs[0].Messages = shorter
	}
}

// dropOldest returns a chat without its oldest turns: at least one, and an eighth of
// them, so that a long chat is not tried for ever. When there is only one turn, its
// oldest calls go, with their results. Instructions at the beginning stay. It returns nil
// if nothing can go.
func dropOldest(chat []Message) []Message {
	head := 0
	for head < len(chat) && chat[head].Role == "system" {
		head++
	}
	var turns, rounds []int // where they begin
	for i := head + 1; i < len(chat); i++ {
		switch chat[i].Role {
		case "user":
			turns = append(turns, i)
		case "assistant":
			rounds = append(rounds, i)
		}
	}
	if n := len(turns); n > 0 {
		return slices.Concat(chat[:head], chat[turns[n/8]:])
	}
	if len(rounds) < 2 { // the first round begins after the question, and there is no other
		return nil
	}
	rest := rounds[1:]
	return slices.Concat(chat[:head+1], chat[rest[len(rest)/8]:])
}

// responseWriter writes one response: at its end, or as a stream of events.
type responseWriter struct {
	*responseJob
	w         http.ResponseWriter
	out       *response
	start     *Start
	open      *responseItem // the last item of the output, while it is incomplete
	thought   int           // tokens of reasoning
	streaming bool          // the headers are sent
	sequence  int
	line      bytes.Buffer
}

// begun returns a response without output.
func (a *responseWriter) begun(now time.Time) *response {
	r := &a.asked
	out := &response{
		ID: newID("resp_"), Object: "response", CreatedAt: now.Unix(), Status: "in_progress", Model: r.Model, Output: []*responseItem{},
		MaxOutputTokens: r.MaxOutputTokens, Metadata: r.Metadata, ParallelToolCalls: deref(r.ParallelToolCalls, true),
		Temperature: r.Temperature, TopP: r.TopP, Tools: r.Tools, ToolChoice: r.ToolChoice, Truncation: cmp.Or(r.Truncation, "disabled"), Store: deref(r.Store, true),
		Text: responseText{deref(r.Text.Format, responseTextFormat{Type: "text"})},
	}
	if r.Instructions != "" {
		out.Instructions = &r.Instructions
	}
	if a.conv != "" {
		out.Conversation = &conversationRef{a.conv}
	}
	if r.PreviousResponseID != "" {
		out.PreviousResponseID = &r.PreviousResponseID
	}
	if r.Reasoning.Effort != "" {
		out.Reasoning.Effort = &r.Reasoning.Effort
	}
	if !present(out.Metadata) {
		out.Metadata = json.RawMessage("{}")
	}
	if !present(out.ToolChoice) {
		out.ToolChoice = json.RawMessage(`"auto"`)
	}
	if out.Tools == nil {
		out.Tools = []json.RawMessage{}
	}
	return out
}

func (a *responseWriter) take(e Event) error {
	switch {
	case e.Start != nil && a.start == nil:
		a.start = e.Start
		a.out.Model = cmp.Or(a.start.Name, a.start.Model)
		h := a.w.Header()
		a.start.head(h)
		if !a.stream {
			return nil
		}
		a.streaming = true
		h.Set("Content-Type", "text/event-stream")
		h.Set("Trailer", "Server-Timing")
		a.w.WriteHeader(http.StatusOK)
		if err := a.send(&responseEvent{Type: "response.created", Response: a.out}); err != nil {
			return err
		}
		return a.send(&responseEvent{Type: "response.in_progress", Response: a.out})
	case a.start == nil || a.out.Status != "in_progress":
		return Errorf(Internal, "an answer's events came out of order")
	case e.Token != nil:
		t := e.Token.sendable()
		if t.Reasoning != "" {
			a.thought++
		}
		var logprobs []chatLogprob
		if a.logprobs {
			logprobs = chatLogprobsOf([]Token{t})
		}
		return a.grow(t.Reasoning, t.Text, t.Calls, logprobs)
	case e.Done != nil:
		d := e.Done.sendable()
		if err := a.grow(d.Reasoning, d.Text, d.Calls, nil); err != nil {
			return err
		}
		return a.end(&d)
	case e.Repair != nil: // OpenAI has no event for it
		return nil
	}
	return Errorf(Internal, "an answer's events came out of order")
}

// grow adds to the output.
func (a *responseWriter) grow(thought, text string, calls []ToolCall, logprobs []chatLogprob) error {
	if thought != "" {
		if err := a.write("reasoning", thought, nil); err != nil {
			return err
		}
	}
	if text != "" {
		if err := a.write("message", text, logprobs); err != nil {
			return err
		}
	}
	for _, c := range calls {
		if err := a.call(c); err != nil {
			return err
		}
	}
	return nil
}

// write adds to an item of text, and begins one if the last item is of another kind.
func (a *responseWriter) write(kind, text string, logprobs []chatLogprob) error {
	if a.open == nil || a.open.Type != kind {
		if err := a.shut("completed"); err != nil {
			return err
		}
		item := &responseItem{ID: newID("msg_"), Type: kind, Status: "in_progress", Role: "assistant", Content: []responsePart{}}
		part := responsePart{Type: "output_text", Annotations: []struct{}{}, Logprobs: []chatLogprob{}}
		if kind == "reasoning" {
			item.ID, item.Role, item.Summary = newID("rs_"), "", []struct{}{}
			part = responsePart{Type: "reasoning_text"}
		}
		if err := a.add(item); err != nil {
			return err
		}
		a.open = item
		item.Content = append(item.Content, part)
		e := a.of("response.content_part.added")
		e.ContentIndex, e.Part = new(int), &part
		if err := a.send(e); err != nil {
			return err
		}
	}
	part := &a.open.Content[0]
	part.Text += text
	part.Logprobs = append(part.Logprobs, logprobs...)
	e := a.of("response." + part.Type + ".delta")
	e.ContentIndex, e.Delta = new(int), &text
	if part.Type == "output_text" {
		e.Logprobs = append([]chatLogprob{}, logprobs...)
	}
	return a.send(e)
}

// call adds a complete item: a call of what the caller offered.
func (a *responseWriter) call(c ToolCall) error {
	if err := a.shut("completed"); err != nil {
		return err
	}
	tool := a.tools.offered(c.Function.Name)
	item := &responseItem{ID: newID("fc_"), Type: "function_call", Status: "in_progress", CallID: c.ID, Name: tool.name, Namespace: tool.namespace}
	kind, text, into := "response.function_call_arguments", c.Function.Arguments, &item.Arguments
	if tool.custom {
		item.ID, item.Type = newID("ctc_"), "custom_tool_call"
		kind, text, into = "response.custom_tool_call_input", customInput(text), &item.Input
	}
	*into = new(string)
	if err := a.add(item); err != nil {
		return err
	}
	*into = &text
	e := a.of(kind + ".delta")
	e.Delta = &text
	if err := a.send(e); err != nil {
		return err
	}
	e = a.of(kind + ".done")
	if tool.custom {
		e.Input = &text
	} else {
		e.Name, e.Arguments = item.Name, &text
	}
	if err := a.send(e); err != nil {
		return err
	}
	return a.close(item, "completed")
}

// shut completes the open item, if there is one.
func (a *responseWriter) shut(status string) error {
	item := a.open
	if item == nil {
		return nil
	}
	a.open = nil
	part := item.Content[0]
	e := a.of("response." + part.Type + ".done")
	e.ContentIndex, e.Text, e.Logprobs = new(int), &part.Text, part.Logprobs
	if err := a.send(e); err != nil {
		return err
	}
	e = a.of("response.content_part.done")
	e.ContentIndex, e.Part = new(int), &part
	if err := a.send(e); err != nil {
		return err
	}
	return a.close(item, status)
}

func (a *responseWriter) add(item *responseItem) error {
	a.out.Output = append(a.out.Output, item)
	e := a.of("response.output_item.added")
	e.ItemID, e.Item = "", item
	return a.send(e)
}

func (a *responseWriter) close(item *responseItem, status string) error {
	item.Status = status
	e := a.of("response.output_item.done")
	e.ItemID, e.Item = "", item
	return a.send(e)
}

// of returns an event about the last item.
func (a *responseWriter) of(kind string) *responseEvent {
	last := len(a.out.Output) - 1
	return &responseEvent{Type: kind, OutputIndex: &last, ItemID: a.out.Output[last].ID}
}

// end completes the response. Its last event is sent by the caller.
func (a *responseWriter) end(d *Done) error {
	status := "completed"
	if d.FinishReason == "length" {
		status = "incomplete"
		a.out.IncompleteDetails = &incompleteDetails{"max_output_tokens"}
	}
	if len(a.out.Output) == 0 { // an empty answer is an item, too
		if err := a.write("message", "", nil); err != nil {
			return err
		}
	}
	if err := a.shut(status); err != nil {
		return err
	}
	a.out.Status = status
	u := &responseUsage{InputTokens: len(a.start.PromptTokens), OutputTokens: d.Tokens, TotalTokens: len(a.start.PromptTokens) + d.Tokens}
	u.InputDetails.CachedTokens = d.Cached
	u.OutputDetails.ReasoningTokens = a.thought
	a.out.Usage = u
	a.w.Header().Set("Server-Timing", timingText(d))
	return nil
}

// fail ends the request with an error: as a status while that is possible, else
// as the stream's last event.
func (a *responseWriter) fail(e *Error) error {
	if a.streaming {
		body := e.body().Error
		_ = a.send(&responseEvent{Type: "error", Code: e.Kind, Message: e.Message, Error: &body})
	}
	return e
}

// send writes an event of a stream.
func (a *responseWriter) send(e *responseEvent) error {
	if !a.stream {
		return nil
	}
	e.Sequence = a.sequence
	a.sequence++
	a.line.Reset()
	a.line.WriteString("event: " + e.Type + "\ndata: ")
	enc := json.NewEncoder(&a.line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return err
	}
	a.line.WriteByte('\n')
	return put(a.w, a.line.Bytes())
}
