package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"time"
)

// mostTexts is how many texts a request may have, as with OpenAI.
const mostTexts = 2048

// embeddingsRequest is OpenAI's.
type embeddingsRequest struct {
	Model      string          `json:"model"`
	Input      json.RawMessage `json:"input"` // a text, or its tokens, or a list of either
	Dimensions *int            `json:"dimensions"`
	Format     string          `json:"encoding_format"` // float or base64
}

// embeddingsReply is OpenAI's.
type embeddingsReply struct {
	Object string            `json:"object"` // list
	Data   []embeddingObject `json:"data"`
	Model  string            `json:"model"`
	Usage  embeddingUsage    `json:"usage"`
}

type embeddingObject struct {
	Object    string `json:"object"` // embedding
	Index     int    `json:"index"`
	Embedding any    `json:"embedding"` // numbers, or their bytes in base64: F32, little-endian
}

type embeddingUsage struct {
	PromptTokens int `json:"prompt_tokens"`
	TotalTokens  int `json:"total_tokens"`
}

// embeddings answers POST /v1/embeddings.
func (s *server) embeddings(w http.ResponseWriter, r *http.Request) error {
	var req embeddingsRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if f := req.Format; f != "" && f != "float" && f != "base64" {
		return badParam("encoding_format", "must be float or base64")
	}
	if req.Dimensions != nil && *req.Dimensions < 1 {
		return badParam("dimensions", "must be at least 1, not %d", *req.Dimensions)
	}
	texts, err := textsOf("input", req.Input)
	if err != nil {
		return err
	}
	out, err := s.embed(r, &EmbedRequest{Model: req.Model, Texts: texts, Dimensions: deref(req.Dimensions, 0)})
	if err != nil {
		return err
	}
	reply := embeddingsReply{Object: "list", Data: make([]embeddingObject, len(out.Embeddings)), Model: cmp.Or(out.Name, out.Model), Usage: embeddingUsage{out.Count(), out.Count()}}
	for i, e := range out.Embeddings {
		reply.Data[i] = embeddingObject{Object: "embedding", Index: i, Embedding: e}
		if req.Format == "base64" {
			reply.Data[i].Embedding = base64Of(e)
		}
	}
	writeJSON(w, http.StatusOK, reply)
	return nil
}

// base64Of writes numbers as F32, little-endian, in base64.
func base64Of(x []float32) string {
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		bits := math.Float32bits(v)
		b = append(b, byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24))
	}
	return base64.StdEncoding.EncodeToString(b)
}

// textsOf reads texts: one, or its tokens, or a list of either. Errors name the field.
func textsOf(param string, raw json.RawMessage) ([]EmbedText, error) {
	switch first(raw) {
	case 0, 'n':
		return nil, badParam(param, "is missing")
	case '"':
		t, err := textOf(param, raw)
		return []EmbedText{t}, err
	case '[':
	default:
		return nil, badParam(param, "must be a text, a list of texts, or lists of tokens")
	}
	var list []json.RawMessage
	if err := decodeAt(param, raw, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, badParam(param, "must not be an empty list")
	}
	if c := first(list[0]); c == '-' || c >= '0' && c <= '9' {
		t, err := textOf(param, raw)
		return []EmbedText{t}, err
	}
	if len(list) > mostTexts {
		return nil, badParam(param, "has %d texts, where %d are possible: send them in parts", len(list), mostTexts)
	}
	texts := make([]EmbedText, len(list))
	for i, one := range list {
		var err error
		if texts[i], err = textOf(fmt.Sprintf("%s[%d]", param, i), one); err != nil {
			return nil, err
		}
		if (texts[i].IDs == nil) != (texts[0].IDs == nil) {
			return nil, badParam(param, "must have texts or lists of tokens, not both")
		}
	}
	return texts, nil
}

// textOf reads one text, or its tokens. It must not be empty.
func textOf(param string, raw json.RawMessage) (t EmbedText, err error) {
	switch first(raw) {
	case '"':
		if err = decodeAt(param, raw, &t.Text); err == nil && t.Text == "" {
			err = badParam(param, "must not be an empty text")
		}
	case '[':
		if err = decodeAt(param, raw, &t.IDs); err == nil && len(t.IDs) == 0 {
			err = badParam(param, "must not be an empty list")
		}
	default:
		err = badParam(param, "must be a text or a list of tokens")
	}
	return t, err
}

// embed makes embeddings within the limits of the caller. A panic in it becomes an error.
func (s *server) embed(r *http.Request, req *EmbedRequest) (out *EmbedResult, err error) {
	if s.Embedder == nil {
		return nil, Errorf(NotFound, "this node makes no embeddings")
	}
	req.Trace = r.Header.Get(traceHeader)
	err = s.limited(r, "making embeddings", &req.Model, func() (name string, prompt int, err error) {
		if out, err = s.Embedder.Embed(r.Context(), req); err != nil {
			return "", 0, err
		}
		return out.Name, out.Count(), nil
	})
	return out, err
}

