package network

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/discovery/mdns"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-yamux/v5"
	msmux "github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
)

// ErrAlone means that no peer was found.
var ErrAlone = remedy.For(errors.New("no peer was found: name one, or start a node on this LAN"), remedy.NamePeer)

// WaitPeers waits until some peer is connected, or ctx ends. If there is
// nowhere to look, it returns at once. The error is ErrRefused if a peer that
// was found takes no connection, else ErrAlone.
func (n *Network) WaitPeers(ctx context.Context) error {
	for len(n.host.Network().Peers()) == 0 {
		if n.alone.Load() {
			return ErrAlone
		}
		select {
		case <-ctx.Done():
			return n.whyAlone()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// whyAlone returns the reason why no peer is connected after the wait.
func (n *Network) whyAlone() error {
	missed := n.Health().Unreached
	for _, u := range missed {
		if u.Why == ErrRefused.Error() {
			return fmt.Errorf("%s: %w", u.ID, ErrRefused)
		}
	}
	if len(missed) == 0 {
		return ErrAlone
	}
	return fmt.Errorf("%w; none of the %d known peers answered (%s: %s)", ErrAlone, len(missed), missed[0].ID, missed[0].Why)
}

// announce refreshes the node's own offer, sends it to peers, and has it published.
func (n *Network) announce() {
	news := make(chan struct{}, 1)
	n.wg.Go(func() { n.publish(news) })
	refresh := time.NewTicker(refreshes)
	defer refresh.Stop()
	for {
		refreshed := false
		select {
		case <-n.ctx.Done():
			return
		case <-n.changed:
			select { // several changes are announced together
			case <-n.ctx.Done():
				return
			case <-time.After(together):
			}
		case <-refresh.C:
			refreshed = true
			n.mu.Lock()
			err := n.sign()
			n.mu.Unlock()
			if err != nil {
				n.log.Warn("the offer cannot be signed", "error", err)
			}
		}
		if n.OwnOffer() == nil {
			continue
		}
		n.tell(n.ctx, refreshed)
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// smallNetwork is up to how many peers a network is small: then offers are stored
// in the DHT as well. In a larger one they would be as many lookups, and the peers
// that a provider record names are asked for their offers instead.
const smallNetwork = 64

// small reports whether few peers have been seen.
func (n *Network) small() bool {
	return max(len(n.host.Network().Peers()), n.dht.RoutingTable().Size(), n.KnownOffers()) <= smallNetwork
}

func (n *Network) putRecord(o *protocol.Offer) {
	ctx, cancel := context.WithTimeout(n.ctx, lookTime)
	defer cancel()
	if err := n.dht.PutValue(ctx, recordKey(o.From), o.Envelope); err != nil && n.ctx.Err() == nil {
		n.log.Debug("storing the offer in the DHT", "error", err)
	}
}

// replaced tests the older connections to a peer that has made a new one. A
// peer that was killed and started again has forgotten them, but here they seem
// alive until QUIC's idle timeout, and data sent over them is lost.
func (n *Network) replaced(fresh network.Conn) {
	for _, c := range n.host.Network().ConnsToPeer(fresh.RemotePeer()) {
		if c == fresh || c.IsClosed() {
			continue
		}
		go func() {
			ctx, cancel := context.WithTimeout(n.ctx, oldConnTime)
			defer cancel()
			if err := answers(ctx, c); err != nil && n.ctx.Err() == nil {
				n.log.Info("an old connection is closed: the peer has a new one and does not answer on it", "peer", c.RemotePeer())
				_ = c.Close()
				if n.reaching != nil && reach.Relayed(fresh) && publicAddr(c.RemoteMultiaddr()) { // one of the two has moved
					n.reaching.refresh(freshFew)
				}
			}
		}()
	}
}

// oldConnTime is how long a peer has to answer on a connection that it may have
// forgotten.
const oldConnTime = 2 * time.Second

// answers asks over this connection whether the peer still knows it.
func answers(ctx context.Context, c network.Conn) error {
	s, err := c.NewStream(network.WithAllowLimitedConn(ctx, string(ping.ID)))
	if err != nil {
		return err
	}
	defer s.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = s.SetDeadline(deadline)
	}
	err = msmux.SelectProtoOrFail(libprotocol.ID(ping.ID), s)
	if errors.Is(err, msmux.ErrNotSupported[libprotocol.ID]{}) { // the peer has answered, and that is what counts
		return nil
	}
	return err
}

// lostConn forgets a peer's offer unless the peer soon reconnects: no route may
// lead to it.
func (n *Network) lostConn(p peer.ID) {
	n.poke()
	if len(n.host.Network().Peers()) == 0 {
		n.rouse()
	}
	if n.offerOf(p) == nil || n.Connected(p) || n.ctx.Err() != nil {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(n.ctx, dialTime)
		defer cancel()
		if err := n.host.Connect(ctx, peer.AddrInfo{ID: p}); err != nil && n.ctx.Err() == nil {
			n.mu.Lock()
			n.offers.forget(p)
			n.mu.Unlock()
			n.log.Info("a peer is gone", "peer", p)
		}
	}()
}

// RTT returns the round trip to a connected peer: QUIC's own minimum, that of a circuit
// if there is nothing better, or the smaller of the average of pings and what the
// multiplexer of a TCP connection measures. It is false if none is known.
func (n *Network) RTT(p peer.ID) (time.Duration, bool) {
	if p == n.host.ID() {
		return 0, true
	}
	for _, c := range n.host.Network().ConnsToPeer(p) {
		var qc *quic.Conn
		if c.As(&qc) {
			if s := qc.ConnectionStats(); s.MinRTT > 0 {
				return s.MinRTT, true
			}
		}
	}
	if rtt := n.circuitRTT(p); rtt > 0 {
		return rtt, true
	}
	rtt := n.host.Peerstore().LatencyEWMA(p)
	for _, c := range n.host.Network().ConnsToPeer(p) {
		var mux *yamux.Session
		if c.As(&mux) && mux.RTT() > 0 && (rtt == 0 || mux.RTT() < rtt) {
			rtt = mux.RTT()
		}
	}
	if rtt > 0 {
		return rtt, true
	}
	if rtt := n.outerRTT(p); rtt > 0 {
		return rtt, true
	}
	return 0, false
}

// PeerInfo is what is known of a connected peer.
type PeerInfo struct {
	ID        peer.ID
	Addr      string // multiaddr of the connection's remote end
	Transport string
	RTT       time.Duration
	Version   string
	Inbound   bool
	Relayed   bool
	NotDirect NotDirect       // of a relayed peer: why
	Relay     peer.ID         // of a relayed peer
	Swarm     string          // ID of the private swarm in which it is connected; "": the open network
	Offer     *protocol.Offer // nil if it has sent none
}

// Peers returns the connected peers.
func (n *Network) Peers() []PeerInfo {
	var out []PeerInfo
	for _, p := range n.host.Network().Peers() {
		conns := n.host.Network().ConnsToPeer(p)
		if len(conns) == 0 {
			continue
		}
		c := conns[0]
		if i := slices.IndexFunc(conns, func(c network.Conn) bool { return !reach.Relayed(c) }); i >= 0 {
			c = conns[i]
		}
		info := PeerInfo{ID: p, Addr: c.RemoteMultiaddr().String(), Transport: c.ConnState().Transport,
			Inbound: c.Stat().Direction == network.DirInbound, Swarm: n.Swarm(), Offer: n.offerOf(p)}
		if path, ok := n.PathTo(p); ok && !path.Direct {
			info.Relayed, info.NotDirect, info.Relay, info.Transport = true, path.Why, path.Relay, path.Transport
		}
		info.RTT, _ = n.RTT(p)
		if v, err := n.host.Peerstore().Get(p, "AgentVersion"); err == nil {
			info.Version, _ = v.(string)
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b PeerInfo) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// startMDNS finds nodes on the LAN.
func (n *Network) startMDNS() (io.Closer, error) {
	if n.roll != nil {
		return n.startSwarmMDNS()
	}
	s := mdns.NewMdnsService(n.host, "_shoal._udp", found{n})
	return s, s.Start()
}

type found struct{ n *Network }

func (f found) HandlePeerFound(p peer.AddrInfo) {
	f.n.gate.find(p)
	ctx, cancel := context.WithTimeout(f.n.ctx, 2*dialTime)
	defer cancel()
	if err := f.n.host.Connect(ctx, p); err != nil {
		f.n.log.Debug("a node on the LAN cannot be reached", "peer", p.ID, "error", tidy(err))
	}
}

// LoadKey reads a node's key, or makes one if the file does not exist. Errors
// are a damaged key, and those of reading or writing the file.
func LoadKey(path string) (crypto.PrivKey, error) {
	raw, err := os.ReadFile(path)
	if err == nil {
		key, err := crypto.UnmarshalPrivateKey(raw)
		if err != nil {
			return nil, fmt.Errorf("the node's key %s is damaged: restore it, or delete it to become another peer: %w", path, err)
		}
		return key, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	if raw, err = crypto.MarshalPrivateKey(key); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return key, files.Replace(path, raw, 0o600)
}
