package network

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	dhtpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"

	"github.com/shoalnet/shoal/protocol"
)

const (
	crowded    = 64               // providers of a key that are enough
	listCount  = 2 * crowded      // more are not counted
	announces  = 20 * time.Minute // between looks at a key; a third of a record's validity
	fullWait   = 12 * time.Hour   // the longest wait of a node that finds a key's list full
	listAgain  = time.Minute      // after a failure; doubles up to announces
	listTime   = 2 * lookTime     // of one look and announcement
	maxListing = 256 << 10        // bytes of a reply with providers
)

// listing is this node's place among the providers of one key: it announces
// itself only while fewer than crowded others are listed. A node that is listed
// already decides shortly before its record lapses, and if the list is too long
// it stays with the probability that makes it the right length: if all of them
// left a list that a rush had filled, nobody would be listed an hour later. A
// node that is not listed and finds the list full doubles its wait, because else
// all holders of a popular model would ask the same few peers every few minutes.
type listing struct {
	due    time.Time     // of the next look; zero: now
	lapses time.Time     // when this node's record expires; zero: it has none
	wait   time.Duration // the last one because the list was full; 0: it was not full
	failed int           // looks and announcements in a row
}

// puts decides, after a look that showed so many others, whether this node
// announces itself. draw returns a random number in [0, 1).
func (l *listing) puts(others int, now time.Time, draw func() float64) bool {
	switch {
	case others < crowded:
		return true
	case !now.Before(l.lapses), l.lasts(now):
		return false
	}
	return draw() < crowded/float64(others+1)
}

// lasts reports whether this node's record outlives the next look.
func (l *listing) lasts(now time.Time) bool {
	return now.Add(announces + announces/10 + time.Minute).Before(l.lapses)
}

// looked sets the time of the next look after one that ended so. Waits because the
// list is full differ by half, so that nodes that came together spread out: some
// of them must look soon after others have left.
func (l *listing) looked(put bool, now time.Time, draw func() float64) {
	wait := time.Duration((0.9 + 0.2*draw()) * float64(announces))
	switch {
	case put:
		l.lapses, l.wait = now.Add(providerAge), 0
	case !l.lasts(now):
		l.wait = min(fullWait, 2*max(l.wait, announces))
		wait = time.Duration((0.5 + 0.5*draw()) * float64(l.wait))
	}
	l.due, l.failed = now.Add(wait), 0
}

// publish stores the node's own offer and provider records in the DHT after each
// of some news, and each record again when it is due. In a small network it
// stores them again whenever a new peer appears, which should have them too.
// Peers that are gone can make that take half a minute, for which announce does
// not wait.
func (n *Network) publish(news <-chan struct{}) {
	listings := map[cid.Cid]listing{}
	var saidSeq uint64 // of the offer that was stored last
	peers := 0         // in the routing table then
	timer := time.NewTimer(announces)
	defer timer.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-news:
		case <-timer.C:
		}
		timer.Reset(announces)
		own := n.OwnOffer()
		size := n.dht.RoutingTable().Size()
		if own == nil || size == 0 {
			continue
		}
		again := size <= dhtBucket && size != peers
		peers = size
		if (again || own.Seq != saidSeq) && n.small() {
			n.putRecord(own)
		}
		saidSeq = own.Seq
		n.list(listings, offerKeys(own), again)
		timer.Reset(untilDue(listings))
	}
}

// list announces this node under those of some keys that are due, or under all,
// and forgets other keys.
func (n *Network) list(listings map[cid.Cid]listing, keys []cid.Cid, all bool) {
	for k := range listings {
		if !slices.Contains(keys, k) {
			delete(listings, k)
		}
	}
	for _, k := range keys {
		if l := listings[k]; (all || !time.Now().Before(l.due)) && n.ctx.Err() == nil {
			listings[k] = n.listUnder(k, l)
		}
	}
}

// untilDue returns how long it is until the first of some listings is due.
func untilDue(listings map[cid.Cid]listing) time.Duration {
	wait := announces
	for _, l := range listings {
		wait = min(wait, time.Until(l.due))
	}
	return max(wait, time.Second)
}

// listUnder looks a key up, announces this node there if it should be listed, and
// returns its place from now on.
func (n *Network) listUnder(key cid.Cid, l listing) listing {
	ctx, cancel := context.WithTimeout(n.ctx, listTime)
	defer cancel()
	closest, others, err := n.providers(ctx, key)
	put := err == nil && l.puts(others, time.Now(), rand.Float64)
	if put {
		err = n.putProvider(ctx, key, closest)
	}
	if err != nil {
		if n.ctx.Err() == nil {
			n.log.Debug("announcing", "key", key, "error", err)
		}
		l.due = time.Now().Add(min(announces, listAgain<<min(l.failed, 8)))
		l.failed++
		return l
	}
	l.looked(put, time.Now(), rand.Float64)
	return l
}

