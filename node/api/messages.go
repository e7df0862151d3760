package api

import (
	"bytes"
	"cmp"
	"encoding/json"

	"net/http"
	"strings"
	"time"
)

// Anthropic's API: /v1/messages, and /v1/models for its clients.

// messages answers POST /v1/messages.
func (s *server) messages(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	past := s.kept.of(r)
	j, err := decodeMessages(body, past, false)
	if err != nil {
		return err
	}
	leave, err := s.admit(1)
	if err != nil {
		return err
	}
	defer leave()
	if j.stream {
		defer func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }()
	}
	nameRequest(w)
	a := &messageWriter{messageJob: j, w: w, past: past}
	a.out = messageAnswer{ID: newID("msg_"), Type: "message", Role: "assistant", Content: []*messageBlock{}}
	err = s.follow(r, j.reqs, func(_ int, e Event) error { return a.take(e) }, a.ping)
	switch {
	case r.Context().Err() != nil:
		return r.Context().Err()
	case err != nil:
		return a.fail(j.asAsked(failed(err)))
	case !j.stream:
		writeJSON(w, http.StatusOK, &a.out)
	}
	return nil
}

// countTokens answers POST /v1/messages/count_tokens.
func (s *server) countTokens(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	j, err := decodeMessages(body, s.kept.of(r), true)
	if err != nil {
		return err
	}
	n, err := s.count(r, j.job)
	if err != nil {
		return j.asAsked(err)
	}
	nameRequest(w)
	writeJSON(w, http.StatusOK, map[string]int{"input_tokens": n})
	return nil
}

// nameRequest repeats the request's id under the name that Anthropic's clients read.
func nameRequest(w http.ResponseWriter) { w.Header().Set("Request-Id", w.Header().Get("X-Request-Id")) }

// messageWriter writes one answer: at its end, or as a stream of events.
type messageWriter struct {
	*messageJob
	w         http.ResponseWriter
	past      *recollection
	out       messageAnswer
	start     *Start
	open      *messageBlock // the last block, while it grows
	text      strings.Builder
	streaming bool // the headers are sent
	line      bytes.Buffer
}

func (a *messageWriter) take(e Event) error {
	switch {
	case e.Start != nil && a.start == nil:
		return a.begin(e.Start)
	case a.start == nil || a.out.StopReason != nil:
		return Errorf(Internal, "an answer's events came out of order")
	case e.Token != nil:
		return a.grow(e.Token.Reasoning, e.Token.Text, e.Token.Calls)
	case e.Done != nil:
		if err := a.grow(e.Done.Reasoning, e.Done.Text, e.Done.Calls); err != nil {
			return err
		}
		return a.end(e.Done)
	case e.Repair != nil: // Anthropic has no event for it
		return nil
	}
	return Errorf(Internal, "an answer's events came out of order")
}

func (a *messageWriter) begin(start *Start) error {
	a.start = start
	a.out.Model = cmp.Or(start.Name, start.Model)
	a.out.Usage.InputTokens = len(start.PromptTokens)
	h := a.w.Header()
	start.head(h)
	if !a.stream {
		return nil
	}
	a.streaming = true
	h.Set("Content-Type", "text/event-stream")
	h.Set("Trailer", "Server-Timing")
	a.w.WriteHeader(http.StatusOK)
	return a.send(&messageEvent{Type: "message_start", Message: &a.out})
}

