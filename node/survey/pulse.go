package survey

import (
	"context"
	"maps"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Beat is what a peer last said of its load.
type Beat struct {
	At     time.Time
	Status *protocol.StatusReply // nil: no answer
}

const (
	pulseEvery = 2 * time.Second
	pulsePeers = 64 // per round, at most
	pulseLife  = time.Minute
)

// Beats are the last answers of peers, by peer.
func (s *Survey) Beats() map[peer.ID]Beat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.beats)
}

// Refresh asks peers for their load in the background, at most every two seconds.
func (s *Survey) Refresh(peers []peer.ID) {
	now := time.Now()
	s.mu.Lock()
	due := now.Sub(s.asked) >= pulseEvery
	if due {
		s.asked = now
		maps.DeleteFunc(s.beats, func(_ peer.ID, b Beat) bool { return now.Sub(b.At) > pulseLife })
	}
	s.mu.Unlock()
	if !due {
		return
	}
	for _, id := range peers[:min(len(peers), pulsePeers)] {
		go s.Ask(id)
	}
}

// Ask asks one peer for its load, for Beats. The network leaves one that does not
// answer out of routes for a while.
func (s *Survey) Ask(id peer.ID) {
	ctx, cancel := context.WithTimeout(context.Background(), pulseEvery)
	defer cancel()
	st, err := s.status(ctx, id, cid.Undef, nil)
	if err != nil {
		st = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beats[id] = Beat{time.Now(), st}
}
