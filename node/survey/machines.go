package survey

import (
	"context"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Machines have names among those that trust each other: a node tells its own to peers
// that it trusts, and takes those of peers that it trusts. A stranger who calls itself
// like a machine of the operator's is so never shown as one.

// learn takes a peer's name from its answer.
func (s *Survey) learn(id peer.ID, st *protocol.StatusReply) {
	name := protocol.MachineName(st.GetName())
	if !s.prefers.Load().trusts[id] || name == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines[id] = name
}

// SetFellows names a function that returns what a fellow member of a private swarm calls its
// machine; "": it is none. It is called before the survey is used.
func (s *Survey) SetFellows(name func(peer.ID) string) { s.fellow = name }

// MachineName returns the name of the machine of a trusted peer or a fellow member; "": it
// has told none.
func (s *Survey) MachineName(id peer.ID) string {
	s.mu.Lock()
	name := s.machines[id]
	s.mu.Unlock()
	if name == "" && s.fellow != nil {
		name = s.fellow(id)
	}
	return name
}

// AskNames asks those of the connected peers for their names that are trusted and have
// told none. It returns when they have answered or ctx ends.
func (s *Survey) AskNames(ctx context.Context, peers []peer.ID) {
	var wg sync.WaitGroup
	for _, id := range peers {
		if s.prefers.Load().trusts[id] && s.MachineName(id) == "" {
			wg.Go(func() { _, _ = s.status(ctx, id, cid.Undef, nil) })
		}
	}
	wg.Wait()
}

// status asks a peer for its load, and notes what it calls its machine.
func (s *Survey) status(ctx context.Context, id peer.ID, model cid.Cid, prefix []uint64) (*protocol.StatusReply, error) {
	st, err := s.net.Status(ctx, id, model, prefix)
	if err == nil {
		s.learn(id, st)
	}
	return st, err
}
