package node_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

// A stranger claims to serve all of tinytales at a speed that no machine has. It
// is a bare libp2p host that speaks the protocol itself.
type stranger struct {
	id       peer.ID
	sessions atomic.Int64 // that came to it
}

// nonsense is an engine that always draws the same token.
type nonsense struct{ width int }

func (e nonsense) Run(_ context.Context, p *stage.Pass) (*stage.Result, error) {
	res := &stage.Result{Hidden: make([]float32, len(p.Rows)*e.width)}
	for range p.Draws {
		res.Drawn = append(res.Drawn, stage.Drawn{ID: 42})
	}
	return res, nil
}

func (nonsense) Remove(int, int32) error          { return nil }
func (nonsense) CopyPrefix(int, int, int32) error { return nil }

func (nonsense) OpenStage(context.Context, peer.ID, []multiaddr.Multiaddr) (stage.Stream, error) {
	return nil, errors.New("there is no successor")
}

// Compile takes any format, and Allowed any token.
func (e nonsense) Compile([]*protocol.Piece, []int32) (stage.Format, error) { return e, nil }
func (nonsense) Allowed([]int32) ([]uint64, error)                          { return nil, nil }

type hostStream struct{ network.Stream }

func (s hostStream) Peer() peer.ID { return s.Conn().RemotePeer() }

// liar answers nonsense.
func liar(model cid.Cid) func(network.Stream) {
	e := nonsense{128}
	srv := stage.NewServer(nil)
	srv.Add(stage.New(stage.Config{Model: model, Span: protocol.Span{From: 0, To: 8}, Blocks: 8, Width: e.width, Vocab: 4096, KVTokens: 1 << 20, MaxSeqs: 64,
		MaxBatch: 512, MaxContext: 1 << 20, Formats: e}, e, e))
	return func(s network.Stream) { srv.Serve(hostStream{s}) }
}

// tarpit accepts every session, says that it computes, and gives nothing.
func tarpit(s network.Stream) {
	r := bufio.NewReader(s)
	say := func(f *protocol.Frame) {
		if b, err := protocol.AppendFrame(nil, f, nil); err == nil {
			_, _ = s.Write(b)
		}
	}
	for passes := uint64(1); ; passes++ {
		f, _, err := protocol.ReadFrame(r, 0)
		if err != nil {
			_ = s.Reset()
			return
		}
		switch k := f.Kind.(type) {
		case *protocol.Frame_Open:
			say(&protocol.Frame{Kind: &protocol.Frame_Opened{Opened: &protocol.Opened{Format: true}}})
		case *protocol.Frame_Ping:
			say(&protocol.Frame{Kind: &protocol.Frame_Pong{Pong: &protocol.Pong{Epoch: 1, Computing: true, Waiting: 1, Passes: passes}}})
		case *protocol.Frame_Halt:
			say(&protocol.Frame{Kind: &protocol.Frame_Halted{Halted: &protocol.Halted{Epoch: k.Halt.Epoch, CanReplay: true}}})
		}
	}
}

