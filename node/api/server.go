package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// Config of the API.
type Config struct {
	Generator Generator
	Library   Library
	Observer  Observer
	Token     string   // for shoal's own endpoints
	Key       string   // asked of OpenAI clients; "": none
	Hosts     []string // host names taken besides loopback's
	Log       *slog.Logger
}

// maxBody is the most that a request may say, in bytes.
const maxBody = 32 << 20

type server struct {
	Config
	started time.Time
}

// New makes the handler.
func New(cfg Config) http.Handler {
	s := &server{Config: cfg, started: time.Now()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", s.open(s.models))
	mux.HandleFunc("GET /v1/models/{model...}", s.open(s.model))
	mux.HandleFunc("POST /v1/chat/completions", s.open(s.chat))
	mux.HandleFunc("POST /v1/completions", s.open(s.completions))
	mux.HandleFunc("POST /v1/embeddings", s.open(func(http.ResponseWriter, *http.Request) error {
		return Errorf(BadInput, "embeddings are not served: the models here generate text")
	}))
	mux.HandleFunc("GET /shoal/v1/status", s.own(s.status))
	mux.HandleFunc("GET /shoal/v1/peers", s.own(s.peers))
	mux.HandleFunc("GET /shoal/v1/models", s.own(s.list))
	mux.HandleFunc("GET /shoal/v1/models/{name}", s.own(s.show))
	mux.HandleFunc("DELETE /shoal/v1/models/{name}", s.own(s.remove))
	mux.HandleFunc("POST /shoal/v1/models/add", s.own(s.add))
	mux.HandleFunc("POST /shoal/v1/models/pull", s.own(s.pull))
	mux.HandleFunc("POST /shoal/v1/models/export", s.own(s.export))
	mux.HandleFunc("POST /shoal/v1/tokenize", s.own(s.tokenize))
	mux.HandleFunc("/", s.open(func(_ http.ResponseWriter, r *http.Request) error {
		return &Error{Kind: UnknownModel, Message: fmt.Sprintf("nothing is served at %s %s", r.Method, r.URL.Path)}
	}))
	return mux
}

type handler func(w http.ResponseWriter, r *http.Request) error

// open guards OpenAI's endpoints.
func (s *server) open(h handler) http.HandlerFunc {
	return s.guard(func(w http.ResponseWriter, r *http.Request) error {
		if s.Key != "" && r.Header.Get("Authorization") != "Bearer "+s.Key {
			return Errorf(Unauthorized, "the API key is missing or wrong")
		}
		return h(w, r)
	})
}

// own guards shoal's endpoints.
func (s *server) own(h handler) http.HandlerFunc {
	return s.guard(func(w http.ResponseWriter, r *http.Request) error {
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			return Errorf(Unauthorized, "this endpoint is not for web pages")
		}
		if s.Token == "" || r.Header.Get("Authorization") != "Bearer "+s.Token {
			return Errorf(Unauthorized, "this endpoint needs the token in the file api.token of the node's directory")
		}
		return h(w, r)
	})
}

func (s *server) guard(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.hostAllowed(r.Host) {
			writeError(w, Errorf(Unauthorized, "this API answers under a loopback name only"))
			return
		}
		if r.Method == http.MethodPost && !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
			// A page elsewhere can post forms without asking, but not JSON.
			writeError(w, Errorf(BadInput, "send JSON, with Content-Type: application/json"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		t := &tracked{ResponseWriter: w}
		if err := h(t, r); err != nil {
			if AsError(err).Kind == Internal && s.Log != nil {
				s.Log.Warn("a request failed", "path", r.URL.Path, "error", err)
			}
			if !t.wrote {
				writeError(t, err)
			}
		}
	}
}

// tracked knows whether an answer has begun, after which an error can no
// longer be one in HTTP's way.
type tracked struct {
	http.ResponseWriter
	wrote bool
}

func (t *tracked) WriteHeader(code int) { t.wrote = true; t.ResponseWriter.WriteHeader(code) }
func (t *tracked) Write(b []byte) (int, error) {
	t.wrote = true
	return t.ResponseWriter.Write(b)
}
func (t *tracked) Unwrap() http.ResponseWriter { return t.ResponseWriter }

func (s *server) hostAllowed(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() || strings.EqualFold(host, "localhost") {
		return true
	}
	for _, h := range s.Hosts {
		if h == "*" || strings.EqualFold(h, host) {
			return true
		}
	}
	return false
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":{"message":"the answer cannot be written as JSON"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// readJSON reads a request's body, saying what is wrong with it.
func readJSON(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	if err := d.Decode(v); err != nil {
		var tooBig *http.MaxBytesError
		var typ *json.UnmarshalTypeError
		switch {
		case errors.As(err, &tooBig):
			return Errorf(BadInput, "the request is longer than %d MiB", maxBody>>20)
		case errors.As(err, &typ):
			return &Error{Kind: BadInput, Param: typ.Field, Message: fmt.Sprintf("%s must be a %s, not a %s", typ.Field, typ.Type, typ.Value)}
		case errors.Is(err, io.EOF):
			return Errorf(BadInput, "the request is empty; send a JSON object")
		}
		var e *Error
		if errors.As(err, &e) {
			return e
		}
		return Errorf(BadInput, "the request is not JSON: %s", err)
	}
	return nil
}
