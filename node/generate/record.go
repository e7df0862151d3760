package generate

import (
	"errors"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/standing"
	"github.com/shoalnet/shoal/protocol"
)

// lieError is a failure of a stage that an honest one cannot have.
type lieError struct{ error }

func (l lieError) Unwrap() error { return l.error }

// blame records the fault of the stage that ended a session, if it had one.
func (g *generation) blame(err error) {
	var where *session.StageError
	if errors.As(err, &where) && !errors.Is(err, session.ErrNoReadings) { // an older version is no fault
		g.mark(where.Hop.Peer, where.Err, where.Err.Error())
	}
}

// blameReplaced records the fault of the stages that a repair has replaced.
func (g *generation) blameReplaced(rec session.Recovery) {
	for _, h := range rec.Lost {
		g.mark(h.Peer, rec.Err, rec.Why)
	}
}

// mark records the fault that a failure shows; why is for people. Those of
// trusted peers are not recorded.
func (g *generation) mark(p peer.ID, failure error, why string) {
	if f, ok := faultOf(failure); ok && !g.cfg.Survey.Trusted(p) {
		g.cfg.Recorder.Mark(p, f, why)
	}
}

// faultOf returns the fault that a stage's failure shows. To be full, to leave or to
// refuse a session is not a fault.
func faultOf(err error) (f standing.Fault, ok bool) {
	var l lieError
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

// leastSeen is how many tokens of an answer, or rows of a prompt, it takes to tell how
// long one needs.
const leastSeen = 8

// credit records a session that ended well: which peers worked, and how fast.
func (g *generation) credit(out *session.Outcome) {
	g.recordAnswered(g.model.ID(), out.Route)
	g.countGuesses(out)
	run := standing.Run{Tokens: len(g.ids) + out.Tokens}
	var links, decode, prefill time.Duration // of the ring; of this node's own stages
	newcomers := false
	for i, h := range out.Route {
		c, ok := g.costs.stage(h)
		if !ok {
			return
		}
		newcomers = newcomers || c.New
		links += g.costs.oneWay(h.Peer, out.Route[(i+1)%len(out.Route)].Peer) + route.StageCost
		part := standing.Part{Peer: h.Peer, Decode: c.Claimed * time.Duration(h.Span.Len()), Prefill: c.ClaimedPrefill * time.Duration(h.Span.Len()*len(g.ids))}
		if g.cfg.Network.Own(h.Peer) {
			decode, prefill = decode+part.Decode, prefill+part.Prefill
			continue
		}
		run.Parts = append(run.Parts, part)
	}
	if len(out.Recoveries) == 0 { // otherwise it is not the time of stages alone
		if trip := out.Trip(); trip > 0 && out.Tokens > leastSeen {
			run.Decode = trip - links - decode
		}
		if len(g.ids)-out.Cached >= leastSeen && out.Cached <= 0 {
			run.Prefill = out.TTFT - out.Fed - links - prefill
		}
	}
	if len(run.Parts) > 0 {
		g.cfg.Recorder.Ran(run)
	}
	if !newcomers {
		g.cfg.Recorder.Count()
	}
}