// grow adds to the blocks.
func (a *messageWriter) grow(thought, text string, calls []ToolCall) error {
	if thought != "" && a.thoughts {
		if err := a.write("thinking", thought); err != nil {
			return err
		}
	}
	if text != "" {
		if err := a.write("text", text); err != nil {
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

// write adds to a block, and begins one if the last block is of another kind.
func (a *messageWriter) write(kind, text string) error {
	if a.open == nil || a.open.Type != kind {
		b := &messageBlock{Type: kind, Text: new(string)}
		if kind == "thinking" {
			b.Text, b.Thinking, b.Signature = nil, new(string), new(string)
		}
		if err := a.add(b); err != nil {
			return err
		}
	}
	a.text.WriteString(text)
	d := &messageDelta{Type: "text_delta", Text: &text}
	if kind == "thinking" {
		d = &messageDelta{Type: "thinking_delta", Thinking: &text}
	}
	return a.send(&messageEvent{Type: "content_block_delta", Index: a.last(), Delta: d})
}

// call adds a complete block.
func (a *messageWriter) call(c ToolCall) error {
	b := &messageBlock{Type: "tool_use", ID: "toolu_" + strings.TrimPrefix(c.ID, "call_"), Name: c.Function.Name, Input: json.RawMessage("{}")}
	if err := a.add(b); err != nil {
		return err
	}
	args := c.Function.Arguments
	if first([]byte(args)) == '{' && json.Valid([]byte(args)) {
		b.Input = json.RawMessage(args)
	}
	args = string(b.Input)
	d := &messageDelta{Type: "input_json_delta", JSON: &args}
	return a.send(&messageEvent{Type: "content_block_delta", Index: a.last(), Delta: d})
}

// add ends the open block and begins another.
func (a *messageWriter) add(b *messageBlock) error {
	if err := a.shut(); err != nil {
		return err
	}
	a.open = b
	a.out.Content = append(a.out.Content, b)
	if err := a.send(&messageEvent{Type: "content_block_start", Index: a.last(), Block: b}); err != nil || len(a.out.Content) > 1 {
		return err
	}
	return a.ping()
}

// signature ends a block of reasoning. Clients send it back as it is; nobody checks it.
const signature = "shoal"

// shut ends the open block, if there is one.
func (a *messageWriter) shut() error {
	b := a.open
	if b == nil {
		return nil
	}
	a.open = nil
	text := a.text.String()
	a.text.Reset()
	switch b.Type {
	case "text":
		b.Text = &text
	case "thinking":
		sign := signature
		b.Thinking, b.Signature = &text, &sign
		d := &messageDelta{Type: "signature_delta", Signature: &sign}
		if err := a.send(&messageEvent{Type: "content_block_delta", Index: a.last(), Delta: d}); err != nil {
			return err
		}
	}
	return a.send(&messageEvent{Type: "content_block_stop", Index: a.last()})
}

// last returns the index of the last block.
func (a *messageWriter) last() *int { return new(len(a.out.Content) - 1) }

// stopReasons has Anthropic's word for each reason by which an answer ends.
var stopReasons = map[string]string{"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

// end completes the answer.
func (a *messageWriter) end(d *Done) error {
	if len(a.out.Content) == 0 { // many clients read the first block unasked
		if err := a.add(&messageBlock{Type: "text", Text: new(string)}); err != nil {
			return err
		}
	}
	if err := a.shut(); err != nil {
		return err
	}
	end := &messageEnd{StopReason: new(cmp.Or(stopReasons[d.FinishReason], "end_turn"))}
	if d.FinishReason == "stop" && d.StopSequence != "" {
		end.StopReason, end.StopSequence = new("stop_sequence"), &d.StopSequence
	}
	u := &a.out.Usage
	u.CacheRead = min(d.Cached, u.InputTokens)
	u.InputTokens -= u.CacheRead
	u.OutputTokens = d.Tokens
	a.out.StopReason, a.out.StopSequence = end.StopReason, end.StopSequence
	a.w.Header().Set("Server-Timing", timingText(d))
	if a.asked.Thread != nil {
		a.past.keepThread(&a.asked, &a.out)
	}
	if err := a.send(&messageEvent{Type: "message_delta", Delta: &messageDelta{messageEnd: end}, Usage: u}); err != nil {
		return err
	}
	return a.send(&messageEvent{Type: "message_stop"})
}

// ping shows that the stream is alive.
func (a *messageWriter) ping() error { return a.send(&messageEvent{Type: "ping"}) }

// fail ends the request with an error: as a status while that is possible, else
// as the stream's last event.
func (a *messageWriter) fail(e *Error) error {
	_ = a.event("error", e.anthropic(a.w.Header().Get("X-Request-Id")))
	return e
}

func (a *messageWriter) send(e *messageEvent) error { return a.event(e.Type, e) }

// event writes an event of a stream that has begun.
func (a *messageWriter) event(kind string, v any) error {
	if !a.streaming {
		return nil
	}
	a.line.Reset()
	a.line.WriteString("event: " + kind + "\ndata: ")
	enc := json.NewEncoder(&a.line)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	a.line.WriteByte('\n')
	return put(a.w, a.line.Bytes())
}

// ---- errors ---------------------------------------------------------------

// speaksAnthropic reports whether a request is of Anthropic's API.
func speaksAnthropic(r *http.Request) bool {
	return r.URL.Path == "/v1/messages" || strings.HasPrefix(r.URL.Path, "/v1/messages/") || r.Header.Get("Anthropic-Version") != ""
}

// overloaded is the status that Anthropic's clients know for a server without room.
const overloaded = 529

// anthropicStatus returns the status of an error, and Anthropic's word for it.
func (e *Error) anthropicStatus() (status int, kind string) {
	switch status = e.status(); status {
	case http.StatusUnauthorized:
		kind = "authentication_error"
	case http.StatusForbidden:
		kind = "permission_error"
	case http.StatusNotFound:
		kind = "not_found_error"
	case http.StatusRequestEntityTooLarge:
		kind = "request_too_large"
	case http.StatusServiceUnavailable:
		if kind = "overloaded_error"; e.Kind == Refused {
			status = overloaded
		}
	default:
		if kind = "invalid_request_error"; status >= 499 {
			kind = "api_error"
		}
	}
	return status, kind
}

// anthropic returns Anthropic's error object.
func (e *Error) anthropic(request string) *messageError {
	out := &messageError{Type: "error", RequestID: request}
	_, out.Error.Type = e.anthropicStatus()
	out.Error.Message = e.Message
	switch e.Kind {
	case TooLong: // clients look for these words
		out.Error.Message = "prompt is too long: " + e.Message
	case NoThread:
		out.Error.Details = map[string]Kind{"error_code": NoThread}
	}
	return out
}

// ---- models ---------------------------------------------------------------

// messageModel describes a model to Anthropic's clients.
func (s *server) messageModel(o modelObject) messageModel {
	m := messageModel{Type: "model", ID: o.ID, DisplayName: o.ID, CreatedAt: s.started.UTC().Truncate(time.Second), Lifecycle: "active"}
	if o.Shoal.Context > 0 {
		m.Context, m.MaxTokens = &o.Shoal.Context, &o.Shoal.Context
	}
	return m
}

// messageModels writes a part of a list of models.
func (s *server) messageModels(w http.ResponseWriter, r *http.Request, list []modelObject) error {
	ids := make([]string, len(list))
	for i, o := range list {
		ids[i] = o.ID
	}
	q := r.URL.Query()
	from, to, err := pageOf(ids, q.Get("after_id"), q.Get("limit"), "limit")
	if err != nil {
		return err
	}
	out := struct {
		Data    []messageModel `json:"data"`
		HasMore bool           `json:"has_more"`
		FirstID *string        `json:"first_id"`
		LastID  *string        `json:"last_id"`
	}{Data: []messageModel{}, HasMore: to < len(list)}
	for _, o := range list[from:to] {
		out.Data = append(out.Data, s.messageModel(o))
	}
	if to > from {
		out.FirstID, out.LastID = &ids[from], &ids[to-1]
	}
	nameRequest(w)
	writeJSON(w, http.StatusOK, out)
	return nil
}