// offerKeys returns an offer's provider keys: one per model and per bucket of
// blocks, never per shard.
func offerKeys(o *protocol.Offer) []cid.Cid {
	var keys []cid.Cid
	add := func(k cid.Cid) {
		if !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for _, m := range o.Models() {
		add(protocol.ModelKey(m))
		for _, s := range o.SpansOf(m) {
			for _, b := range protocol.Buckets(s.Span()) {
				add(protocol.BucketKey(m, b))
			}
		}
	}
	return keys
}

var errNoHolder = errors.New("none of the peers closest to the key answered")

// providers returns the peers closest to a key and how many others are listed
// there: the median of what these peers say, so that one that makes up providers
// keeps nobody from being listed.
func (n *Network) providers(ctx context.Context, key cid.Cid) (closest []peer.ID, others int, err error) {
	look, _, end := n.looked.follow(ctx, n.host.ID())
	closest, err = n.dht.GetClosestPeers(look, string(key.Hash()))
	if end(false); len(closest) == 0 {
		return nil, 0, errors.Join(errNoHolder, err)
	}
	counts := make(chan int, len(closest))
	for _, p := range closest {
		go func() { counts <- n.countProviders(ctx, p, key) }()
	}
	var known []int
	for range closest {
		if c := <-counts; c >= 0 {
			known = append(known, c)
		}
	}
	if len(known) == 0 {
		return nil, 0, errNoHolder
	}
	slices.Sort(known)
	return closest, known[(len(known)-1)/2], nil
}

// countProviders returns how many other providers of a key a peer lists, at most
// listCount; -1 if it does not answer.
func (n *Network) countProviders(ctx context.Context, p peer.ID, key cid.Cid) int {
	var reply dhtpb.Message
	req := &dhtpb.Message{Type: dhtpb.Message_GET_PROVIDERS, Key: key.Hash()}
	if err := n.kadSend(ctx, p, req, &reply); err != nil {
		return -1
	}
	listed := map[peer.ID]bool{n.host.ID(): true}
	for _, at := range reply.GetProviderPeers() {
		if len(listed) <= listCount {
			listed[peer.ID(at.GetId())] = true
		}
	}
	return len(listed) - 1
}

// putProvider announces this node under a key to the peers closest to it. It
// returns an error if none of them takes the record.
func (n *Network) putProvider(ctx context.Context, key cid.Cid, closest []peer.ID) error {
	self := peer.AddrInfo{ID: n.host.ID(), Addrs: withoutNames(n.host.Addrs())}
	if err := n.dht.ProviderStore().AddProvider(ctx, key.Hash(), peer.AddrInfo{ID: self.ID}); err != nil {
		return err
	}
	req := &dhtpb.Message{Type: dhtpb.Message_ADD_PROVIDER, Key: key.Hash(), ProviderPeers: dhtpb.RawPeerInfosToPBPeers([]peer.AddrInfo{self})}
	errs := make(chan error, len(closest))
	for _, p := range closest {
		go func() { errs <- n.kadSend(ctx, p, req, nil) }()
	}
	var all []error
	for range closest {
		if err := <-errs; err != nil {
			all = append(all, err)
		}
	}
	if len(all) < len(closest) {
		return nil
	}
	return errors.Join(all...)
}

// kadID is the DHT's protocol of this network.
func (n *Network) kadID() libprotocol.ID {
	return libprotocol.ID(n.cfg.Swarm.dhtPrefix() + "/kad/1.0.0")
}

// kadSend sends a message of the DHT to a peer and reads the answer into reply;
// nil: the message has none. The error says whether the peer took it.
func (n *Network) kadSend(ctx context.Context, p peer.ID, m, reply *dhtpb.Message) error {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	s, err := n.host.NewStream(ctx, p, n.kadID())
	if err != nil {
		return err
	}
	defer s.Reset() //nolint:errcheck // it has been read to the end
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if err := writeMessage(s, m); err != nil {
		return err
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	if reply != nil {
		return readMessage(s, reply, maxListing)
	}
	// The peer ends the stream in order if it has taken the message, else it resets it.
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return cmp.Or(err, errKad)
	}
	return nil
}

var errKad = errors.New("an answer to a message of the DHT that has none")
