package session_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// tarpits are peers that accept every session, say four times a second that they
// compute and get on, and give so many tokens and no more.
type tarpits struct {
	dialer
	gives map[peer.ID]int

	mu     sync.Mutex
	opened map[peer.ID]int
}

func (d *tarpits) OpenStage(_ context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	d.mu.Lock()
	d.opened[p]++
	d.mu.Unlock()
	honest, err := d.dial(p)
	tokens, ok := d.gives[p]
	if err != nil || !ok {
		return honest, err
	}
	client, server := net.Pipe()
	done := func() { _ = server.Close(); _ = honest.Close() }
	go func() {
		defer done()
		buf := make([]byte, 4096)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			if _, err = honest.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	go func() {
		defer done()
		r, passes := bufio.NewReader(honest), uint64(1000)
		for {
			f, payload, err := protocol.ReadFrame(r, 0)
			if err != nil {
				return
			}
			switch k := f.Kind.(type) {
			case *protocol.Frame_Token:
				if tokens--; tokens < 0 {
					continue
				}
			case *protocol.Frame_Pong:
				passes++
				k.Pong.Computing, k.Pong.Waiting, k.Pong.Passes = true, 1, passes
			}
			b, err := protocol.AppendFrame(nil, f, payload)
			if err != nil {
				return
			}
			if _, err := server.Write(b); err != nil {
				return
			}
		}
	}()
	return end{client, p, protocol.StageID, nil}, nil
}

// race is a session over a fleet in virtual time, of which some peers are
// tarpits; predicted is how long a second route is said to take.
func race(t *testing.T, f *fleet, gives map[peer.ID]int, predicted time.Duration, prompt []int32, n int) ([]int32, *session.Outcome, *tarpits) {
	t.Helper()
	d := &tarpits{dialer: dialer{f.net, nodeID(-1)}, gives: gives, opened: map[peer.ID]int{}}
	var got []int32
	out, err := session.Run(t.Context(), d, &session.Request{
		Model: f.model, Route: f.route, Prompt: prompt, Chunk: 64, Step: 10 * time.Millisecond, Prefill: 50 * time.Millisecond,
		Sampling: inThirds(n, f.format), Replan: f.replan,
		Second: func(ctx context.Context, gap session.Gap) (*session.Plan, error) {
			hops, err := f.replan(ctx, gap)
			return &session.Plan{Route: hops, Prefill: predicted, Step: 10 * time.Millisecond}, err
		},
	}, func(tok *protocol.Token) error {
		if int(tok.Index) != len(got) {
			return fmt.Errorf("token %d, where %d was due", tok.Index, len(got))
		}
		got = append(got, tok.Id)
		return nil
	})
	if err != nil {
		t.Errorf("%v, after %d tokens and %d repairs", err, len(got), len(out.Recoveries))
	}
	return got, out, d
}

// hedging runs a fleet of whole models, one replica after the other as slow as is
// said, in virtual time, and wants the undisturbed answer and nothing left over.
func hedging(t *testing.T, slow []time.Duration, gives map[int]int, predicted time.Duration, check func(out *session.Outcome, d *tarpits)) {
	t.Helper()
	prompt := someTokens(5, 100)
	want, err := newPipeline(t, 9).ask(t.Context(), prompt, 30)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 9, len(slow))
		f.net.wrap = nil
		tar := map[peer.ID]int{}
		for i, d := range slow {
			f.engines[i].slow(d)
		}
		for i, n := range gives {
			tar[nodeID(i)] = n
		}
		got, out, d := race(t, f, tar, predicted, prompt, 30)
		if !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		t.Logf("first token after %s, %d tokens in %s more", out.TTFT, out.Tokens, out.Elapsed)
		for _, r := range out.Recoveries {
			t.Logf("%s, after token %d", r.Why, r.Token)
		}
		check(out, d)
		time.Sleep(time.Minute)
		f.empty(t)
	})
}

func lostTo(t *testing.T, out *session.Outcome, peers ...peer.ID) {
	t.Helper()
	var lost []peer.ID
	for _, r := range out.Recoveries {
		if r.Failed || r.Code != protocol.Code_CODE_TIMEOUT || r.Stall <= 0 {
			t.Errorf("%+v", r)
		}
		for _, h := range r.Lost {
			lost = append(lost, h.Peer)
		}
	}
	if !slices.Equal(lost, peers) {
		t.Errorf("lost to %v, want %v", lost, peers)
	}
}

