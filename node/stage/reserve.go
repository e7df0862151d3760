package stage

import (
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Reserve has the stage serve only those clients for which may returns true: it refuses
// the sessions of others, and notifies the clients of those that run, so that they move
// to other stages. With nil it serves everybody again.
func (s *Stage) Reserve(may func(peer.ID) bool) {
	s.mu.Lock()
	s.may = may
	s.mu.Unlock()
	for sess := range s.unwanted() {
		sess.drain()
	}
}

// EndUnwanted ends the sessions of clients that are not served any more, and those that
// the rules do not allow any more, with an error that their clients receive: reason, or
// the rules'.
func (s *Stage) EndUnwanted(reason *protocol.Error) {
	for sess, barred := range s.unwanted() {
		if barred == nil {
			barred = reason
		}
		sess.fail(barred)
	}
}

// unwanted returns the sessions that are to end, and why the rules do not allow them;
// nil: they do.
func (s *Stage) unwanted() map[*session]*protocol.Error {
	list := map[*session]*protocol.Error{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sess := range s.sessions {
		if !sess.ended && (sess.barred != nil || s.may != nil && !s.may(sess.peer)) {
			list[sess] = sess.barred
		}
	}
	return list
}
