package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"
)

// Config of the API.
type Config struct {
	Generator  Generator
	Counter    Counter  // nil: prompts cannot be counted
	Embedder   Embedder // nil: no embeddings are made
	Decider    Decider  // nil: no questions are answered by probabilities
	Library    Library
	Observer   Observer
	Catalogue  Catalogue    // may be nil
	Keeper     Keeper       // may be nil
	Vocabulary Vocabulary   // may be nil
	Controller Controller   // may be nil
	Viewer     Viewer       // what the page shows; nil: none
	Page       http.Handler // serves / and /page/; nil: none
	Token      string       // required for shoal's own endpoints; "": they are closed
	Key        string       // required of OpenAI clients; "": none
	Hosts      []string     // accepted host names, besides loopback's and the dialled address; *.NAME: all below NAME, "*": all
	Origins    []string     // of web pages on other sites that may use the API, e.g. http://localhost:3000, or patterns of them (see anyMatches); none: no CORS
	MaxAnswers int          // concurrent answers, beyond which requests get 503; 0: 512
	MaxBodies  int64        // total bytes of running requests, beyond which requests get 503; 0: 64 MiB
	Log        *slog.Logger

	// Access replaces Key, Hosts and Origins where they may change; nil: they do not.
	Access   func() Access
	Keys     Keys            // instead of Key; nil: Key alone
	Unready  func() []string // why the node does not answer for all that it is to serve; nil: it does
	Swarms   Swarms          // nil: the endpoints for them do not exist
	Policies Policies        // nil: likewise
	Settings Settings        // of the node; nil: the endpoints for them do not exist
	Metrics  http.Handler    // Prometheus's, at /metrics; nil: none
}

// Access is who may use the API. Its slices are never changed.
type Access struct {
	Key     string   // required of OpenAI clients; "": none
	Hosts   []string // see Config
	Origins []string // see Config
	Open    bool     // without a key, callers of other machines are admitted, too
}

type server struct {
	Config
	mux     *http.ServeMux
	started time.Time
	active  atomic.Int64 // running answers
	bodies  atomic.Int64 // bytes of running requests
	kept    *keptAnswers // of /v1/responses
	owners  owners
	log     accessLog
}

