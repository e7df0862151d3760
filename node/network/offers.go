package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/protocol"
)

// SetOffer signs an offer and begins to spread it; it replaces the one before.
// Peer, sequence number, times and addresses are filled in, again at each
// refresh. An offer without spans and shards is spread no further than those
// who ask.
func (n *Network) SetOffer(body *protocol.OfferBody) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.body = body
	err := n.sign()
	n.poke()
	return err
}

// sign is called with mu held.
func (n *Network) sign() error {
	if n.body == nil {
		return nil
	}
	b := proto.Clone(n.body).(*protocol.OfferBody)
	now := time.Now()
	n.seq++
	b.Seq, b.IssuedUnixMs, b.ExpiresUnixMs, b.Version = n.seq, now.UnixMilli(), now.Add(offerLife).UnixMilli(), n.cfg.Version
	for _, a := range n.host.Addrs() {
		if len(b.Addrs) < 16 {
			b.Addrs = append(b.Addrs, a.Bytes())
		}
	}
	o, err := protocol.SealOffer(b, n.cfg.Key)
	if err == nil {
		n.own = o
	}
	return err
}

// Withdraw says that nothing is served any more, and waits until those
// connected have been told.
func (n *Network) Withdraw(ctx context.Context) error {
	if n.OwnOffer() == nil {
		return nil
	}
	if err := n.SetOffer(&protocol.OfferBody{}); err != nil {
		return err
	}
	n.tell(ctx)
	return nil
}

// tell gives the own offer to those connected who have not had it, by asking
// for theirs.
func (n *Network) tell(ctx context.Context) {
	own := n.OwnOffer()
	if own == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	connected := n.host.Network().Peers()
	n.mu.Lock()
	for p := range n.told {
		if !slices.Contains(connected, p) {
			delete(n.told, p)
		}
	}
	fresh := slices.DeleteFunc(connected, func(p peer.ID) bool { return n.told[p] >= own.Seq })
	n.mu.Unlock()
	n.askAll(ctx, fresh, cid.Undef)
}

// OwnOffer is the offer as it stands; nil if there is none.
func (n *Network) OwnOffer() *protocol.Offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.own
}

// take verifies an offer and keeps it unless a newer one is known.
func (n *Network) take(raw []byte) (*protocol.Offer, error) {
	o, err := protocol.OpenOffer(raw, time.Now())
	if err != nil {
		return nil, err
	}
	if o.From == n.host.ID() {
		return o, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.offers[o.From]
	if !o.Supersedes(old) {
		if o.Seq == old.Seq {
			return old, nil
		}
		return nil, protocol.ErrOfferOld
	}
	if old == nil && len(n.offers) >= maxOffers {
		n.prune()
	}
	n.offers[o.From] = o
	n.host.Peerstore().AddAddrs(o.From, o.Addresses(), peerstore.RecentlyConnectedAddrTTL)
	return o, nil
}

const maxOffers = 4096

// prune forgets expired offers, and any one if there are none. Called with mu
// held.
func (n *Network) prune() {
	now := time.Now()
	var any peer.ID
	before := len(n.offers)
	for p, o := range n.offers {
		if any = p; now.After(o.Expires()) {
			delete(n.offers, p)
		}
	}
	if len(n.offers) == before {
		delete(n.offers, any)
	}
}

// Known are the live offers at hand, the own one included, that concern a
// model; of cid.Undef: all.
func (n *Network) Known(model cid.Cid) []*protocol.Offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	var out []*protocol.Offer
	for _, o := range n.offers {
		if now.Before(o.Expires()) && concerns(o, model) {
			out = append(out, o)
		}
	}
	if n.own != nil && concerns(n.own, model) {
		out = append(out, n.own)
	}
	slices.SortFunc(out, func(a, b *protocol.Offer) int {
		if a.From < b.From {
			return -1
		}
		return 1
	})
	return out
}

func concerns(o *protocol.Offer, model cid.Cid) bool {
	if !model.Defined() {
		return true
	}
	id := string(model.Bytes())
	return slices.ContainsFunc(o.Spans, func(s *protocol.ServedSpan) bool { return string(s.Model) == id }) ||
		slices.ContainsFunc(o.Shards, func(h *protocol.HeldShards) bool { return string(h.Model) == id })
}

