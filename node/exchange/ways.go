package exchange

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
	sendAtOnce = 16      // messages on their way out, to all peers
	perPeer    = 4 << 20 // bytes on their way to a peer; 1 MiB, bitswap's default, costs up to three quarters of the rate
)

// ways are the ways out. They tell bitswap whom to send to next.
//
// Left to itself, bitswap prefers whoever has not been sent anything for ten
// seconds. That is a peer that has stopped reading, to whom it then can send
// nothing more, and so nobody gets anything.
type ways struct {
	bitswapnet.BitSwapNetwork
	book   *ledger
	server atomic.Pointer[server.Server]

	mu    sync.Mutex
	count uint64
	peers map[peer.ID]*way
}

type way struct {
	messages, bytes int    // under way
	last            uint64 // count when it last had its turn
}

func newWays(n bitswapnet.BitSwapNetwork, book *ledger) *ways {
	return &ways{BitSwapNetwork: n, book: book, peers: map[peer.ID]*way{}}
}

// SendMessage sends, and forgets what else the peer wants if that fails: what
// it still wants it will ask for again.
func (w *ways) SendMessage(ctx context.Context, p peer.ID, m message.BitSwapMessage) error {
	size := m.Size()
	w.add(p, 1, size)
	defer w.add(p, -1, -size)
	err := w.BitSwapNetwork.SendMessage(ctx, p, m)
	if err == nil {
		given := 0
		for _, b := range m.Blocks() {
			given += len(b.RawData())
		}
		if given > 0 {
			w.book.pass(p.String(), given, 0)
		}
	}
	if srv := w.server.Load(); err != nil && srv != nil {
		srv.PeerDisconnected(p)
	}
	return err
}

func (w *ways) add(p peer.ID, messages, bytes int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.peers[p]
	if of == nil {
		of = &way{}
		w.peers[p] = of
		w.tidy()
	}
	of.messages += messages
	of.bytes += bytes
	w.count++
	of.last = w.count
}

// tidy forgets peers that have had nothing for long. Called with mu held.
func (w *ways) tidy() {
	for p, of := range w.peers {
		if of.messages == 0 && w.count-of.last > 1000 {
			delete(w.peers, p)
		}
	}
}

// before says which of two tasks goes first: of one peer the shorter, an
// answer without a block; of two that of the peer that can take more, and had
// its turn longer ago.
func (w *ways) before(a, b *server.TaskInfo) bool {
	if a.Peer == b.Peer {
		return !a.IsWantBlock && b.IsWantBlock
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	wa, wb := w.of(a.Peer), w.of(b.Peer)
	if full := wa.bytes >= perPeer; full != (wb.bytes >= perPeer) {
		return !full
	}
	return wa.last < wb.last
}

func (w *ways) of(p peer.ID) way {
	if of := w.peers[p]; of != nil {
		return *of
	}
	return way{}
}
