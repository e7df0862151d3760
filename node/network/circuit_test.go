package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// newRelay starts a relay whose circuits carry so many bytes one way, for so long.
func newRelay(t *testing.T, bytes int64, lasts time.Duration) host.Host {
	t.Helper()
	rc := relay.DefaultResources()
	rc.MaxCircuits = 64
	rc.Limit = &relay.RelayLimit{Data: bytes, Duration: lasts}
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1"), libp2p.EnableRelayService(relay.WithResources(rc)),
		libp2p.ForceReachabilityPublic(), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// reserve makes a node reachable over a relay.
func reserve(t testing.TB, n *Network, r host.Host) multiaddr.Multiaddr {
	t.Helper()
	info := peer.AddrInfo{ID: r.ID(), Addrs: r.Addrs()}
	n.gate.name(info)
	await(t, "a reservation", func() bool { _, err := client.Reserve(t.Context(), n.host, info); return err == nil })
	return multiaddr.Join(r.Addrs()[0], multiaddr.StringCast("/p2p/"+r.ID().String()+"/p2p-circuit"))
}

// knowVia tells a node that another is reached over a relay.
func knowVia(n, other *Network, r host.Host) {
	via, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: r.ID(), Addrs: r.Addrs()})
	if err != nil {
		panic(err)
	}
	n.host.Peerstore().AddAddr(other.Self(), via[0].Encapsulate(multiaddr.StringCast("/p2p-circuit")), peerstore.PermanentAddrTTL)
}

// behind makes a node that dials nobody but relays, and whom nobody dials.
func behind(t *testing.T, client bool, relays []host.Host) *Network {
	n := join(t, client)
	n.gate.mu.Lock()
	n.gate.loopback, n.gate.here = false, func(netip.Prefix) bool { return false }
	n.gate.mu.Unlock()
	for _, r := range relays {
		n.gate.name(peer.AddrInfo{ID: r.ID(), Addrs: r.Addrs()})
	}
	return n
}

// meetDirectly makes a direct connection between two nodes.
func meetDirectly(t *testing.T, a, b *Network) {
	t.Helper()
	a.gate.name(peer.AddrInfo{ID: b.Self(), Addrs: b.host.Network().ListenAddresses()})
	ctx := network.WithForceDirectDial(t.Context(), "test")
	if err := a.host.Connect(ctx, peer.AddrInfo{ID: b.Self(), Addrs: b.host.Network().ListenAddresses()}); err != nil {
		t.Fatal(err)
	}
}

// mixer is an engine whose tokens depend on all that came before, in order.
type mixer struct {
	last bool
	mu   sync.Mutex
	kv   map[int][]float32 // by slot: what each position left
}

const mixed = 16 // elements of a hidden state

func (e *mixer) Remove(seq int, from int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if int(from) < len(e.kv[seq]) {
		e.kv[seq] = e.kv[seq][:from]
	}
	return nil
}

func (e *mixer) CopyPrefix(src, dst int, n int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kv[dst] = slices.Clone(e.kv[src][:n])
	return nil
}

func (e *mixer) Run(_ context.Context, p *engine.Batch) (*engine.Result, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	res, states := &engine.Result{}, make([]float32, len(p.Rows))
	for i, row := range p.Rows {
		past := e.kv[row.Seq]
		if len(past) != int(row.Pos) {
			return nil, errors.New("a position out of turn")
		}
		x := float32(0)
		if len(p.Tokens) > 0 {
			x = float32(p.Tokens[i])
		} else {
			x = p.Hidden[i*mixed]
		}
		for _, back := range []int{1, 2, 7} {
			if len(past) >= back {
				x += float32(back) * past[len(past)-back]
			}
		}
		x = float32(int(x*3+float32(row.Pos)) % 251)
		e.kv[row.Seq], states[i] = append(past, x), x
		if !e.last {
			res.Hidden = append(res.Hidden, slices.Repeat([]float32{x}, mixed)...)
		}
	}
	for _, o := range p.Outputs {
		res.Tokens = append(res.Tokens, sample.Token{ID: int32(states[o.Row]) % 97})
	}
	return res, nil
}

// stages of a session are opened through these.
type toStages struct{ *Network }

func (d toStages) OpenStage(ctx context.Context, _ string, p peer.ID, offer []byte) (stage.Stream, error) {
	return d.Open(ctx, p, offer, protocol.StageID)
}

type toSession struct{ *Network }

func (d toSession) OpenStage(ctx context.Context, p peer.ID, offer []byte) (session.Stream, error) {
	return d.Open(ctx, p, offer, protocol.StageID)
}

