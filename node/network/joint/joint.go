package joint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Config is what networks have in common. The zero value is usable.
type Config struct {
	// May reports whether a model may be used and fetched by the peers of a network,
	// which is named by the ID of its swarm; "" is the open network. nil: all models.
	May func(swarm string, model cid.Cid) bool
}

// ErrTwice is returned by Add for a swarm that this node is in already.
var ErrTwice = errors.New("this node is in that network already")

// ErrClosed is returned by Add after Close.
var ErrClosed = errors.New("this node leaves its networks")

// ErrLast is returned by Remove for the only network.
var ErrLast = errors.New("this node would be in no network then")

// ErrUnknown is wrapped by errors about a swarm that this node is not in.
var ErrUnknown = errors.New("this node is not in that swarm")

// Networks are the networks that a node is in. They are safe for concurrent use.
type Networks struct {
	cfg  Config
	list atomic.Pointer[[]*network.Network] // in the order of inOrder; replaced, never changed
	past atomic.Pointer[counted]            // of networks that were left; replaced, never changed

	lent atomic.Pointer[func(swarm string, model cid.Cid) bool] // see Lend; nil: all is

	changing sync.Mutex // one change at a time; guards the following:
	closed   bool
	handlers map[string]func(*network.Stream)
	status   func(peer.ID, *protocol.StatusRequest) *protocol.StatusReply
	named    map[peer.ID]bool
	offered  *protocol.OfferBody // nil: nothing has been offered yet
	own      *protocol.OfferBody
	joined   []func(*network.Network) (leave func())
	leave    map[*network.Network][]func()
	places   map[string]int // by the IDs of swarms: in which order they were first added
}

// New returns networks that begin with one.
func New(cfg Config, first *network.Network) *Networks {
	j := &Networks{cfg: cfg, handlers: map[string]func(*network.Stream){}, leave: map[*network.Network][]func(){}, places: map[string]int{}}
	list := j.inOrder([]*network.Network{first})
	j.list.Store(&list)
	return j
}

// Add makes a network one of them. The error is ErrTwice if there is one of that
// swarm, ErrClosed after Close, or that of offering there what is offered in the others;
// the caller closes the network then.
func (j *Networks) Add(n *network.Network) error {
	j.changing.Lock()
	defer j.changing.Unlock()
	if j.closed {
		return ErrClosed
	}
	all := j.All()
	if slices.ContainsFunc(all, func(o *network.Network) bool { return o.Swarm() == n.Swarm() }) {
		return ErrTwice
	}
	for proto, serve := range j.handlers {
		n.Handle(proto, serve)
	}
	if j.status != nil {
		j.serveStatus(n)
	}
	if j.named != nil {
		n.Protect(maps.Clone(j.named))
	}
	if j.offered != nil {
		if err := j.offer(n); err != nil {
			return err
		}
	}
	list := j.inOrder(append(slices.Clone(all), n))
	j.list.Store(&list)
	for _, f := range j.joined {
		j.enter(n, f)
	}
	return nil
}

// inOrder sorts networks: one that was left and entered again, to show a renewed certificate,
// has the place that it had, and bridges' come last, so that the first, which names this node,
// stays the first. Called with changing held.
func (j *Networks) inOrder(list []*network.Network) []*network.Network {
	for _, n := range list {
		if _, ok := j.places[n.Swarm()]; !ok {
			j.places[n.Swarm()] = len(j.places)
		}
	}
	place := func(n *network.Network) int {
		if n.Bridge() != nil {
			return math.MaxInt
		}
		return j.places[n.Swarm()]
	}
	slices.SortStableFunc(list, func(a, b *network.Network) int { return cmp.Compare(place(a), place(b)) })
	return list
}

// withdrawTime bounds the time in which peers of a network that is left are told.
const withdrawTime = 2 * time.Second

// Remove leaves the network of a swarm and closes it; "" is the open network. Its
// peers are told that nothing is served any longer. The error wraps ErrUnknown if this
// node is not in that swarm, is ErrLast for the only network, or is that of closing it,
// and then it has been left all the same.
func (j *Networks) Remove(swarm string) error {
	j.changing.Lock()
	defer j.changing.Unlock()
	all := j.All()
	at := slices.IndexFunc(all, func(n *network.Network) bool { return n.Swarm() == swarm })
	switch {
	case at < 0:
		return fmt.Errorf("%w: %q", ErrUnknown, swarm)
	case len(all) == 1:
		return ErrLast
	}
	n := all[at]
	list := slices.Delete(slices.Clone(all), at, at+1)
	j.list.Store(&list)
	return j.close(n)
}