// limited has something else than an answer made within the limits of the node and of the
// caller. A panic in it becomes an error.
func (s *server) limited(r *http.Request, what string, model *string, do func() (name string, prompt int, err error)) error {
	leave, err := s.admit(1)
	if err != nil {
		return err
	}
	defer leave()
	return s.guarded(what, func() error { return visitOf(r.Context()).meteredWork(model, do) })
}

// meteredWork has work done within the limits of the caller, and counts its tokens. model is
// the one that the request names, which the caller's key may replace.
func (v *visit) meteredWork(model *string, work func() (name string, prompt int, err error)) (err error) {
	end := func(int, int) {}
	if c := v.caller; c != nil {
		if *model, err = v.modelFor(*model); err != nil {
			return err
		}
		if end, err = c.Begin(); err != nil {
			return err
		}
	}
	prompt := 0
	defer func() { end(prompt, 0) }()
	name, n, err := work()
	if err != nil {
		return err
	}
	prompt = n
	v.mu.Lock()
	v.model, v.prompt = name, v.prompt+prompt
	v.mu.Unlock()
	return nil
}

// rerankRequest has the fields of Cohere's and Jina's requests, and of llama.cpp's.
type rerankRequest struct {
	Model     string            `json:"model"`
	Query     json.RawMessage   `json:"query"`     // a text, or an object with one
	Documents []json.RawMessage `json:"documents"` // likewise
	TopN      *int              `json:"top_n"`
	Return    bool              `json:"return_documents"`
}

type rerankReply struct {
	ID      string         `json:"id"`
	Object  string         `json:"object"` // list
	Model   string         `json:"model"`
	Results []rerankResult `json:"results"`
	Usage   embeddingUsage `json:"usage"`
	Meta    rerankMeta     `json:"meta"`
}

type rerankResult struct {
	Index    int             `json:"index"`
	Score    float64         `json:"relevance_score"`
	Document json.RawMessage `json:"document,omitempty"` // an object
}

// rerankMeta is Cohere's word on a request.
type rerankMeta struct {
	Tokens struct {
		Input int `json:"input_tokens"`
	} `json:"tokens"`
}

// rerank answers POST /v1/rerank.
func (s *server) rerank(w http.ResponseWriter, r *http.Request) error {
	var req rerankRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	query, err := documentOf("query", req.Query)
	switch {
	case err != nil:
		return err
	case query == "":
		return badParam("query", "must not be an empty text")
	case len(req.Documents) == 0:
		return badParam("documents", "is missing, or empty")
	case len(req.Documents) > mostTexts:
		return badParam("documents", "has %d texts, where %d are possible: send them in parts", len(req.Documents), mostTexts)
	case req.TopN != nil && *req.TopN < 1:
		return badParam("top_n", "must be at least 1, not %d", *req.TopN)
	}
	texts := make([]EmbedText, len(req.Documents))
	for i, raw := range req.Documents {
		if texts[i].Text, err = documentOf(fmt.Sprintf("documents[%d]", i), raw); err != nil {
			return err
		}
	}
	out, err := s.embed(r, &EmbedRequest{Model: req.Model, Texts: texts, Query: &query, Truncate: true})
	if err != nil {
		return err
	}
	reply := rerankReply{ID: newID("rerank-"), Object: "list", Model: cmp.Or(out.Name, out.Model), Usage: embeddingUsage{out.Count(), out.Count()}}
	reply.Meta.Tokens.Input = out.Count()
	for i, e := range out.Embeddings {
		one := rerankResult{Index: i, Score: float64(e[0])}
		if req.Return {
			one.Document = documentObject(req.Documents[i])
		}
		reply.Results = append(reply.Results, one)
	}
	slices.SortStableFunc(reply.Results, func(a, b rerankResult) int { return cmp.Compare(b.Score, a.Score) })
	reply.Results = reply.Results[:min(len(reply.Results), deref(req.TopN, len(reply.Results)))]
	writeJSON(w, http.StatusOK, reply)
	return nil
}

// documentOf reads a text, or that of an object.
func documentOf(param string, raw json.RawMessage) (string, error) {
	var of struct {
		Text *string `json:"text"`
	}
	switch first(raw) {
	case 0, 'n':
		return "", badParam(param, "is missing")
	case '"':
		var text string
		return text, decodeAt(param, raw, &text)
	case '{':
		if err := decodeAt(param, raw, &of); err != nil {
			return "", err
		}
	}
	if of.Text == nil {
		return "", badParam(param, "must be a text, or an object with a text")
	}
	return *of.Text, nil
}

// documentObject returns a document as an object.
func documentObject(raw json.RawMessage) json.RawMessage {
	if first(raw) == '{' {
		return raw
	}
	return slices.Concat(json.RawMessage(`{"text":`), raw, json.RawMessage(`}`))
}

// ---- Ollama's --------------------------------------------------------------

// ollamaEmbedRequest is that of /api/embed and of the older /api/embeddings.
type ollamaEmbedRequest struct {
	Model      string          `json:"model"`
	Input      json.RawMessage `json:"input"` // a text or a list of texts
	Prompt     string          `json:"prompt"`
	Truncate   *bool           `json:"truncate"` // unless false
	Dimensions int             `json:"dimensions"`
	KeepAlive  json.RawMessage `json:"keep_alive"` // see keepAlive
}

