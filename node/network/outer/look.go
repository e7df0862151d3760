package outer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify/pb"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	msmux "github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/shoalnet/shoal/node/files"
)

const (
	askTime     = 5 * time.Second
	aliveTime   = 1500 * time.Millisecond
	reserveTime = 10 * time.Second
	maxIdentify = 8 << 10 // bytes
	maxKept     = 64 << 10
)

// libp2p waits a minute for a relay's answer, while no other is asked. It is a variable of
// the process's.
var _ = func() time.Duration { client.ReserveTimeout = reserveTime; return reserveTime }()

// askWhere asks a relay where it sees this host. Asking tells it nothing: the host has no
// identify of its own.
func (h *Host) askWhere(c network.Conn) {
	ctx, cancel := context.WithTimeout(h.ctx, askTime)
	defer cancel()
	said, err := identity(ctx, c)
	if err != nil {
		h.cfg.Log.Debug("a relay does not say where it sees this node", "relay", c.RemotePeer(), "error", err)
		return
	}
	h.seen(c, said)
	h.askOverTCP(c, said)
}

// identity returns what a peer says in answer to identify.
func identity(ctx context.Context, c network.Conn) (*pb.Identify, error) {
	s, err := open(ctx, c, identify.ID)
	if err != nil {
		return nil, err
	}
	defer s.Reset()
	m := new(pb.Identify)
	return m, protodelim.UnmarshalOptions{MaxSize: maxIdentify}.UnmarshalFrom(bufio.NewReader(s), m)
}

// open opens a stream on one connection. The deadline of ctx holds for all of it.
func open(ctx context.Context, c network.Conn, id libprotocol.ID) (network.Stream, error) {
	s, err := c.NewStream(ctx)
	if err != nil {
		return nil, err
	}
	by, _ := ctx.Deadline()
	if err := errors.Join(s.SetDeadline(by), msmux.SelectProtoOrFail(id, s)); err != nil {
		_ = s.Reset()
		return nil, err
	}
	return s, nil
}

// Answers reports whether a relay answers on some connection before ctx ends.
func (h *Host) Answers(ctx context.Context, relay peer.ID) bool {
	conns := h.bare.Network().ConnsToPeer(relay)
	said := make(chan error, len(conns))
	for _, c := range conns {
		go func() { said <- alive(ctx, c) }()
	}
	for range conns {
		if <-said == nil {
			return true
		}
	}
	return false
}

// asks is alive with a time of its own.
func (h *Host) asks(c network.Conn) error {
	ctx, cancel := context.WithTimeout(h.ctx, aliveTime)
	defer cancel()
	return alive(ctx, c)
}

// alive returns nil if the peer answers, even if it says that it knows no ping.
func alive(ctx context.Context, c network.Conn) error {
	s, err := open(ctx, c, ping.ID)
	if err != nil {
		if errors.Is(err, msmux.ErrNotSupported[libprotocol.ID]{}) {
			return nil
		}
		return err
	}
	return s.Reset()
}

// placeAddrs returns the addresses of a relay that others can dial: one of each kind that
// it names, or else where this host is connected to it.
func (h *Host) placeAddrs(relay peer.ID, named []multiaddr.Multiaddr) (out []multiaddr.Multiaddr) {
	byKind := map[int]multiaddr.Multiaddr{}
	add := func(a multiaddr.Multiaddr, public bool) {
		a, id := peer.SplitAddr(a)
		kind, ok := kindOf(a)
		if ok && (id == "" || id == relay) && byKind[kind] == nil && (!public || manet.IsPublicAddr(a)) {
			byKind[kind] = a
		}
	}
	for _, a := range named {
		add(a, true)
	}
	if len(byKind) == 0 {
		for _, c := range h.bare.Network().ConnsToPeer(relay) {
			add(c.RemoteMultiaddr(), false)
		}
	}
	for kind := range 4 {
		if a := byKind[kind]; a != nil {
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b multiaddr.Multiaddr) int { return order(a) - order(b) })
	return out
}

// order is QUIC over IPv4, then TCP, then both over IPv6.
func order(a multiaddr.Multiaddr) int {
	kind, _ := kindOf(a)
	return []int{0, 2, 1, 3}[kind]
}

// keep writes the relays down that are used now, for the next start.
func (h *Host) keep() {
	if h.cfg.Kept == "" {
		return
	}
	list := [][]string{}
	for _, p := range h.places() {
		var at []string
		for _, a := range p.at {
			at = append(at, multiaddr.Join(a, p2p(p.relay)).String())
		}
		list = append(list, at)
	}
	if len(list) == 0 { // better those from before than none
		return
	}
	raw, err := json.Marshal(list)
	if err == nil && string(raw) != h.kept {
		h.kept = string(raw)
		err = files.Replace(h.cfg.Kept, raw, 0o600)
	}
	if err != nil {
		h.cfg.Log.Warn("the relays cannot be kept for the next start", "error", err)
	}
}

// readRelays returns what keep wrote; none if the file is not whole.
func readRelays(file string) []peer.AddrInfo {
	if st, err := os.Stat(file); err != nil || st.Size() > maxKept {
		return nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return parseRelays(raw)
}

func parseRelays(raw []byte) (out []peer.AddrInfo) {
	var list [][]string
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	for _, at := range list[:min(len(list), wantedRelays)] {
		var addrs []multiaddr.Multiaddr
		for _, s := range at[:min(len(at), 4)] {
			if a, err := multiaddr.NewMultiaddr(s); err == nil {
				addrs = append(addrs, a)
			}
		}
		infos, err := peer.AddrInfosFromP2pAddrs(addrs...)
		if err == nil && len(infos) == 1 {
			out = append(out, infos[0])
		}
	}
	return out
}

// RTT returns the shortest round trip to a relay over QUIC; 0: it is not known.
func (h *Host) RTT(relay peer.ID) time.Duration {
	for _, c := range h.bare.Network().ConnsToPeer(relay) {
		var q *quic.Conn
		if c.As(&q) {
			return q.ConnectionStats().MinRTT
		}
	}
	return 0
}
