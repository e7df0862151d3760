package joint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Known returns the live offers about a model that are known in any network, sorted by
// peer; with cid.Undef, all. This node's own is among them once, and so is that of a
// peer that has one ID in several networks, as it was received in a private swarm.
func (j *Networks) Known(model cid.Cid) []*protocol.Offer {
	all := used(j.preferred())
	if len(all) == 1 {
		return all[0].Known(model)
	}
	self := j.Self()
	var out []*protocol.Offer
	for _, n := range all {
		for _, o := range n.Known(model) {
			if o.From == self && n.Self() == self || !j.Own(o.From) {
				out = append(out, o)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *protocol.Offer) int { return cmp.Compare(a.From, b.From) })
	return slices.CompactFunc(out, func(a, b *protocol.Offer) bool { return a.From == b.From })
}

// Offers asks all networks at once for the peers that serve or hold a model, as
// network.Offers does, until enough accepts what is known in all of them together.
func (j *Networks) Offers(ctx context.Context, model cid.Cid, enough func([]*protocol.Offer) bool) []*protocol.Offer {
	all := used(j.All())
	if len(all) == 1 {
		return all[0].Offers(ctx, model, enough)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	together := enough
	if enough != nil {
		together = func([]*protocol.Offer) bool {
			if !enough(j.Known(model)) {
				return false
			}
			cancel() // the search in the other networks
			return true
		}
	}
	done := make(chan struct{})
	for _, n := range all {
		go func() {
			n.Offers(ctx, model, together)
			done <- struct{}{}
		}()
	}
	for range all {
		<-done
	}
	return j.Known(model)
}

// SetOffers offers body in each network, as far as Config.May allows it there; own is
// what this node itself sees, nil: body. The errors are those of network.SetOffers.
func (j *Networks) SetOffers(body, own *protocol.OfferBody) error {
	j.changing.Lock()
	defer j.changing.Unlock()
	j.offered, j.own = body, own
	var errs []error
	for _, n := range j.All() {
		errs = append(errs, j.offer(n))
	}
	return errors.Join(errs...)
}

// offer offers in one network what is offered now. Called with changing held.
func (j *Networks) offer(n *network.Network) error {
	body, own := j.visible(n, j.offered), j.own
	switch {
	case n.Bridge() != nil: // a route there must not lead through this node where peers may not use it
		own = nil
	case body != j.offered:
		own = cmp.Or(own, j.offered)
	}
	return n.SetOffers(body, own)
}

// Reoffer offers again in the network of a swarm, after what may be used there has
// changed. Errors are those of SetOffers, and ErrUnknown.
func (j *Networks) Reoffer(swarm string) error {
	j.changing.Lock()
	defer j.changing.Unlock()
	n := j.in(swarm)
	switch {
	case n == nil:
		return fmt.Errorf("%w: %q", ErrUnknown, swarm)
	case j.offered == nil:
		return nil
	}
	return j.offer(n)
}

// visible returns an offer without the models that may not be used in a network.
func (j *Networks) visible(n *network.Network, body *protocol.OfferBody) *protocol.OfferBody {
	if j.cfg.May == nil && n.Bridge() == nil && j.lent.Load() == nil {
		return body
	}
	hidden := func(model []byte) bool { return j.hidden(n, model) }
	out := proto.Clone(body).(*protocol.OfferBody)
	out.Spans = slices.DeleteFunc(out.Spans, func(s *protocol.ServedSpan) bool { return hidden(s.Model) })
	out.Shards = slices.DeleteFunc(out.Shards, func(s *protocol.HeldShards) bool { return hidden(s.Model) })
	out.Takes = slices.DeleteFunc(out.Takes, hidden)
	if !n.Shares() {
		out.Shards, out.Takes = network.Headers(out.Shards), nil
		return out
	}
	if len(out.Spans) == len(body.Spans) && len(out.Shards) == len(body.Shards) && len(out.Takes) == len(body.Takes) {
		return body
	}
	return out
}

// hidden reports whether a model may not be used in a network, nobody there may have it, or
// it is none.
func (j *Networks) hidden(n *network.Network, model []byte) bool {
	id, err := cid.Cast(model)
	return err != nil || !j.allows(n, id) || j.unlent(n.Swarm(), id)
}

func (j *Networks) allows(n *network.Network, model cid.Cid) bool {
	return n.Allows(model) && (j.cfg.May == nil || j.cfg.May(n.Swarm(), model))
}

// May reports whether a model may be used and fetched in a swarm, or over a bridge. It
// may not where this node is not.
func (j *Networks) May(swarm string, model cid.Cid) bool {
	n := j.in(swarm)
	return n != nil && j.allows(n, model)
}

// Guest returns the record by which a peer uses this node from another swarm; nil: it is
// not a guest. swarm is the one that its stream names.
func (j *Networks) Guest(swarm string, p peer.ID) *member.BridgeRecord {
	if n := j.in(swarm); n != nil && n.Guest(p) {
		return n.Bridge()
	}
	return nil
}

// MayUse returns why a peer may open no sessions here, as network.MayUse does in the network
// of a swarm; nil: it may.
func (j *Networks) MayUse(swarm string, p peer.ID) *protocol.Error {
	if n := j.in(swarm); n != nil {
		return n.MayUse(p)
	}
	return protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "this node has left the network")
}

// Borrowed reports whether a network is that of a bridge, over which another swarm lends to
// this node's.
func (j *Networks) Borrowed(swarm string) bool {
	n := j.in(swarm)
	return n != nil && n.Bridge() != nil && !n.Lends()
}

// SwarmName returns what a swarm is called, or over a bridge the other swarm; "": it has no
// name, or this node is not in it.
func (j *Networks) SwarmName(swarm string) string {
	if n := j.in(swarm); n != nil {
		return n.SwarmName()
	}
	return ""
}

// Withdraw announces in all networks that nothing is served any longer, as
// network.Withdraw does.
func (j *Networks) Withdraw(ctx context.Context) error {
	all := j.All()
	errs := make(chan error)
	for _, n := range all {
		go func() { errs <- n.Withdraw(ctx) }()
	}
	var err error
	for range all {
		err = errors.Join(err, <-errs)
	}
	return err
}

// Status asks a peer for its load, as network.Status does.
func (j *Networks) Status(ctx context.Context, p peer.ID, model cid.Cid, prefix []uint64) (*protocol.StatusReply, error) {
	return j.of(p).Status(ctx, p, model, prefix)
}

// ServeStatus sets the function that answers the peers of all networks, as
// network.ServeStatus does. Peers are told of the spans that Config.May allows in their
// network. f returns a new reply each time.
func (j *Networks) ServeStatus(f func(peer.ID, *protocol.StatusRequest) *protocol.StatusReply) {
	j.changing.Lock()
	defer j.changing.Unlock()
	j.status = f
	for _, n := range j.All() {
		j.serveStatus(n)
	}
}

// serveStatus has one network's peers answered. Called with changing held.
func (j *Networks) serveStatus(n *network.Network) {
	f := j.status
	n.ServeStatus(func(p peer.ID, req *protocol.StatusRequest) *protocol.StatusReply {
		reply := f(p, req)
		if !j.Own(p) {
			reply.Spans = slices.DeleteFunc(reply.Spans, func(s *protocol.SpanStatus) bool { return j.hidden(n, s.Model) })
		}
		return reply
	})
}

// Handle serves a protocol in all networks, with a goroutine per stream. Stream.Swarm
// says in which of them.
func (j *Networks) Handle(proto string, serve func(*network.Stream)) {
	j.changing.Lock()
	defer j.changing.Unlock()
	j.handlers[proto] = serve
	for _, n := range j.All() {
		n.Handle(proto, serve)
	}
}

// Open opens a stream to a peer in the network where it is known, as network.Open does.
func (j *Networks) Open(ctx context.Context, p peer.ID, offer []byte, protos ...string) (*network.Stream, error) {
	return j.of(p).Open(ctx, p, offer, protos...)
}

// OpenIn opens a stream to a peer in the network of a swarm, and in no other. The errors
// are those of network.Open, and wrap ErrUnknown if this node is not in that swarm.
func (j *Networks) OpenIn(ctx context.Context, swarm string, p peer.ID, offer []byte, protos ...string) (*network.Stream, error) {
	n := j.in(swarm)
	if n == nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, swarm)
	}
	return n.Open(ctx, p, offer, protos...)
}

