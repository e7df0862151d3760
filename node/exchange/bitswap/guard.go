package bitswap

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	bitswapnet "github.com/ipfs/boxo/bitswap/network"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// guard sees all messages. It tracks the blocks that peers were asked for and
// did not send, and hides peers that only claim to have them from bitswap, which
// would otherwise keep asking them.
type guard struct {
	bitswapnet.BitSwapNetwork
	bs     atomic.Pointer[bitswap.Bitswap]
	ledger Ledger
	blame  func(p peer.ID)

	mu    sync.Mutex
	peers map[peer.ID]*account
}

const (
	maxAsked  = 4096             // remembered blocks per peer and generation; there are two generations
	crossTime = 5 * time.Minute  // a block that was asked for, and cancelled, may still come
	shunTime  = 60 * time.Second // a peer stays hidden
)

// account is what one peer was asked for and what it owes.
type account struct {
	owes  map[cid.Cid]bool // blocks asked for and not sent
	asked map[cid.Cid]bool // blocks asked for or asked about, the latest maxAsked
	older map[cid.Cid]bool // the maxAsked before those
	last  time.Time        // it was asked for something
	since time.Time        // it has owed something and sent nothing since; zero: it owes nothing
	until time.Time        // it is hidden
}

func newGuard(n bitswapnet.BitSwapNetwork, ledger Ledger, blame func(peer.ID)) *guard {
	return &guard{BitSwapNetwork: n, ledger: ledger, blame: blame, peers: map[peer.ID]*account{}}
}

// Start puts the guard between the network and bitswap.
func (g *guard) Start(to ...bitswapnet.Receiver) {
	for i, r := range to {
		to[i] = guardedReceiver{r, g}
	}
	g.BitSwapNetwork.Start(to...)
}

// guardedReceiver is what the network delivers messages to.
type guardedReceiver struct {
	bitswapnet.Receiver
	g *guard
}

func (r guardedReceiver) ReceiveMessage(ctx context.Context, p peer.ID, m message.BitSwapMessage) {
	r.Receiver.ReceiveMessage(ctx, p, r.g.heard(p, m))
}

func (r guardedReceiver) PeerConnected(p peer.ID) {
	if !r.g.shuns(p) {
		r.Receiver.PeerConnected(p)
	}
}

func (r guardedReceiver) PeerDisconnected(p peer.ID) {
	r.g.left(p)
	r.Receiver.PeerDisconnected(p)
}

// NewMessageSender returns a sender that notes which blocks are asked for.
func (g *guard) NewMessageSender(ctx context.Context, p peer.ID, opt *bitswapnet.MessageSenderOpts) (bitswapnet.MessageSender, error) {
	s, err := g.BitSwapNetwork.NewMessageSender(ctx, p, opt)
	if err != nil {
		return nil, err
	}
	return guardedSender{s, g, p}, nil
}

// guardedSender sends bitswap's wants to one peer.
type guardedSender struct {
	bitswapnet.MessageSender
	g *guard
	p peer.ID
}

func (s guardedSender) SendMsg(ctx context.Context, m message.BitSwapMessage) error {
	s.g.asked(s.p, m.Wantlist())
	return s.MessageSender.SendMsg(ctx, m)
}

// asked notes what a message asks a peer for.
func (g *guard) asked(p peer.ID, wants []message.Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.peers[p]
	if a == nil {
		a = &account{owes: map[cid.Cid]bool{}, asked: map[cid.Cid]bool{}}
		g.peers[p] = a
	}
	for _, e := range wants {
		if e.Cancel {
			delete(a.owes, e.Cid)
			continue
		}
		if e.WantType == pb.Message_Wantlist_Block {
			a.owes[e.Cid] = true
		}
		if len(a.asked) >= maxAsked {
			a.asked, a.older = map[cid.Cid]bool{}, a.asked
		}
		a.asked[e.Cid], a.last = true, time.Now() // bitswap sends a small block in answer to a question for it
	}
	a.settle(false)
}

