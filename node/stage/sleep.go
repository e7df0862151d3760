package stage

import (
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

const (
	// wakeTime is how long an Open waits for a stage that sleeps, and wakeAmong is how long
	// it does on a route of several: once one has accepted, the client takes a stage that is
	// silent for 800 ms to be gone. A load that takes longer goes on without the session, and
	// the client asks again.
	wakeTime  = 3 * time.Second
	wakeAmong = 500 * time.Millisecond

	// probeTokens is the length of sessions that do not count as use: peers probe spans
	// with two tokens and a third as the answer.
	probeTokens = 3
)

// Sleep makes the stage give up what it keeps in its engine, if no session has used it
// for so long, and reports whether it did. The engine is not called from then on until
// Wake, and may be closed. The stage refuses nobody for that: it has the engine loaded
// when a session is opened.
func (s *Stage) Sleep(after time.Duration) bool {
	s.mu.Lock()
	if s.asleep || s.draining || s.ctx.Err() != nil || len(s.sessions) > 0 || time.Since(s.used) < after {
		s.mu.Unlock()
		return false
	}
	s.asleep = true
	for _, k := range slices.Clone(s.kept) {
		s.giveUp(k)
	}
	s.mu.Unlock()
	return s.do(func() error { return nil }) == nil // after what the loop has still to remove
}

// Wake ends Sleep: the engine is there again, and empty.
func (s *Stage) Wake() {
	s.mu.Lock()
	s.asleep, s.used = false, time.Now()
	s.mu.Unlock()
}

// counts reports whether a session is use of the stage, and no probe.
func (sess *session) counts() bool { return sess.open.MaxTokensTotal > probeTokens }

// awaken has the engine of a stage that sleeps loaded for a client, and waits for it, but
// not for long. It returns why the session cannot be opened now, or nil.
func (s *Stage) awaken(o *protocol.Open, client peer.ID) *protocol.Error {
	s.mu.Lock()
	asleep, why := s.asleep, s.closed(client)
	s.mu.Unlock()
	if !asleep || s.cfg.Waken == nil {
		return nil
	}
	if why != nil && !why.Loading {
		return why
	}
	if err := s.check(o); err != nil { // nothing is loaded for what would be refused
		return err
	}
	over, left := s.cfg.Waken()
	most := wakeTime
	if o.Stages > 1 {
		most = wakeAmong
	}
	wait := time.NewTimer(most)
	defer wait.Stop()
	select {
	case <-over:
		return nil // admit finds out whether it has worked
	case <-s.ctx.Done():
		return nil
	case <-wait.C:
		return loading(left)
	}
}

// loading is the refusal of a session for which the engine is being loaded.
func loading(left time.Duration) *protocol.Error {
	e := protocol.Errorf(protocol.Code_CODE_BUSY, "the model was not in use and is being loaded again")
	e.RetryAfter, e.Loading = max(left, 500*time.Millisecond), true
	return e
}
