package session_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/link"
	"github.com/shoalnet/shoal/testnet/sim"
)

// mine are rules by which every client is the node itself.
type mine struct{}

func (mine) Grant(stage.Client, stage.Want) (stage.Grant, *protocol.Error) {
	return stage.Grant{Own: true, Share: 1}, nil
}

func (m mine) Seat(c stage.Client, w stage.Want, _ [16]byte) (stage.Seat, stage.Grant, *protocol.Error) {
	g, e := m.Grant(c, w)
	return m, g, e
}

func (mine) Spend(int) *protocol.Error { return nil }
func (mine) Leave()                    {}

// saying returns a route whose peers have said what new sessions find there.
func saying(route []session.Hop) []session.Hop {
	route = slices.Clone(route)
	for i := range route {
		route[i].Said = session.Said{Early: true, Rollback: 64}
	}
	return route
}

// virtualVoters is virtual for stages that read probabilities. The client is one host, the
// first stage another one.
func virtualVoters(t *testing.T, net *sim.Network, lending stage.Lending, blocks int, cuts ...int) (*voters, simSessionDialer) {
	p := &voters{model: protocol.ModelKey(cid.Undef)}
	client, err := net.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	hosts := []host.Host{client}
	cuts = append(append([]int{0}, cuts...), blocks)
	for i := range len(cuts) - 1 {
		h, err := net.NewHost()
		if err != nil {
			t.Fatal(err)
		}
		span := protocol.Span{From: cuts[i], To: cuts[i+1]}
		e := &voter{sums: sums{span: span, blocks: blocks, kv: map[int][][]float64{}}}
		s := stage.New(stage.Config{
			Model: p.model, Span: span, Blocks: blocks, Width: width, Vocab: vocab, KVTokens: 8192, MaxSeqs: 16, MaxBatch: 128, MaxContext: 4096,
			Rollback: 64, Lending: lending,
		}, e, simStageDialer{simDialer{h}})
		srv := stage.NewServer(nil, nil)
		srv.Add(s)
		h.SetStreamHandler(protocol.StageID, func(st network.Stream) { srv.Serve(quicStream{st}) })
		hosts = append(hosts, h)
		p.stages, p.engines = append(p.stages, s), append(p.engines, e)
		p.route = append(p.route, session.Hop{Peer: h.ID(), Span: span})
	}
	meet(t, hosts)
	return p, simSessionDialer{simDialer{client}}
}

