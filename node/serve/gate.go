package serve

import (
	"context"
	"sync"

	"github.com/shoalnet/shoal/node/lend"
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

// wait waits until the gate is open or ctx ends. It calls told with the reason while
// the gate is closed.
func (g *gate) wait(ctx context.Context, told func(why string)) {
	for ctx.Err() == nil {
		open, why, changed := g.look()
		if open {
			return
		}
		told(why)
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// while returns a context that ends when the gate closes.
func (g *gate) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for ctx.Err() == nil {
			open, _, changed := g.look()
			if !open {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}()
	return ctx, cancel
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
	if err := s.cfg.Lend.Unmeasured(); err != nil {
		s.cfg.Log.Warn("the load by other programs is not known here, and pauses nothing", "error", err)
	}
	s.work.Go(func() {
		lend.Watch(ctx, s.cfg.Lend, 0, func(open bool, why string) {
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
