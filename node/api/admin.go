package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

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
		writeJSON(w, http.StatusOK, list)
	}
	return err
}

func (s *server) list(w http.ResponseWriter, r *http.Request) error {
	list, err := s.Library.List(r.Context())
	if err == nil {
		writeJSON(w, http.StatusOK, list)
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

func (s *server) add(w http.ResponseWriter, r *http.Request) error {
	var req AddRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	return work(w, r, func(ctx context.Context, p func(Progress)) (any, error) { return s.Library.Add(ctx, req, p) })
}

func (s *server) pull(w http.ResponseWriter, r *http.Request) error {
	var req PullRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	return work(w, r, func(ctx context.Context, p func(Progress)) (any, error) { return s.Library.Pull(ctx, req, p) })
}

// exportRequest writes a model's file to a path of this machine.
type exportRequest struct {
	Model string `json:"model"`
	Path  string `json:"path"`
}

func (s *server) export(w http.ResponseWriter, r *http.Request) error {
	var req exportRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	return work(w, r, func(ctx context.Context, p func(Progress)) (any, error) {
		return struct{}{}, s.Library.Export(ctx, req.Model, req.Path, p)
	})
}

type tokenizeRequest struct {
	Model   string `json:"model"`
	Text    string `json:"text"`
	Special bool   `json:"special"`
}

// TokenIDs are a text's tokens.
type TokenIDs struct {
	IDs []int32 `json:"ids"`
}

func (s *server) tokenize(w http.ResponseWriter, r *http.Request) error {
	var req tokenizeRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	ids, err := s.Library.Tokenize(r.Context(), req.Model, req.Text, req.Special)
	if err == nil {
		writeJSON(w, http.StatusOK, TokenIDs{ids})
	}
	return err
}

// workLine is a line of the answer to a request for long work.
type workLine struct {
	Progress *Progress       `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *Error          `json:"failure,omitempty"`
}

// work answers with a line of JSON for each bit of progress, a few a second,
// and one for the result.
func work(w http.ResponseWriter, r *http.Request, do func(context.Context, func(Progress)) (any, error)) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	var last time.Time
	result, err := do(r.Context(), func(p Progress) {
		if time.Since(last) < 100*time.Millisecond && p.Done != p.Total {
			return
		}
		last = time.Now()
		_ = enc.Encode(workLine{Progress: &p})
		_ = flush.Flush()
	})
	if err != nil {
		return enc.Encode(workLine{Error: AsError(err)})
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return enc.Encode(workLine{Result: raw})
}
