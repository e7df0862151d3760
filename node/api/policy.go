package api

import (
	"context"
	"net/http"
	"time"
)

// Policies are the rules of who may have what of the node, and whose nodes its own prompts
// may go to. They are safe for concurrent use.
type Policies interface {
	// Policy returns the rules in effect.
	Policy(ctx context.Context) (*Policy, error)
	// TestPolicy returns what the rules say of somebody. The Kind of the error is BadInput
	// if nobody is meant by PolicyTest.As.
	TestPolicy(ctx context.Context, t PolicyTest) (*PolicyVerdict, error)
}

// Policy is the rules in effect.
type Policy struct {
	Lend []LendRule `json:"lend"` // in order; those that count without a rule come last
	Use  []string   `json:"use"`  // none: prompts may go to anybody
}

// LendRule is what peers get. Zero values are no limit.
type LendRule struct {
	Text     string   `json:"text"`              // as it was written
	Default  bool     `json:"default,omitempty"` // it counts for those about whom no other rule is
	Nothing  bool     `json:"nothing,omitempty"`
	Share    float64  `json:"share,omitempty"` // weight in a stage's time and room
	Cap      float64  `json:"cap,omitempty"`   // part of a stage's time
	Models   []string `json:"models,omitempty"`
	Context  int      `json:"context,omitempty"`  // tokens per session
	Sessions int      `json:"sessions,omitempty"` // at once
	Tokens   int64    `json:"tokens,omitempty"`   // per period
	Per      string   `json:"per,omitempty"`      // day, hour or minute
	Hours    string   `json:"hours,omitempty"`
}

// PolicyTest asks what somebody may have.
type PolicyTest struct {
	// As is a peer's ID, the name of a swarm of this node or of a member's machine, a
	// swarm's name, a slash and roles, or strangers, members, guests, guests of NAME or
	// trusted.
	As    string     `json:"as"`
	Model string     `json:"model,omitempty"` // "": any
	At    *time.Time `json:"at,omitempty"`    // nil: now
}

// PolicyVerdict is what the rules say.
type PolicyVerdict struct {
	As      string     `json:"as"` // who was meant
	Allowed bool       `json:"allowed"`
	Part    string     `json:"part,omitempty"` // of the rule, that refuses: nothing, models, hours, context, sessions or tokens
	Why     string     `json:"why"`
	Rule    *LendRule  `json:"rule"` // that decides; null: none does, it is this node itself
	Use     UseVerdict `json:"use"`  // whether this node's own prompts may go there
}

// UseVerdict is what the rules of use say.
type UseVerdict struct {
	Allowed bool   `json:"allowed"`
	Scope   string `json:"scope"`          // mine, swarm or anybody
	Rule    string `json:"rule,omitempty"` // "": there is none
}

// policyRoutes registers the endpoints.
func (s *server) policyRoutes() {
	if s.Policies == nil {
		return
	}
	s.mux.HandleFunc("GET /shoal/v1/policy", s.serve(s.byOwner(s.listPolicy)))
	s.mux.HandleFunc("POST /shoal/v1/policy/test", s.serve(s.byOwner(s.testPolicy)))
}

func (s *server) listPolicy(w http.ResponseWriter, r *http.Request) error {
	p, err := s.Policies.Policy(r.Context())
	if err == nil {
		p = &Policy{Lend: noNull(p.Lend), Use: noNull(p.Use)}
	}
	return reply(w, p, err)
}

func (s *server) testPolicy(w http.ResponseWriter, r *http.Request) error {
	var t PolicyTest
	if err := readJSON(w, r, &t); err != nil {
		return err
	}
	v, err := s.Policies.TestPolicy(r.Context(), t)
	return reply(w, v, err)
}

// Policy returns the rules of the node. Errors: see Client.
func (c *Client) Policy(ctx context.Context) (*Policy, error) {
	var p Policy
	return &p, c.get(ctx, "/shoal/v1/policy", &p)
}

// TestPolicy returns what the rules of the node say of somebody. Errors: see Policies.
func (c *Client) TestPolicy(ctx context.Context, t PolicyTest) (*PolicyVerdict, error) {
	var v PolicyVerdict
	return &v, c.post(ctx, "/shoal/v1/policy/test", t, &v)
}