// Offers finds who serves or holds a model, or with cid.Undef what those
// connected offer. It asks the members it knows, and the DHT only if what they
// say is not enough.
func (n *Network) Offers(ctx context.Context, model cid.Cid, enough func([]*protocol.Offer) bool) []*protocol.Offer {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	var ask []peer.ID
	for _, o := range n.Known(model) {
		ask = append(ask, o.From)
	}
	if len(ask) == 0 || !model.Defined() {
		ask = append(ask, n.host.Network().Peers()...)
	}
	n.askAll(ctx, ask, model)
	got := n.Known(model)
	if !model.Defined() || enough != nil && enough(got) {
		return got
	}
	// Whoever the DHT names is asked as it appears; the search ends when what
	// came is enough.
	found := n.dht.FindProvidersAsync(ctx, protocol.ModelKey(model), protocol.MaxOffersReply)
	var wg sync.WaitGroup
	for p := range found {
		if p.ID == n.host.ID() || slices.Contains(ask, p.ID) && n.offerOf(p.ID) != nil {
			continue
		}
		wg.Go(func() {
			n.host.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.TempAddrTTL)
			_ = n.ask(ctx, p.ID, model)
			if enough != nil && enough(n.Known(model)) {
				cancel()
			}
		})
	}
	wg.Wait()
	return n.Known(model)
}

func (n *Network) offerOf(p peer.ID) *protocol.Offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.offers[p]
}

func (n *Network) askAll(ctx context.Context, peers []peer.ID, model cid.Cid) {
	slices.Sort(peers)
	var wg sync.WaitGroup
	for i, p := range slices.Compact(peers) {
		if p == n.host.ID() || i >= 64 {
			continue
		}
		wg.Go(func() {
			if err := n.ask(ctx, p, model); err != nil {
				n.log.Debug("asking for offers", "peer", p, "error", err)
			}
		})
	}
	wg.Wait()
}

// ask gets a peer's own offer and what it knows of a model.
func (n *Network) ask(ctx context.Context, p peer.ID, model cid.Cid) error {
	req := &protocol.OffersRequest{}
	if model.Defined() {
		req.Model = model.Bytes()
	}
	own := n.OwnOffer()
	if own != nil {
		req.Own = own.Envelope
	}
	var reply protocol.OffersReply
	if err := n.request(ctx, p, protocol.OffersID, req, &reply, maxReply); err != nil {
		return err
	}
	if own != nil {
		n.mu.Lock()
		n.told[p] = max(n.told[p], own.Seq)
		n.mu.Unlock()
	}
	for i, raw := range reply.Envelopes {
		if i > protocol.MaxOffersReply {
			break
		}
		if _, err := n.take(raw); err != nil && !errors.Is(err, protocol.ErrOfferOld) {
			n.log.Debug("an offer was refused", "from", p, "error", err)
		}
	}
	return nil
}

// maxReply is the most that a reply to an offers request may take.
const maxReply = (protocol.MaxOffersReply + 1) * (protocol.MaxOffer + 8)

func (n *Network) serveOffers(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(protocol.ProbeTime))
	var req protocol.OffersRequest
	if err := readMessage(s, &req, protocol.MaxOffer+4096); err != nil {
		_ = s.Reset()
		return
	}
	if len(req.Own) > 0 {
		if _, err := n.take(req.Own); err != nil && !errors.Is(err, protocol.ErrOfferOld) {
			n.log.Debug("an offer was refused", "from", s.Conn().RemotePeer(), "error", err)
		}
	}
	reply := &protocol.OffersReply{}
	if own := n.OwnOffer(); own != nil {
		reply.Envelopes = append(reply.Envelopes, own.Envelope)
	}
	if model, err := cid.Cast(req.Model); err == nil {
		for _, o := range n.Known(model) {
			if o.From != n.host.ID() && len(reply.Envelopes) < protocol.MaxOffersReply {
				reply.Envelopes = append(reply.Envelopes, o.Envelope)
			}
		}
	}
	_ = writeMessage(s, reply)
}

// ServeStatus sets what peers are told of this node's load.
func (n *Network) ServeStatus(f func() *protocol.StatusReply) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status = f
}

func (n *Network) serveStatus(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(protocol.ProbeTime))
	_ = writeMessage(s, n.ownStatus())
}

