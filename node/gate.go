package node

import (
	"context"
	"sync"

	"github.com/shoalnet/shoal/node/lend"
)

// gate is closed while the operator does not lend: outside of the hours, or
// while the machine is needed otherwise.
type gate struct {
	mu      sync.Mutex
	closed  bool
	why     string
	changed chan struct{} // closed and replaced with each change; nil until it is asked for
}

// set opens or closes the gate, and says whether that is a change.
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

func (g *gate) look() (open bool, why string, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return !g.closed, g.why, g.changed
}

// wait waits until the gate is open; told is called with the reason if it is
// not.
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

// while gives a context that ends when the gate closes.
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

// watchLending keeps the gate as the operator's rules have it. The channel is
// closed when they have been asked for the first time.
func (n *Node) watchLending(ctx context.Context) <-chan struct{} {
	asked := make(chan struct{})
	if n.cfg.Client || len(n.cfg.Serve) == 0 {
		close(asked)
		return asked
	}
	if err := n.cfg.Lend.Unmeasured(); err != nil {
		n.cfg.Log.Warn("the load by other programs is not known here, and pauses nothing", "error", err)
	}
	first := sync.OnceFunc(func() { close(asked) })
	go func() {
		lend.Watch(ctx, n.cfg.Lend, 0, func(open bool, why string) {
			if n.gate.set(open, why) {
				n.cfg.Events(Event{Event: "lending", Ready: open, Error: why})
				n.offerAll()
			}
			first()
		})
		first()
	}()
	return asked
}
