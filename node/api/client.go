package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Client talks to a node's API. It is safe for concurrent use. A refusal by the node is
// returned as an *Error with the node's Kind and remedy; other errors are the context's,
// or report that the node does not answer.
type Client struct {
	Base  string       // http://127.0.0.1:11500
	Token string       // opens all endpoints
	Key   string       // opens OpenAI's, and is used for them if set
	HTTP  *http.Client // nil: http.DefaultClient
}

// Unix returns a Client that uses a node's socket, which only its operator can open.
func Unix(socket, token string) *Client {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	return &Client{Base: "http://localhost", Token: token, HTTP: &http.Client{Transport: t}}
}

// do sends a request. It returns a failure as the *Error in the node's answer.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if secret := c.secret(path); secret != "" {
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	hc := c.HTTP
	if hc == nil {
		hc = http.DefaultClient
	}
	resp, err := hc.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("the node at %s does not answer: %w", c.Base, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		var b errorBody
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if json.Unmarshal(raw, &b) != nil || b.Error.Message == "" {
			return nil, Errorf(Internal, "the node answers %s: is the program listening at %s really shoal?", resp.Status, c.Base)
		}
		return nil, b.Error.failure()
	}
	return resp, nil
}

// secret returns what opens a path: the token opens all, the key only OpenAI's.
func (c *Client) secret(path string) string {
	if c.Key != "" && !strings.HasPrefix(path, "/shoal/") {
		return c.Key
	}
	return c.Token
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return broken(ctx, json.NewDecoder(resp.Body).Decode(v))
}

func (c *Client) post(ctx context.Context, path string, req, v any) error {
	resp, err := c.do(ctx, http.MethodPost, path, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return broken(ctx, json.NewDecoder(resp.Body).Decode(v))
}

// broken returns why an answer ended early: the caller cancelled it, the node reported
// an error, or neither.
func broken(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, new(*Error)):
		return err
	}
	return fmt.Errorf("the node broke off in the middle of its answer: %w", err)
}

// localFile returns the absolute path of an existing file, or "". The path must be
// absolute because the node's working directory is not the caller's.
func localFile(name string) string {
	if info, err := os.Stat(name); err != nil || info.IsDir() {
		return ""
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return ""
	}
	return path
}

// Status returns the state of the node. Errors: see Client.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.get(ctx, "/shoal/v1/status", &s)
}

