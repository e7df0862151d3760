package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/protocol"
)

// SetOffer signs an offer and starts to spread it in place of the one before.
// Peer, sequence number, times and addresses are filled in, and again at each
// refresh. An offer without spans and shards is sent only to peers that ask.
// The error is protocol.ErrOffer if it is too long.
func (n *Network) SetOffer(body *protocol.OfferBody) error { return n.SetOffers(body, nil) }

// SetOffers is SetOffer for a node that offers peers less than it serves itself: own has
// the spans by which Known and Offers return this node's own offer. nil: those of body.
func (n *Network) SetOffers(body, own *protocol.OfferBody) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.body, n.ownBody = body, own
	err := n.sign()
	n.news = n.seq
	n.poke()
	return err
}

// sign signs the offer. Called with mu held.
func (n *Network) sign() error {
	if n.body == nil {
		return nil
	}
	b := proto.Clone(n.body).(*protocol.OfferBody)
	now := time.Now()
	n.seq++
	b.Seq, b.IssuedUnixMs, b.ExpiresUnixMs, b.Version = n.seq, now.UnixMilli(), now.Add(offerLife).UnixMilli(), n.cfg.Version
	for _, a := range offerOrder(n.host.Addrs()) {
		if len(b.Addrs) < 16 {
			b.Addrs = append(b.Addrs, a.Bytes())
		}
	}
	o, err := protocol.SealOffer(b, n.cfg.Key)
	if err != nil {
		return err
	}
	o.Swarm = n.Swarm()
	n.own, n.seen = o, o
	if n.ownBody == nil {
		return nil
	}
	b.Spans, b.Device = n.ownBody.Spans, n.ownBody.Device
	if o, err = protocol.SealOffer(b, n.cfg.Key); err != nil {
		return err
	}
	o.Envelope, o.Swarm = n.own.Envelope, n.Swarm() // other stages of a route may be sent the envelope
	n.seen = o
	return nil
}

// Withdraw announces that nothing is served any longer, and waits until the
// connected peers have been sent that. It returns the error of SetOffer;
// failing to reach a peer is not an error.
func (n *Network) Withdraw(ctx context.Context) error {
	if n.OwnOffer() == nil {
		return nil
	}
	if err := n.SetOffer(&protocol.OfferBody{}); err != nil {
		return err
	}
	n.tell(ctx, false)
	return nil
}

// refreshTo is how many peers are sent an offer that says nothing new. The others
// may ask for it: sending it to each of hundreds of connections every few minutes
// would be most of what an idle node sends.
const refreshTo = 32

// tell sends this node's offer to the connected peers that have not received
// its news, as part of a request for theirs. With refresh, it sends it to some of
// the others as well, friends and neighbours first.
func (n *Network) tell(ctx context.Context, refresh bool) {
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
	var fresh, others []peer.ID
	for _, p := range connected {
		switch told := n.told[p]; {
		case told < n.news:
			fresh = append(fresh, p)
		case told < own.Seq:
			others = append(others, p)
		}
	}
	n.mu.Unlock()
	if refresh {
		fresh = append(fresh, n.closer(others, refreshTo)...)
	}
	n.askAll(ctx, fresh, cid.Undef, nil)
}

// closer returns at most most of some peers: friends and neighbours, and others at
// random.
func (n *Network) closer(peers []peer.ID, most int) []peer.ID {
	var near, far []peer.ID
	for _, p := range peers {
		info := n.host.ConnManager().GetTagInfo(p)
		if n.isFriend(p) || info != nil && info.Tags[modelTag] > 0 {
			near = append(near, p)
		} else {
			far = append(far, p)
		}
	}
	near = draw(near, most, n.Group)
	return append(near, draw(far, most-len(near), n.Group)...)
}

// OwnOffer returns this node's current offer, or nil.
func (n *Network) OwnOffer() *protocol.Offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.own
}

// Seen returns this node's current offer as Known has it, or nil.
func (n *Network) Seen() *protocol.Offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen
}

// Knows reports whether a peer is connected or has an offer that is known.
func (n *Network) Knows(p peer.ID) bool { return n.Connected(p) || n.offerOf(p) != nil }

