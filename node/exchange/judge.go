package exchange

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

// judge sees all messages. It keeps account of what peers were asked for and
// did not send, and bitswap from asking those that only say that they have it:
// bitswap would, for as long as they say so.
type judge struct {
	bitswapnet.BitSwapNetwork
	bs    atomic.Pointer[bitswap.Bitswap]
	book  *ledger
	blame func(p peer.ID, why string)

	mu    sync.Mutex
	peers map[peer.ID]*account
}

// maxAsked is how many blocks a peer was asked for are remembered.
const maxAsked = 4096

// crossTime is how long what was asked for, and called off, may still come.
const crossTime = 5 * time.Minute

// account of a peer.
type account struct {
	owes  map[cid.Cid]bool
	asked map[cid.Cid]bool // of late, in any way
	older map[cid.Cid]bool // before those
	last  time.Time        // it was asked
	since time.Time        // it owes something and has sent nothing
	until time.Time        // it is shunned
}

func newJudge(n bitswapnet.BitSwapNetwork, book *ledger, blame func(peer.ID, string)) *judge {
	return &judge{BitSwapNetwork: n, book: book, blame: blame, peers: map[peer.ID]*account{}}
}

// Start puts the judge between the network and bitswap.
func (j *judge) Start(to ...bitswapnet.Receiver) {
	for i, r := range to {
		to[i] = judged{r, j}
	}
	j.BitSwapNetwork.Start(to...)
}

type judged struct {
	bitswapnet.Receiver
	j *judge
}

func (r judged) ReceiveMessage(ctx context.Context, p peer.ID, m message.BitSwapMessage) {
	r.Receiver.ReceiveMessage(ctx, p, r.j.heard(p, m))
}

func (r judged) PeerConnected(p peer.ID) {
	if !r.j.shuns(p) {
		r.Receiver.PeerConnected(p)
	}
}

func (r judged) PeerDisconnected(p peer.ID) {
	r.j.left(p)
	r.Receiver.PeerDisconnected(p)
}

// NewMessageSender gives bitswap a sender of what it wants.
func (j *judge) NewMessageSender(ctx context.Context, p peer.ID, opt *bitswapnet.MessageSenderOpts) (bitswapnet.MessageSender, error) {
	s, err := j.BitSwapNetwork.NewMessageSender(ctx, p, opt)
	if err != nil {
		return nil, err
	}
	return sender{s, j, p}, nil
}

type sender struct {
	bitswapnet.MessageSender
	j *judge
	p peer.ID
}

func (s sender) SendMsg(ctx context.Context, m message.BitSwapMessage) error {
	s.j.asked(s.p, m.Wantlist())
	return s.MessageSender.SendMsg(ctx, m)
}

func (j *judge) asked(p peer.ID, wants []message.Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	a := j.peers[p]
	if a == nil {
		a = &account{owes: map[cid.Cid]bool{}, asked: map[cid.Cid]bool{}}
		j.peers[p] = a
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
		a.asked[e.Cid], a.last = true, time.Now() // small blocks are sent where it was asked whether they are there
	}
	a.settle(false)
}

// settle follows a change of what is owed.
func (a *account) settle(paid bool) {
	if len(a.owes) == 0 {
		a.since = time.Time{}
	} else if paid || a.since.IsZero() {
		a.since = time.Now()
	}
}

// heard takes a message that came and gives what of it is for bitswap. A peer
// that is shunned may ask and give; what it says that it has is not believed.
func (j *judge) heard(p peer.ID, m message.BitSwapMessage) message.BitSwapMessage {
	j.mu.Lock()
	defer j.mu.Unlock()
	a := j.peers[p]
	if a == nil {
		return m
	}
	paid, taken, odd := false, 0, 0
	for _, b := range m.Blocks() {
		if a.asked[b.Cid()] || a.older[b.Cid()] {
			taken += len(b.RawData())
		} else {
			odd++
		}
		paid = paid || a.owes[b.Cid()]
		delete(a.owes, b.Cid())
	}
	if taken > 0 {
		j.book.pass(p.String(), 0, taken)
	}
	if odd > 0 { // a block is named by what it is; this is not what it was asked for
		go j.blame(p, errBad.Error())
	}
	for _, c := range m.DontHaves() {
		delete(a.owes, c)
	}
	a.settle(paid)
	if time.Now().After(a.until) && odd == 0 && !j.book.bad(p.String()) {
		return m
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
	return out
}

func (j *judge) left(p peer.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if a := j.peers[p]; a != nil {
		clear(a.owes)
		a.settle(false)
	}
}

func (j *judge) shuns(p peer.ID) bool {
	if j.book.bad(p.String()) {
		return true
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	a := j.peers[p]
	return a != nil && !time.Now().After(a.until)
}

// shun has others asked for what peers have owed for too long, if there are
// others among a fetch's holders, and says whether it did. It leaves alone who
// is a holder for other fetches only.
func (j *judge) shun(tooLong time.Duration, holders, all []peer.AddrInfo) bool {
	bad := j.overdue(tooLong, holders, all)
	bs := j.bs.Load()
	for _, p := range bad {
		bs.Client.PeerDisconnected(p)
	}
	return len(bad) > 0
}

func (j *judge) overdue(tooLong time.Duration, holders, all []peer.AddrInfo) []peer.ID {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	var bad []peer.ID
	for p, a := range j.peers {
		switch {
		case len(a.owes) == 0:
			if now.After(a.until) && now.Sub(a.last) > crossTime {
				delete(j.peers, p)
			}
		case now.Sub(a.since) > tooLong && (among(holders, p) || !among(all, p)):
			bad = append(bad, p)
		}
	}
	if !slices.ContainsFunc(holders, func(p peer.AddrInfo) bool { return !slices.Contains(bad, p.ID) }) {
		return nil
	}
	for _, p := range bad {
		a := j.peers[p]
		a.until = now.Add(shunTime)
		clear(a.owes)
		a.settle(false)
	}
	return bad
}

func among(list []peer.AddrInfo, p peer.ID) bool {
	return slices.ContainsFunc(list, func(q peer.AddrInfo) bool { return q.ID == p })
}

// forgive shuns nobody any more.
func (j *judge) forgive() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, a := range j.peers {
		a.until = time.Time{}
	}
}