// Drain makes the node hand over its sessions and stop. It does not wait for that.
// Errors: see Client.
func (c *Client) Drain(ctx context.Context) error {
	resp, err := c.do(ctx, http.MethodPost, "/shoal/v1/drain", struct{}{})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// View returns the node and its network as the page shows them. Errors: see Client.
func (c *Client) View(ctx context.Context) (*View, error) {
	var v View
	return &v, c.get(ctx, "/shoal/v1/view", &v)
}

// Peers returns the peers of the node. Errors: see Client.
func (c *Client) Peers(ctx context.Context) (p []Peer, err error) {
	err = c.get(ctx, "/shoal/v1/peers", &p)
	return p, err
}

// Models returns the models of the node and its peers. Errors: see Client.
func (c *Client) Models(ctx context.Context) (m []Model, err error) {
	err = c.get(ctx, "/shoal/v1/models", &m)
	return m, err
}

// Show describes one model, by name or CID. The Kind of the error is
// UnknownModel if neither the node nor a peer has it.
func (c *Client) Show(ctx context.Context, name string) (*Model, error) {
	var m Model
	return &m, c.get(ctx, "/shoal/v1/models/"+url.PathEscape(name), &m)
}

// Remove deletes a model from the node. The Kind of the error is UnknownModel if the
// node does not have it, Refused if it is in use.
func (c *Client) Remove(ctx context.Context, name string) error {
	resp, err := c.do(ctx, http.MethodDelete, "/shoal/v1/models/"+url.PathEscape(name), nil)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// Add imports a model. The path of a file is the caller's, and may be relative.
// The Kind of the error is BadInput if the source cannot be read or is not a
// model, Refused if there is no room.
func (c *Client) Add(ctx context.Context, req AddRequest, progress func(Progress)) (*Model, error) {
	if path := localFile(req.Source); path != "" {
		req.Source = path
	}
	var m Model
	return &m, c.work(ctx, "/shoal/v1/models/add", req, progress, &m)
}

// Pull fetches a model's shards from peers. The Kind of the error is
// UnknownModel, NoRoute if no peer has them, or Refused if there is no room.
func (c *Client) Pull(ctx context.Context, req PullRequest, progress func(Progress)) (*Model, error) {
	var m Model
	return &m, c.work(ctx, "/shoal/v1/models/pull", req, progress, &m)
}

// Export writes a model's file to a path of this machine, which may be relative. If the
// node does not hold the whole model, the error is a BadInput with its Lack.
func (c *Client) Export(ctx context.Context, req ExportRequest, progress func(Progress)) (err error) {
	if req.Path, err = filepath.Abs(req.Path); err != nil {
		return err
	}
	return c.work(ctx, "/shoal/v1/models/export", req, progress, nil)
}

// Tokenize returns the tokens of a text in the vocabulary of a model, or of a
// GGUF file. Errors: see Client.
func (c *Client) Tokenize(ctx context.Context, model, text string, special bool) ([]int32, error) {
	if path := localFile(model); path != "" {
		model = path
	}
	var ids tokenIDs
	err := c.post(ctx, "/shoal/v1/tokenize", tokenizeRequest{model, text, special}, &ids)
	return ids.IDs, err
}

func (c *Client) work(ctx context.Context, path string, req any, progress func(Progress), result any) error {
	resp, err := c.do(ctx, http.MethodPost, path, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var line workLine
		if err := d.Decode(&line); err != nil {
			return broken(ctx, err)
		}
		switch {
		case line.Error != nil:
			return broken(ctx, line.Error.failure())
		case line.Progress != nil:
			if progress != nil {
				progress(*line.Progress)
			}
		case line.Result != nil && result != nil:
			return json.Unmarshal(line.Result, result)
		case line.Result != nil:
			return nil
		}
	}
}

// Generate answers a prompt through the OpenAI endpoints, with all details: a Client is
// a Generator. It returns emit's error unchanged, the context's error if that ended
// first, and otherwise errors as described at Client.
func (c *Client) Generate(ctx context.Context, g *GenerateRequest, emit func(Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // closing the response ends the work
	path, body, err := wireRequest(g)
	if err != nil {
		return err
	}
	resp, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	ended := false
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return broken(ctx, err)
		}
		data, ok := strings.CutPrefix(strings.TrimSpace(line), "data:")
		if data = strings.TrimSpace(data); !ok || data == "" {
			continue
		}
		if data == "[DONE]" {
			if !ended {
				return broken(ctx, io.ErrUnexpectedEOF)
			}
			return nil
		}
		var chunk struct {
			Shoal Details    `json:"shoal"`
			Error *wireError `json:"error"`
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return fmt.Errorf("the node's answer is not JSON: %w", err)
		}
		if chunk.Error != nil {
			return broken(ctx, chunk.Error.failure())
		}
		d := chunk.Shoal
		var events []Event
		if d.Start != nil {
			events = append(events, Event{Start: d.Start})
		}
		for i := range d.Tokens {
			events = append(events, Event{Token: &d.Tokens[i]})
		}
		if d.Repair != nil {
			events = append(events, Event{Repair: d.Repair})
		}
		if d.Done != nil {
			ended = true
			events = append(events, Event{Done: d.Done})
		}
		for _, e := range events {
			if err := emit(e); err != nil {
				return err
			}
		}
	}
}

// wireRequest is the wire format of a GenerateRequest.
func wireRequest(g *GenerateRequest) (path string, body any, err error) {
	p := g.Sampling
	common := commonRequest{
		Model: g.Model, Stream: true, Sampling: p, MaxTokens: some(g.MaxTokens),
		Shoal: &Extension{Details: true, Route: g.Route, MaxStages: g.MaxStages, Exact: g.Exact, Ahead: g.Ahead},
	}
	common.ResponseFormat = constraint{g.Format, g.Pattern, g.Grammar}.wire()
	common.IgnoreEOS = g.IgnoreEOS
	if common.StopTokenIDs, err = json.Marshal(g.StopIDs); err != nil {
		return "", nil, err
	}
	if common.Stop, err = json.Marshal(g.Stop); err != nil {
		return "", nil, err
	}
	if common.Seed, err = json.Marshal(p.Seed); err != nil {
		return "", nil, err
	}
	if g.Raw {
		r := completionRequest{commonRequest: common, Echo: g.PromptLogprobs}
		if p.Logprobs {
			r.Logprobs = &p.TopLogprobs
		}
		if g.PromptIDs != nil {
			r.Prompt, err = json.Marshal(g.PromptIDs)
		} else {
			r.Prompt, err = json.Marshal(g.Prompt)
		}
		return "/v1/completions", r, err
	}
	r := chatRequest{commonRequest: common, Logprobs: p.Logprobs, Tools: g.Tools, ReasoningEffort: g.Think}
	switch g.Think {
	case "on", "off":
		r.ReasoningEffort, r.ChatTemplateKwargs.EnableThinking = "", new(g.Think == "on")
	}
	if g.MustCall {
		r.ToolChoice = json.RawMessage(`"required"`)
	}
	if g.OneCall {
		r.ParallelToolCalls = new(bool)
	}
	if p.Logprobs {
		r.TopLogprobs = &p.TopLogprobs
	}
	if r.Prediction, err = predictionOf(g.Prediction); err != nil {
		return "", nil, err
	}
	for _, m := range g.Messages {
		text, err := json.Marshal(m.Content)
		if err != nil {
			return "", nil, err
		}
		wire := chatMessage{Role: m.Role, Content: text, ReasoningContent: m.Reasoning, Name: m.Name, ToolCallID: m.ToolCallID}
		if len(m.ToolCalls) > 0 {
			if wire.ToolCalls, err = json.Marshal(m.ToolCalls); err != nil {
				return "", nil, err
			}
		}
		r.Messages = append(r.Messages, wire)
	}
	return "/v1/chat/completions", r, nil
}

// some returns a pointer to v, or nil for the zero value, which means the default.
func some[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
