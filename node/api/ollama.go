package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Ollama's API, so that its clients work. It shares models, key and guards with OpenAI's.

func (s *server) ollamaChat(w http.ResponseWriter, r *http.Request) error {
	return s.ollamaComplete(w, r, decodeOllamaChat)
}

func (s *server) ollamaGenerate(w http.ResponseWriter, r *http.Request) error {
	return s.ollamaComplete(w, r, decodeOllamaGenerate)
}

func (s *server) ollamaComplete(w http.ResponseWriter, r *http.Request, decode func([]byte) (*ollamaJob, error)) error {
	began := time.Now()
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	j, err := decode(body)
	if err != nil {
		return err
	}
	a := &ollamaWriter{ollamaJob: j, w: w, asked: j.req.Model, began: began}
	if j.load {
		m, reason, err := s.loads(r.Context(), j.req.Model, j.kept)
		if err != nil {
			return err
		}
		a.asked = cmp.Or(a.asked, ollamaName(m))
		return a.write(a.piece("", "", nil), &ollamaMetrics{DoneReason: reason, TotalDuration: time.Since(began)})
	}
	leave, err := s.admit(1)
	if err != nil {
		return err
	}
	defer leave()
	defer func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }()
	defer func() {
		if a.start != nil {
			s.keeps(a.start.Model, j.kept)
		}
	}()
	err = s.follow(r, []*GenerateRequest{j.req}, func(_ int, e Event) error { return a.take(e) }, func() error { return nil })
	if err != nil && r.Context().Err() != nil {
		err = r.Context().Err()
	}
	if err != nil && a.begun {
		_ = a.line(ollamaError{AsError(err).Message})
	}
	return err
}

// ollamaWriter writes one answer: one line of JSON per piece, or one object.
type ollamaWriter struct {
	*ollamaJob
	w      http.ResponseWriter
	asked  string // the model, in the client's words if it named one
	began  time.Time
	start  *Start
	first  time.Time // when the first token arrived
	called int
	begun  bool // something was written
	over   bool

	text, thinking strings.Builder // of an answer that is not streamed, like the next two
	calls          []ollamaCall
	logprobs       []chatLogprob
}

func (a *ollamaWriter) take(e Event) error {
	switch {
	case e.Start != nil:
		a.start, a.first = e.Start, time.Now()
		a.asked = cmp.Or(a.asked, ollamaName(&Model{Name: e.Start.Name, ID: e.Start.Model}))
		h := a.w.Header()
		e.Start.head(h)
		if a.stream {
			h.Set("Trailer", "Server-Timing")
		}
		return nil
	case a.start == nil || a.over:
		return Errorf(Internal, "an answer's events came out of order")
	case e.Token != nil:
		t := e.Token.sendable()
		piece := a.piece(t.Text, t.Reasoning, t.Calls)
		if a.req.Sampling.Logprobs {
			piece.Logprobs = chatLogprobsOf([]Token{t})
		}
		return a.write(piece, nil)
	case e.Done != nil:
		d := e.Done.sendable()
		if a.stream {
			if err := a.write(a.piece(d.Text, d.Reasoning, d.Calls), nil); err != nil {
				return err
			}
			d.Text, d.Reasoning, d.Calls = "", "", nil
		}
		a.over = true
		m := &ollamaMetrics{DoneReason: d.FinishReason, TotalDuration: time.Since(a.began), PromptEvalCount: len(a.start.PromptTokens),
			PromptEvalDuration: time.Duration(d.TTFTMs * float64(time.Millisecond)), EvalCount: d.Tokens}
		m.LoadDuration = max(0, a.first.Sub(a.began)-m.PromptEvalDuration)
		if d.TokensPerS > 0 {
			m.EvalDuration = time.Duration(float64(d.Tokens) / d.TokensPerS * float64(time.Second))
		}
		if m.DoneReason == "tool_calls" { // Ollama's clients see the calls, and do not know this reason
			m.DoneReason = "stop"
		}
		a.w.Header().Set("Server-Timing", timingText(&d))
		return a.write(a.piece(d.Text, d.Reasoning, d.Calls), m)
	}
	return nil
}

// piece of an answer.
func (a *ollamaWriter) piece(text, thinking string, calls []ToolCall) *ollamaAnswer {
	out := &ollamaAnswer{Model: a.asked}
	if !a.chat {
		out.Response, out.Thinking = &text, thinking
		return out
	}
	out.Message = &ollamaMessage{Role: "assistant", Content: text, Thinking: thinking}
	for _, c := range calls {
		out.Message.ToolCalls = append(out.Message.ToolCalls, ollamaCall{c.ID, ollamaFunction{a.called, c.Function.Name, json.RawMessage(c.Function.Arguments)}})
		a.called++
	}
	return out
}

