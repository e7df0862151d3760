package lending

import (
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

const (
	maxAccounts = 1 << 16 // that are kept; those with sessions are bounded by these
	tidied      = 16      // 1/tidied of them is forgotten at once
)

// account is what a peer, or a group of strangers, has had. Guarded by Desk.mu.
type account struct {
	seats  map[[16]byte]map[*seat]bool // by session; none is empty
	meters [len(periods)]meter
}

// periods are those in which tokens can be limited.
var periods = [...]time.Duration{time.Minute, time.Hour, 24 * time.Hour}

// meter counts tokens in one period.
type meter struct {
	end  time.Time // of the current period; zero: none has begun
	used int64
}

// at returns the meter as it is at a time.
func (m meter) at(now time.Time) meter {
	if !now.Before(m.end) {
		return meter{}
	}
	return m
}

// meter returns the meter of a period at a time; nothing for a period that is unknown.
func (a *account) meter(per time.Duration, now time.Time) meter {
	for i, p := range periods {
		if p == per && a != nil {
			return a.meters[i].at(now)
		}
	}
	return meter{}
}

// sessions returns how many sessions an account has with one more seat. A client chooses
// the IDs of its sessions: one that is open twice at a stage is two. a may be nil.
func (a *account) sessions(session [16]byte, at place) (n int) {
	if a == nil {
		return 1
	}
	for id, seats := range a.seats {
		n += most(seats, id == session, at)
	}
	if a.seats[session] == nil {
		n++
	}
	return n
}

// most returns how many of the seats of one session are at the same stage, with one more
// at a place if so said.
func most(seats map[*seat]bool, more bool, at place) (n int) {
	per := map[place]int{}
	if more {
		per[at]++
		n = 1
	}
	for s := range seats {
		per[s.at]++
		n = max(n, per[s.at])
	}
	return n
}

// idle reports whether nothing is left to remember of an account.
func (a *account) idle(now time.Time) bool {
	for _, m := range a.meters {
		if now.Before(m.end) {
			return false
		}
	}
	return len(a.seats) == 0
}

// accountOf names the account of a peer.
func (d *Desk) accountOf(who policy.Peer, p peer.ID) string {
	if who.SwarmID == "" && !who.Trusted {
		return "group " + d.cfg.Network.Group(p)
	}
	return who.ID
}

// account returns an account, and makes it if it is new. Called with mu held.
func (d *Desk) account(name string, now time.Time) *account {
	a := d.accounts[name]
	if a == nil {
		if len(d.accounts) >= d.most {
			d.tidy(now)
		}
		a = &account{seats: map[[16]byte]map[*seat]bool{}}
		d.accounts[name] = a
	}
	return a
}

// tidy forgets accounts: those of which nothing is left to remember, and if all have
// something, of those without sessions the tidied part whose periods end first. Called
// with mu held.
func (d *Desk) tidy(now time.Time) {
	var idle []string
	for name, a := range d.accounts {
		switch {
		case a.idle(now):
			delete(d.accounts, name)
		case len(a.seats) == 0:
			idle = append(idle, name)
		}
	}
	if len(d.accounts) < d.most {
		return
	}
	end := func(name string) time.Time { return d.accounts[name].meters[len(periods)-1].end }
	slices.SortFunc(idle, func(x, y string) int { return end(x).Compare(end(y)) })
	for _, name := range idle[:min(len(idle), d.most/tidied)] {
		delete(d.accounts, name)
	}
}

// place names a stage.
type place struct {
	model cid.Cid
	span  protocol.Span
}

// seat is a session's place at one stage. Its mutable fields are guarded by Desk.mu.
type seat struct {
	desk    *Desk
	who     policy.Peer
	name    string // of the account
	model   []string
	at      place
	session [16]byte
	counts  bool // it is the first of its session here, and so counts tokens
	left    bool
}

// unlimited is the seat of this node's own sessions, and of those that are refused.
type unlimited struct{}

func (unlimited) Spend(int) *protocol.Error { return nil }
func (unlimited) Leave()                    {}

var _ stage.Lending = (*Desk)(nil)

// Grant implements stage.Lending.
func (d *Desk) Grant(c stage.Client, w stage.Want) (stage.Grant, *protocol.Error) {
	who, now := d.who(c.Swarm, c.Peer), d.cfg.Now()
	v := d.decide(who, policy.Ask{Model: d.model(w.Model), Context: w.Tokens, Now: now})
	return grantOf(who, v), refusal(v, meter{}, now)
}

// Seat implements stage.Lending.
func (d *Desk) Seat(c stage.Client, w stage.Want, session [16]byte) (stage.Seat, stage.Grant, *protocol.Error) {
	who, now := d.who(c.Swarm, c.Peer), d.cfg.Now()
	if who.Own {
		return unlimited{}, grantOf(who, d.decide(who, policy.Ask{Now: now})), nil
	}
	s := &seat{desk: d, who: who, name: d.accountOf(who, c.Peer), model: d.model(w.Model), at: place{w.Model, w.Span}, session: session}
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.accounts[s.name]
	v := d.decide(who, policy.Ask{
		Model: s.model, Context: w.Tokens, Sessions: a.sessions(session, s.at) - 1, Now: now,
		Tokens: func(per time.Duration) int64 { return a.meter(per, now).used },
	})
	if e := refusal(v, a.meter(v.Grant.Per, now), now); e != nil {
		return unlimited{}, stage.Grant{}, e
	}
	a = d.account(s.name, now)
	if a.seats[session] == nil {
		a.seats[session], s.counts = map[*seat]bool{}, true
	}
	a.seats[session][s] = true
	return s, grantOf(who, v), nil
}

// Spend implements stage.Seat.
func (s *seat) Spend(rows int) *protocol.Error {
	d, now := s.desk, s.desk.cfg.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.left || !s.counts {
		return nil
	}
	a := d.account(s.name, now)
	for i, per := range periods {
		m := a.meters[i].at(now)
		if m.end.IsZero() {
			m.end = now.Add(per)
		}
		m.used += int64(rows)
		a.meters[i] = m
	}
	v := d.decide(s.who, policy.Ask{Model: s.model, Now: now, Tokens: func(per time.Duration) int64 { return a.meter(per, now).used }})
	if v.Part != policy.Tokens { // what else has changed, a review finds
		return nil
	}
	return refusal(v, a.meter(v.Grant.Per, now), now)
}

// Leave implements stage.Seat.
func (s *seat) Leave() {
	d := s.desk
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.accounts[s.name]
	if s.left || a == nil {
		return
	}
	s.left = true
	seats := a.seats[s.session]
	delete(seats, s)
	if len(seats) == 0 {
		delete(a.seats, s.session)
	} else if s.counts { // another stage of the session goes on
		for other := range seats {
			other.counts = true
			break
		}
	}
	if a.idle(d.cfg.Now()) {
		delete(d.accounts, s.name)
	}
}

func (d *Desk) decide(who policy.Peer, ask policy.Ask) policy.Verdict {
	return d.rules.Load().Lend.Decide(who, ask)
}

// grantOf returns what a verdict gives at a stage. Those about whom one rule decides are a
// class.
func grantOf(who policy.Peer, v policy.Verdict) stage.Grant {
	g := stage.Grant{Own: who.Own, Share: v.Grant.Share, Cap: v.Grant.Cap}
	if v.Rule != nil {
		g.Class = v.Rule.Text
	}
	return g
}

// sessionRetry is when a peer may ask again that has as many sessions as it may.
const sessionRetry = 5 * time.Second

// refusal returns what a peer is told of a verdict; nil if it is allowed. used is the
// meter of the verdict's period.
func refusal(v policy.Verdict, used meter, now time.Time) *protocol.Error {
	if v.Allowed {
		return nil
	}
	g, e := &v.Grant, &protocol.Error{Code: protocol.Code_CODE_FORBIDDEN}
	switch v.Part {
	case policy.Models:
		e.Message = "this node does not lend you this model"
	case policy.Hours:
		e.Message = "this node lends you nothing at this time of day"
		if next, ok := g.Hours.Next(now); ok {
			e.RetryAfter = next.Sub(now)
			e.Message += "; ask again in " + inWords(e.RetryAfter)
		}
	case policy.Context:
		e.Message = fmt.Sprintf("this node lends you at most %d tokens of context per session", g.Context)
	case policy.Sessions:
		e.Code, e.RetryAfter = protocol.Code_CODE_BUSY, sessionRetry
		e.Message = fmt.Sprintf("this node lends you at most %d sessions at once", g.Sessions)
	case policy.Tokens:
		e.RetryAfter = max(time.Second, used.end.Sub(now))
		e.Message = fmt.Sprintf("this node lends you at most %d tokens per %s; ask again in %s", g.Tokens, policy.PeriodName(g.Per), inWords(e.RetryAfter))
	default:
		e.Message = "this node lends you nothing"
	}
	return e
}

// inWords writes a time to wait, rounded up.
func inWords(d time.Duration) string {
	unit := time.Second
	if d > 2*time.Minute {
		unit = time.Minute
	}
	text := ((d + unit - 1) / unit * unit).String()
	if unit == time.Minute {
		text = text[:len(text)-len("0s")]
	}
	return text
}

// May reports whether what is on this node of a model may be sent to a peer of a swarm's
// network.
func (d *Desk) May(swarm string, p peer.ID, model cid.Cid) bool {
	return d.decide(d.who(swarm, p), policy.Ask{Model: d.model(model), Now: d.cfg.Now()}).Allowed
}

// Anybody reports whether somebody in the network of a swarm may have sessions with a
// model at some time, so that it is worth an offer there.
func (d *Desk) Anybody(swarm string, model cid.Cid) bool {
	name, _ := d.cfg.Network.Vouched(swarm, "")
	return d.rules.Load().Lend.Anybody(name, swarm, d.cfg.Named != nil && d.cfg.Named(), d.model(model)...)
}
