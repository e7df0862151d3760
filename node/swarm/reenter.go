package swarm

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/host"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/protocol"
)

// lastDay is how long before its end a certificate is replaced at all costs.
const lastDay = 24 * time.Hour

// outdated reports whether the connections of the swarm's host are to show a newer
// certificate, which takes another host: libp2p builds its own once. They do so while no
// session runs in the swarm, or when the one that is shown is about to end, after which
// nobody would let this node in.
func (r *running) outdated(now time.Time) bool {
	s := r.s
	s.mu.Lock()
	shown, newest := s.shown, s.cert
	s.mu.Unlock()
	if shown == nil || !newest.Expires().After(shown.Expires()) {
		return false
	}
	return idle(r.net.Host()) || shown.Expires().Sub(now) < lastDay
}

// idle reports whether no session runs over a host.
func idle(h host.Host) bool {
	for _, c := range h.Network().Conns() {
		for _, s := range c.GetStreams() {
			if p := string(s.Protocol()); p == protocol.StageID || p == protocol.StageID1 {
				return false
			}
		}
	}
	return true
}

// reenter leaves the network of a swarm and enters it again, with the newest certificate.
// It does nothing if r is no more, since then somebody else has done so.
func (b *Book) reenter(r *running) {
	b.work.Lock()
	defer b.work.Unlock()
	b.bridgeWork.Lock() // a bridge's network that closed meanwhile would be the only one
	defer b.bridgeWork.Unlock()
	b.mu.Lock()
	hosts := b.hosts
	b.mu.Unlock()
	s := r.s
	if hosts == nil || r.ctx.Err() != nil || !slices.Contains(b.Swarms(), s) || !r.outdated(b.cfg.Now()) {
		return
	}
	hosts.Exit(s)
	rest := backoff.Backoff{First: time.Second, Most: 4 * time.Second}
	for try := 1; ; try++ {
		err := hosts.Enter(s)
		switch {
		case err == nil:
			s.log.Info("connections show this node's renewed certificate", "swarm", s.Name(), "until", s.Certificate().Expires().Format(time.DateOnly))
			return
		case try == 3:
			s.log.Warn("a swarm was left to show a renewed certificate, and cannot be entered again; the next start does", "swarm", s.Name(), "error", err)
			return
		}
		time.Sleep(rest.Next())
	}
}