// serveSpan makes a node serve a block of a model of two.
func serveSpan(t *testing.T, n *Network, from int) session.Hop {
	t.Helper()
	span := protocol.Span{From: from, To: from + 1}
	s := stage.New(stage.Config{Model: model, Span: span, Blocks: 2, Width: mixed, Vocab: 97, KVTokens: 8192, MaxSeqs: 4, MaxBatch: 128, MaxContext: 4096},
		&mixer{last: from == 1, kv: map[int][]float32{}}, toStages{n})
	t.Cleanup(func() { s.Close(nil) })
	srv := stage.NewServer(nil, nil)
	srv.Add(s)
	n.Handle(protocol.StageID, func(st *Stream) { srv.Serve(st) })
	return session.Hop{Peer: n.Self(), Span: span}
}

// answer runs a session and calls do after some tokens.
func answer(t *testing.T, n *Network, route []session.Hop, tokens int, do map[int]func()) ([]int32, *session.Outcome) {
	t.Helper()
	var ids []int32
	out, err := session.Run(t.Context(), toSession{n}, &session.Request{
		Model: model, Route: route, Prompt: []int32{3, 14, 15, 92, 65, 35}, Sampling: &protocol.Sampling{MaxTokens: uint32(tokens)},
		Replan: func(_ context.Context, gap session.Gap) ([]session.Hop, error) {
			if len(gap.Avoid) > 0 {
				return nil, errors.New("there are no others")
			}
			return slices.DeleteFunc(slices.Clone(route), func(h session.Hop) bool { return h.Span.From < gap.Span.From || h.Span.To > gap.Span.To }), nil
		},
	}, func(tok *protocol.Token) error {
		ids = append(ids, tok.Id)
		if f := do[len(ids)]; f != nil {
			f()
		}
		return nil
	})
	if err != nil {
		t.Fatalf("after %d tokens: %v, %+v", len(ids), err, out.Recoveries)
	}
	return ids, out
}

// right is the answer that is wanted, computed without a network.
func right(t *testing.T, tokens int) []int32 {
	t.Helper()
	a, b := &mixer{kv: map[int][]float32{}}, &mixer{last: true, kv: map[int][]float32{}}
	ids, prompt := []int32(nil), []int32{3, 14, 15, 92, 65, 35}
	feed := prompt
	for pos := 0; len(ids) < tokens; {
		rows := make([]engine.Row, len(feed))
		for i := range rows {
			rows[i].Pos = int32(pos + i)
		}
		mid, err := a.Run(t.Context(), &engine.Batch{Rows: rows, Tokens: feed})
		if err != nil {
			t.Fatal(err)
		}
		res, err := b.Run(t.Context(), &engine.Batch{Rows: rows, Hidden: mid.Hidden, Outputs: []engine.Output{{Row: len(rows) - 1}}})
		if err != nil {
			t.Fatal(err)
		}
		pos += len(feed)
		feed = []int32{res.Tokens[0].ID}
		ids = append(ids, feed[0])
	}
	return ids
}

// relayedRing is a client and two stages. All reach each other over relays alone, but
// the client the first stage directly.
func relayedRing(t *testing.T, relays ...host.Host) (c, x, y *Network, route []session.Hop) {
	all := []*Network{behind(t, true, relays), behind(t, false, relays), behind(t, false, relays)}
	c, x, y = all[0], all[1], all[2]
	meetDirectly(t, c, x)
	for _, r := range relays {
		for _, n := range all {
			reserve(t, n, r)
			for _, other := range all {
				if other != n {
					knowVia(other, n, r)
				}
			}
		}
	}
	return c, x, y, []session.Hop{serveSpan(t, x, 0), serveSpan(t, y, 1)}
}

// A relayed peer's round trip is measured, so that it can be planned with.
func TestCircuitRTT(t *testing.T) {
	c, _, y, _ := relayedRing(t, newRelay(t, 256<<20, time.Hour))
	s, err := c.Open(t.Context(), y.Self(), nil, protocol.StageID)
	if err != nil || !s.Relayed() {
		t.Fatal(err, "or the stream is not relayed")
	}
	defer func() { _ = s.Reset() }()
	await(t, "a round trip over the circuit", func() bool { rtt, ok := c.RTT(y.Self()); return ok && rtt > circuitCost })
	meetDirectly(t, c, y)
	await(t, "the direct one", func() bool { rtt, ok := c.RTT(y.Self()); return ok && rtt > 0 && c.circuitRTT(y.Self()) == 0 })
	if !closed(s.Better()) {
		t.Error("a direct connection is no better path")
	}
}

