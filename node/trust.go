package node

import (
	"errors"
	"math"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/standing"
	"github.com/shoalnet/shoal/protocol"
)

// What this node has seen of its peers goes into its standing book, and out of it
// into the planner's candidates.

const standingFile = "standing.json"

// ownTime is how long a prompt waits for room at this node and those that it
// trusts, where they serve all of its model, before it goes to strangers.
const ownTime = 3 * time.Second

// bad is how much of a lie's mark, or of any mark of a peer that has never done
// anything, has a peer used only where there is nobody else.
const bad = 0.5

// know fills in what this node knows of a candidate.
func (n *Node) know(c *route.Candidate, p peer.ID) {
	switch {
	case n.trusted(p) && n.cfg.Fastest: // it comes first nowhere, and is known for good
		c.Done, c.Age = math.MaxInt32, math.MaxInt64
		return
	case p == n.net.Self():
		c.Trust = route.Own
		return
	case n.trusted(p):
		c.Trust = route.Trusted
	}
	s := n.standing.Of(p)
	c.Done, c.SeenDecode, c.SeenPrefill = s.Done, s.Decode, s.Prefill
	if !s.Since.IsZero() {
		c.Age = time.Since(s.Since)
	}
	c.Marks = s.Marks[standing.Failed] + s.Marks[standing.Slow]
	c.Shunned = shunned(s)
	_, c.Connected = n.net.RTT(p)
}

func shunned(s standing.Standing) bool {
	return s.Marks[standing.Lied] >= bad || s.Done == 0 && s.Marks[standing.Failed]+s.Marks[standing.Slow] >= bad
}

// lie is a stage's failure that no honest machine has.
type lie struct{ error }

func (l lie) Unwrap() error { return l.error }

// blame marks the stage that ended a session, if it says or shows what it did.
func (n *Node) blame(err error) {
	var where *session.StageError
	if !errors.As(err, &where) || n.trusted(where.Hop.Peer) {
		return
	}
	if f, ok := faultOf(where.Err); ok {
		n.standing.Mark(where.Hop.Peer, f, where.Err.Error())
	}
}

// faultOf is the fault that a stage's failure shows. That it is full, leaves, or
// does not want a session is none.
func faultOf(err error) (f standing.Fault, ok bool) {
	var l lie
	var e *protocol.Error
	switch {
	case errors.As(err, &l):
		return standing.Lied, true
	case errors.Is(err, protocol.ErrFrame): // or it is of another version
		return standing.Failed, true
	case !errors.As(err, &e):
		return 0, false
	}
	switch e.Code {
	case protocol.Code_CODE_TIMEOUT:
		return standing.Slow, true
	case protocol.Code_CODE_PEER_LOST, protocol.Code_CODE_ENGINE, protocol.Code_CODE_NOT_SERVING:
		return standing.Failed, true
	}
	return 0, false
}

// repaired marks the stages that a repair has replaced.
func (n *Node) repaired(rec session.Recovery) {
	f, ok := faultOf(rec.Err)
	for _, h := range rec.Lost {
		if ok && !n.trusted(h.Peer) {
			n.standing.Mark(h.Peer, f, rec.Why)
		}
	}
}

// answered takes note that the spans of a route gave a token.
func (n *Node) answered(model cid.Cid, hops []session.Hop) {
	for _, h := range hops {
		n.standing.Answered(h.Peer, spanName(model, h.Span))
	}
}

func spanName(model cid.Cid, s protocol.Span) string { return model.String() + " " + s.String() }

// leastSeen is how many tokens of an answer, or rows of a prompt, tell how long
// one takes.
const leastSeen = 8

// credit takes note of a session that ended well: who worked, and how fast.
func (g *generation) credit(out *session.Outcome) {
	n := g.n
	n.answered(g.model.ID(), out.Route)
	run := standing.Run{Tokens: len(g.ids) + out.Tokens}
	var ways, decode, prefill time.Duration // of the ring; of this node's own stages
	newcomers := false
	for i, h := range out.Route {
		c, ok := g.costs.stage(h)
		if !ok {
			return
		}
		newcomers = newcomers || c.New
		ways += g.costs.way(h.Peer, out.Route[(i+1)%len(out.Route)].Peer) + route.StageCost
		part := standing.Part{Peer: h.Peer, Decode: c.Claimed * time.Duration(h.Span.Len()), Prefill: c.ClaimedPrefill * time.Duration(h.Span.Len()*len(g.ids))}
		if h.Peer == n.net.Self() {
			decode, prefill = decode+part.Decode, prefill+part.Prefill
			continue
		}
		run.Parts = append(run.Parts, part)
	}
	if len(out.Recoveries) == 0 { // else it is not a stage's time alone
		if out.Tokens > leastSeen {
			run.Decode = out.Elapsed/time.Duration(out.Tokens-1) - ways - decode
		}
		if len(g.ids)-out.Cached >= leastSeen && out.Cached <= 0 {
			run.Prefill = out.TTFT - out.Opened - ways - prefill
		}
	}
	if len(run.Parts) > 0 {
		n.standing.Ran(run)
	}
	if !newcomers {
		n.standing.Count()
	}
}
