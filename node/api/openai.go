package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"time"

	"crypto/rand"
	"encoding/hex"
)

// completionRequest is what OpenAI's clients send to both endpoints, with the
// extensions that others of its kind take. Fields that say nothing to us
// (user, metadata, store, ...) are passed over; those that would change the
// answer and are not supported are refused.
type completionRequest struct {
	Model            string           `json:"model"`
	Messages         []requestMessage `json:"messages"`
	Prompt           *promptList      `json:"prompt"`
	Stream           bool             `json:"stream"`
	StreamOptions    *streamOptions   `json:"stream_options"`
	MaxTokens        *int             `json:"max_tokens"`
	MaxCompletion    *int             `json:"max_completion_tokens"`
	N                *int             `json:"n"`
	BestOf           *int             `json:"best_of"`
	Stop             stringList       `json:"stop"`
	Temperature      *float64         `json:"temperature"`
	TopP             *float64         `json:"top_p"`
	TopK             *int             `json:"top_k"`
	MinP             *float64         `json:"min_p"`
	RepeatPenalty    *float64         `json:"repetition_penalty"`
	PresencePenalty  *float64         `json:"presence_penalty"`
	FrequencyPenalty *float64         `json:"frequency_penalty"`
	Seed             *int64           `json:"seed"`
	Logprobs         json.RawMessage  `json:"logprobs"` // chat: bool; completions: a number
	TopLogprobs      *int             `json:"top_logprobs"`
	Echo             bool             `json:"echo"`
	Suffix           *string          `json:"suffix"`
	Tools            json.RawMessage  `json:"tools"`
	LogitBias        map[string]any   `json:"logit_bias"`
	ResponseFormat   *responseFormat  `json:"response_format"`
	Shoal            *Extension       `json:"shoal"`
}

// Extension is what shoal's own clients may ask for besides.
type Extension struct {
	Details   bool  `json:"details,omitempty"` // answer with a Details
	Raw       bool  `json:"raw,omitempty"`     // completions: add no special tokens of the model's
	Route     []Hop `json:"route,omitempty"`
	MaxStages int   `json:"max_stages,omitempty"`
}