// The probabilities of labels, and the first token of a prompt, take one trip: to the first
// stage, through all, and back. Nothing waits for an answer to Open, nor for a link's
// credit, unless the client's first session over that link is under way.
func TestVirtualEarly(t *testing.T) {
	const rtt, slack = 80 * time.Millisecond, 5 * time.Millisecond
	for _, c := range []struct {
		name    string
		says    bool
		lending stage.Lending
		halves  []time.Duration // of a round trip, that session after session takes at most
	}{
		{"peers of older versions", false, nil, []time.Duration{6, 6}},
		{"a stranger", true, nil, []time.Duration{6, 4, 4}},
		{"the node itself", true, mine{}, []time.Duration{4, 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := sim.New(link.Params{RTT: rtt})
				p, d := virtualVoters(t, net, c.lending, 9, 3, 6)
				if c.says {
					p.route = saying(p.route)
				}
				for i, halves := range c.halves {
					begin := time.Now()
					asks := asksOf(40+i, 2, 10) // with nothing in common with the one before
					asks[0].Tokens[0] = int32(i)
					got, _, err := p.read(t.Context(), d, asks)
					took := time.Since(begin)
					if err != nil || len(got) != len(asks) {
						t.Fatal(len(got), err)
					}
					if t.Logf("session %d took %s", i+1, took); took > halves*rtt/2+slack {
						t.Errorf("session %d took %s, more than %d ways of %s", i+1, took, halves, rtt/2)
					}
					time.Sleep(time.Second)
				}
				begin := time.Now()
				out, err := session.Run(t.Context(), d, &session.Request{
					Model: p.model, Route: p.route, Prompt: someTokens(99, 100), Sampling: &protocol.Sampling{MaxTokens: 3}, MaxInFlight: 4,
				}, func(*protocol.Token) error { return nil })
				if most := c.halves[1]*rtt/2 + slack; err != nil || out.TTFT > most {
					t.Errorf("the first token took %s, %v", out.TTFT, err)
				}
				if fed := out.Fed < rtt/2; fed != c.says {
					t.Errorf("rows were sent after %s of %s", out.Fed, time.Since(begin))
				}
				for _, s := range p.stages {
					s.Close(nil)
				}
				if err := net.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Whatever peers have said of what they keep and can do: the tokens are the same, to the
// last.
func TestEarlyWrong(t *testing.T) { synctest.Test(t, earlyWrong) }

func earlyWrong(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	common := someTokens(1, 200)
	for _, back := range []int{0, 16} {
		one, p := newPipeline(t, 6), &pipeline{back: back}
		p.build(t, 6, 2, 4)
		p.addStage(t, nodeID(10), protocol.Span{From: 2, To: 4}, 6)                       // another one for the same blocks
		d := tardy{sessionDialer{dialer{p.net, nodeID(-1)}}, nodeID(2), time.Millisecond} // so that rows that wait for it are later
		void := 0
		for i := range 60 {
			prompt := append(slices.Clone(common[:1+rng.IntN(len(common))]), someTokens(uint64(i), 1+rng.IntN(80))...)
			want, err := one.ask(t.Context(), prompt, 5)
			if err != nil {
				t.Fatal(err)
			}
			route := slices.Clone(p.route)
			if rng.IntN(3) == 0 {
				route[1].Peer = nodeID(10)
			}
			for k := range route {
				route[k].Said = session.Said{Early: true, Kept: protocol.PrefixBlock * rng.IntN(9), Back: back, Rollback: 64 * rng.IntN(2)}
			}
			var got []int32
			out, err := session.Run(t.Context(), d, &session.Request{
				Model: p.model, Route: route, Prompt: prompt, Sampling: &protocol.Sampling{MaxTokens: 5}, MaxInFlight: 8,
			}, func(tok *protocol.Token) error {
				got = append(got, tok.Id)
				return nil
			})
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("prompt %d with %+v: %v, %v, want %v", i, route, got, err, want)
			}
			if out.Fed == out.Opened {
				void++
			}
			synctest.Wait() // until the stages keep what they have of it
		}
		if t.Logf("back %d: %d of 60 began again", back, void); void == 0 || void == 60 {
			t.Error("the test is weak")
		}
	}
}

// So are probabilities.
func TestEarlyWrongReadings(t *testing.T) { synctest.Test(t, earlyWrongReadings) }

func earlyWrongReadings(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, back := range []int{0, 16} {
		one, p := newVoters(t, 0, 6), newVoters(t, back, 6, 2, 4)
		for i := range 30 {
			asks := asksOf(60+rng.IntN(60), 1+rng.IntN(8), 1+rng.IntN(20))
			want, _, err := one.read(t.Context(), one.client(), asks)
			if err != nil {
				t.Fatal(err)
			}
			for k := range p.route {
				p.route[k].Said = session.Said{Early: true, Kept: protocol.PrefixBlock * rng.IntN(6), Back: back}
			}
			got, _, err := p.read(t.Context(), p.client(), asks)
			if err != nil || !sameReadings(got, want) {
				t.Fatalf("request %d with %+v: %d of %d readings, %v", i, p.route, len(got), len(want), err)
			}
			synctest.Wait()
		}
	}
}

// A stage's reason to refuse reaches the client although that has sent it rows, and a
// prompt that is longer than what goes ahead comes whole.
func TestEarlyRefused(t *testing.T) { synctest.Test(t, earlyRefused) }

func earlyRefused(t *testing.T) {
	p := newVoters(t, 0, 6, 2, 4)
	p.route = saying(p.route)
	if got, _, err := p.read(t.Context(), p.client(), asksOf(3000, 2, 5)); err != nil || len(got) != 2 {
		t.Errorf("a long state: %d readings, %v", len(got), err)
	}
	for i, s := range p.stages {
		s.Drain(true)
		_, _, err := p.read(t.Context(), p.client(), asksOf(100, 2, 5))
		var where *session.StageError
		var why *protocol.Error
		if !errors.As(err, &where) || where.Index != i || !errors.As(err, &why) || why.Code != protocol.Code_CODE_DRAINING {
			t.Errorf("stage %d leaves: %v", i, err)
		}
		s.Drain(false)
	}
}

// Texts go ahead, too.
func TestEarlyTexts(t *testing.T) {
	texts := someTexts(300)
	one, p := newEmbedders(t, 6), newEmbedders(t, 6, 2, 4)
	want, err := one.embed(t.Context(), one.client(), texts)
	if err != nil {
		t.Fatal(err)
	}
	p.route = saying(p.route)
	got, err := p.embed(t.Context(), p.client(), texts)
	if err != nil || len(got) != len(want) {
		t.Fatal(len(got), err)
	}
	for i := range want {
		if !slices.Equal(got[i], want[i]) {
			t.Errorf("text %d: %v, want %v", i, got[i], want[i])
		}
	}
}
