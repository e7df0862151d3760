package api

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/remedy"
)

// Keys are the keys that callers may have. They are safe for concurrent use.
type Keys interface {
	Any() bool // without a key, only callers of this machine are admitted, unless Access.Open
	// Caller returns the caller whose key this is; nil if it is nobody's, or has expired.
	Caller(secret string) Caller

	Keys() []Key
	// AddKey makes a key and returns it, which is possible only once. The Kind of the
	// error is BadInput if the name is taken or cannot be one.
	AddKey(name string, l KeyLimits) (secret string, err error)
	// RemoveKey removes a key. The Kind of the error is NotFound if there is none.
	RemoveKey(name string) error
}

// Caller is who has a key. It is safe for concurrent use.
type Caller interface {
	Name() string
	// Admit counts a request. The Kind of the error is RateLimited.
	Admit() error
	// Begin counts an answer until end is called with its tokens. The Kind of the error
	// is RateLimited.
	Begin() (end func(prompt, answer int), err error)
	Model() string // the only one that the key is for; "": there are others
	// MayUse returns an error of the Kind Forbidden if the key is not for a model.
	MayUse(model string) error
}

// Key describes a key. The key itself is shown only when it is made.
type Key struct {
	Name string `json:"name"`
	KeyLimits
	Created  *time.Time `json:"created,omitempty"`
	Expired  bool       `json:"expired,omitempty"`
	LastUsed *time.Time `json:"last_used,omitempty"`
	Today    KeyUsage   `json:"today"` // days are UTC's
	Total    KeyUsage   `json:"total"`
}

// KeyLimits are what a key may do. Zero values are no limit.
type KeyLimits struct {
	RequestsPerMinute int        `json:"requests_per_minute,omitempty"`
	TokensPerDay      int64      `json:"tokens_per_day,omitempty"` // of prompts and answers together
	Sessions          int        `json:"sessions,omitempty"`       // answers at the same time
	Models            []string   `json:"models,omitempty"`         // by the names that requests use
	Expires           *time.Time `json:"expires,omitempty"`
}

// KeyUsage is what a key was used for.
type KeyUsage struct {
	Requests     int64 `json:"requests"`
	PromptTokens int64 `json:"prompt_tokens"`
	AnswerTokens int64 `json:"answer_tokens"`
}

// NewKey is a key that was just made.
type NewKey struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

// AddKeyRequest asks for a key.
type AddKeyRequest struct {
	Name string `json:"name"`
	KeyLimits
}

// visit is one request, for its caller's limits and for the log. It is safe for
// concurrent use.
type visit struct {
	caller Caller // nil: needs no key, or has the token
	secret string // by which the caller is known; "": whatever the request carries

	mu      sync.Mutex
	model   string
	prompt  int
	answer  int
	counted bool // the prompt, which the choices of a request share
}

type visitKey struct{}

// visitOf returns the visit of a request's context.
func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		return v
	}
	return &visit{}
}

// enter admits a request to the open endpoints.
func (s *server) enter(r *http.Request) error {
	if bearer(r, s.Token) {
		return nil
	}
	a := s.Access()
	wrong := Errorf(Unauthorized, "the API key is missing or wrong: send it as Authorization: Bearer KEY")
	if s.Keys == nil {
		if a.Key != "" && !bearer(r, a.Key) {
			return wrong
		}
		return nil
	}
	if !s.Keys.Any() {
		if a.Open || isLocal(r) {
			return nil
		}
		return remedy.For(Errorf(Unauthorized, "this node has no key yet, and answers only callers on its own machine"), remedy.AddKey)
	}
	for _, secret := range secrets(r) {
		if c := s.Keys.Caller(secret); secret != "" && c != nil {
			v := visitOf(r.Context())
			v.caller, v.secret = c, secret
			return c.Admit()
		}
	}
	return wrong
}

// isLocal reports whether a request comes from this machine and from no further away: a
// proxy on this machine says that it forwards, and its caller may be anywhere.
func isLocal(r *http.Request) bool {
	if !fromHere(r) {
		return false
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip"} {
		for _, from := range r.Header.Values(name) {
			if at, err := netip.ParseAddr(strings.TrimSpace(from)); err != nil || !at.IsLoopback() {
				return false
			}
		}
	}
	return true
}

// modelFor returns the model that a request is about, which is the only one of the caller's
// key if it names none. The Kind of the error is Forbidden if the key is not for it.
func (v *visit) modelFor(name string) (string, error) {
	if v.caller == nil {
		return name, nil
	}
	if name == "" {
		name = v.caller.Model()
	}
	return name, v.caller.MayUse(name)
}

// metered is generate within the limits of the caller, counted.
func (v *visit) metered(ctx context.Context, g Generator, req *GenerateRequest, emit func(Event) error) error {
	end := func(int, int) {}
	if c := v.caller; c != nil {
		var err error
		if req.Model, err = v.modelFor(req.Model); err != nil {
			return err
		}
		if end, err = c.Begin(); err != nil {
			return err
		}
	}
	prompt, answer := 0, 0
	defer func() {
		v.mu.Lock()
		if v.counted {
			prompt = 0
		}
		v.counted = v.counted || prompt > 0
		v.prompt += prompt
		v.answer += answer
		v.mu.Unlock()
		end(prompt, answer)
	}()
	return g.Generate(ctx, req, func(e Event) error {
		switch {
		case e.Start != nil:
			prompt = len(e.Start.PromptTokens)
			v.mu.Lock()
			v.model = e.Start.Name
			v.mu.Unlock()
		case e.Token != nil:
			answer++
		}
		return emit(e)
	})
}

// keyRoutes registers the endpoints for keys.
func (s *server) keyRoutes() {
	if s.Keys == nil {
		return
	}
	s.mux.HandleFunc("GET /shoal/v1/keys", s.serve(s.own(s.listKeys)))
	s.mux.HandleFunc("POST /shoal/v1/keys", s.serve(s.own(s.addKey)))
	s.mux.HandleFunc("DELETE /shoal/v1/keys/{name}", s.serve(s.own(s.removeKey)))
}

type keyList struct {
	Keys []Key `json:"keys"`
}

func (s *server) listKeys(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, keyList{noNull(s.Keys.Keys())})
	return nil
}

func (s *server) addKey(w http.ResponseWriter, r *http.Request) error {
	var req AddKeyRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	secret, err := s.Keys.AddKey(req.Name, req.KeyLimits)
	if err == nil {
		writeJSON(w, http.StatusOK, NewKey{req.Name, secret})
	}
	return err
}

func (s *server) removeKey(w http.ResponseWriter, r *http.Request) error {
	err := s.Keys.RemoveKey(r.PathValue("name"))
	if err == nil {
		writeJSON(w, http.StatusOK, struct{}{})
	}
	return err
}

// Keys returns the keys of the node. Errors: see Client.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	var l keyList
	err := c.get(ctx, "/shoal/v1/keys", &l)
	return l.Keys, err
}

// AddKey makes a key. The Kind of the error is BadInput if the name is taken or cannot
// be one.
func (c *Client) AddKey(ctx context.Context, req AddKeyRequest) (*NewKey, error) {
	var k NewKey
	return &k, c.post(ctx, "/shoal/v1/keys", req, &k)
}

// RemoveKey removes a key. The Kind of the error is NotFound if there is none.
func (c *Client) RemoveKey(ctx context.Context, name string) error {
	resp, err := c.do(ctx, http.MethodDelete, "/shoal/v1/keys/"+name, nil)
	if err == nil {
		resp.Body.Close()
	}
	return err
}
