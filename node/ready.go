package node

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/shoalnet/shoal/node/serve"
)

// ErrStopped is what Ready returns once the node has stopped in order.
var ErrStopped = errors.New("the node has stopped")

// life is how far a node has come, for those that wait in Ready. It is safe for
// concurrent use.
type life struct {
	mu        sync.Mutex
	changed   chan struct{} // closed when any of this, or what is served, has changed
	listening bool
	ended     error // Run has returned
}

// observe returns a function that passes events on, and wakes those that wait.
func (l *life) observe(events func(Event)) func(Event) {
	l.changed = make(chan struct{})
	return func(e Event) {
		events(e)
		l.update(func() { l.listening = l.listening || e.Event == "listening" })
	}
}

// end notes that Run has returned.
func (l *life) end(err error) {
	if err == nil {
		err = ErrStopped
	}
	l.update(func() { l.ended = err })
}

func (l *life) update(how func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	how()
	close(l.changed)
	l.changed = make(chan struct{})
}

// look returns what is known now, and a channel that is closed when that changes.
// The error is that of Run, once it has ended.
func (l *life) look() (listening bool, changed <-chan struct{}, ended error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.listening, l.changed, l.ended
}

// Ready waits until the node listens and each entry of Config.Serve is served: loaded,
// and proven by a token through a whole chain. It may be called before Run. What is
// ready may be lost again later, with an engine for instance. The errors are ctx's, and,
// if Run has returned, its error or ErrStopped.
func (n *Node) Ready(ctx context.Context) error {
	for {
		listening, changed, ended := n.life.look()
		if ended != nil {
			return ended
		}
		if listening && n.servesAll() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unready returns why the node does not answer for all that it is to serve; nothing if it
// does.
func (n *Node) unready() (why []string) {
	listening, _, ended := n.life.look()
	if !listening || ended != nil {
		return []string{"the node is starting or leaving"}
	}
	snap := n.serve.Snapshot()
	for i := range snap.Spans {
		if s := &snap.Spans[i]; !s.Ready {
			why = append(why, s.Name()+": "+s.State)
		}
	}
	if len(why) == 0 && !n.servesAll() {
		why = []string{"what is to be served is not known yet"}
	}
	return why
}

// servesAll reports whether all that was asked for is served.
func (n *Node) servesAll() bool {
	snap := n.serve.Snapshot()
	return snap.Begun && !slices.ContainsFunc(snap.Spans, func(s serve.Span) bool { return !s.Ready && !s.Guest })
}
