package bitswap

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/ipfs/boxo/bitswap/message"
	bitswapnet "github.com/ipfs/boxo/bitswap/network"
	"github.com/ipfs/boxo/bitswap/server"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// PerPeer is how many bytes may be on their way to one peer. With 1 MiB,
	// bitswap's default, the rate is down by up to three quarters.
	PerPeer = 4 << 20

	sendAtOnce = 16 // messages on their way, to all peers
)

// sendQueue decides which peer bitswap sends to next.
//
// Bitswap by itself prefers a peer that has not been sent anything for ten
// seconds. Such a peer may have stopped reading; nothing more can be sent to it,
// and so nobody else would get anything.
type sendQueue struct {
	bitswapnet.BitSwapNetwork
	ledger Ledger
	server atomic.Pointer[server.Server]

	mu    sync.Mutex
	count uint64 // messages begun or ended
	peers map[peer.ID]*peerQueue
}

// peerQueue is what is on its way to one peer.
type peerQueue struct {
	messages, bytes int
	last            uint64 // sendQueue.count when it was last sent something
}

func newSendQueue(n bitswapnet.BitSwapNetwork, ledger Ledger) *sendQueue {
	return &sendQueue{BitSwapNetwork: n, ledger: ledger, peers: map[peer.ID]*peerQueue{}}
}

// SendMessage sends a message. If that fails, the peer's other wants are
// forgotten: it asks again for what it still wants.
func (q *sendQueue) SendMessage(ctx context.Context, p peer.ID, m message.BitSwapMessage) error {
	size := m.Size()
	q.add(p, 1, size)
	defer q.add(p, -1, -size)
	err := q.BitSwapNetwork.SendMessage(ctx, p, m)
	if err == nil {
		given := 0
		for _, b := range m.Blocks() {
			given += len(b.RawData())
		}
		if given > 0 {
			q.ledger.Pass(p.String(), given, 0)
		}
	}
	if srv := q.server.Load(); err != nil && srv != nil {
		srv.PeerDisconnected(p)
	}
	return err
}

// add notes messages and bytes that are on their way to a peer, or, if negative,
// no more.
func (q *sendQueue) add(p peer.ID, messages, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	of := q.peers[p]
	if of == nil {
		of = &peerQueue{}
		q.peers[p] = of
		q.tidy()
	}
	of.messages += messages
	of.bytes += bytes
	q.count++
	of.last = q.count
}

// tidy forgets peers that were sent nothing for a thousand messages. Called with mu held.
func (q *sendQueue) tidy() {
	for p, of := range q.peers {
		if of.messages == 0 && q.count-of.last > 1000 {
			delete(q.peers, p)
		}
	}
}

// before reports whether a task goes before another. Of one peer's, an answer
// without a block goes first. Of two peers, the one with fewer than PerPeer bytes
// on their way goes first, and then the one that was served longer ago.
func (q *sendQueue) before(a, b *server.TaskInfo) bool {
	if a.Peer == b.Peer {
		return !a.IsWantBlock && b.IsWantBlock
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	qa, qb := q.of(a.Peer), q.of(b.Peer)
	if full := qa.bytes >= PerPeer; full != (qb.bytes >= PerPeer) {
		return !full
	}
	return qa.last < qb.last
}

func (q *sendQueue) of(p peer.ID) peerQueue {
	if of := q.peers[p]; of != nil {
		return *of
	}
	return peerQueue{}
}
