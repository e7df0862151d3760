package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"sync"
	"time"
)

// shoal's own endpoints, for the command line.

func (s *server) status(w http.ResponseWriter, r *http.Request) error {
	st, err := s.Observer.Status(r.Context())
	if err == nil {
		writeJSON(w, http.StatusOK, st)
	}
	return err
}

func (s *server) peers(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Observer.Peers(r.Context())
	if err == nil {
		writeJSON(w, http.StatusOK, noNull(list))
	}
	return err
}

func (s *server) list(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Library.List(r.Context())
	if err == nil {
		writeJSON(w, http.StatusOK, noNull(list))
	}
	return err
}

func (s *server) show(w http.ResponseWriter, r *http.Request) error {
	m, err := s.Library.Show(r.Context(), r.PathValue("name"))
	if err == nil {
		writeJSON(w, http.StatusOK, m)
	}
	return err
}

func (s *server) remove(w http.ResponseWriter, r *http.Request) error {
	err := s.Library.Remove(r.Context(), r.PathValue("name"))
	if err == nil {
		writeJSON(w, http.StatusOK, struct{}{})
	}
	return err
}

// noNull returns an empty list instead of nil, which would be null in JSON.
func noNull[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (s *server) add(w http.ResponseWriter, r *http.Request) error {
	var req AddRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Source == "" {
		return badParam("source", "is missing: a path, a URL or hf:OWNER/REPO/FILE")
	}
	return s.work(w, r, func(ctx context.Context, p func(Progress)) (any, error) { return s.Library.Add(ctx, req, p) }, ownLine)
}

func (s *server) pull(w http.ResponseWriter, r *http.Request) error {
	var req PullRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Model == "" {
		return badParam("model", "is missing")
	}
	req.Import = true
	return s.work(w, r, func(ctx context.Context, p func(Progress)) (any, error) { return s.Library.Pull(ctx, req, p) }, ownLine)
}

func (s *server) export(w http.ResponseWriter, r *http.Request) error {
	var req ExportRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Model == "" {
		return badParam("model", "is missing")
	}
	if !filepath.IsAbs(req.Path) { // the node's directory is not the caller's
		return badParam("path", "must be absolute")
	}
	return s.work(w, r, func(ctx context.Context, p func(Progress)) (any, error) {
		return struct{}{}, s.Library.Export(ctx, req, p)
	}, ownLine)
}

func (s *server) drain(w http.ResponseWriter, r *http.Request) error {
	if _, err := readBody(w, r); err != nil {
		return err
	}
	err := s.Observer.Drain(r.Context())
	if err == nil {
		writeJSON(w, http.StatusAccepted, struct{}{})
	}
	return err
}

type tokenizeRequest struct {
	Model   string `json:"model"`
	Text    string `json:"text"`
	Special bool   `json:"special,omitempty"`
}

type tokenIDs struct {
	IDs []int32 `json:"ids"`
}

func (s *server) tokenize(w http.ResponseWriter, r *http.Request) error {
	var req tokenizeRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	ids, err := s.Library.Tokenize(r.Context(), req.Model, req.Text, req.Special)
	if err == nil {
		writeJSON(w, http.StatusOK, tokenIDs{noNull(ids)})
	}
	return err
}

func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	return decode(body, v)
}

// workLine is one line of the answer to a request for long work.
type workLine struct {
	Progress *Progress       `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *wireError      `json:"error,omitempty"`
}

// progressEvery is the minimum time between two lines of progress.
const progressEvery = 100 * time.Millisecond

// work answers with lines of JSON, formatted by form: a few per second for progress, and
// one for the result or the error. An error before any progress is an ordinary one, with
// its status. The work is cancelled when the client disconnects.
func (s *server) work(w http.ResponseWriter, r *http.Request, do func(context.Context, func(Progress)) (any, error), form func(workLine) []any) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var mu sync.Mutex // the work may report from another goroutine
	var last time.Time
	begun, over := false, false
	defer func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) }()
	say := func(l workLine) error {
		last = time.Now()
		for _, v := range form(l) {
			if !begun {
				w.Header().Set("Content-Type", "application/x-ndjson")
				begun = true
			}
			if err := writeLine(w, v); err != nil {
				return err
			}
		}
		return nil
	}
	result, err := do(ctx, func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if over || ctx.Err() != nil || time.Since(last) < progressEvery && p.Done != p.Total {
			return
		}
		if say(workLine{Progress: &p}) != nil {
			cancel()
		}
	})
	mu.Lock()
	defer mu.Unlock()
	over = true
	if err != nil {
		if begun {
			e := AsError(err).body().Error
			_ = say(workLine{Error: &e})
		}
		return err
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return say(workLine{Result: raw})
}

// ownLine formats a line for shoal's own command line.
func ownLine(l workLine) []any { return []any{l} }

// writeLine sends a line of JSON immediately.
func writeLine(w http.ResponseWriter, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	return put(w, b.Bytes())
}

// put sends bytes that a client must read within writeTime.
func put(w http.ResponseWriter, b []byte) error {
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Now().Add(writeTime)) // fails in process, where there is no deadline
	_, err := w.Write(b)
	if err == nil {
		err = rc.Flush()
	}
	if err != nil {
		return &Error{Kind: Cancelled, Message: "the client went away", Err: err}
	}
	return nil
}
