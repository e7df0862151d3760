package outer

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/multiformats/go-multiaddr"
)

const (
	wantedRelays = 2
	maxAsked     = 8 // relays that are dialled at a time
	lookEvery    = 5 * time.Second
	seekTime     = 4 * time.Second        // for dials and reservations of one round
	keptFirst    = 300 * time.Millisecond // see Host.ahead
	idleTime     = time.Minute            // that a connection without a circuit or reservation stays open
)

// Config is what an outer host is made of.
type Config struct {
	Key     crypto.PrivKey          // which relays see: not the inner host's
	Relays  func() []peer.AddrInfo  // that may be asked, the best first, besides those of Kept; nil: none, it only dials
	Sockets *quicreuse.ConnManager  // the inner host's, to share its UDP port; nil: its own
	NoTCP   bool                    // relays are dialled over QUIC alone
	TCPPort func() int              // the inner host's, from which relays are dialled over TCP; nil: from any
	Gate    connmgr.ConnectionGater // of dials to relays; nil: all are made
	Swarm   []swarm.Option
	Kept    string // file of the relays that were used last; "": none
	// Seen is called with where a relay sees this host, for each new connection; nil: nobody is told.
	Seen    func(relay, local, outside multiaddr.Multiaddr)
	Changed func() // called after Addrs has changed; nil: nobody is told
	Log     *slog.Logger
}

// Host is the outer host of another one, which Attach names. It is safe for concurrent use.
type Host struct {
	cfg    Config
	bare   *Bare
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	kick   chan struct{} // capacity 1: look at the relays now
	kept   string        // what was written down last; of run alone
	wanted atomic.Bool
	ahead  time.Duration // that other relays wait for those that were used last; set before Want

	mu    sync.Mutex
	held  []place // the oldest first
	news  chan struct{}
	rests Rests
	idle  map[network.Conn]time.Time // since when a connection carries nothing
	tcp   *asking                    // of a relay; nil: none is asked over TCP
}

// place is a reservation at a relay.
type place struct {
	relay   peer.ID
	at      []multiaddr.Multiaddr // of the relay, without its ID
	since   time.Time
	refresh time.Time
	until   time.Time
}

var errBrief = fmt.Errorf("its places last less than %s", LeastPlace)

// New starts an outer host. It dials nobody before Want or a circuit. Errors are those of
// libp2p.
func New(cfg Config) (*Host, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	bare, err := NewBare(BareConfig{Key: cfg.Key, Gate: cfg.Gate, Swarm: cfg.Swarm, Sockets: cfg.Sockets, NoTCP: cfg.NoTCP, TCPPort: cfg.TCPPort})
	if err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, bare: bare, kick: make(chan struct{}, 1), ahead: keptFirst, news: make(chan struct{}), idle: map[network.Conn]time.Time{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	bare.Network().Notify(&network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			if cfg.Seen != nil {
				h.start(func() { h.askWhere(c) })
			}
		},
		DisconnectedF: func(network.Network, network.Conn) { h.Look() },
	})
	h.wg.Go(h.run)
	return h, nil
}

// Close closes all circuits and gives up the reservations.
func (h *Host) Close() error {
	h.mu.Lock() // nothing is started from here on
	h.cancel()
	h.mu.Unlock()
	err := h.bare.Close()
	h.wg.Wait()
	return err
}

// start runs do in the background, unless the host is closed.
func (h *Host) start(do func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() == nil {
		h.wg.Go(do)
	}
}

// ID returns the outer host's peer ID.
func (h *Host) ID() peer.ID { return h.bare.ID() }

// Want says whether the inner host is to be reached through relays.
func (h *Host) Want(on bool) {
	if h.wanted.Swap(on) != on {
		h.Look()
	}
}