// hear verifies an offer that a peer sent, its own or another's, and keeps it
// unless a newer one is known. An empty teller is nobody in particular.
func (n *Network) hear(teller peer.ID, raw []byte) error {
	o, err := protocol.OpenOffer(raw, time.Now())
	if err != nil {
		return err
	}
	if o.From == n.host.ID() {
		return nil
	}
	if len(o.Spans)+len(o.Shards) > 0 && !n.believed(o.From) {
		return fmt.Errorf("%w: its signer may not serve in this swarm", protocol.ErrOffer)
	}
	o.Swarm = n.Swarm()
	w := &word{Offer: o, met: teller == o.From, teller: teller, group: n.groupOf(o)}
	most := n.tells(teller)
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.offers.of(o.From)
	newer := o.Supersedes(old)
	if !newer && o.Seq != old.Seq {
		return protocol.ErrOfferOld
	}
	// The same offer may until now have been hearsay, or may now come from a
	// source closer to the peer.
	if (newer || w.met) && !n.offers.keep(w, most) {
		return nil
	}
	n.host.Peerstore().AddAddrs(o.From, n.Believable(teller, o.Addresses()), peerstore.RecentlyConnectedAddrTTL)
	return nil
}

// Known returns the known live offers about a model, including this node's own;
// with cid.Undef, all. They are sorted by peer.
func (n *Network) Known(model cid.Cid) []*protocol.Offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	var out []*protocol.Offer
	for o := range n.offers.concerning(model) {
		if now.Before(o.Expires()) && now.After(n.silent[o.From].until) && n.believed(o.From) {
			out = append(out, o.Offer)
		}
	}
	if n.seen != nil && (!model.Defined() || slices.Contains(n.seen.Models(), model)) {
		out = append(out, n.seen)
	}
	slices.SortFunc(out, func(a, b *protocol.Offer) int {
		if a.From < b.From {
			return -1
		}
		return 1
	})
	return out
}

func (n *Network) offerOf(p peer.ID) *protocol.Offer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.offers.of(p)
}

// maxReply is the maximum size of a reply to an offers request, in bytes.
const maxReply = (protocol.MaxOffersReply + 1) * (protocol.MaxOffer + 8)

func (n *Network) serveOffers(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(protocol.ProbeTime))
	var req protocol.OffersRequest
	if err := readRequest(s, &req, protocol.MaxOffer+4096); err != nil {
		_ = s.Reset()
		return
	}
	if len(req.Own) > 0 {
		n.pushed(s.Conn().RemotePeer(), req.Own)
	}
	_ = writeMessage(s, n.answer(&req))
}

// answer returns the reply to an offers request: this node's own offer, and as
// many of others as the asker wants and the reply may have.
func (n *Network) answer(req *protocol.OffersRequest) *protocol.OffersReply {
	reply := &protocol.OffersReply{}
	if own := n.OwnOffer(); own != nil {
		reply.Envelopes = append(reply.Envelopes, own.Envelope)
	}
	model, err := cid.Cast(req.Model)
	if err != nil {
		return reply
	}
	most, room := protocol.MaxOffersReply-1, maxReply
	if req.Most > 0 { // else the asker is older, and takes as much as there is
		most, room = int(min(req.Most, protocol.MaxOffersReply-1)), protocol.MaxHearsay
	}
	for _, o := range n.tellable(n.Known(model), most, req.Near) {
		if room -= len(o.Envelope); room >= 0 {
			reply.Envelopes = append(reply.Envelopes, o.Envelope)
		}
	}
	return reply
}

// pushed takes a peer's own offer that it sent unasked.
func (n *Network) pushed(from peer.ID, raw []byte) {
	signer, _, err := protocol.OfferIssued(raw)
	if err == nil && signer != from {
		err = fmt.Errorf("%w: it is of %s", protocol.ErrOffer, signer)
	}
	if err == nil {
		n.compareClocks(from, raw)
		n.doubt(from, false)
		err = n.hear(from, raw)
	}
	if err != nil && !errors.Is(err, protocol.ErrOfferOld) {
		n.log.Debug("an offer was refused", "from", from, "error", err)
	}
}

// ServeStatus sets the function that answers peers' requests for this node's
// load and for what it has cached of their sessions.
func (n *Network) ServeStatus(f func(peer.ID, *protocol.StatusRequest) *protocol.StatusReply) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status = f
}

func (n *Network) serveStatus(s network.Stream) {
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(protocol.ProbeTime))
	req := &protocol.StatusRequest{}
	if err := readRequest(s, req, maxStatus); err != nil && !errors.Is(err, io.EOF) {
		_ = s.Reset()
		return
	}
	_ = writeMessage(s, n.ownStatus(s.Conn().RemotePeer(), req))
}

// maxStatus is the maximum size of a status request or reply, in bytes.
const maxStatus = 256 << 10