// settle restarts the peer's time when it has paid or owes for the first time,
// and stops it when it owes nothing.
func (a *account) settle(paid bool) {
	if len(a.owes) == 0 {
		a.since = time.Time{}
	} else if paid || a.since.IsZero() {
		a.since = time.Now()
	}
}

// heard notes a message that came and returns what bitswap is to see of it. A
// hidden peer may ask and give; its claims to have blocks are removed.
func (g *guard) heard(p peer.ID, m message.BitSwapMessage) message.BitSwapMessage {
	m, taken := g.inspect(p, m)
	if taken > 0 {
		g.ledger.Pass(p.String(), 0, taken)
	}
	return m
}

// inspect does the work of heard, and returns the bytes of blocks that were asked
// for.
func (g *guard) inspect(p peer.ID, m message.BitSwapMessage) (seen message.BitSwapMessage, taken int) {
	bad := g.ledger.Bad(p.String())
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.peers[p]
	if a == nil {
		return m, 0
	}
	paid, odd := false, 0
	for _, b := range m.Blocks() {
		if a.asked[b.Cid()] || a.older[b.Cid()] {
			taken += len(b.RawData())
		} else {
			odd++
		}
		paid = paid || a.owes[b.Cid()]
		delete(a.owes, b.Cid())
	}
	if odd > 0 { // a CID follows from the content: other content is a block that was not asked for
		go g.blame(p)
	}
	for _, c := range m.DontHaves() {
		delete(a.owes, c)
	}
	a.settle(paid)
	if time.Now().After(a.until) && odd == 0 && !bad {
		return m, taken
	}
	out := message.New(m.Full())
	for _, e := range m.Wantlist() {
		if e.Cancel {
			out.Cancel(e.Cid)
		} else {
			out.AddEntry(e.Cid, e.Priority, e.WantType, e.SendDontHave)
		}
	}
	for _, b := range m.Blocks() {
		out.AddBlock(b)
	}
	return out, taken
}

// left forgets what a peer that has disconnected owes.
func (g *guard) left(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a := g.peers[p]; a != nil {
		clear(a.owes)
		a.settle(false)
	}
}

// shuns reports whether a peer is hidden, or lied.
func (g *guard) shuns(p peer.ID) bool {
	if g.ledger.Bad(p.String()) {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.peers[p]
	return a != nil && !time.Now().After(a.until)
}

// shun does what Service.Shun says.
func (g *guard) shun(tooLong time.Duration, holders, all []peer.AddrInfo) bool {
	bad := g.overdue(tooLong, holders, all)
	bs := g.bs.Load()
	for _, p := range bad {
		bs.Client.PeerDisconnected(p)
	}
	return len(bad) > 0
}

// overdue lists the peers to hide, and hides them.
func (g *guard) overdue(tooLong time.Duration, holders, all []peer.AddrInfo) []peer.ID {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	var bad []peer.ID
	for p, a := range g.peers {
		switch {
		case len(a.owes) == 0:
			if now.After(a.until) && now.Sub(a.last) > crossTime {
				delete(g.peers, p)
			}
		case now.Sub(a.since) > tooLong && (among(holders, p) || !among(all, p)):
			bad = append(bad, p)
		}
	}
	if !slices.ContainsFunc(holders, func(p peer.AddrInfo) bool { return !slices.Contains(bad, p.ID) }) {
		return nil
	}
	for _, p := range bad {
		a := g.peers[p]
		a.until = now.Add(shunTime)
		clear(a.owes)
		a.settle(false)
	}
	return bad
}

// among reports whether a peer is in a list.
func among(list []peer.AddrInfo, p peer.ID) bool {
	return slices.ContainsFunc(list, func(q peer.AddrInfo) bool { return q.ID == p })
}

// forgive hides nobody any more.
func (g *guard) forgive() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.peers {
		a.until = time.Time{}
	}
}