// Group returns the group of addresses from which a peer is connected.
func (j *Networks) Group(p peer.ID) string { return j.of(p).Group(p) }

// Machine names the machine on which a peer runs, as network.Machine does.
func (j *Networks) Machine(p peer.ID) string { return j.of(p).Machine(p) }

// Connected reports whether there is a connection to a peer in any network.
func (j *Networks) Connected(p peer.ID) bool { return j.of(p).Connected(p) }

// RTT returns the round trip to a connected peer; it is false if that is not known.
func (j *Networks) RTT(p peer.ID) (time.Duration, bool) { return j.of(p).RTT(p) }

// Worked notes that a peer has done work for this node.
func (j *Networks) Worked(p peer.ID) { j.of(p).Worked(p) }

// Protect keeps the connections to the peers that the operator names, in all networks.
func (j *Networks) Protect(named map[peer.ID]bool) {
	j.changing.Lock()
	defer j.changing.Unlock()
	j.named = named
	for _, n := range j.All() {
		n.Protect(maps.Clone(named))
	}
}

// WaitPeers waits until a peer is connected in any network, or ctx ends. The error is
// that of the first network, as network.WaitPeers returns it.
func (j *Networks) WaitPeers(ctx context.Context) error {
	all := j.All()
	if len(all) == 1 {
		return all[0].WaitPeers(ctx)
	}
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		n   *network.Network
		err error
	}
	answers := make(chan answer, len(all))
	for _, n := range all {
		go func() { answers <- answer{n, n.WaitPeers(wait)} }()
	}
	var why error
	for range all {
		switch a := <-answers; {
		case a.err == nil:
			return nil
		case a.n == all[0] || why == nil:
			why = a.err
		}
	}
	return why
}

