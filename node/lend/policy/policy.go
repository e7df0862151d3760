package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/lend"
	"github.com/shoalnet/shoal/protocol/member"
)

// Peer is another node, as its connection established it.
type Peer struct {
	ID      string // peer ID
	Swarm   string // name of the swarm that vouches for it; "": none, it came by the open network
	SwarmID string // in hex
	Roles   member.Roles
	Trusted bool // the operator named it
	Own     bool // it is this node itself
}

// Ask is what a peer wants.
type Ask struct {
	Model    []string // names and ID of the model
	Context  int      // tokens of the session, prompt and answer together; 0: unknown
	Sessions int      // that the peer has already
	Tokens   int64    // that it had within the rule's period; see Grant.Per
	Now      time.Time
}

// Grant is what a rule gives. The zero value is everything.
type Grant struct {
	Nothing  bool
	Share    float64       // of a stage's passes while others want them; 0: 1
	Cap      float64       // of a stage's passes at any time; 0: no limit
	Models   []string      // patterns; none: all models
	Context  int           // tokens per session; 0: no limit
	Sessions int           // at once, per peer; 0: no limit
	Tokens   int64         // per Per and peer; 0: no limit
	Per      time.Duration // the period of Tokens
	Hours    lend.Hours
}

// Rule is one lend rule.
type Rule struct {
	Text    string // as it was written
	Default bool   // one of Defaults
	Grant   Grant

	kind  kind
	swarm string // name or ID
	role  member.Roles
	peer  string
}

// kind is whom a rule is about, by growing specificity.
type kind int

const (
	anybody kind = iota
	strangers
	members
	ofSwarm
	ofRole
	trusted
	onePeer
)

// Policy is a list of lend rules. The zero value has only Defaults. It is immutable and
// safe for concurrent use.
type Policy struct{ rules []Rule }

// Defaults are the rules for peers that no rule is about.
var Defaults = []string{"trusted: share 100%", "members: share 100%", "strangers: share 20%"}

var defaults = func() Policy {
	p, err := Parse(Defaults)
	if err != nil {
		panic(err) // a test has parsed them
	}
	for i := range p.rules {
		p.rules[i].Default = true
	}
	return p
}()

// Rules returns the rules in the order in which they were written, and Defaults after
// them.
func (p Policy) Rules() []Rule { return append(slices.Clone(p.rules), defaults.rules...) }

// Verdict is what a policy says of a peer and what it asks for.
type Verdict struct {
	Allowed bool
	Why     string // for the owner; it names what of the rule decided
	Rule    *Rule  // nil: the owner's own prompts
	Grant   Grant  // what the peer has if allowed; Share is never 0
}

// Decide returns what a peer gets. The parts of an Ask that are zero are not checked, so
// that the rule for a peer and a model is known before a session is.
func (p Policy) Decide(who Peer, ask Ask) Verdict {
	if who.Own {
		return Verdict{Allowed: true, Why: "the owner's own prompts are subject to no rule", Grant: Grant{Share: 1}}
	}
	about := p.about(who)
	v := first(about, ask)
	if v.Rule == nil || !v.Allowed && onlyTake(about) && v.Rule.Grant.covers(ask) != "" {
		v = first(defaults.about(who), ask)
	}
	return v
}

// first returns what the first rule says that covers what is asked for, or why not even
// the first does. Without rules its Rule is nil.
func first(about []Rule, ask Ask) Verdict {
	for i := range about {
		if about[i].Grant.covers(ask) == "" {
			return about[i].decide(ask)
		}
	}
	if len(about) == 0 {
		return Verdict{}
	}
	return Verdict{Rule: &about[0], Why: about[0].Grant.covers(ask)}
}

// onlyTake reports whether all rules give nothing: they are exceptions from the defaults.
func onlyTake(about []Rule) bool {
	return !slices.ContainsFunc(about, func(r Rule) bool { return !r.Grant.Nothing })
}

// about returns the most specific rules about a peer, in order.
func (p Policy) about(who Peer) (out []Rule) {
	for _, r := range p.rules {
		switch {
		case !r.matches(who) || len(out) > 0 && r.kind < out[0].kind:
		case len(out) > 0 && r.kind > out[0].kind:
			out = []Rule{r}
		default:
			out = append(out, r)
		}
	}
	return out
}

func (r *Rule) matches(who Peer) bool {
	in := who.SwarmID != "" || who.Swarm != ""
	switch r.kind {
	case anybody:
		return true
	case strangers:
		return !in && !who.Trusted
	case members:
		return in
	case ofSwarm, ofRole:
		return in && (r.swarm == who.SwarmID || strings.EqualFold(r.swarm, who.Swarm)) && who.Roles.Has(r.role)
	case trusted:
		return who.Trusted
	default:
		return r.peer == who.ID
	}
}

// covers returns why a grant is not about a model or an hour; "": it is.
func (g *Grant) covers(ask Ask) string {
	switch {
	case !g.Hours.Contains(ask.Now):
		return fmt.Sprintf("it is outside the rule's hours (%s)", g.Hours)
	case len(g.Models) > 0 && !matchAny(g.Models, ask.Model):
		return fmt.Sprintf("the rule lends only the models %s", strings.Join(g.Models, " "))
	}
	return ""
}

func (r *Rule) decide(ask Ask) Verdict {
	v := Verdict{Rule: r, Grant: r.Grant}
	if v.Grant.Share == 0 {
		v.Grant.Share = 1
	}
	switch g := r.Grant; {
	case g.Nothing:
		v.Why = "the rule gives nothing"
	case g.Context > 0 && ask.Context > g.Context:
		v.Why = fmt.Sprintf("the session would have %d tokens of context, and the rule gives %d", ask.Context, g.Context)
	case g.Sessions > 0 && ask.Sessions >= g.Sessions:
		v.Why = fmt.Sprintf("the peer has %d sessions, and the rule gives %d", ask.Sessions, g.Sessions)
	case g.Tokens > 0 && ask.Tokens >= g.Tokens:
		v.Why = fmt.Sprintf("the peer had %d tokens, and the rule gives %d per %s", ask.Tokens, g.Tokens, periodName(g.Per))
	default:
		v.Allowed, v.Why = true, "the rule allows it"
	}
	return v
}

// Scope is whose machines may compute a prompt.
type Scope int

// The scopes; each has those before it.
const (
	Mine  Scope = iota // this node and trusted peers
	Swarm              // and members of the swarms that it is in
	Anybody
)

// String returns the scope as Use rules write it.
func (s Scope) String() string { return [...]string{"mine", "swarm", "anybody"}[s] }

// Use says whose machines may compute this node's own prompts. The zero value is anybody
// for all models. It is immutable and safe for concurrent use.
type Use struct {
	rules []useRule
	other *Scope
}

type useRule struct {
	pattern string
	scope   Scope
}

// Scope returns the scope for a model, of which names and ID are given.
func (u Use) Scope(model ...string) Scope {
	for _, r := range u.rules {
		if matchAny([]string{r.pattern}, model) {
			return r.scope
		}
	}
	if u.other != nil {
		return *u.other
	}
	return Anybody
}

// Allows reports whether a peer may be within a scope.
func (s Scope) Allows(p Peer) bool {
	switch {
	case p.Own || p.Trusted:
		return true
	case p.SwarmID != "" || p.Swarm != "":
		return s >= Swarm
	}
	return s >= Anybody
}

// ErrRule is wrapped by the errors of Parse and ParseUse.
var ErrRule = errors.New("rule")