// New returns the API's handler.
func New(cfg Config) http.Handler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxAnswers == 0 {
		cfg.MaxAnswers = 512
	}
	if cfg.MaxBodies == 0 {
		cfg.MaxBodies = 64 << 20
	}
	if cfg.Access == nil {
		fixed := Access{Key: cfg.Key, Hosts: cfg.Hosts, Origins: cfg.Origins}
		cfg.Access = func() Access { return fixed }
	}
	s := &server{Config: cfg, mux: http.NewServeMux(), started: time.Now(), log: accessLog{Logger: cfg.Log}, kept: newKeptAnswers(mostKept, keptBytes)}
	for pattern, h := range map[string]handler{
		"GET /v1/models":            s.models,
		"GET /v1/models/{model...}": s.model,
		"POST /v1/chat/completions": s.chat,
		"POST /v1/completions":      s.completions,
		"POST /v1/responses":        s.responses,

		"POST /v1/messages":              s.messages,
		"POST /v1/messages/count_tokens": s.countTokens,

		"GET /v1/responses/{id}":             s.response,
		"DELETE /v1/responses/{id}":          s.deleteResponse,
		"GET /v1/responses/{id}/input_items": s.inputItems,
		"POST /v1/responses/{id}/cancel":     s.cancelResponse,
		"POST /v1/responses/input_tokens":    s.inputTokens,

		"POST /v1/conversations":                     s.createConversation,
		"GET /v1/conversations/{id}":                 s.conversation,
		"DELETE /v1/conversations/{id}":              s.deleteConversation,
		"GET /v1/conversations/{id}/items":           s.conversationItems,
		"POST /v1/conversations/{id}/items":          s.addItems,
		"GET /v1/conversations/{id}/items/{item}":    s.conversationItem,
		"DELETE /v1/conversations/{id}/items/{item}": s.deleteItem,

		"POST /v1/embeddings": s.embeddings,
		"POST /v1/rerank":     s.rerank,
		"POST /v1/reranking":  s.rerank, // llama.cpp's
		"POST /v2/rerank":     s.rerank, // Cohere's

		"POST /v1/systemone": s.systemOne, // vLLM's
		"POST /v1/decisions": s.decisions, // SGLang's

		"POST /api/chat":       s.ollamaChat,
		"POST /api/generate":   s.ollamaGenerate,
		"GET /api/tags":        s.ollamaTags,
		"GET /api/ps":          s.ollamaPS,
		"POST /api/show":       s.ollamaShow,
		"POST /api/pull":       s.ollamaPull,
		"GET /api/version":     s.ollamaVersion,
		"POST /api/embed":      s.ollamaEmbed,
		"POST /api/embeddings": s.ollamaEmbeddings,
		"POST /api/create":     s.ollamaRefuse,
		"POST /api/copy":       s.ollamaRefuse,
		"POST /api/push":       s.ollamaRefuse,
		"DELETE /api/delete":   s.ollamaRefuse,
	} {
		s.mux.HandleFunc(pattern, s.serve(s.open(h)))
	}
	s.extras()
	for pattern, h := range map[string]handler{
		"GET /shoal/v1/status":              s.status,
		"GET /shoal/v1/peers":               s.peers,
		"GET /shoal/v1/health":              s.health,
		"GET /shoal/v1/models":              s.list,
		"GET /shoal/v1/models/{name...}":    s.show,
		"DELETE /shoal/v1/models/{name...}": s.remove,
		"POST /shoal/v1/models/add":         s.add,
		"POST /shoal/v1/models/pull":        s.pull,
		"POST /shoal/v1/models/export":      s.export,
		"POST /shoal/v1/tokenize":           s.tokenize,
		"GET /shoal/v1/catalog":             s.search,
		"POST /shoal/v1/drain":              s.drain,
	} {
		s.mux.HandleFunc(pattern, s.serve(s.ownOrPage(pattern, h)))
	}
	if s.Keeper != nil {
		for pattern, h := range map[string]handler{
			"POST /shoal/v1/models/verify": s.verify,
			"POST /shoal/v1/models/gc":     s.gc,
			"POST /shoal/v1/models/pin":    s.pin,
			"POST /shoal/v1/models/drop":   s.drop,
		} {
			s.mux.HandleFunc(pattern, s.serve(s.ownOrPage(pattern, h)))
		}
	}
	if s.Controller != nil {
		s.mux.HandleFunc("POST /shoal/v1/serve", s.serve(s.byOwner(s.startServing)))
		s.mux.HandleFunc("POST /shoal/v1/stop", s.serve(s.byOwner(s.stopServing)))
	}
	if cfg.Metrics != nil { // they contain no secrets and no text: callers that may get answers may read them
		s.mux.HandleFunc("GET /metrics", s.serve(s.open(func(w http.ResponseWriter, r *http.Request) error {
			cfg.Metrics.ServeHTTP(w, r)
			return nil
		})))
	}
	s.settings()
	s.keyRoutes()
	s.swarmRoutes()
	s.policyRoutes()
	s.probes()
	if s.Viewer != nil {
		s.mux.HandleFunc("GET /shoal/v1/view", s.serve(s.page(s.view)))
	}
	if s.Page != nil { // it contains no secrets: the requests that it makes need the key
		show := s.serve(func(w http.ResponseWriter, r *http.Request) error { s.Page.ServeHTTP(w, r); return nil })
		s.mux.HandleFunc("GET /{$}", show)
		s.mux.HandleFunc("GET /page/", show)
	}
	s.ownerRoutes()
	s.profiles()
	s.mux.HandleFunc("/", s.serve(s.open(s.nothing)))
	greet := s.serve(greet)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = cleaned(r)
		if looksForOllama(r) {
			greet(w, r)
			return
		}
		s.mux.ServeHTTP(w, r)
	})
}

