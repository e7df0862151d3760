package stage

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// slow is an engine whose passes take a second, and that remembers of which step each
// position in its cache is: of activations by their first number, of tokens by their ID.
type slow struct {
	idle
	cells []int
}

func (e *slow) Remove(_ int, from int32) error {
	e.cells = e.cells[:min(len(e.cells), int(from))]
	return nil
}

func (e *slow) Run(_ context.Context, b *engine.Batch) (*engine.Result, error) {
	time.Sleep(time.Second)
	for i := range b.Rows {
		if len(b.Tokens) > 0 {
			e.cells = append(e.cells, int(b.Tokens[i]))
		} else {
			e.cells = append(e.cells, int(b.Hidden[i*len(b.Hidden)/len(b.Rows)]))
		}
	}
	return &engine.Result{Hidden: make([]float32, 8*len(b.Rows)), Tokens: make([]sample.Token, len(b.Outputs))}, nil
}

// stageOf is a stage that serves a span of six blocks with a slow engine.
func stageOf(t *testing.T, from, to int, guess func(int) Guesser, change ...func(*Config)) (*Stage, *Server, *slow) {
	e := new(slow)
	cfg := Config{
		Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: from, To: to}, Blocks: 6, Width: 8, Vocab: 1000,
		KVTokens: 4096, MaxSeqs: 4, MaxBatch: 128, MaxContext: 512, Silence: time.Hour, Rollback: 64, Guess: guess, Dir: t.TempDir(),
	}
	for _, c := range change {
		c(&cfg)
	}
	s := New(cfg, e, nobody{})
	t.Cleanup(func() {
		s.Close(errors.New("the test is over"))
		time.Sleep(time.Minute)
	})
	v := NewServer(nil, nil)
	v.Add(s)
	return s, v, e
}

// The known token of a line that has begun does not make the row of the wrong guess, which
// is in its place in the cache still, one that is kept or shared as a prefix.
func TestWrongGuessIsNotKept(t *testing.T) {
	for name, again := range map[string]func(o *protocol.Open, client *talk) uint64{
		"a line": func(*protocol.Open, *talk) uint64 { return 0 },
		"an epoch": func(_ *protocol.Open, client *talk) uint64 {
			client.say(t, &protocol.Frame{Kind: &protocol.Frame_Halt{Halt: &protocol.Halt{Epoch: 1}}})
			client.say(t, &protocol.Frame{Kind: &protocol.Frame_Resume{Resume: &protocol.Resume{
				Epoch: 1, At: 31, ForwardFrom: 31, Stages: 3, Prev: []byte("before"), Next: &protocol.Hop{Peer: []byte("after"), Index: 2},
			}}})
			return 1
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, v, e := stageOf(t, 2, 4, nil)
				o := someOpen(s, 300, 1)
				o.From, o.To, o.Stages, o.Index, o.Sampling = 2, 4, 3, 1, nil
				o.Prev, o.Next = []byte("before"), &protocol.Hop{Peer: []byte("after"), Index: 2}
				client := begin(t, t.Context(), v, "client", o)
				<-client.frames
				link := dial(t, v, "before")
				go discard(link)
				write := func(f *protocol.Frame, mark float32) {
					p := make([]float32, 8*f.GetStep().GetRows())
					for i := range p {
						p[i] = mark
					}
					b, err := protocol.AppendFrame(nil, f, protocol.AppendTensor(nil, 0, p))
					if err != nil {
						t.Fatal(err)
					}
					_, _ = link.Write(b)
				}
				write(&protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: o.Session, Index: 1}}}, 0)
				write(&protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{Rows: 31, Sample: true}}}, 1)
				write(&protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{Base: 31, Rows: 1, Sample: true, Tag: 5, Settled: 31}}}, 2)
				time.Sleep(1500 * time.Millisecond) // the guess is being computed
				epoch, line := again(o, client), uint32(1)
				if epoch > 0 {
					line = 0
					link = dial(t, v, "before")
					go discard(link)
					write(&protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: o.Session, Index: 1, Epoch: epoch}}}, 0)
				}
				write(&protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{Epoch: epoch, Base: 31, Rows: 1, Sample: true, Line: line}}}, 3)
				synctest.Wait()
				prefix := []uint64{77}
				client.say(t, &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{Prefix: prefix}}})
				time.Sleep(time.Minute)
				n := s.Kept("client", prefix)
				if n > 0 && !slices.Equal(e.cells[:n][31:], []int{3}) {
					t.Errorf("%d positions are kept, of which the last is of step %d", n, e.cells[31])
				}
			})
		})
	}
}

// same guesses what it is made of, over and over.
type same int32

func (same) Prompt([]int32)                              {}
func (same) Expect([]int32)                              {}
func (same) Token(int32, time.Time, Measures)            {}
func (g same) Next(_ time.Time, full bool) (int32, bool) { return int32(g), !full }

// reader notes the tokens that it is told first.
type reader struct {
	same
	known *[][]int32
	read  bool
}

func (r *reader) Prompt(tokens []int32) {
	if !r.read {
		*r.known = append(*r.known, slices.Clone(tokens))
	}
	r.read = true
}

// A client whose tokens have not all come to the first stage goes on behind them, where the
// rows of right guesses are: the stage knows those tokens then.
func TestFirstStageCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var known [][]int32 // of each guesser, at first
		s, v, _ := stageOf(t, 0, 2, func(int) Guesser { return &reader{same: 7, known: &known} })
		o := someOpen(s, 300, 1)
		o.From, o.To, o.Stages, o.Sampling, o.TagKey = 0, 2, 2, nil, []byte(tagged)
		o.Prev, o.Next = []byte("last"), &protocol.Hop{Peer: []byte("last"), Index: 1}
		client := begin(t, t.Context(), v, "client", o)
		<-client.frames
		step := func(epoch uint64, base int, ids ...int32) *protocol.Frame {
			return &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{
				Epoch: epoch, Base: uint32(base), Rows: uint32(len(ids)), Tokens: ids, Sample: true, MaxInFlight: 40,
			}}}
		}
		client.say(t, step(0, 0, make([]int32, 32)...))
		link := dial(t, v, "last")
		go discard(link)
		_, _ = link.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: o.Session}}}))
		_, _ = link.Write(framed(t, step(0, 32, 1)))
		time.Sleep(time.Minute) // 33 to 72 are computed, all of them 7
		client.say(t, step(1, 72, 2))
		client.say(t, step(1, 73, make([]int32, 23)...))
		time.Sleep(time.Minute)
		client.say(t, &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{Prefix: []uint64{1, 2, 3}}}})
		time.Sleep(time.Minute)
		if n := s.Kept("client", []uint64{1, 2, 3}); n != 96 {
			t.Errorf("%d positions are kept", n)
		}
		want := slices.Concat(make([]int32, 32), []int32{1}, slices.Repeat([]int32{7}, 39))
		if len(known) != 2 || !slices.Equal(known[1], want) {
			t.Errorf("the guessers know %v", known)
		}
	})
}