// Look has the relays looked at now: there may be others.
func (h *Host) Look() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// Moved makes the connections to relays again that carry nothing, and tests the others,
// because this machine or its router has another address: relays say where they see a
// host only at the beginning.
func (h *Host) Moved() {
	h.mu.Lock()
	h.rests.Moved(time.Now())
	if h.tcp != nil {
		h.tcp.stop()
		h.tcp = nil
	}
	h.mu.Unlock()
	for _, c := range h.bare.Network().Conns() {
		h.start(func() {
			if !carries(c) || h.asks(c) != nil {
				_ = c.Close()
			}
		})
	}
}

// Relays returns the relays at which there is a reservation.
func (h *Host) Relays() (out []peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.held {
		out = append(out, p.relay)
	}
	return out
}

// Addrs returns where the inner host can be reached, without its ID: the best way to each
// relay first, at most four for each.
func (h *Host) Addrs() []multiaddr.Multiaddr {
	h.mu.Lock()
	defer h.mu.Unlock()
	var first, more []multiaddr.Multiaddr
	for _, p := range h.held {
		for i, at := range p.at {
			if a := join(at, p.relay, h.bare.ID()); i == 0 {
				first = append(first, a)
			} else {
				more = append(more, a)
			}
		}
	}
	return append(first, more...)
}

// Seeks reports whether there are relays that may be asked.
func (h *Host) Seeks() bool {
	return h.cfg.Relays != nil && (len(h.cfg.Relays()) > 0 || len(readRelays(h.cfg.Kept)) > 0)
}

// Await waits until there is a reservation, or ctx ends.
func (h *Host) Await(ctx context.Context) {
	for {
		h.mu.Lock()
		n, news := len(h.held), h.news
		h.mu.Unlock()
		if n > 0 {
			return
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		case <-h.ctx.Done():
			return
		}
	}
}

// Knows reports whether there is a connection to a relay.
func (h *Host) Knows(relay peer.ID) bool {
	return len(h.bare.Network().ConnsToPeer(relay)) > 0
}

// Leave closes the connections to a relay, and with them its circuits.
func (h *Host) Leave(relay peer.ID) {
	h.tire(relay)
	_ = h.bare.Network().ClosePeer(relay)
}

func (h *Host) run() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		h.tend()
		select {
		case <-h.ctx.Done():
			return
		case <-h.kick:
		case <-tick.C:
		}
	}
}

// tend gives up what is gone or no longer wanted, and gets what is missing.
func (h *Host) tend() {
	now, wanted := time.Now(), h.wanted.Load()
	h.change(func(all []place) []place {
		return slices.DeleteFunc(all, func(p place) bool {
			lost := now.After(p.until) || !h.Knows(p.relay)
			if lost {
				h.rests.Lost(p.relay, p.since, now)
			}
			return lost || !wanted
		})
	})
	if wanted {
		for _, p := range h.places() {
			if now.After(p.refresh) {
				h.refresh(p)
			}
		}
		if len(h.places()) < wantedRelays {
			h.seek()
		}
	}
	h.closeIdle(now)
}

func (h *Host) places() []place {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.held)
}

// change replaces the reservations by what do makes of them.
func (h *Host) change(do func([]place) []place) {
	before := h.Addrs()
	h.mu.Lock()
	h.held = do(h.held)
	h.mu.Unlock()
	if slices.EqualFunc(before, h.Addrs(), multiaddr.Multiaddr.Equal) {
		return
	}
	h.mu.Lock()
	close(h.news)
	h.news = make(chan struct{})
	h.mu.Unlock()
	if h.cfg.Changed != nil {
		h.cfg.Changed()
	}
}

// refresh makes a reservation again before it ends.
func (h *Host) refresh(old place) {
	ctx, cancel := context.WithTimeout(h.ctx, seekTime)
	defer cancel()
	p, err := h.reserve(ctx, old.relay)
	if err != nil {
		h.cfg.Log.Info("a relay does not renew this node's place", "relay", old.relay, "error", err)
	}
	h.change(func(all []place) []place {
		i := slices.IndexFunc(all, func(x place) bool { return x.relay == old.relay })
		switch {
		case i < 0:
			return all
		case err != nil:
			h.rests.Tire(old.relay, time.Now())
			return slices.Delete(all, i, i+1)
		}
		p.since = all[i].since
		h.rests.Forgive(p.relay) // it has kept its word for half of the time
		all[i] = p
		return all
	})
}

