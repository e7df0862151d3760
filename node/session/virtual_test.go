package session_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/link"
	"github.com/shoalnet/shoal/testnet/sim"
)

// quicStream is a stream of real QUIC on a simulated link.
type quicStream struct{ network.Stream }

func (s quicStream) Peer() peer.ID { return s.Conn().RemotePeer() }

func (s quicStream) Relayed() bool { return s.Conn().Stat().Limited }

func (s quicStream) Better() <-chan struct{} { return nil }

func (s quicStream) Protocol() string { return string(s.Stream.Protocol()) }

func (quicStream) Swarm() string { return "" }

type simDialer struct{ host.Host }

func (d simDialer) Self() peer.ID { return d.ID() }

func (d simDialer) open(ctx context.Context, p peer.ID) (quicStream, error) {
	s, err := d.NewStream(ctx, p, protocol.StageID, protocol.StageID1)
	return quicStream{s}, err
}

type simStageDialer struct{ simDialer }

func (d simStageDialer) OpenStage(ctx context.Context, _ string, p peer.ID, _ []byte) (stage.Stream, error) {
	return d.open(ctx, p)
}

type simSessionDialer struct{ simDialer }

func (d simSessionDialer) OpenStage(ctx context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	return d.open(ctx, p)
}

// virtual makes a pipeline over hosts on simulated links, all connected, and a
// client's dialer.
func virtual(t *testing.T, net *sim.Network, blocks int, cuts ...int) (*pipeline, simSessionDialer) {
	p := new(pipeline)
	return p, p.buildVirtual(t, net, blocks, cuts...)
}

// slowRate is that of a slow link, bit/s.
const slowRate = 20e6

// buildVirtual is virtual for a pipeline with settings.
func (p *pipeline) buildVirtual(t *testing.T, net *sim.Network, blocks int, cuts ...int) simSessionDialer {
	p.model = protocol.ModelKey(cid.Undef)
	cuts = append(append([]int{0}, cuts...), blocks)
	var hosts []host.Host
	for i := range len(cuts) { // one more than there are stages: the client
		if i > 0 && i == p.slowLink {
			net.Limit(slowRate)
		}
		h, err := net.NewHost()
		net.Limit(0)
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	for i, h := range hosts[1:] {
		span := protocol.Span{From: cuts[i], To: cuts[i+1]}
		e := &sums{span: span, blocks: blocks, kv: map[int][][]float64{}, delay: p.delay, more: p.more, says: p.says, wide: p.wide}
		s := stage.New(stage.Config{
			Model: p.model, Span: span, Blocks: blocks, Width: max(p.wide, width), Vocab: vocab,
			KVTokens: 64 << 10, MaxSeqs: 96, MaxBatch: 512, MaxContext: 4096, Rollback: p.rollback(), Guess: p.guess,
		}, p.computes(e), simStageDialer{simDialer{h}})
		srv := stage.NewServer(nil, nil)
		srv.Add(s)
		h.SetStreamHandler(protocol.StageID, func(st network.Stream) { srv.Serve(quicStream{st}) })
		p.stages, p.engines = append(p.stages, s), append(p.engines, e)
		p.route = append(p.route, session.Hop{Peer: h.ID(), Span: span})
	}
	meet(t, hosts)
	return simSessionDialer{simDialer{hosts[0]}}
}

// meet connects hosts, who then know what the others speak.
func meet(t *testing.T, hosts []host.Host) {
	for i, h := range hosts {
		for _, other := range hosts {
			h.Peerstore().AddAddrs(other.ID(), other.Addrs(), time.Hour)
		}
		for _, other := range hosts[:i] {
			if err := h.Connect(t.Context(), peer.AddrInfo{ID: other.ID()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(time.Second)
}

// A token over three stages that are 40 ms apart takes three hops one way, and
// hardly more: no trip to the client, no acknowledgement.
func TestVirtualRing(t *testing.T) {
	const rtt = 40 * time.Millisecond
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), someTokens(1, 200), 40)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		net := sim.New(link.Params{RTT: rtt})
		p, d := virtual(t, net, 9, 3, 6)
		var at []time.Time
		var got []int32
		out, err := session.Run(t.Context(), d, &session.Request{
			Model: p.model, Route: p.route, Prompt: someTokens(1, 200), Sampling: &protocol.Sampling{MaxTokens: 40},
		}, func(tok *protocol.Token) error {
			got, at = append(got, tok.Id), append(at, time.Now())
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v\n%v\n%v", err, got, want)
		}
		gaps := make([]time.Duration, len(at)-1)
		for i := range gaps {
			gaps[i] = at[i+1].Sub(at[i])
		}
		slices.Sort(gaps)
		t.Logf("first token after %s, then %s (%s to %s)", out.TTFT, gaps[len(gaps)/2], gaps[0], gaps[len(gaps)-1])
		if most := 3*rtt/2 + 5*time.Millisecond; gaps[len(gaps)/2] > most {
			t.Errorf("a token takes %s, more than %s", gaps[len(gaps)/2], most)
		}
		// Open: a trip, in which the links are made and get their credit; a trip's
		// half for the prompt, two hops, and the token's way back.
		if most := 3*rtt + 5*time.Millisecond; out.TTFT > most {
			t.Errorf("the first token takes %s, more than %s", out.TTFT, most)
		}
		for _, s := range p.stages {
			s.Close(nil)
		}
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	})
}
