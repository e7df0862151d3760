package network

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/quic-go/quic-go"
)

const (
	refusalTime = 10 * time.Second // how long a peer's refusal explains a failure
	maxRefusals = 1024
)

// refusals remembers which peers have closed a connection because this node is
// not a member of their swarm. libp2p does not pass the reason on: to the one
// who dialled, the connection seems established, and then gone. It is safe for
// concurrent use.
type refusals struct {
	mu     sync.Mutex
	opened map[peer.ID]network.Conn // the latest to each peer, until ended has looked at it
	noted  map[peer.ID]time.Time
}

func newRefusals() *refusals {
	return &refusals{opened: map[peer.ID]network.Conn{}, noted: map[peer.ID]time.Time{}}
}

// began notes a connection before anybody can use it.
func (r *refusals) began(c network.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.opened) >= maxRefusals {
		for p, c := range r.opened {
			if c.IsClosed() {
				delete(r.opened, p)
			}
		}
	}
	r.opened[c.RemotePeer()] = c
}

// ended looks at a closed connection, and reports whether it was refused.
func (r *refusals) ended(c network.Conn) bool {
	refused := refusedUs(c)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.noted) >= maxRefusals {
		clear(r.noted)
	}
	if refused {
		r.noted[c.RemotePeer()] = time.Now()
	}
	if r.opened[c.RemotePeer()] == c {
		delete(r.opened, c.RemotePeer())
	}
	return refused
}

// by reports whether a peer has refused this node just now.
func (r *refusals) by(p peer.ID) bool {
	r.mu.Lock()
	c, at := r.opened[p], r.noted[p]
	r.mu.Unlock()
	return time.Since(at) < refusalTime || c != nil && c.IsClosed() && refusedUs(c)
}

// refusedUs reports whether the other side has closed a connection because of
// this node's membership.
func refusedUs(c network.Conn) bool {
	var q *quic.Conn
	if c.As(&q) {
		var closed *quic.ApplicationError
		return errors.As(context.Cause(q.Context()), &closed) && closed.Remote && closed.ErrorCode == quic.ApplicationErrorCode(network.ConnGated)
	}
	if !c.IsClosed() {
		return false
	}
	s, err := c.NewStream(context.Background()) // fails with what has ended the connection
	if err == nil {
		_ = s.Reset()
		return false
	}
	return gated(err) == ErrNotMember
}

// explainTo returns an error of reaching a peer, shortened for people.
func (n *Network) explainTo(p peer.ID, err error) error {
	if !errors.Is(err, context.Canceled) && n.refusals.by(p) {
		return ErrNotMember
	}
	return tidy(err)
}
