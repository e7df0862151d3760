package session_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/link"
)

const (
	f32 = protocol.TensorCodec_TENSOR_CODEC_F32
	f16 = protocol.TensorCodec_TENSOR_CODEC_F16
	q8  = protocol.TensorCodec_TENSOR_CODEC_Q8_0
)

// sentIn are the codecs in which the stages sent a prompt.
func sentIn(out *session.Outcome) (codecs []protocol.TensorCodec) {
	for _, p := range out.Paths {
		codecs = append(codecs, p.Codec)
	}
	return codecs
}

// A link that keeps the stages waiting sends a prompt in fewer bytes, once that is known of
// it; others, and a session that does not allow it, stay exact.
func TestWireOneSlowLink(t *testing.T) {
	const row = 250 * time.Microsecond // to compute; in F32 one takes 0.8 ms to send, in Q8_0 0.2
	auto := func(r *session.Request) { r.SlowestRow = row }
	settings := pipeline{delay: row, more: row, wide: 512, slowLink: 1}
	got := prefill(t, link.Params{RTT: 80 * time.Millisecond}, settings, auto, auto, asIs)
	for i, want := range [][]protocol.TensorCodec{{f32, f32, f32}, {q8, f32, f32}, {f32, f32, f32}} {
		t.Logf("first token after %s, prompts sent in %s", got[i].out.TTFT, sentIn(got[i].out))
		if !slices.Equal(sentIn(got[i].out), want) {
			t.Errorf("session %d: %s, want %s", i, sentIn(got[i].out), want)
		}
	}
	ratio := got[2].out.TTFT.Seconds() / got[1].out.TTFT.Seconds()
	if t.Logf("the first token comes %.2f times as fast as in F32", ratio); ratio < 1.8 {
		t.Error("that is too little")
	}
}

// narrow is a fleet of which the links from the first stages are slow, and whose stages
// have learnt that.
func narrow(t *testing.T, p *pipeline, slowest time.Duration) *fleet {
	p.wide = 32
	f := fleetOf(t, p, 9, 3, 3, 6)
	f.rate = 32e3 // a row of F32 takes 4 ms
	for from := range f.replicas {
		for to := range f.replicas {
			route := slices.Clone(f.route)
			route[0].Peer, route[1].Peer = nodeID(3*from), nodeID(3*to+1)
			if _, _, err := f.askWire(t, route, someTokens(99, 120), 1, slowest); err != nil {
				t.Fatal(err)
			}
		}
	}
	return f
}

// askWire is a session whose links may choose.
func (f *fleet) askWire(t *testing.T, route []session.Hop, prompt []int32, n int, slowest time.Duration) (got []int32, out *session.Outcome, err error) {
	out, err = session.Run(t.Context(), sessionDialer{dialer{f.net, nodeID(-1)}}, &session.Request{
		Model: f.model, Route: route, Prompt: prompt, Chunk: 7, Step: time.Millisecond, Prefill: time.Second, SlowestRow: slowest,
		Sampling: inThirds(n, ""), Replan: f.replan, MaxInFlight: f.inFlight,
	}, func(tok *protocol.Token) error {
		got = append(got, tok.Id)
		return nil
	})
	return got, out, err
}

// In the same codecs the tokens are the same: with guesses and without, and whichever
// stage is lost, at whatever time.
func TestWireSameTokens(t *testing.T) {
	prompt := someTokens(5, 40)
	for slowest, codec := range map[time.Duration]protocol.TensorCodec{1200 * time.Microsecond: q8, 3 * time.Millisecond: f16} {
		var want []int32
		for seed := range 10 {
			synctest.Test(t, func(t *testing.T) {
				p := &pipeline{delay: time.Millisecond}
				ahead := seed%2 == 1
				if ahead {
					p.guess, p.inFlight = knowing(0.7, 16, prompt, want), 16
				}
				f := narrow(t, p, slowest)
				if lost := seed / 2; lost > 0 {
					time.AfterFunc(time.Duration(lost*60)*time.Millisecond, func() {
						f.set(f.down, nodeID(lost%3), true)
						go f.stages[lost%3].Close(errors.New("killed"))
					})
				}
				got, out, err := f.askWire(t, f.route, prompt, 30, slowest)
				if want == nil {
					want = got
				}
				if codecs := sentIn(out); err != nil || !slices.Equal(got, want) || !slices.Equal(codecs, []protocol.TensorCodec{codec, f32, f32}) {
					t.Errorf("%s, run %d: %v\n%v, want\n%v\n%v", codec, seed, err, got, want, codecs)
				}
				if ahead && out.Ahead.Kept == 0 {
					t.Error("no guess was right: the test is weak")
				}
				t.Logf("%s, run %d: %d repairs, %+v", codec, seed, len(out.Recoveries), out.Ahead)
				for _, s := range f.stages {
					s.Close(nil)
				}
				time.Sleep(time.Minute) // all that waits gives up
			})
		}
	}
}

// opens records the Opens of a client.
type opens struct {
	session.Dialer
	mu   sync.Mutex
	seen []*protocol.Open
}

type firstFrame struct {
	session.Stream
	of   *opens
	once sync.Once
}

func (d *opens) OpenStage(ctx context.Context, p peer.ID, offer []byte) (session.Stream, error) {
	st, err := d.Dialer.OpenStage(ctx, p, offer)
	return &firstFrame{Stream: st, of: d}, err
}

func (s *firstFrame) Write(b []byte) (int, error) {
	s.once.Do(func() {
		if f, _, err := protocol.ReadFrame(bufio.NewReader(bytes.NewReader(b)), 0); err == nil {
			s.of.mu.Lock()
			defer s.of.mu.Unlock()
			s.of.seen = append(s.of.seen, f.GetOpen())
		}
	})
	return s.Stream.Write(b)
}

// Readings let each link choose a codec as prompts do, for all of their rows, if the caller
// allows it, and else for none.
func TestWireReadings(t *testing.T) {
	p := newVoters(t, 0, 6, 2, 4)
	asks := asksOf(50, 3, 9)
	for _, slowest := range []time.Duration{0, time.Millisecond} {
		d := &opens{Dialer: p.client()}
		_, err := session.Read(t.Context(), d, &session.ReadRequest{
			Model: p.model, Route: p.route, Asks: asks, Vocab: vocab, Wait: 20 * time.Second, SlowestRow: slowest,
		}, func(int, session.Reading) error { return nil })
		if err != nil || len(d.seen) != 3 {
			t.Fatal(len(d.seen), err)
		}
		for _, o := range d.seen {
			rows := uint32(0)
			if slowest > 0 {
				rows = 59
			}
			if o.PromptRows != rows || o.SlowestUs != uint32(slowest.Microseconds()) {
				t.Errorf("with %s a row: %d rows, %d us", slowest, o.PromptRows, o.SlowestUs)
			}
		}
	}
}
