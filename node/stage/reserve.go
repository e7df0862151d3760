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
	for _, sess := range s.unwanted() {
		sess.drain()
	}
}

// Unwanted returns how many sessions run of clients that are not served any more.
func (s *Stage) Unwanted() int { return len(s.unwanted()) }

// EndUnwanted ends them, with an error that their clients receive.
func (s *Stage) EndUnwanted(reason *protocol.Error) {
	for _, sess := range s.unwanted() {
		sess.fail(reason)
	}
}

func (s *Stage) unwanted() (list []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.may == nil {
		return nil
	}
	for _, sess := range s.sessions {
		if !sess.ended && !s.may(sess.peer) {
			list = append(list, sess)
		}
	}
	return list
}