// write sends a piece of a stream. An answer that is not streamed is sent as a whole at
// its end, with metrics.
func (a *ollamaWriter) write(p *ollamaAnswer, end *ollamaMetrics) error {
	p.CreatedAt = time.Now().UTC()
	if end != nil {
		p.Done, p.ollamaMetrics = true, *end
	}
	if a.stream {
		if end == nil && p.empty() {
			return nil
		}
		return a.line(p)
	}
	if p.Message != nil {
		a.text.WriteString(p.Message.Content)
		a.thinking.WriteString(p.Message.Thinking)
		a.calls = append(a.calls, p.Message.ToolCalls...)
	} else {
		a.text.WriteString(*p.Response)
		a.thinking.WriteString(p.Thinking)
	}
	a.logprobs = append(a.logprobs, p.Logprobs...)
	if end == nil {
		return nil
	}
	text := a.text.String()
	p.Logprobs = a.logprobs
	if p.Message != nil {
		p.Message = &ollamaMessage{Role: "assistant", Content: text, Thinking: a.thinking.String(), ToolCalls: a.calls}
	} else {
		p.Response, p.Thinking = &text, a.thinking.String()
	}
	writeJSON(a.w, http.StatusOK, p)
	return nil
}

func (p *ollamaAnswer) empty() bool {
	if p.Message != nil {
		return p.Message.Content == "" && p.Message.Thinking == "" && p.Message.ToolCalls == nil && p.Logprobs == nil
	}
	return *p.Response == "" && p.Thinking == "" && p.Logprobs == nil
}

func (a *ollamaWriter) line(v any) error {
	if !a.begun {
		a.w.Header().Set("Content-Type", "application/x-ndjson")
		a.begun = true
	}
	return writeLine(a.w, v)
}

// ---- models ---------------------------------------------------------------

func (s *server) ollamaTags(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Library.List(r.Context())
	if err != nil {
		return err
	}
	out := ollamaModels{Models: []ollamaModel{}}
	for i := range list {
		m := ollamaModelOf(&list[i])
		m.ModifiedAt = &s.started
		out.Models = append(out.Models, m)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// ollamaName is a model's name with a tag, as Ollama writes it.
func ollamaName(m *Model) string {
	name := cmp.Or(m.Name, m.ID)
	if !strings.Contains(name, ":") {
		name += ":latest"
	}
	return name
}

// ollamaModelOf describes a model; what nobody knows is left out.
func ollamaModelOf(m *Model) ollamaModel {
	name := ollamaName(m)
	out := ollamaModel{Name: name, Model: name, Size: m.Size, Digest: m.ID, Details: ollamaDetails{
		Format: "gguf", Family: m.Architecture, ParameterSize: parameterSize(m.Parameters), QuantizationLevel: m.Quantization,
	}}
	if m.Architecture != "" {
		out.Details.Families = []string{m.Architecture}
	}
	return out
}

// parameterSize formats a number of parameters as Ollama does: 134.5M, 7.6B.
func parameterSize(n int64) string {
	for _, unit := range []struct {
		name string
		size float64
	}{{"B", 1e9}, {"M", 1e6}, {"K", 1e3}} {
		if x := float64(n) / unit.size; x >= 1 {
			return fmt.Sprintf("%.1f%s", x, unit.name)
		}
	}
	return ""
}

// ollamaPull fetches a model from peers.
func (s *server) ollamaPull(w http.ResponseWriter, r *http.Request) error {
	var req ollamaNamed
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	name := cmp.Or(req.Model, req.Name)
	if name == "" {
		return badParam("model", "is missing")
	}
	if _, err := visitOf(r.Context()).modelFor(name); err != nil { // nor may it fill the disk with others
		return err
	}
	digest := name
	if m, err := s.Library.Show(r.Context(), name); err == nil {
		digest = m.ID
	}
	stream, begun := deref(req.Stream, true), false
	return s.work(w, r, func(ctx context.Context, p func(Progress)) (any, error) {
		return s.Library.Pull(ctx, PullRequest{Model: name}, p)
	},
		func(l workLine) (lines []any) {
			if stream && !begun {
				lines, begun = append(lines, ollamaProgress{Status: "pulling manifest"}), true
			}
			switch {
			case l.Error != nil:
				lines = append(lines, ollamaError{l.Error.Message})
			case l.Result != nil:
				lines = append(lines, ollamaProgress{Status: "success"})
			case stream:
				lines = append(lines, ollamaProgress{"pulling " + digest[:min(12, len(digest))], digest, l.Progress.Total, l.Progress.Done})
			}
			return lines
		})
}

func (s *server) ollamaVersion(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]string{"version": ollamaVersion})
	return nil
}

func (s *server) ollamaRefuse(http.ResponseWriter, *http.Request) error {
	return Errorf(Forbidden, "models cannot be created, copied, pushed or removed through this API: the node's operator adds and removes them")
}

// looksForOllama reports whether a request is for the text by which Ollama's clients
// detect a server. Browsers, which ask for HTML, get the page instead.
func looksForOllama(r *http.Request) bool {
	return r.URL.Path == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead) && !strings.Contains(r.Header.Get("Accept"), "text/html")
}

func greet(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := w.Write([]byte("Ollama is running"))
	return err
}