// Details of an answer, in its "shoal" field; of a stream in its chunks.
type Details struct {
	Start  *Start  `json:"start,omitempty"`
	Tokens []Token `json:"tokens,omitempty"`
	Done   *Done   `json:"done,omitempty"`
	Error  *Error  `json:"failure,omitempty"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type responseFormat struct {
	Type string `json:"type"`
}

// requestMessage takes content as a text or as a list of text parts.
type requestMessage struct {
	Role       string          `json:"role"`
	Content    json.RawMessage `json:"content"`
	Name       string          `json:"name"`
	ToolCalls  any             `json:"tool_calls"`
	ToolCallID string          `json:"tool_call_id"`
}

func (m *requestMessage) message(i int) (Message, error) {
	out := Message{Role: m.Role, Name: m.Name, ToolCalls: m.ToolCalls, ToolCallID: m.ToolCallID}
	param := fmt.Sprintf("messages[%d]", i)
	if m.Role == "" {
		return out, &Error{Kind: BadInput, Param: param + ".role", Message: "a message needs a role"}
	}
	raw := bytes.TrimSpace(m.Content)
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	switch {
	case len(raw) == 0 || string(raw) == "null":
	case json.Unmarshal(raw, &out.Content) == nil:
	case json.Unmarshal(raw, &parts) == nil:
		for _, p := range parts {
			if p.Type != "text" && p.Type != "input_text" {
				return out, &Error{Kind: BadInput, Param: param + ".content", Message: fmt.Sprintf("content of type %q: the models here read text", p.Type)}
			}
			out.Content += p.Text
		}
	default:
		return out, &Error{Kind: BadInput, Param: param + ".content", Message: "content must be a text or a list of text parts"}
	}
	return out, nil
}

// stringList takes one text or several.
type stringList []string

func (l *stringList) UnmarshalJSON(b []byte) error {
	var one *string
	if json.Unmarshal(b, &one) == nil {
		if one != nil {
			*l = []string{*one}
		}
		return nil
	}
	var many []string
	if json.Unmarshal(b, &many) != nil {
		return &Error{Kind: BadInput, Param: "stop", Message: "stop must be a text or a list of texts"}
	}
	*l = many
	return nil
}

// promptList takes one text or several.
type promptList []string

func (l *promptList) UnmarshalJSON(b []byte) error {
	var s stringList
	if s.UnmarshalJSON(b) != nil {
		return &Error{Kind: BadInput, Param: "prompt", Message: "prompt must be a text or a list of texts"}
	}
	*l = promptList(s)
	return nil
}

// generate makes the inner request of what both endpoints share.
func (q *completionRequest) generate() (*GenerateRequest, error) {
	bad := func(param, format string, args ...any) error {
		return &Error{Kind: BadInput, Param: param, Message: fmt.Sprintf(format, args...)}
	}
	g := &GenerateRequest{Model: q.Model, Stop: q.Stop}
	between := func(param string, v *float64, low, high float64) (float64, error) {
		if v == nil {
			return 0, nil
		}
		if math.IsNaN(*v) || *v < low || *v > high {
			return 0, bad(param, "%s must lie between %g and %g", param, low, high)
		}
		return *v, nil
	}
	var err error
	for _, f := range []struct {
		param     string
		from      *float64
		to        *float64
		low, high float64
	}{
		{"temperature", q.Temperature, new(float64), 0, 100},
		{"top_p", q.TopP, &g.Sampling.TopP, 0, 1},
		{"min_p", q.MinP, &g.Sampling.MinP, 0, 1},
		{"repetition_penalty", q.RepeatPenalty, &g.Sampling.RepeatPenalty, 0, 100},
		{"presence_penalty", q.PresencePenalty, &g.Sampling.PresencePenalty, -100, 100},
		{"frequency_penalty", q.FrequencyPenalty, &g.Sampling.FrequencyPenalty, -100, 100},
	} {
		if *f.to, err = between(f.param, f.from, f.low, f.high); err != nil {
			return nil, err
		}
	}
	g.Sampling.Temperature = q.Temperature
	if q.TopK != nil {
		if *q.TopK < 0 {
			return nil, bad("top_k", "top_k must not be negative")
		}
		g.Sampling.TopK = *q.TopK
	}
	if q.Seed != nil {
		seed := uint64(*q.Seed)
		g.Sampling.Seed = &seed
	}
	for _, m := range []*int{q.MaxTokens, q.MaxCompletion} {
		if m != nil {
			if *m < 1 {
				return nil, bad("max_tokens", "max_tokens must be at least 1")
			}
			g.MaxTokens = *m
		}
	}
	if len(q.Stop) > 16 {
		return nil, bad("stop", "more than 16 stop sequences")
	}
	for _, s := range q.Stop {
		if s == "" || len(s) > 1024 {
			return nil, bad("stop", "a stop sequence must have 1 to 1024 bytes")
		}
	}
	switch {
	case q.N != nil && (*q.N < 1 || *q.N > 16):
		return nil, bad("n", "n must lie between 1 and 16")
	case q.BestOf != nil && *q.BestOf > 1:
		return nil, bad("best_of", "best_of is not supported")
	case q.Suffix != nil && *q.Suffix != "":
		return nil, bad("suffix", "suffix is not supported")
	case q.Echo:
		return nil, bad("echo", "echo is not supported")
	case len(q.LogitBias) > 0:
		return nil, bad("logit_bias", "logit_bias is not supported")
	case q.ResponseFormat != nil && q.ResponseFormat.Type != "" && q.ResponseFormat.Type != "text":
		return nil, bad("response_format", "response_format %q is not supported yet", q.ResponseFormat.Type)
	}
	if t := bytes.TrimSpace(q.Tools); len(t) > 0 && string(t) != "null" && string(t) != "[]" {
		return nil, bad("tools", "tools are not supported yet")
	}
	if x := q.Shoal; x != nil {
		g.Route, g.MaxStages, g.Raw = x.Route, x.MaxStages, x.Raw
	}
	return g, nil
}

func (q *completionRequest) count() int {
	if q.N == nil {
		return 1
	}
	return *q.N
}

const maxTopLogprobs = 20

func (s *server) chat(w http.ResponseWriter, r *http.Request) error {
	var q completionRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	g, err := q.generate()
	if err != nil {
		return err
	}
	if len(q.Messages) == 0 {
		return &Error{Kind: BadInput, Param: "messages", Message: "messages must hold at least one message"}
	}
	for i := range q.Messages {
		m, err := q.Messages[i].message(i)
		if err != nil {
			return err
		}
		g.Messages = append(g.Messages, m)
	}
	if g.Raw {
		return &Error{Kind: BadInput, Param: "shoal.raw", Message: "raw prompts go to /v1/completions"}
	}
	if l := bytes.TrimSpace(q.Logprobs); len(l) > 0 && string(l) != "null" {
		if err := json.Unmarshal(l, &g.Sampling.Logprobs); err != nil {
			return &Error{Kind: BadInput, Param: "logprobs", Message: "logprobs must be true or false"}
		}
	}
	if q.TopLogprobs != nil {
		if *q.TopLogprobs < 0 || *q.TopLogprobs > maxTopLogprobs {
			return &Error{Kind: BadInput, Param: "top_logprobs", Message: fmt.Sprintf("top_logprobs must lie between 0 and %d", maxTopLogprobs)}
		}
		g.Sampling.TopLogprobs = *q.TopLogprobs
	}
	a := &answer{s: s, w: w, r: r, q: &q, g: []*GenerateRequest{g}, id: newID("chatcmpl-"), object: "chat.completion", chat: true}
	return a.serve()
}

func (s *server) completions(w http.ResponseWriter, r *http.Request) error {
	var q completionRequest
	if err := readJSON(r, &q); err != nil {
		return err
	}
	g, err := q.generate()
	if err != nil {
		return err
	}
	if q.Prompt == nil || len(*q.Prompt) == 0 {
		return &Error{Kind: BadInput, Param: "prompt", Message: "prompt is missing"}
	}
	if len(*q.Prompt) > 16 {
		return &Error{Kind: BadInput, Param: "prompt", Message: "more than 16 prompts"}
	}
	if l := bytes.TrimSpace(q.Logprobs); len(l) > 0 && string(l) != "null" {
		var k int
		if err := json.Unmarshal(l, &k); err != nil || k < 0 || k > maxTopLogprobs {
			return &Error{Kind: BadInput, Param: "logprobs", Message: fmt.Sprintf("logprobs must be a number from 0 to %d", maxTopLogprobs)}
		}
		g.Sampling.Logprobs, g.Sampling.TopLogprobs = true, k
	}
	if q.MaxTokens == nil && (q.Shoal == nil || !q.Shoal.Details) {
		g.MaxTokens = 16 // OpenAI's default for this endpoint
	}
	var all []*GenerateRequest
	for _, p := range *q.Prompt {
		one := *g
		one.Prompt, one.Raw = p, true
		all = append(all, &one)
	}
	a := &answer{s: s, w: w, r: r, q: &q, g: all, id: newID("cmpl-"), object: "text_completion"}
	return a.serve()
}

func newID(prefix string) string {
	b := make([]byte, 12)
	_, _ = rand.Read(b)
	return prefix + hex.EncodeToString(b)
}

// modelObject is a model as OpenAI lists it.
type modelObject struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (s *server) models(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Library.List(r.Context())
	if err != nil {
		return err
	}
	out := struct {
		Object string        `json:"object"`
		Data   []modelObject `json:"data"`
	}{"list", []modelObject{}}
	for _, m := range list {
		out.Data = append(out.Data, modelObject{m.Name, "model", s.started.Unix(), "shoal"})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *server) model(w http.ResponseWriter, r *http.Request) error {
	m, err := s.Library.Show(r.Context(), r.PathValue("model"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, modelObject{m.Name, "model", s.started.Unix(), "shoal"})
	return nil
}

func now() int64 { return time.Now().Unix() }
