package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
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
	asked := j.req.Model
	if j.req.Model, err = s.untag(r.Context(), asked); err != nil {
		return err
	}
	a := &ollamaWriter{ollamaJob: j, w: w, asked: asked, began: began}
	if j.load {
		if _, err := s.Library.Show(r.Context(), j.req.Model); err != nil {
			return err
		}
		return a.write(a.piece("", "", nil), &ollamaMetrics{DoneReason: "load", TotalDuration: time.Since(began)})
	}
	leave, err := s.admit(1)
	if err != nil {
		return err
	}
	defer leave()
	defer func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }()
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
	asked  string // the model, in the client's words
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

// untag returns a model's name here. Ollama's names have a tag, NAME:TAG, and NAME alone
// means NAME:latest; here the name includes everything, so smollm2:135m-instruct-q4_1
// may be SmolLM2-135M-Instruct.Q4_1. Names that could be a file or an address are
// refused.
func (s *server) untag(ctx context.Context, name string) (string, error) {
	base, tag, tagged := strings.Cut(name, ":")
	odd := strings.ContainsAny(name, `/\`) || strings.HasSuffix(strings.ToLower(name), ".gguf")
	if !tagged && !odd {
		return name, nil
	}
	list, err := s.Library.List(ctx)
	if err != nil {
		return "", err
	}
	words := []string{name}
	if tag == "latest" {
		words = append(words, base)
	}
	for _, word := range words {
		for i := range list {
			if m := &list[i]; strings.EqualFold(m.Name, word) || m.ID == word {
				return cmp.Or(m.Name, m.ID), nil
			}
		}
	}
	if odd {
		return "", Errorf(UnknownModel, "there is no model %q here: shoal model ls lists those there are, shoal model add brings others from files and addresses", name)
	}
	if tag == "latest" {
		return base, nil
	}
	var found []string
	for i := range list {
		if strings.HasPrefix(lettersOf(list[i].Name), lettersOf(name)) {
			found = append(found, cmp.Or(list[i].Name, list[i].ID))
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return "", Errorf(UnknownModel, "%d models here are called %q: shoal model ls lists those there are", len(found), name)
}

// lettersOf returns the letters and digits of a name, in lower case.
func lettersOf(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

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

func ollamaModelOf(m *Model) ollamaModel {
	name := cmp.Or(m.Name, m.ID)
	if !strings.Contains(name, ":") {
		name += ":latest"
	}
	return ollamaModel{Name: name, Model: name, Size: m.Size, Digest: m.ID, Details: ollamaDetails{
		Format: "gguf", Family: m.Architecture, Families: []string{m.Architecture},
		ParameterSize: parameterSize(m.Parameters), QuantizationLevel: m.Quantization,
	}}
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

// ollamaPS lists what this node serves, in whole or in part.
func (s *server) ollamaPS(w http.ResponseWriter, r *http.Request) error {
	st, err := s.Observer.Status(r.Context())
	if err != nil {
		return err
	}
	list, err := s.Library.List(r.Context())
	if err != nil {
		return err
	}
	out := ollamaModels{Models: []ollamaModel{}}
	never := time.Now().AddDate(100, 0, 0)
	for _, v := range st.Serving {
		if !v.Ready {
			continue
		}
		m := &Model{ID: v.Model, Name: v.Name}
		for i := range list {
			if list[i].ID == v.Model {
				m = &list[i]
			}
		}
		o, vram := ollamaModelOf(m), int64(0)
		o.Size, o.ContextLength, o.ExpiresAt, o.SizeVRAM = int64(v.Memory), m.Context, &never, &vram
		if slices.ContainsFunc(v.Devices, func(d string) bool { return !strings.HasPrefix(d, "CPU") }) {
			vram = o.Size
		}
		out.Models = append(out.Models, o)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *server) ollamaShow(w http.ResponseWriter, r *http.Request) error {
	var req ollamaNamed
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	name, err := s.untag(r.Context(), cmp.Or(req.Model, req.Name))
	if err != nil {
		return err
	}
	if name == "" {
		return badParam("model", "is missing")
	}
	m, err := s.Library.Show(r.Context(), name)
	if err != nil {
		return err
	}
	o := ollamaModelOf(m)
	writeJSON(w, http.StatusOK, ollamaShown{
		License: m.Licence, Details: o.Details, ModifiedAt: s.started,
		ModelInfo: map[string]any{
			"general.architecture": m.Architecture, "general.parameter_count": m.Parameters, "general.basename": m.Name,
			m.Architecture + ".context_length": m.Context, m.Architecture + ".block_count": m.Blocks, m.Architecture + ".embedding_length": m.Width,
		},
		Capabilities: append([]string{"completion"}, m.Abilities...),
	})
	return nil
}

// ollamaPull fetches a model from peers.
func (s *server) ollamaPull(w http.ResponseWriter, r *http.Request) error {
	var req ollamaNamed
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	name, err := s.untag(r.Context(), cmp.Or(req.Model, req.Name))
	if err != nil {
		return err
	}
	if name == "" {
		return badParam("model", "is missing")
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

func (s *server) ollamaEmbed(w http.ResponseWriter, r *http.Request) error {
	var req ollamaNamed
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	name, err := s.untag(r.Context(), req.Model)
	if err != nil {
		return err
	}
	return s.noEmbeddings(r.Context(), name)
}

func (s *server) ollamaRefuse(http.ResponseWriter, *http.Request) error {
	return Errorf(Forbidden, "models cannot be created, copied or removed through this API: use shoal model add and shoal model rm")
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
