package stage

import (
	"math"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// A link's first rows may go right behind its Link, ahead of any credit (doc.go, "Early
// rows").

const (
	earlyBytes   = 256 << 10        // of such rows, but one row at least
	mostPermits  = 4                // links of a client to a successor that may be ahead of its answer at once
	permitsFor   = 10 * time.Minute // after which permits are forgotten
	mostConsents = 1024             // pairs of a client and a successor with permits
)

// ends are a session's client and the successor that it has named.
type ends struct{ client, next peer.ID }

// consent is what a successor's answers to links of a client's sessions allow.
type consent struct {
	permits int
	rows    int       // of its last first credit
	at      time.Time // of the last answer
}

// earlyRows returns how many rows may go to a successor ahead of its answer: none to one
// that has answered no link of a session of the same client lately.
func (s *Stage) earlyRows(sess *session, next peer.ID, now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := ends{sess.peer, next}
	c := s.consents[e]
	if now.Sub(c.at) > permitsFor {
		c = consent{}
	}
	if c.permits == 0 && !sess.grant.Own {
		return 0
	}
	if c.permits--; c.permits >= 0 {
		s.consents[e] = c
	}
	return min(max(protocol.MaxLinkRows, c.rows), max(1, earlyBytes/max(1, 4*s.cfg.Width)))
}

// answered records the first credit of a link: the successor takes rows of that client's
// sessions. It gives the permit back that the link has used, if it has, and one more.
func (s *Stage) answered(sess *session, next peer.ID, ahead bool, credit uint64) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	e := ends{sess.peer, next}
	c, ok := s.consents[e]
	if !ok && len(s.consents) >= mostConsents {
		s.forgetConsent()
	}
	if now.Sub(c.at) > permitsFor {
		c.permits = 0
	}
	if c.permits++; ahead {
		c.permits++
	}
	s.consents[e] = consent{min(c.permits, mostPermits), int(min(credit, math.MaxInt32)), now}
}

// forgetConsent drops the consent that was given longest ago. Called with mu held.
func (s *Stage) forgetConsent() {
	var oldest ends
	for e, c := range s.consents {
		if o, ok := s.consents[oldest]; !ok || c.at.Before(o.at) {
			oldest = e
		}
	}
	delete(s.consents, oldest)
}

// tooEarly reports whether a session lacks what comes before a step of a new epoch, or
// cannot be taken back to it: its client has sent the step without waiting for the answer
// to Open, which says so, and will begin again. Called with mu held.
func (sess *session) tooEarly(st *step) bool {
	return sess.open.Early && (st.base > sess.length || st.base > 0 && st.base < int(sess.floor()))
}
