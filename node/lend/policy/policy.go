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
	Guest   *Guest // it is no member, but a bridge's guest there; nil: it is none
	Trusted bool   // the operator named it
	Own     bool   // it is this node itself
}

// Guest says which swarm a guest is a member of.
type Guest struct {
	Swarm   string // name; "": not known
	SwarmID string // in hex
}

// Ask is what a peer wants.
type Ask struct {
	Model    []string  // names and ID of the model
	Context  int       // tokens of the session, prompt and answer together; 0: unknown
	Sessions int       // that the peer has already
	Now      time.Time // zero: whatever the hour is

	// Tokens returns how many the peer has had in the current period. nil: none.
	Tokens func(period time.Duration) int64
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
	guests
	members
	guestsOf
	ofSwarm
	ofRole
	trusted
	onePeer
)

// Policy is a list of lend rules. The zero value has only Defaults. It is immutable and
// safe for concurrent use.
type Policy struct{ rules []Rule }

// Defaults are the rules for peers that no rule is about.
var Defaults = []string{"trusted: share 100%", "members: share 100%", "guests: share 20%", "strangers: share 20%"}

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
	Part    string // of the rule, that refuses: Nothing and so on; "" if allowed
	Why     string // for the owner; it names what of the rule decided
	Rule    *Rule  // nil: the owner's own prompts
	Grant   Grant  // of the rule; Share is never 0
}

// Decide returns what a peer gets. The parts of an Ask that are zero are not checked, so
// that the rule for a peer and a model is known before a session is.
func (p Policy) Decide(who Peer, ask Ask) Verdict {
	if who.Own {
		return Verdict{Allowed: true, Why: "the owner's own prompts are subject to no rule", Grant: Grant{Share: 1}}
	}
	about := p.about(who)
	v := first(about, ask)
	if v.Rule == nil || onlyTake(about) && v.Part != Nothing {
		v = first(defaults.about(who), ask)
	}
	return v
}

// The parts of a rule that can refuse, as Verdict.Part names them.
const (
	Nothing  = "nothing"
	Models   = "models"
	Hours    = "hours"
	Context  = "context"
	Sessions = "sessions"
	Tokens   = "tokens"
)

// Anybody reports whether some peer of a network may have sessions with a model at some
// time: one of the open network, or a member or guest of a swarm, of which the name and ID
// are given. trusted is whether the operator has named any peers.
func (p Policy) Anybody(swarm, id string, trusted bool, model ...string) bool {
	who := []Peer{{}}
	if id != "" {
		who = []Peer{{Swarm: swarm, SwarmID: id, Guest: &Guest{}}}
		for roles := range member.AllRoles + 1 {
			who = append(who, Peer{Swarm: swarm, SwarmID: id, Roles: roles | member.Use})
		}
	}
	for _, r := range p.rules {
		switch one := who[len(who)-1]; r.kind {
		case onePeer:
			one.ID = r.peer
			who = append(who, one)
		case guestsOf:
			if id != "" {
				who = append(who, Peer{Swarm: swarm, SwarmID: id, Guest: &Guest{Swarm: r.swarm, SwarmID: r.swarm}})
			}
		}
	}
	if trusted {
		one := who[len(who)-1]
		one.Trusted = true
		who = append(who, one)
	}
	return slices.ContainsFunc(who, func(w Peer) bool { return p.Decide(w, Ask{Model: model}).Allowed })
}

// first returns what the first rule says that covers what is asked for, or why not even
// the first does. Without rules its Rule is nil.
func first(about []Rule, ask Ask) Verdict {
	for i := range about {
		if part, _ := about[i].Grant.leavesOut(ask); part == "" {
			return about[i].decide(ask)
		}
	}
	if len(about) == 0 {
		return Verdict{}
	}
	part, why := about[0].Grant.leavesOut(ask)
	return Verdict{Rule: &about[0], Part: part, Why: why, Grant: about[0].Grant.filled()}
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
	in := who.member()
	switch r.kind {
	case anybody:
		return true
	case strangers:
		return !in && who.Guest == nil && !who.Trusted
	case guests:
		return who.Guest != nil
	case guestsOf:
		return who.Guest != nil && r.names(who.Guest.Swarm, who.Guest.SwarmID)
	case members:
		return in
	case ofSwarm, ofRole:
		return in && r.names(who.Swarm, who.SwarmID) && who.Roles.Has(r.role)
	case trusted:
		return who.Trusted
	default:
		return r.peer == who.ID
	}
}

