package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Client speaks to a node's API.
type Client struct {
	Base  string // http://127.0.0.1:11500
	Token string
	Key   string
	HTTP  *http.Client // nil: http.DefaultClient
}

// InProcess is a Client of a handler in this process.
func InProcess(h http.Handler, token string) *Client {
	return &Client{Base: "http://127.0.0.1", Token: token, HTTP: &http.Client{Transport: inProcess{h}}}
}

// inProcess calls a handler as if over a connection.
type inProcess struct{ h http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: pw, ready: make(chan struct{})}
	r = r.Clone(r.Context())
	r.RequestURI = r.URL.RequestURI()
	r.Host = r.URL.Host
	if r.Body == nil {
		r.Body = http.NoBody
	}
	stop := context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
	go func() {
		defer stop()
		t.h.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		pw.Close()
	}()
	select {
	case <-w.ready:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: w.status, Status: http.StatusText(w.status), Header: w.sent, Body: pr,
		ContentLength: -1, Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}, nil
}

type pipeWriter struct {
	header, sent http.Header
	body         *io.PipeWriter
	status       int
	ready        chan struct{}
}

func (w *pipeWriter) Header() http.Header { return w.header }
func (w *pipeWriter) FlushError() error   { return nil }

func (w *pipeWriter) WriteHeader(code int) {
	if w.status == 0 {
		w.status, w.sent = code, w.header.Clone()
		close(w.ready)
	}
}

func (w *pipeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// do sends a request; a failure comes back as the *Error that the node gave.
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
	if strings.HasPrefix(path, "/shoal/") {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	} else if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
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
			return nil, Errorf(Internal, "the node answers %s", resp.Status)
		}
		return nil, &Error{Kind: b.Error.Code, Message: b.Error.Message}
	}
	return resp, nil
}

func (c *Client) get(ctx context.Context, path string, v any) error {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(v)
}

// Status of the node.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	var s Status
	return &s, c.get(ctx, "/shoal/v1/status", &s)
}

// Peers of the node.
func (c *Client) Peers(ctx context.Context) (p []Peer, err error) {
	return p, c.get(ctx, "/shoal/v1/peers", &p)
}

// Models of the node and its peers.
func (c *Client) Models(ctx context.Context) (m []Model, err error) {
	return m, c.get(ctx, "/shoal/v1/models", &m)
}

// Show one model.
func (c *Client) Show(ctx context.Context, name string) (*Model, error) {
	var m Model
	return &m, c.get(ctx, "/shoal/v1/models/"+url.PathEscape(name), &m)
}

// Remove a model.
func (c *Client) Remove(ctx context.Context, name string) error {
	resp, err := c.do(ctx, http.MethodDelete, "/shoal/v1/models/"+url.PathEscape(name), nil)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// Add imports a model.
func (c *Client) Add(ctx context.Context, req AddRequest, progress func(Progress)) (*Model, error) {
	var m Model
	return &m, c.work(ctx, "/shoal/v1/models/add", req, progress, &m)
}

// Pull fetches a model's shards from peers.
func (c *Client) Pull(ctx context.Context, req PullRequest, progress func(Progress)) (*Model, error) {
	var m Model
	return &m, c.work(ctx, "/shoal/v1/models/pull", req, progress, &m)
}

// Export writes a model's file to a path of the node's machine.
func (c *Client) Export(ctx context.Context, model, path string, progress func(Progress)) error {
	return c.work(ctx, "/shoal/v1/models/export", exportRequest{model, path}, progress, nil)
}

// Tokenize a text.
func (c *Client) Tokenize(ctx context.Context, model, text string, special bool) ([]int32, error) {
	resp, err := c.do(ctx, http.MethodPost, "/shoal/v1/tokenize", tokenizeRequest{model, text, special})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var ids TokenIDs
	return ids.IDs, json.NewDecoder(resp.Body).Decode(&ids)
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
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the node broke off: %w", err)
		}
		switch {
		case line.Error != nil:
			return line.Error
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

// Generate answers a prompt through the OpenAI endpoints, with all details.
func (c *Client) Generate(ctx context.Context, g *GenerateRequest, emit func(Event) error) error {
	body := map[string]any{
		"model": g.Model, "stream": true,
		"shoal": Extension{Details: true, Raw: g.Raw, Route: g.Route, MaxStages: g.MaxStages},
	}
	path := "/v1/chat/completions"
	if g.Raw {
		path = "/v1/completions"
		body["prompt"] = g.Prompt
	} else {
		body["messages"] = g.Messages
	}
	set := func(key string, v any, is bool) {
		if is {
			body[key] = v
		}
	}
	p := g.Sampling
	set("max_tokens", g.MaxTokens, g.MaxTokens > 0)
	set("stop", g.Stop, len(g.Stop) > 0)
	set("temperature", p.Temperature, p.Temperature != nil)
	set("top_k", p.TopK, p.TopK != 0)
	set("top_p", p.TopP, p.TopP != 0)
	set("min_p", p.MinP, p.MinP != 0)
	set("repetition_penalty", p.RepeatPenalty, p.RepeatPenalty != 0)
	set("presence_penalty", p.PresencePenalty, p.PresencePenalty != 0)
	set("frequency_penalty", p.FrequencyPenalty, p.FrequencyPenalty != 0)
	if p.Seed != nil {
		body["seed"] = int64(*p.Seed)
	}
	if p.Logprobs && g.Raw {
		body["logprobs"] = p.TopLogprobs
	} else if p.Logprobs {
		body["logprobs"], body["top_logprobs"] = true, p.TopLogprobs
	}
	resp, err := c.do(ctx, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the node broke off in the middle of the answer: %w", err)
		}
		data, ok := strings.CutPrefix(strings.TrimSpace(line), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			return nil
		}
		var chunk struct {
			Shoal Details `json:"shoal"`
		}
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return fmt.Errorf("the node answers what is not JSON: %w", err)
		}
		d := chunk.Shoal
		if d.Error != nil {
			return d.Error
		}
		var events []Event
		if d.Start != nil {
			events = append(events, Event{Start: d.Start})
		}
		for i := range d.Tokens {
			events = append(events, Event{Token: &d.Tokens[i]})
		}
		if d.Done != nil {
			events = append(events, Event{Done: d.Done})
		}
		for _, e := range events {
			if err := emit(e); err != nil {
				return err
			}
		}
	}
}