func (n *Network) ownStatus() *protocol.StatusReply {
	n.mu.Lock()
	f := n.status
	n.mu.Unlock()
	reply := &protocol.StatusReply{}
	if f != nil {
		reply = f()
	}
	for _, p := range n.host.Network().Peers() {
		if rtt, ok := n.RTT(p); ok && len(reply.Rtts) < 64 {
			reply.Rtts = append(reply.Rtts, &protocol.PeerRTT{Peer: []byte(p), Us: uint32(rtt.Microseconds())})
		}
	}
	return reply
}

// Status asks a peer for its load, and for the round trips that it has
// measured to others.
func (n *Network) Status(ctx context.Context, p peer.ID) (*protocol.StatusReply, error) {
	if p == n.host.ID() {
		return n.ownStatus(), nil
	}
	var reply protocol.StatusReply
	return &reply, n.request(ctx, p, protocol.StatusID, nil, &reply, 64<<10)
}

// request sends a message, or none, and reads the reply.
func (n *Network) request(ctx context.Context, p peer.ID, proto string, req, reply proto.Message, limit int) error {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, proto), protocol.ProbeTime)
	defer cancel()
	s, err := n.host.NewStream(ctx, p, libprotocol.ID(proto))
	if err != nil {
		return tidy(err)
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if req != nil {
		if err := writeMessage(s, req); err != nil {
			return tidy(err)
		}
	}
	_ = s.CloseWrite()
	return readMessage(s, reply, limit)
}

func writeMessage(w io.Writer, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
	return err
}

// readMessage reads a message with its length in front, of at most limit bytes.
func readMessage(r io.Reader, m proto.Message, limit int) error {
	br := bufio.NewReader(r)
	n, err := binary.ReadUvarint(br)
	if err != nil {
		return err
	}
	if n > uint64(limit) {
		return fmt.Errorf("a message of %d bytes, where %d are allowed", n, limit)
	}
	b, err := io.ReadAll(io.LimitReader(br, int64(n)))
	if err != nil {
		return err
	}
	if uint64(len(b)) != n {
		return io.ErrUnexpectedEOF
	}
	return proto.Unmarshal(b, m)
}

// validator decides which value records the DHT keeps: offers under their own
// signer's ID, and of two the one with the higher sequence number.
type validator struct{ now func() time.Time }

func recordKey(p peer.ID) string { return "/shoal/" + p.String() }

func (v validator) Validate(key string, value []byte) error {
	o, err := protocol.OpenOffer(value, v.now())
	if err != nil {
		return err
	}
	if key != recordKey(o.From) {
		return fmt.Errorf("%w: an offer of %s under %s", protocol.ErrOffer, o.From, key)
	}
	return nil
}

func (v validator) Select(key string, values [][]byte) (int, error) {
	best, seq := -1, uint64(0)
	for i, raw := range values {
		if o, err := protocol.OpenOffer(raw, v.now()); err == nil && key == recordKey(o.From) && (best < 0 || o.Seq > seq) {
			best, seq = i, o.Seq
		}
	}
	if best < 0 {
		return 0, protocol.ErrOffer
	}
	return best, nil
}

// OfferOf finds the offer of a peer that is known by its ID alone: by asking
// it, or else by its record in the DHT.
func (n *Network) OfferOf(ctx context.Context, p peer.ID) (*protocol.Offer, error) {
	if p == n.host.ID() {
		return n.OwnOffer(), nil
	}
	err := n.ask(ctx, p, cid.Undef)
	if o := n.offerOf(p); err == nil && o != nil {
		return o, nil
	}
	raw, err := n.dht.GetValue(ctx, recordKey(p))
	if err != nil {
		return nil, fmt.Errorf("no offer of %s is to be had: %w", p, err)
	}
	return n.take(raw)
}

// Holders are the peers that hold shards of a model, as far as is known.
func (n *Network) Holders(ctx context.Context, model cid.Cid) ([]peer.AddrInfo, error) {
	id := string(model.Bytes())
	var out []peer.AddrInfo
	for _, o := range n.Offers(ctx, model, nil) {
		if o.From != n.host.ID() && slices.ContainsFunc(o.Shards, func(h *protocol.HeldShards) bool { return string(h.Model) == id }) {
			out = append(out, peer.AddrInfo{ID: o.From, Addrs: o.Addresses()})
		}
	}
	return out, nil
}