// A session over a circuit moves when a direct path appears: no token is lost or
// doubled, and nothing is repaired.
func TestSessionMovesOffRelay(t *testing.T) {
	const n = 2000
	c, x, y, route := relayedRing(t, newRelay(t, 256<<20, time.Hour))
	ids, out := answer(t, c, route, n, map[int]func(){
		500:  func() { meetDirectly(t, x, y) },
		1000: func() { meetDirectly(t, c, y) },
	})
	if !slices.Equal(ids, right(t, n)) {
		t.Error("the text has changed")
	}
	if len(out.Recoveries) > 0 {
		t.Errorf("it was repaired: %+v", out.Recoveries)
	}
	if p := out.Paths[1]; p.Relayed || !slices.ContainsFunc(out.Moves, func(m session.Move) bool { return !m.Link && m.Hop.Peer == y.Self() }) {
		t.Errorf("the client's stream has not moved: %+v", out.Moves)
	}
	t.Logf("%.0f tokens/s, moves: %+v", out.Rate(), out.Moves)
}

// A session outlives the circuits that carry it: each is left before its relay cuts it.
func TestSessionOutlivesCircuits(t *testing.T) {
	const n = 3000
	c, _, _, route := relayedRing(t, newRelay(t, 128<<10, time.Hour))
	ids, out := answer(t, c, route, n, nil)
	if !slices.Equal(ids, right(t, n)) {
		t.Error("the text has changed")
	}
	if len(out.Moves) == 0 {
		t.Error("no stream has moved")
	}
	t.Logf("%.0f tokens/s, moves: %+v, recoveries: %+v", out.Rate(), out.Moves, out.Recoveries)
}

// A relay that dies costs a session a repair: the other relay takes its place.
func TestSessionOutlivesRelay(t *testing.T) {
	const n = 1000
	first, other := newRelay(t, 256<<20, time.Hour), newRelay(t, 256<<20, time.Hour)
	c, _, y, route := relayedRing(t, first, other)
	ids, out := answer(t, c, route, n, map[int]func(){400: func() {
		dead := reach.RelayOf(c.host.Network().ConnsToPeer(y.Self())[0].RemoteMultiaddr())
		for _, r := range []host.Host{first, other} {
			if r.ID() == dead {
				r.Close()
			}
		}
	}})
	if !slices.Equal(ids, right(t, n)) {
		t.Error("the text has changed")
	}
	if len(out.Recoveries) == 0 {
		t.Error("nothing was repaired")
	}
	t.Logf("%.0f tokens/s, moves: %+v, recoveries: %+v", out.Rate(), out.Moves, out.Recoveries)
}

// mutable is a relay that can fall silent, as a machine does that loses power: a proxy
// before it drops what comes.
type mutable struct {
	host.Host
	front net.PacketConn
	mute  atomic.Bool
}

func newMutable(t *testing.T) *mutable {
	t.Helper()
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { front.Close() })
	m := &mutable{Host: newRelay(t, 256<<20, time.Hour), front: front}
	go m.forward(t)
	return m
}

// Addrs is the proxy's.
func (m *mutable) Addrs() []multiaddr.Multiaddr {
	a, err := manet.FromNetAddr(m.front.LocalAddr())
	if err != nil {
		panic(err)
	}
	return []multiaddr.Multiaddr{a.Encapsulate(multiaddr.StringCast("/quic-v1"))}
}

func (m *mutable) forward(t *testing.T) {
	to, err := manet.ToNetAddr(m.Host.Addrs()[0].Decapsulate(multiaddr.StringCast("/quic-v1")))
	if err != nil {
		t.Error(err)
		return
	}
	b, back := make([]byte, 2048), map[string]net.PacketConn{}
	for {
		n, from, err := m.front.ReadFrom(b)
		if err != nil {
			return
		}
		c := back[from.String()]
		if c == nil {
			if c, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { c.Close() })
			back[from.String()] = c
			go func() {
				b := make([]byte, 2048)
				for {
					n, _, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					if !m.mute.Load() {
						_, _ = m.front.WriteTo(b[:n], from)
					}
				}
			}()
		}
		if !m.mute.Load() {
			_, _ = c.WriteTo(b[:n], to)
		}
	}
}

// A relay that falls silent is noticed by asking it, long before QUIC gives it up.
func TestSessionOutlivesSilentRelay(t *testing.T) {
	const n = 1000
	first, other := newMutable(t), newMutable(t)
	c, _, y, route := relayedRing(t, first, other)
	var muted *mutable
	ids, out := answer(t, c, route, n, map[int]func(){400: func() {
		dead := reach.RelayOf(c.host.Network().ConnsToPeer(y.Self())[0].RemoteMultiaddr())
		muted = first
		if other.ID() == dead {
			muted = other
		}
		muted.mute.Store(true)
	}})
	if !slices.Equal(ids, right(t, n)) {
		t.Error("the text has changed")
	}
	if len(out.Recoveries) == 0 {
		t.Error("nothing was repaired")
	}
	t.Logf("%.0f tokens/s, moves: %+v, recoveries: %+v", out.Rate(), out.Moves, out.Recoveries)
}