// Peers returns the connected peers of all networks, sorted by ID; PeerInfo.Swarm says
// in which. A peer with one ID in several networks is there once per network.
func (j *Networks) Peers() (out []network.PeerInfo) {
	for _, n := range j.preferred() {
		out = append(out, n.Peers()...)
	}
	slices.SortStableFunc(out, func(a, b network.PeerInfo) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return out
}

// Health returns what could be wrong now: what the first network reports, together with
// the peers of the others that cannot be reached or speak another version. Alone is set
// only if there is nowhere to look for peers in any network.
func (j *Networks) Health() network.Health {
	all := j.All()
	h := all[0].Health()
	for _, n := range all[1:] {
		more := n.Health()
		h.Alone = h.Alone && more.Alone
		h.Unreached = append(h.Unreached, more.Unreached...)
		h.Strangers = append(h.Strangers, more.Strangers...)
		if h.ClockPeers == 0 {
			h.ClockOff, h.ClockPeers = more.ClockOff, more.ClockPeers
		}
	}
	return h
}

// Reach returns how this node is reached in its first network, with the paths and hole
// punches of all networks.
func (j *Networks) Reach() network.ReachReport {
	rep := j.first().Reach()
	for _, n := range j.All()[1:] {
		more := n.Reach()
		rep.Paths = append(rep.Paths, more.Paths...)
		if rep.Punches == nil {
			rep.Punches = more.Punches
			continue
		}
		for outcome, count := range more.Punches {
			rep.Punches[outcome] += count
		}
	}
	return rep
}

// FullAddrs returns the addresses of the first network, with the peer ID.
func (j *Networks) FullAddrs() []string { return j.first().FullAddrs() }

// Port returns the UDP port of the first network, or 0.
func (j *Networks) Port() int { return j.first().Port() }
