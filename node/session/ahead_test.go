package session_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/link"
	"github.com/shoalnet/shoal/testnet/sim"
)

// oracle guesses with a chance of being right: it knows the answer.
type oracle struct {
	truth []int32 // prompt and answer
	right float64 // chance that a guess is right if all before it are
	most  int     // guesses on their way at once
	rng   *rand.Rand

	known int
	line  []int32
}

func (o *oracle) Prompt(tokens []int32) { o.known += len(tokens) }
func (o *oracle) Expect([]int32)        {}

func (o *oracle) Token(id int32, _ time.Time, _ stage.Measures) {
	o.known++
	if len(o.line) > 0 && o.line[0] == id {
		o.line = o.line[1:]
	} else {
		o.line = nil
	}
}

func (o *oracle) Next(_ time.Time, full bool) (int32, bool) {
	at := o.known + len(o.line)
	if full || len(o.line) >= o.most || at >= len(o.truth) {
		return 0, false
	}
	id := o.truth[at]
	if o.rng.Float64() >= o.right {
		id = (id + 1) % vocab
	}
	o.line = append(o.line, id)
	return id, true
}

// knowing makes oracles that know one answer.
func knowing(right float64, window int, truth ...[]int32) func(most int) stage.Guesser {
	return func(most int) stage.Guesser {
		return &oracle{truth: slices.Concat(truth...), right: right, most: min(most, window), rng: rand.New(rand.NewPCG(7, 7))}
	}
}

// cuts cut nine blocks into stages.
var cuts = map[int][]int{1: nil, 2: {4}, 3: {3, 6}, 5: {2, 4, 6, 8}}

// askAhead is an answer of n tokens with guesses.
func (p *pipeline) askAhead(ctx context.Context, d session.Dialer, prompt []int32, n int) ([]int32, *session.Outcome, error) {
	var got []int32
	out, err := session.Run(ctx, d, &session.Request{
		Model: p.model, Route: p.route, Prompt: prompt, Chunk: 7, Sampling: inThirds(n, p.format), MaxInFlight: 32,
	}, func(tok *protocol.Token) error {
		got = append(got, tok.Id)
		return nil
	})
	return got, out, err
}

// Whoever guesses, and over however many stages: the answer is the one without guesses.
func TestAheadSameTokens(t *testing.T) {
	prompt := someTokens(3, 30)
	for _, format := range []string{"", "1"} {
		plain := new(pipeline)
		plain.format = format
		want, err := plain.build(t, 9).ask(t.Context(), prompt, 80)
		if err != nil {
			t.Fatal(err)
		}
		for _, stages := range []int{1, 2, 3, 5} {
			for _, right := range []float64{0, 0.7, 1} {
				t.Run(fmt.Sprintf("format %q, %d stages, %v right", format, stages, right), func(t *testing.T) {
					p := &pipeline{format: format, guess: knowing(right, 16, prompt, want)}
					p.build(t, 9, cuts[stages]...)
					got, out, err := p.askAhead(t.Context(), sessionDialer{dialer{p.net, nodeID(-1)}}, prompt, len(want))
					if err != nil || !slices.Equal(got, want) {
						t.Fatalf("%v\n%v\n%v", err, got, want)
					}
					t.Logf("%+v", out.Ahead)
					switch a := out.Ahead; {
					case stages == 1 && a.Sent > 0:
						t.Errorf("guesses of one stage: %+v", a)
					case stages > 1 && (a.Sent == 0 || right == 0 && a.Kept > 0 || right > 0 && a.Kept == 0):
						t.Errorf("of %d tokens: %+v", len(want), a)
					}
					p.empty(t)
				})
			}
		}
	}
}

// A stage that cannot take rows back, or of a version that knows nothing of it, turns
// guesses off.
func TestAheadOffByOneStage(t *testing.T) {
	prompt := someTokens(3, 30)
	want, err := newPipeline(t, 9).ask(t.Context(), prompt, 20)
	if err != nil {
		t.Fatal(err)
	}
	p := &pipeline{guess: knowing(1, 16, prompt, want), back: 40}
	p.build(t, 9, 3, 6)
	got, out, err := p.askAhead(t.Context(), sessionDialer{dialer{p.net, nodeID(-1)}}, prompt, len(want))
	if err != nil || !slices.Equal(got, want) || out.Ahead.Sent != 0 {
		t.Errorf("%v\n%v\n%v\n%+v", err, got, want, out.Ahead)
	}
}

// paced runs an answer in virtual time, and returns the time per token after the first.
func paced(t *testing.T, l link.Params, stages int, delay time.Duration, guess func(int) stage.Guesser, prompt, want []int32) (per time.Duration, out *session.Outcome) {
	t.Helper()
	return pacedBy(t, l, stages, pipeline{guess: guess, delay: delay}, prompt, want)
}