// close takes leave of a network. Called with changing held.
func (j *Networks) close(n *network.Network) error {
	ctx, cancel := context.WithTimeout(context.Background(), withdrawTime)
	defer cancel()
	err := n.Withdraw(ctx)
	for _, leave := range slices.Backward(j.leave[n]) {
		leave()
	}
	delete(j.leave, n)
	err = errors.Join(err, n.Close())
	j.outlive(n)
	return err
}

// Each calls join for each network that is there, and for each that is added later,
// once it is one of them. The function that join returns is called before the network
// is closed; it may be nil.
func (j *Networks) Each(join func(*network.Network) (leave func())) {
	j.changing.Lock()
	defer j.changing.Unlock()
	j.joined = append(j.joined, join)
	for _, n := range j.All() {
		j.enter(n, join)
	}
}

// enter calls a function of Each. Called with changing held.
func (j *Networks) enter(n *network.Network, join func(*network.Network) func()) {
	if leave := join(n); leave != nil {
		j.leave[n] = append(j.leave[n], leave)
	}
}

// Close leaves all networks. It returns their errors; they are closed in any case.
func (j *Networks) Close() error {
	j.changing.Lock()
	defer j.changing.Unlock()
	j.closed = true
	errs := make(chan error)
	for _, n := range j.All() {
		for _, leave := range slices.Backward(j.leave[n]) {
			leave()
		}
		go func() { errs <- n.Close() }()
	}
	clear(j.leave)
	var err error
	for range j.All() {
		err = errors.Join(err, <-errs)
	}
	return err
}

// All returns the networks in the order in which they were first added, those of bridges
// last. The slice must not be changed.
func (j *Networks) All() []*network.Network { return *j.list.Load() }

// preferred are the networks with private swarms first, then what others lend, then the
// open network.
func (j *Networks) preferred() []*network.Network {
	all := j.All()
	if len(all) == 1 {
		return all
	}
	list := slices.Clone(all)
	rank := func(n *network.Network) int {
		switch {
		case n.Swarm() == "":
			return 2
		case n.Bridge() != nil:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(list, func(a, b *network.Network) int { return cmp.Compare(rank(a), rank(b)) })
	return list
}

// used are the networks in which this node's own prompts may be answered: not those in
// which it only lends.
func used(all []*network.Network) []*network.Network {
	if !slices.ContainsFunc(all, (*network.Network).Lends) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), (*network.Network).Lends)
}

// first is the network that names this node.
func (j *Networks) first() *network.Network { return j.All()[0] }

// of returns the network in which a peer is this node, is connected, or is known, and
// the first network for a peer of whom nothing is known.
func (j *Networks) of(p peer.ID) *network.Network {
	all := j.preferred()
	if len(all) == 1 {
		return all[0]
	}
	for _, is := range []func(*network.Network) bool{
		func(n *network.Network) bool { return n.Self() == p },
		func(n *network.Network) bool { return n.Connected(p) },
		func(n *network.Network) bool { return n.Knows(p) },
	} {
		if i := slices.IndexFunc(all, is); i >= 0 {
			return all[i]
		}
	}
	return j.first()
}

// in returns the network of a swarm; nil: this node is not in it.
func (j *Networks) in(swarm string) *network.Network {
	for _, n := range j.All() {
		if n.Swarm() == swarm {
			return n
		}
	}
	return nil
}

// Self returns this node's peer ID in the first network.
func (j *Networks) Self() peer.ID { return j.first().Self() }

// Own reports whether a peer is this node itself, in any of its networks.
func (j *Networks) Own(p peer.ID) bool {
	return slices.ContainsFunc(j.All(), func(n *network.Network) bool { return n.Self() == p })
}

// In returns this node's peer ID in a swarm, and its own offer as Known would return it
// there; nil: it offers nothing. The ID is empty if this node is not in that swarm.
func (j *Networks) In(swarm string) (self peer.ID, own *protocol.Offer) {
	if n := j.in(swarm); n != nil {
		return n.Self(), n.Seen()
	}
	return "", nil
}

// Swarm describes one of the networks that a node is in.
type Swarm struct {
	ID    string // "": the open network
	Name  string // of a private swarm; may be empty
	Self  peer.ID
	Addrs []string // multiaddrs with the peer ID
	Peers int      // connected
	Reach network.Reach
	// Bridge is how two swarms meet there; nil: the network is a swarm's own, or the open one.
	Bridge *member.BridgeRecord
	Lends  bool // this node is there for guests to use
}

// Swarms describes the networks, in the order of All.
func (j *Networks) Swarms() (out []Swarm) {
	for _, n := range j.All() {
		out = append(out, Swarm{
			ID: n.Swarm(), Name: n.SwarmName(), Self: n.Self(), Addrs: n.FullAddrs(), Peers: len(n.Peers()), Reach: n.Health().Reach,
			Bridge: n.Bridge(), Lends: n.Lends(),
		})
	}
	return out
}
