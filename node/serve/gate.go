package serve

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/lend"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// gate is closed while the operator does not lend: outside of the hours, or while the
// machine is needed for something else. It is safe for concurrent use.
type gate struct {
	mu      sync.Mutex
	closed  bool
	why     string
	changed chan struct{} // closed and replaced with each change; nil until it is asked for
}

// set opens or closes the gate, and reports whether that is a change.
func (g *gate) set(open bool, why string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.closed
	g.closed, g.why = !open, why
	if g.changed != nil && was != g.closed {
		close(g.changed)
		g.changed = nil
	}
	return was != g.closed
}

// look returns whether the gate is open, else why not, and a channel that is closed
// at the next change.
func (g *gate) look() (open bool, why string, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return !g.closed, g.why, g.changed
}

// own reports that a client is this node.
func (s *Server) own(p peer.ID) bool { return s.cfg.Network.Own(p) }

// reviewEvery is how often running sessions are held against the rules without a change
// of these: their hours count to the minute.
const reviewEvery = time.Minute

// followGate has a stage serve those to whom the rules lend while the gate is open, and
// only this node while it is closed, until ctx ends. Sessions of others have DrainTime to
// move elsewhere.
func (s *Server) followGate(ctx context.Context, st *stage.Stage) {
	tick := time.NewTicker(reviewEvery)
	defer tick.Stop()
	for {
		open, why, changed := s.gate.look()
		var end <-chan time.Time
		if open {
			st.Reserve(nil)
		} else {
			st.Reserve(s.own)
			end = time.After(s.cfg.DrainTime)
		}
		for same := true; same; {
			reviewed := s.review.next()
			if st.Review() > 0 {
				end = time.After(s.cfg.DrainTime)
			}
			select {
			case <-end:
				st.EndUnwanted(protocol.Errorf(protocol.Code_CODE_DRAINING, "this node lends nothing now: %s", why))
			case <-reviewed:
			case <-tick.C:
			case <-changed:
				same = false
			case <-ctx.Done():
				return
			}
		}
	}
}

// reviews says when the rules have changed. Its zero value is ready.
type reviews struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced with each change; nil until it is asked for
}

// next returns a channel that is closed at the next change.
func (r *reviews) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// Review holds running sessions against the rules, which have changed. Those that they do
// not allow any more have DrainTime to move elsewhere.
func (s *Server) Review() {
	s.review.mu.Lock()
	defer s.review.mu.Unlock()
	if s.review.changed != nil {
		close(s.review.changed)
		s.review.changed = nil
	}
}

// WatchLending opens and closes the gate by the operator's rules until ctx ends. The
// channel is closed when the rules have been asked for the first time.
func (s *Server) WatchLending(ctx context.Context) <-chan struct{} {
	asked := make(chan struct{})
	if s.cfg.Light {
		close(asked)
		return asked
	}
	first := sync.OnceFunc(func() { close(asked) })
	rules := s.limits().Lend
	if err := rules.Unmeasured(); err != nil {
		s.cfg.Log.Warn("the load by other programs is not known here, and pauses nothing", "error", err)
	}
	s.work.Go(func() {
		lend.Watch(ctx, rules, s.rules, 0, func(open bool, why string) {
			if s.gate.set(open, why) {
				if s.hasSpans() {
					s.cfg.Events(Event{Event: "lending", Ready: open, Error: why})
				}
				s.Offer()
			}
			first()
		})
		first()
	})
	return asked
}

// hasSpans reports that something is served, or to be served.
func (s *Server) hasSpans() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.spans) > 0 || s.base == nil && len(s.cfg.Specs) > 0
}