// meets connects a stranger to nodes, and waits until they know what it claims.
func meets(t *testing.T, serve func(network.Stream), model cid.Cid, nodes ...*node.Node) *stranger {
	t.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.DisableMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	s := &stranger{id: h.ID()}
	now := time.Now()
	body := &protocol.OfferBody{Seq: uint64(now.UnixMilli()), IssuedUnixMs: now.UnixMilli(), ExpiresUnixMs: now.Add(14 * time.Minute).UnixMilli(), Spans: []*protocol.ServedSpan{{
		Model: model.Bytes(), To: 8, Blocks: 8, Width: 128, Name: tinymodel.Name, Ready: true, Loaded: true, SinceS: 900,
		UsPerBlock: 1, UsPerBlockPrefill: 1, KvTokens: 1 << 30, KvFree: 1 << 30, MaxContext: 1 << 30}}}
	for _, a := range h.Addrs() {
		body.Addrs = append(body.Addrs, a.Bytes())
	}
	offer, err := protocol.SealOffer(body, h.Peerstore().PrivKey(h.ID()))
	if err != nil {
		t.Fatal(err)
	}
	write := func(w io.Writer, m proto.Message) {
		if b, err := proto.Marshal(m); err == nil {
			_, _ = w.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
		}
	}
	h.SetStreamHandler(protocol.OffersID, func(x network.Stream) {
		write(x, &protocol.OffersReply{Envelopes: [][]byte{offer.Envelope}})
		_ = x.Close()
	})
	h.SetStreamHandler(protocol.StatusID, func(x network.Stream) {
		write(x, &protocol.StatusReply{Spans: []*protocol.SpanStatus{{Model: model.Bytes(), To: 8, KvFree: 1 << 30, Kept: 1 << 30}}})
		_ = x.Close()
	})
	h.SetStreamHandler(protocol.StageID, func(x network.Stream) {
		s.sessions.Add(1)
		serve(x)
	})
	for _, n := range nodes {
		st, err := n.Client().Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		info, err := peer.AddrInfoFromString(st.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Connect(t.Context(), *info); err != nil {
			t.Fatal(err)
		}
		x, err := h.NewStream(t.Context(), info.ID, protocol.OffersID)
		if err != nil {
			t.Fatal(err)
		}
		write(x, &protocol.OffersRequest{Own: offer.Envelope})
		_ = x.CloseWrite()
		_, _ = io.Copy(io.Discard, x)
		until(t, "what the stranger claims is known", func() bool {
			v, err := n.View(t.Context())
			return err == nil && slices.ContainsFunc(v.Peers, func(p api.ViewPeer) bool { return p.Peer == h.ID().String() && len(p.Spans) == 1 })
		})
	}
	return s
}

func modelID(t *testing.T, n *node.Node) cid.Cid {
	t.Helper()
	id, err := cid.Decode(show(t, n, tinymodel.Name).ID)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A node that serves all of a model by itself sends a liar nothing, and one whose
// operator trusts a node that does, neither.
func TestOwnFirst(t *testing.T) {
	own, addrs := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
	st, err := own.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	friend, _ := start(t, node.Config{Bootstrap: addrs, Trust: []string{st.Peer}}, false)
	want, _, _ := ask(t, own, request("Once upon a time", 0, 30))
	s := meets(t, liar(modelID(t, own)), modelID(t, own), own, friend)
	for range 10 {
		for _, n := range []*node.Node{own, friend} {
			got, begin, _ := ask(t, n, request("Once upon a time", 0, 30))
			trust := map[*node.Node]string{own: "own", friend: "trusted"}[n]
			if !slices.Equal(got, want) || len(begin.Route) != 1 || begin.Route[0] != (api.Hop{Peer: st.Peer, From: 0, To: 8, Trust: trust}) {
				t.Fatalf("%v over %v, want %v", got, begin.Route, want)
			}
		}
	}
	if n := s.sessions.Load(); n != 0 {
		t.Errorf("%d sessions came to the liar", n)
	}
}

// A client that knows one honest server sends a liar at most one prompt in ten;
// and one in all, if what comes is no answer of the format that was asked for.
func TestOneHonestServer(t *testing.T) {
	honest, addrs := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
	client, _ := start(t, node.Config{Bootstrap: addrs}, false)
	ask(t, client, request("Once upon a time", 0, 30))
	s := meets(t, liar(modelID(t, honest)), modelID(t, honest), client)
	for n := int64(1); n <= 25; n++ {
		ask(t, client, request("Once upon a time", 0, 12))
		if 10*s.sessions.Load() > n {
			t.Fatalf("%d of the first %d prompts went to the liar", s.sessions.Load(), n)
		}
	}
	before := s.sessions.Load()
	if before == 0 {
		t.Error("no newcomer is ever tried")
	}
	formatted := request("Once upon a time", 0, 40)
	formatted.Format = json.RawMessage(`{"type":"integer"}`)
	for range 25 {
		if _, _, done := ask(t, client, formatted); done.Tokens == 0 {
			t.Error("an empty answer")
		}
	}
	if n := s.sessions.Load() - before; n != 1 {
		t.Errorf("%d prompts went to one that answered nonsense to a format, want 1", n)
	}
}

// A tarpit costs one prompt some seconds, and no other anything.
func TestTarpitNode(t *testing.T) {
	honest, addrs := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
	client, _ := start(t, node.Config{Bootstrap: addrs}, false)
	want, _, _ := ask(t, client, request("Once upon a time", 0, 30))
	s := meets(t, tarpit, modelID(t, honest), client)
	var longest time.Duration
	for range 40 {
		begin := time.Now()
		got, _, _ := ask(t, client, request("Once upon a time", 0, 30))
		longest = max(longest, time.Since(begin))
		if !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	}
	t.Logf("%d sessions came to the tarpit; the longest prompt took %s", s.sessions.Load(), longest)
	if n := s.sessions.Load(); n != 1 {
		t.Errorf("%d sessions came to the tarpit, want 1", n)
	}
	if longest > 15*time.Second { // about 2 s where the machine is not busy
		t.Errorf("a prompt took %s", longest)
	}
}
