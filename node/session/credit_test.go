package session_test

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/link"
	"github.com/shoalnet/shoal/testnet/sim"
)

// bulky is an engine whose rows are as long as a large model's, and which takes
// its time for each.
type bulky struct {
	last bool
	row  time.Duration
}

const (
	bulkyWidth = 4096
	sessions   = 6
	prompt     = 512
)

func (e bulky) Run(_ context.Context, p *engine.Batch) (*engine.Result, error) {
	time.Sleep(time.Duration(len(p.Rows)) * e.row)
	if e.last {
		return &engine.Result{Tokens: make([]sample.Token, len(p.Outputs))}, nil
	}
	return &engine.Result{Hidden: make([]float32, len(p.Rows)*bulkyWidth)}, nil
}
func (bulky) Remove(int, int32) error          { return nil }
func (bulky) CopyPrefix(int, int, int32) error { return nil }

// silences counts the sessions that stages ended in the middle of their prompts
// because the clients had fallen silent.
type silences struct{ atomic.Int64 }

func (*silences) Asked(protocol.Code)                         {}
func (*silences) Pass(int)                                    {}
func (*silences) Step(stage.Phase, stage.Part, time.Duration) {}
func (s *silences) Closed(r stage.Report) {
	if r.Outcome == "silent" && r.Rows < prompt {
		s.Add(1)
	}
}

// homeDialer opens streams to others, and to the node's own stage.
type homeDialer struct {
	simDialer
	own *stage.Server
}

func (d homeDialer) OpenStage(ctx context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	if p != d.ID() {
		return d.open(ctx, p)
	}
	a, b := net.Pipe()
	go d.own.Serve(end{Conn: b, peer: p})
	return end{Conn: a, peer: p}, nil
}

// crowd is what came of some long prompts at once over two stages, of which the
// first is the client's own node's, and the second is slow.
type crowd struct {
	took    time.Duration
	silent  int64
	repairs int
	echo    time.Duration // the longest way of a byte there and back, on the same connection
}

func crowded(t *testing.T, rtt time.Duration, protos ...libprotocol.ID) (c crowd) {
	synctest.Test(t, func(t *testing.T) {
		nw := sim.New(link.Params{RTT: rtt})
		model, seen := protocol.ModelKey(cid.Undef), &silences{}
		var hosts []host.Host
		var stages []*stage.Stage
		var servers []*stage.Server
		var route []session.Hop
		for i := range 2 {
			h, err := nw.NewHost()
			if err != nil {
				t.Fatal(err)
			}
			span := protocol.Span{From: i, To: i + 1}
			s := stage.New(stage.Config{
				Model: model, Span: span, Blocks: 2, Width: bulkyWidth, Vocab: vocab,
				KVTokens: 8192, MaxSeqs: 32, MaxBatch: 128, MaxContext: 4096, Observer: seen, Dir: t.TempDir(),
			}, bulky{i == 1, time.Duration(1+9*i) * time.Millisecond}, simStageDialer{simDialer{h}})
			srv := stage.NewServer(nil, nil)
			srv.Add(s)
			for _, id := range protos {
				h.SetStreamHandler(id, func(st network.Stream) { srv.Serve(quicStream{st}) })
			}
			hosts, stages, servers = append(hosts, h), append(stages, s), append(servers, srv)
			route = append(route, session.Hop{Peer: h.ID(), Span: span})
		}
		hosts[1].SetStreamHandler("/test/echo", func(st network.Stream) { _, _ = io.Copy(st, st); _ = st.Close() })
		meet(t, hosts)
		talk, err := hosts[0].NewStream(t.Context(), hosts[1].ID(), "/test/echo")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		var wg, echo sync.WaitGroup
		echo.Go(func() {
			defer talk.Close()
			for b := []byte{1}; ; time.Sleep(50 * time.Millisecond) {
				begin := time.Now()
				if _, err := talk.Write(b); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(talk, b); err != nil {
					t.Error(err)
					return
				}
				c.echo = max(c.echo, time.Since(begin))
				select {
				case <-done:
					return
				default:
				}
			}
		})
		begin := time.Now()
		outs := make([]*session.Outcome, sessions)
		for i := range outs {
			wg.Go(func() {
				out, err := session.Run(t.Context(), homeDialer{simDialer{hosts[0]}, servers[0]}, &session.Request{
					Model: model, Route: route, Prompt: someTokens(uint64(i), prompt), Sampling: &protocol.Sampling{MaxTokens: 2},
					Prefill: time.Minute, Step: 300 * time.Millisecond, // as its offer would say
					Replan: func(context.Context, session.Gap) ([]session.Hop, error) { return route[1:], nil },
				}, func(*protocol.Token) error { return nil })
				if err != nil {
					t.Error(err)
				}
				outs[i] = out
			})
		}
		wg.Wait()
		c.took = time.Since(begin)
		close(done)
		echo.Wait()
		for i, s := range stages {
			s.Close(nil)
			c.repairs += len(outs[i].Recoveries)
		}
		c.silent = seen.Load()
		if err := nw.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Rows that a slow stage has no room for keep nobody's Pings waiting: long
// prompts at once take the time that they take to compute, and a byte on the
// same connection hardly more than its way.
func TestBulkBesideTalk(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	compute := sessions * prompt * 10 * time.Millisecond
	for _, rtt := range []time.Duration{2 * time.Millisecond, 100 * time.Millisecond} {
		c := crowded(t, rtt, protocol.StageID, protocol.StageID1)
		t.Logf("with credits, %s away: %+v", rtt, c)
		if c.silent > 0 || c.repairs > 0 || c.echo > 4*rtt+50*time.Millisecond || c.took > compute*11/10 {
			t.Errorf("%s away: %+v", rtt, c)
		}
	}
	var old crowd
	for try := 0; try < 4 && old.silent == 0; try++ { // which write is first differs from run to run
		old = crowded(t, 2*time.Millisecond, protocol.StageID1)
		t.Logf("without: %+v", old)
	}
	if old.silent == 0 {
		t.Error("without credits nothing waits either: this tests nothing")
	}
}