type ollamaEmbedReply struct {
	Model           string        `json:"model"`
	Embeddings      [][]float32   `json:"embeddings"`
	TotalDuration   time.Duration `json:"total_duration,omitempty"`
	LoadDuration    time.Duration `json:"load_duration,omitempty"` // until a route was found
	PromptEvalCount int           `json:"prompt_eval_count,omitempty"`
}

// ollamaEmbed answers POST /api/embed.
func (s *server) ollamaEmbed(w http.ResponseWriter, r *http.Request) error {
	began := time.Now()
	var req ollamaEmbedRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	kept, err := keepAlive(req.KeepAlive)
	if err != nil {
		return err
	}
	texts, err := ollamaTexts(req.Input)
	if err != nil {
		return err
	}
	reply := ollamaEmbedReply{Model: req.Model, Embeddings: [][]float32{}}
	if len(texts) == 0 { // by which clients load a model
		m, _, err := s.loads(r.Context(), req.Model, kept)
		if err != nil {
			return err
		}
		reply.Model = cmp.Or(req.Model, ollamaName(m))
		writeJSON(w, http.StatusOK, reply)
		return nil
	}
	if req.Dimensions < 0 {
		return badParam("dimensions", "must not be negative")
	}
	out, err := s.embed(r, &EmbedRequest{Model: req.Model, Texts: texts, Truncate: deref(req.Truncate, true), Dimensions: req.Dimensions, Cut: true})
	if err != nil {
		return err
	}
	s.keeps(out.Model, kept)
	reply.Model = cmp.Or(req.Model, ollamaName(&Model{Name: out.Name, ID: out.Model}))
	reply.Embeddings, reply.PromptEvalCount = out.Embeddings, out.Count()
	reply.TotalDuration, reply.LoadDuration = time.Since(began), out.Planned
	writeJSON(w, http.StatusOK, reply)
	return nil
}

// ollamaTexts reads the texts of /api/embed. No text, or an empty one alone, is none.
func ollamaTexts(raw json.RawMessage) ([]EmbedText, error) {
	switch first(raw) {
	case 0, 'n':
		return nil, nil
	case '"':
		var text string
		if err := decodeAt("input", raw, &text); err != nil || text == "" {
			return nil, err
		}
		return []EmbedText{{Text: text}}, nil
	case '[':
		var list []string
		if err := decodeAt("input", raw, &list); err != nil {
			return nil, err
		}
		if len(list) > mostTexts {
			return nil, badParam("input", "has %d texts, where %d are possible: send them in parts", len(list), mostTexts)
		}
		texts := make([]EmbedText, len(list))
		for i, t := range list {
			texts[i].Text = t
		}
		return texts, nil
	}
	return nil, badParam("input", "must be a text or a list of texts")
}

// ollamaEmbeddings answers POST /api/embeddings, the older form for one text.
func (s *server) ollamaEmbeddings(w http.ResponseWriter, r *http.Request) error {
	var req ollamaEmbedRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	kept, err := keepAlive(req.KeepAlive)
	if err != nil {
		return err
	}
	var reply struct {
		Embedding []float32 `json:"embedding"`
	}
	if req.Prompt == "" {
		if _, _, err := s.loads(r.Context(), req.Model, kept); err != nil {
			return err
		}
		reply.Embedding = []float32{}
		writeJSON(w, http.StatusOK, reply)
		return nil
	}
	out, err := s.embed(r, &EmbedRequest{Model: req.Model, Texts: []EmbedText{{Text: req.Prompt}}, Truncate: true})
	if err != nil {
		return err
	}
	s.keeps(out.Model, kept)
	reply.Embedding = out.Embeddings[0]
	writeJSON(w, http.StatusOK, reply)
	return nil
}

// Embeddings returns the embeddings of texts; dimensions are how many numbers of each
// are wanted, 0: all. Errors: see Client.
func (c *Client) Embeddings(ctx context.Context, model string, texts []string, dimensions int) (*Embeddings, error) {
	var wire struct {
		Model string `json:"model"`
		Data  []struct {
			Embedding []float32 `json:"embedding"`
		} `json:"data"`
		Usage embeddingUsage `json:"usage"`
	}
	req := map[string]any{"model": model, "input": texts}
	if dimensions > 0 {
		req["dimensions"] = dimensions
	}
	if err := c.post(ctx, "/v1/embeddings", req, &wire); err != nil {
		return nil, err
	}
	if len(wire.Data) != len(texts) {
		return nil, io.ErrUnexpectedEOF
	}
	out := &Embeddings{Model: wire.Model, Tokens: wire.Usage.PromptTokens}
	for _, d := range wire.Data {
		out.Embeddings = append(out.Embeddings, d.Embedding)
	}
	return out, nil
}

// Embeddings are an answer to Client.Embeddings.
type Embeddings struct {
	Model      string      `json:"model"`
	Embeddings [][]float32 `json:"embeddings"` // in the order of the texts
	Tokens     int         `json:"prompt_tokens"`
}