// seek asks relays for reservations: those that were used last, and a moment later the
// others. The first that answer are taken, which are the nearest.
func (h *Host) seek() {
	list, kept := h.candidates()
	if len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(h.ctx, seekTime)
	defer cancel()
	defer h.keep()
	met := make(chan peer.ID, len(list))
	for _, c := range list {
		h.start(func() { met <- h.meet(ctx, c, !slices.Contains(kept, c.ID)) })
	}
	for range list {
		var relay peer.ID
		select {
		case relay = <-met:
		case <-ctx.Done():
			return
		}
		if relay == "" {
			continue
		}
		p, err := h.reserve(ctx, relay)
		if err != nil {
			h.tire(relay)
			h.cfg.Log.Debug("a node of the open network does not relay", "relay", relay, "error", err)
			continue
		}
		h.change(func(all []place) []place { return append(all, p) })
		h.cfg.Log.Info("this node can be reached through a relay of the open network", "relay", relay)
		if len(h.places()) >= wantedRelays {
			return
		}
	}
}

// meet connects to a relay, and returns it, or "".
func (h *Host) meet(ctx context.Context, c peer.AddrInfo, wait bool) peer.ID {
	if wait {
		select {
		case <-time.After(h.ahead):
		case <-ctx.Done():
			return ""
		}
	}
	if err := h.bare.Connect(ctx, c); err != nil {
		if ctx.Err() == nil {
			h.tire(c.ID)
		}
		return ""
	}
	return c.ID
}

// candidates returns relays to ask now, those first that were used last, which it returns
// as kept, too.
func (h *Host) candidates() (list []peer.AddrInfo, kept []peer.ID) {
	if h.cfg.Relays == nil {
		return nil, nil
	}
	before := readRelays(h.cfg.Kept)
	for _, p := range before {
		kept = append(kept, p.ID)
	}
	may := h.cfg.Relays()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	taken := map[peer.ID]bool{h.bare.ID(): true}
	for _, p := range h.held {
		taken[p.relay] = true
	}
	for _, p := range slices.Concat(before, may) {
		if !taken[p.ID] && len(p.Addrs) > 0 && !h.rests.Resting(p.ID, now) && len(list) < maxAsked {
			taken[p.ID] = true
			list = append(list, p)
		}
	}
	return list, kept
}

// tire leaves a relay alone for a while, longer each time.
func (h *Host) tire(relay peer.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rests.Tire(relay, time.Now())
}

// reserve asks a connected relay for a reservation. One that soon ends is left to others.
func (h *Host) reserve(ctx context.Context, relay peer.ID) (p place, err error) {
	res, err := client.Reserve(ctx, h.bare, peer.AddrInfo{ID: relay})
	if err != nil {
		return p, err
	}
	now := time.Now()
	if res.Expiration.Sub(now) < LeastPlace {
		return p, errBrief
	}
	p = place{relay: relay, since: now, until: res.Expiration, refresh: now.Add(res.Expiration.Sub(now) / 2), at: h.placeAddrs(relay, res.Addrs)}
	h.bare.Peerstore().AddAddrs(relay, p.at, peerstore.ConnectedAddrTTL)
	return p, nil
}

// closeIdle closes connections that have carried nothing for a while.
func (h *Host) closeIdle(now time.Time) {
	held := h.Relays()
	conns := h.bare.Network().Conns()
	h.mu.Lock()
	idle := map[network.Conn]time.Time{}
	for _, c := range conns {
		if slices.Contains(held, c.RemotePeer()) || carries(c) {
			continue
		}
		idle[c] = now
		if since, ok := h.idle[c]; ok {
			idle[c] = since
		}
	}
	h.idle = idle
	h.mu.Unlock()
	for c, since := range idle {
		if now.Sub(since) > idleTime {
			_ = c.Close()
		}
	}
}

// carries reports whether there are circuits over a connection.
func carries(c network.Conn) bool { return c.Stat().NumStreams > 0 }