// handler answers a request, or returns an error before it has written anything.
type handler func(w http.ResponseWriter, r *http.Request) error

// serve wraps a handler with what all requests need: the guard's checks, a limit on the
// body, an id, and errors in OpenAI's format or Ollama's. It logs nothing that a request
// contained, neither its text nor that of an error.
func (s *server) serve(h handler) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		began := time.Now()
		w, v := &tracked{ResponseWriter: rw}, &visit{}
		r = r.WithContext(context.WithValue(r.Context(), visitKey{}, v))
		id := newID("req-")
		w.Header().Set("X-Request-Id", id)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.Log.Error("the API panicked", "request", id, "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
				if w.status != 0 {
					panic(http.ErrAbortHandler) // too late for an error: let the client see a broken answer
				}
				writeError(w, r, Errorf(Internal, "shoal failed: its log has more under %s", id))
			}
		}()
		err := s.guard(w, r)
		if err == nil {
			body := &budgeted{ReadCloser: http.MaxBytesReader(rw, r.Body, maxBody), all: &s.bodies, most: s.MaxBodies}
			defer body.release()
			r.Body = body
			err = h(w, r)
		}
		if err != nil && w.status == 0 {
			writeError(w, r, err)
		}
		s.log.request(r, v, w.status, err, id, time.Since(began))
	}
}

// budgeted is a request's body. Its bytes count until the request is answered, because
// they stay in memory that long in one form or another.
type budgeted struct {
	io.ReadCloser
	all  *atomic.Int64
	most int64
	took int64
}

// Read implements io.Reader.
func (b *budgeted) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.took += int64(n)
	if b.all.Add(int64(n)) > b.most {
		return 0, &Error{Kind: Refused, Message: "this node holds as many long requests as it can: try again soon", RetryAfter: 5 * time.Second}
	}
	return n, err
}

func (b *budgeted) release() { b.all.Add(-b.took) }

// tracked records whether an answer has begun, after which an error can no longer set
// the HTTP status.
type tracked struct {
	http.ResponseWriter
	status int // 0: nothing was written
}

func (t *tracked) WriteHeader(status int) {
	if t.status == 0 {
		t.status = status
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *tracked) Write(b []byte) (int, error) {
	if t.status == 0 {
		t.status = http.StatusOK
	}
	return t.ResponseWriter.Write(b)
}

func (t *tracked) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// nothing answers requests for unknown paths, or with the wrong method.
func (s *server) nothing(w http.ResponseWriter, r *http.Request) error {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(other); pattern != "" && pattern != "/" {
			allow = append(allow, method)
		}
	}
	if len(allow) > 0 {
		w.Header().Set("Allow", strings.Join(allow, ", "))
		return Errorf(BadMethod, "this endpoint takes %s, not %s", strings.Join(allow, " and "), r.Method)
	}
	return Errorf(NotFound, "nothing is served at this path: OpenAI's and Anthropic's APIs are under /v1, Ollama's under /api, shoal's own under /shoal/v1")
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status = http.StatusInternalServerError
		b, _ = json.Marshal(Errorf(Internal, "the answer cannot be written as JSON").body())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// bodyTime is how long a client may take to send a request's body.
const bodyTime = 60 * time.Second

// readBody reads a request's body to its end: only then can the server notice that the
// client disconnects.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	deadline := http.NewResponseController(w)
	if deadline.SetReadDeadline(time.Now().Add(bodyTime)) == nil {
		defer func() { _ = deadline.SetReadDeadline(time.Time{}) }()
	}
	body, err := io.ReadAll(r.Body)
	var tooBig *http.MaxBytesError
	var full *Error
	switch {
	case errors.As(err, &full):
		return nil, full
	case errors.As(err, &tooBig):
		return nil, Errorf(TooLarge, "the request is longer than %d MiB", maxBody>>20)
	case err != nil:
		return nil, &Error{Kind: BadInput, Message: "the request's body broke off", Err: err}
	}
	return body, nil
}