func (n *Network) ownStatus(who peer.ID, req *protocol.StatusRequest) *protocol.StatusReply {
	n.mu.Lock()
	f := n.status
	n.mu.Unlock()
	reply := &protocol.StatusReply{}
	if f != nil {
		reply = f(who, req)
	}
	for _, p := range n.host.Network().Peers() {
		if rtt, ok := n.RTT(p); ok && len(reply.Rtts) < 64 {
			reply.Rtts = append(reply.Rtts, &protocol.PeerRTT{Peer: []byte(p), Us: uint32(rtt.Microseconds())})
		}
	}
	return reply
}

// Status asks a peer for its load, the round trips that it has measured to
// others, and how much it has cached of a prompt that begins with prefix. A
// peer that does not answer in time is left out of Known for a while, longer
// each time. Errors are those of the stream, or the context's.
func (n *Network) Status(ctx context.Context, p peer.ID, model cid.Cid, prefix []uint64) (*protocol.StatusReply, error) {
	req := &protocol.StatusRequest{Model: model.Bytes(), Prefix: prefix}
	if p == n.host.ID() {
		return n.ownStatus(p, req), nil
	}
	within := statusTime
	if rtt, ok := n.RTT(p); ok {
		within = quickTime + 4*rtt
	}
	var reply protocol.StatusReply
	err := n.request(ctx, p, protocol.StatusID, req, &reply, maxStatus, min(within, protocol.ProbeTime))
	if n.doubt(p, err != nil); err == nil {
		return &reply, nil
	}
	return nil, err
}

// silence says for how long a peer that did not answer is left out.
type silence struct {
	until time.Time
	last  time.Duration
}

// doubt leaves a peer out of Known, or takes it back. Of requests that time out
// together only the first counts, since all of them met the same silence.
func (n *Network) doubt(p peer.ID, silent bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !silent {
		delete(n.silent, p)
		return
	}
	if len(n.silent) >= maxOffers {
		maps.DeleteFunc(n.silent, func(_ peer.ID, s silence) bool { return time.Since(s.until) > lastDoubt })
	}
	s := n.silent[p]
	if time.Now().Before(s.until) {
		return
	}
	s.last = min(max(firstDoubt, 2*s.last), lastDoubt)
	s.until = time.Now().Add(s.last)
	n.silent[p] = s
}

// believe takes a peer back that has just connected: its silence was that of another
// path. The next one counts as if there had been none in between.
func (n *Network) believe(p peer.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s, ok := n.silent[p]; ok {
		s.until = time.Now()
		n.silent[p] = s
	}
}

// request sends a message, or none if req is nil, and reads the reply, which must arrive
// within the given time after the request's turn comes. Where the connection ends
// meanwhile, it asks once more over another one.
func (n *Network) request(ctx context.Context, p peer.ID, proto string, req, reply proto.Message, limit int, within time.Duration) error {
	leave, err := n.queues.enter(ctx, p, proto)
	if err != nil {
		return tidy(err)
	}
	defer leave()
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, proto), within)
	defer cancel()
	answered := n.hangs(p)
	defer answered()
	for first := true; ; first = false {
		s, err := n.host.NewStream(ctx, p, libprotocol.ID(proto))
		if err != nil {
			return n.explainTo(p, err)
		}
		err = exchange(ctx, s, req, reply, limit)
		if err == nil || !first || ctx.Err() != nil || !s.Conn().IsClosed() {
			return err
		}
	}
}

// exchange sends a request on a stream, unless it is nil, reads the reply of at
// most limit bytes, and closes the stream.
func exchange(ctx context.Context, s network.Stream, req, reply proto.Message, limit int) error {
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

// readRequest reads a peer's request. Its memory is counted as the peers' until
// the stream ends.
func readRequest(s network.Stream, m proto.Message, limit int) error {
	if err := s.Scope().ReserveMemory(limit, network.ReservationPriorityHigh); err != nil {
		return err
	}
	return readMessage(s, m, limit)
}

// readMessage reads a length-prefixed message of at most limit bytes.
func readMessage(r io.Reader, m proto.Message, limit int) error {
	br := bufio.NewReader(r)
	n, err := binary.ReadUvarint(br)
	if err != nil {
		return err
	}
	if n > uint64(limit) {
		return fmt.Errorf("a message of %d bytes; %d are allowed", n, limit)
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

// validator decides which value records the DHT keeps: an offer under its
// signer's ID and, of two, the one with the higher sequence number.
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