// member reports whether a swarm that this node is in vouches for the peer.
func (p Peer) member() bool { return p.Guest == nil && (p.SwarmID != "" || p.Swarm != "") }

// names reports whether the rule names a swarm.
func (r *Rule) names(name, id string) bool {
	return id != "" && strings.EqualFold(r.swarm, id) || name != "" && strings.EqualFold(r.swarm, name)
}

// leavesOut returns the part of a grant by which it is not about a model or an hour, and
// why; "": it is.
func (g *Grant) leavesOut(ask Ask) (part, why string) {
	switch {
	case !ask.Now.IsZero() && !g.Hours.Contains(ask.Now):
		return Hours, fmt.Sprintf("it is outside the rule's hours (%s)", g.Hours)
	case len(g.Models) > 0 && len(ask.Model) > 0 && !matchAny(g.Models, ask.Model):
		return Models, fmt.Sprintf("the rule is only about the models %s", strings.Join(g.Models, " "))
	}
	return "", ""
}

// filled is the grant with what its parts are if they are not written.
func (g Grant) filled() Grant {
	if g.Share == 0 {
		g.Share = 1
	}
	return g
}

func (r *Rule) decide(ask Ask) Verdict {
	v := Verdict{Rule: r, Grant: r.Grant.filled()}
	g := r.Grant
	var had int64
	if g.Tokens > 0 && ask.Tokens != nil {
		had = ask.Tokens(g.Per)
	}
	switch {
	case g.Nothing:
		v.Part, v.Why = Nothing, "the rule gives nothing"
	case g.Context > 0 && ask.Context > g.Context:
		v.Part, v.Why = Context, fmt.Sprintf("the session would have %d tokens of context, and the rule gives %d", ask.Context, g.Context)
	case g.Sessions > 0 && ask.Sessions >= g.Sessions:
		v.Part, v.Why = Sessions, fmt.Sprintf("the peer has %d sessions, and the rule gives %d", ask.Sessions, g.Sessions)
	case g.Tokens > 0 && had >= g.Tokens:
		v.Part, v.Why = Tokens, fmt.Sprintf("the peer had %d tokens, and the rule gives %d per %s", had, g.Tokens, PeriodName(g.Per))
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
	other *useRule
}

type useRule struct {
	text    string // as it was written
	pattern string
	scope   Scope
}

// Scope returns the scope for a model, of which names and ID are given, and the rule that
// says so; "": none does, and the scope is Anybody.
func (u Use) Scope(model ...string) (s Scope, rule string) {
	for _, r := range u.rules {
		if matchAny([]string{r.pattern}, model) {
			return r.scope, r.text
		}
	}
	if u.other != nil {
		return u.other.scope, u.other.text
	}
	return Anybody, ""
}

// Rules returns the rules as they were written, that for all models last.
func (u Use) Rules() (out []string) {
	for _, r := range u.rules {
		out = append(out, r.text)
	}
	if u.other != nil {
		out = append(out, u.other.text)
	}
	return out
}

// Allows reports whether a peer may be within a scope.
func (s Scope) Allows(p Peer) bool {
	switch {
	case p.Own || p.Trusted:
		return true
	case p.member():
		return s >= Swarm
	}
	return s >= Anybody
}

// ErrRule is wrapped by the errors of Parse and ParseUse.
var ErrRule = errors.New("rule")

// RuleError says which rule cannot be read, and why. It is an ErrRule.
type RuleError struct {
	Number int    // from 1 on
	Text   string // of the rule
	Err    error
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("rule %d, %q: %s", e.Number, shorten(e.Text), e.Err)
}

// Unwrap returns what is wrong with the rule.
func (e *RuleError) Unwrap() error { return e.Err }

// Is reports whether target is ErrRule.
func (e *RuleError) Is(target error) bool { return target == ErrRule }