// A tarpit costs the first token less than three seconds, and one that gives some
// tokens as little.
func TestTarpit(t *testing.T) {
	step := 10 * time.Millisecond
	hedging(t, []time.Duration{step, step}, map[int]int{0: 0}, 50*time.Millisecond, func(out *session.Outcome, _ *tarpits) {
		if out.TTFT > 3*time.Second {
			t.Errorf("the first token takes %s", out.TTFT)
		}
		lostTo(t, out, nodeID(0))
	})
	hedging(t, []time.Duration{step, step}, map[int]int{0: 7}, 50*time.Millisecond, func(out *session.Outcome, _ *tarpits) {
		if out.Elapsed > 3*time.Second {
			t.Errorf("the answer takes %s", out.Elapsed)
		}
		lostTo(t, out, nodeID(0))
	})
}

// Two tarpits, of which the second is the second route: a third is found.
func TestTarpits(t *testing.T) {
	step := 10 * time.Millisecond
	hedging(t, []time.Duration{step, step, step}, map[int]int{0: 3, 1: 0}, 50*time.Millisecond, func(out *session.Outcome, _ *tarpits) {
		if out.Elapsed > 10*time.Second {
			t.Errorf("the answer takes %s", out.Elapsed)
		}
		lostTo(t, out, nodeID(0))
	})
}

// A stage that is slow, and honest, is waited for if there is no other, or none
// that would be sooner.
func TestSlowIsWaitedFor(t *testing.T) {
	const slow = 5900 * time.Millisecond // no multiple of it falls on another deadline
	alone := []time.Duration{slow}
	hedging(t, alone, nil, 0, func(out *session.Outcome, d *tarpits) {
		lostTo(t, out)
		if d.opened[nodeID(0)] != 1 {
			t.Errorf("it was opened %d times", d.opened[nodeID(0)])
		}
	})
	two := []time.Duration{slow, 60 * time.Second}
	hedging(t, two, nil, 2*time.Minute, func(out *session.Outcome, d *tarpits) {
		lostTo(t, out)
		if d.opened[nodeID(1)] != 0 {
			t.Errorf("a second route that is slower was opened %d times", d.opened[nodeID(1)])
		}
	})
}

// A stage that is slow loses to a second route only if that gives a token first.
func TestFirstTokenWins(t *testing.T) {
	step := 10 * time.Millisecond
	hedging(t, []time.Duration{6 * time.Second, step}, nil, 50*time.Millisecond, func(out *session.Outcome, _ *tarpits) {
		if out.TTFT > 3*time.Second {
			t.Errorf("the first token takes %s, though another route has it sooner", out.TTFT)
		}
		lostTo(t, out, nodeID(0))
	})
	// Its first token takes long, and the others do not; the second route never
	// gives one.
	hedging(t, []time.Duration{1100 * time.Millisecond, step}, map[int]int{1: 0}, 50*time.Millisecond, func(out *session.Outcome, d *tarpits) {
		lostTo(t, out)
		if d.opened[nodeID(1)] == 0 {
			t.Error("no second route was opened: the test is weak")
		}
	})
}

// Whatever is slow, and whenever, no token is lost, doubled or another.
func TestHedgesAtRandom(t *testing.T) {
	prompt := someTokens(6, 70)
	whole := newPipeline(t, 9)
	whole.format = "1"
	want, err := whole.ask(t.Context(), prompt, 40)
	if err != nil {
		t.Fatal(err)
	}
	moved := 0
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			f := newFleet(t, 9, 3, 3, 6)
			f.format, f.net.wrap = whole.format, nil
			gives := map[peer.ID]int{}
			for i, e := range f.engines {
				e.slow(time.Duration(1+rng.IntN(20)) * time.Millisecond * time.Duration(1+rng.IntN(2)*rng.IntN(80)))
				if i%3 == 2 && i < 6 && rng.IntN(2) == 0 { // of the last stages, but for one
					gives[nodeID(i)] = rng.IntN(50)
				}
			}
			got, out, _ := race(t, f, gives, 100*time.Millisecond, prompt, 40)
			if !slices.Equal(got, want) {
				t.Errorf("seed %d: %v, want %v", seed, got, want)
			}
			moved += len(out.Recoveries)
			time.Sleep(time.Minute)
			f.empty(t)
		})
	}
	if moved < 10 {
		t.Errorf("only %d sessions moved: the test is weak", moved)
	}
}

// What a stage says is no reason to wait for ever, even if there is no other.
func TestCeiling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, 9)
		d := &tarpits{dialer: dialer{p.net, nodeID(-1)}, gives: map[peer.ID]int{nodeID(0): 0}, opened: map[peer.ID]int{}}
		begin := time.Now()
		_, err := session.Run(t.Context(), d, &session.Request{
			Model: p.model, Route: p.route, Prompt: someTokens(1, 30), Sampling: inThirds(20, ""),
		}, func(*protocol.Token) error { return nil })
		var e *protocol.Error
		if !errors.As(err, &e) || e.Code != protocol.Code_CODE_TIMEOUT || time.Since(begin) > 5*time.Minute || time.Since(begin) < 2*time.Minute {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		time.Sleep(time.Minute)
	})
}