// pacedBy is paced with more settings.
func pacedBy(t *testing.T, l link.Params, stages int, settings pipeline, prompt, want []int32) (per time.Duration, out *session.Outcome) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		net := sim.New(l)
		p := &settings
		d := p.buildVirtual(t, net, 9, cuts[stages]...)
		got, o, err := p.askAhead(t.Context(), d, prompt, len(want))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v\n%v\n%v", err, got, want)
		}
		out, per = o, o.Elapsed/time.Duration(max(1, len(got)-1))
		for _, s := range p.stages {
			s.Close(nil)
		}
		if err := net.Close(); err != nil {
			t.Error(err)
		}
	})
	return per, out
}

// Stages are lost while guesses are on their way: no token is lost, doubled, out of order
// or another.
func TestAheadFailover(t *testing.T) {
	prompt := someTokens(5, 40)
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), prompt, 60)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			f := fleetOf(t, &pipeline{
				guess: knowing([]float64{0.5, 0.9, 1}[rng.IntN(3)], 16, prompt, want), inFlight: 32, delay: time.Millisecond,
			}, 9, 3, 3, 6)
			i, after := rng.IntN(3), time.Duration(rng.IntN(150))*time.Millisecond
			fault := rng.IntN(3) // and not one that hangs: it has the client wait for a lock, for which virtual time stops
			time.AfterFunc(after, func() {
				switch fault {
				case 0:
					f.engines[i].breakNow()
				case 1:
					f.mu.Lock()
					f.cut[[2]peer.ID{nodeID(i), nodeID((i + 1) % 3)}] = true
					f.mu.Unlock()
					return
				case 2:
					go f.stages[i].Close(errors.New("killed"))
				}
				f.set(f.down, nodeID(i), true)
			})
			got, out, err := f.ask(t.Context(), prompt, len(want), nil)
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("seed %d, fault %d of stage %d after %s: %v\n%v\n%v\n%+v", seed, fault, i, after, err, got, want, out.Recoveries)
			}
			f.mu.Lock()
			clear(f.cut)
			f.mu.Unlock()
			for _, s := range f.stages {
				s.Close(nil)
			}
			time.Sleep(time.Minute) // all that waits gives up
		})
	}
}

// The time per token is (1-a) L + a c: a trip for wrong guesses alone.
func TestAheadLaw(t *testing.T) {
	prompt := someTokens(3, 30)
	want, err := newPipeline(t, 9).ask(t.Context(), prompt, 150)
	if err != nil {
		t.Fatal(err)
	}
	const c = 2 * time.Millisecond
	for _, k := range []struct {
		stages int
		rtt    time.Duration
		right  float64
	}{{2, 20, 0.5}, {3, 80, 0.7}, {5, 40, 0.85}, {3, 80, 1}} {
		k.rtt *= time.Millisecond
		trip := time.Duration(k.stages) * (k.rtt/2 + c)
		per, out := paced(t, link.Params{RTT: k.rtt}, k.stages, c, knowing(k.right, 32, prompt, want), prompt, want)
		kept := float64(out.Ahead.Kept) / float64(out.Tokens-1) // the share of right guesses as it came
		law := time.Duration((1-kept)*float64(trip) + kept*float64(c))
		if k.right == 1 {
			law = max(c, trip/32)
		}
		t.Logf("%d stages, %s, %.2f right: %s per token, by the law %s (plain %s): %+v", k.stages, k.rtt, k.right, per, law, trip, out.Ahead)
		if float64(law) < 0.85*float64(per) {
			t.Errorf("%d stages, %s, %.2f right: %s per token, by the law %s", k.stages, k.rtt, k.right, per, law)
		}
	}
}

// Guesses that are all wrong cost nothing, if they are few enough to be out of the way.
func TestAheadAllWrong(t *testing.T) {
	prompt := someTokens(3, 30)
	want, err := newPipeline(t, 9).ask(t.Context(), prompt, 60)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct{ rtt, c time.Duration }{{80, 20}, {20, 5}, {80, 1}} {
		rtt, c := k.rtt*time.Millisecond, k.c*time.Millisecond
		trip := 3 * (rtt/2 + c)
		plain, _ := paced(t, link.Params{RTT: rtt}, 3, c, nil, prompt, want)
		per, out := paced(t, link.Params{RTT: rtt}, 3, c, knowing(0, int(0.8*float64(trip)/float64(c)), prompt, want), prompt, want)
		t.Logf("%s, %s per row: %s per token, without guesses %s: %+v", rtt, c, per, plain, out.Ahead)
		if float64(plain) < 0.95*float64(per) {
			t.Errorf("%s, %s per row: %s per token, without guesses %s", rtt, c, per, plain)
		}
	}
}
