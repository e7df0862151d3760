package draft_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/draft"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// running is a drafter that runs with an engine until the test ends.
type running struct {
	*draft.Drafter
	engine *ruled
	ended  chan error
	stop   context.CancelFunc
}

// run starts a drafter. It is called in a bubble.
func run(t *testing.T, e *ruled) *running {
	t.Helper()
	r := &running{Drafter: draft.New(large)}
	r.with(t, e)
	return r
}

// with runs the drafter with an engine.
func (r *running) with(t *testing.T, e *ruled) {
	ctx, stop := context.WithCancel(t.Context())
	r.engine, r.ended, r.stop = e, make(chan error, 1), stop
	ended := r.ended
	go func() {
		ended <- r.Run(ctx, draft.Loaded{Engine: e, Takes: time.Millisecond, Idle: time.Hour})
	}()
	synctest.Wait()
	t.Cleanup(func() {
		for _, err := range e.wrong {
			t.Error(err)
		}
	})
}

// after are the n tokens that a model of the engine's rules writes after others.
func after(known []int32, n int, p *protocol.Sampling) (out []int32) {
	all := slices.Clone(known)
	for range n {
		var sampled []int32
		if p != nil {
			sampled = all[p.PromptTokens:]
		}
		all = append(all, sample.Sample(logits(all), p, sampled, uint64(len(all)), nil).ID)
	}
	return all[len(known):]
}

// agree fails the test unless guesses are what the model writes, up to a token that the
// large model does not have.
func agree(t *testing.T, known, guesses []int32, p *protocol.Sampling) {
	t.Helper()
	if want := after(known, len(guesses), p); !slices.Equal(guesses, want) {
		t.Fatalf("guesses %v after %v, want %v", guesses, known, want)
	}
}

var greedy *protocol.Sampling

// Guesses follow what is known, whether the tokens that come are the guessed ones or not.
func TestGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := run(t, newRuled(2, 1000, 64))
		defer d.stop()
		told := 0
		s := d.Open(nil, func() { told++ })
		known := make([]int32, 200) // more than a pass has
		for i := range known {
			known[i] = int32(i % large)
		}
		s.Prompt(known)
		synctest.Wait()
		if _, guesses, ok := s.Take(); ok || told > 0 {
			t.Fatalf("guesses %v, which nobody has asked for", guesses)
		}
		final := 0
		for i := range 100 {
			s.Want(true)
			synctest.Wait()
			n, guesses, ok := s.Take()
			if n != final || len(guesses) > draft.Depth {
				t.Fatalf("%d guesses after %d tokens, of %d", len(guesses), n, final)
			}
			agree(t, known, guesses, greedy)
			if _, _, again := s.Take(); again {
				t.Fatal("the same guesses are new twice")
			}
			next := after(known, 1, greedy)[0]
			if ok && next != guesses[0] {
				t.Fatal("the first guess is another token")
			}
			if i%3 == 2 || next >= large {
				next = (next + 1) % large
			}
			s.Token(next)
			known = append(known, next)
			final++
		}
		score := s.Close()
		if got := d.Score(); told == 0 || got != score || score.Right < 30 || score.Wrong < 20 || score.Right+score.Wrong > 100 {
			t.Errorf("told %d times; %+v, of the session %+v", told, got, score)
		}
		if d.engine.most > 64 {
			t.Errorf("a pass of %d rows", d.engine.most)
		}
	})
}

// A drafter that knows the large model's probabilities draws the large model's tokens, at
// any temperature and with penalties, since the noise is the same.
func TestSameNoise(t *testing.T) {
	for name, p := range map[string]*protocol.Sampling{
		"drawn":     {Temperature: 0.8, Seed: 7, TopP: 0.9, PromptTokens: 5},
		"penalties": {Temperature: 1.2, Seed: 8, RepeatPenalty: 1.3, FrequencyPenalty: 0.5, PromptTokens: 5, History: []int32{1, 2, 3, 4, 5}},
		"greedy":    {PromptTokens: 5, PresencePenalty: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := run(t, newRuled(1, 1000, 64))
				defer d.stop()
				s := d.Open(p, func() {})
				defer s.Close()
				known, right := []int32{1, 2, 3, 4, 5}, 0
				s.Prompt(known)
				for range 100 {
					s.Want(true)
					synctest.Wait()
					_, guesses, _ := s.Take()
					agree(t, known, guesses, p)
					next := after(known, 1, p)[0]
					if len(guesses) > 0 && guesses[0] == next {
						right++
					}
					next %= large
					s.Token(next)
					known = append(known, next)
				}
				if right < 30 {
					t.Errorf("%d of 100 guesses were right", right)
				}
			})
		})
	}
}

// No guess ends the answer, or is a token that the large model does not have.
func TestNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := run(t, newRuled(1, 4000, 64))
		defer d.stop()
		beyond := 0
		for first := range int32(large) {
			ahead := after([]int32{first}, draft.Depth, greedy)
			stop := ahead[len(ahead)/2]
			s := d.Open(&protocol.Sampling{StopIds: []int32{stop}}, func() {})
			s.Prompt([]int32{first})
			s.Want(true)
			synctest.Wait()
			_, guesses, _ := s.Take()
			want := ahead[:slices.IndexFunc(ahead, func(id int32) bool { return id == stop || id >= large })]
			if ahead[len(want)] >= large {
				beyond++
			}
			if !slices.Equal(guesses, want) {
				t.Fatalf("guesses %v, of %v with the end %d", guesses, ahead, stop)
			}
			s.Close()
		}
		if beyond == 0 || beyond == large {
			t.Errorf("%d texts leave the vocabulary: the test is weak", beyond)
		}
	})
}

// goodAfter is a token after which the next one is in the large model's vocabulary.
func goodAfter(known []int32) (id int32) {
	for after(append(slices.Clone(known), id), 1, greedy)[0] >= large {
		id++
	}
	return id
}

// An engine that is lost ends Run. The next one goes on with all sessions.
func TestLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := run(t, newRuled(2, 1000, 64))
		s := d.Open(nil, func() {})
		defer s.Close()
		known := []int32{3, 1, 4}
		s.Prompt(known)
		s.Want(true)
		synctest.Wait()
		d.engine.fail(engine.ErrLost)
		for _, id := range []int32{9, goodAfter(append(known, 9))} {
			s.Token(id)
			known = append(known, id)
		}
		if err := <-d.ended; !errors.Is(err, engine.ErrLost) {
			t.Fatalf("Run ends with %v", err)
		}
		s.Want(true)
		<-d.Wanted()
		d.with(t, newRuled(2, 1000, 64))
		defer d.stop()
		s.Want(true)
		synctest.Wait()
		final, guesses, ok := s.Take()
		if final != 2 || !ok {
			t.Fatalf("%d tokens, guesses %v", final, guesses)
		}
		agree(t, known, guesses, greedy)
	})
}

// Sessions beyond the slots and cells have no guesses, those that the engine refuses
// neither, and the others have theirs.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newRuled(3, 120, 32)
		e.poison = small - 1 // which is never guessed
		d := run(t, e)
		defer d.stop()
		open := func(prompt ...int32) *draft.Session {
			s := d.Open(nil, func() {})
			s.Prompt(prompt)
			s.Want(true)
			synctest.Wait()
			return s
		}
		has := func(s *draft.Session) bool {
			_, guesses, _ := s.Take()
			return len(guesses) > 0
		}
		first, poisoned, foreign, long := open(1), open(2, small-1), open(3, small+5), open(make([]int32, 200)...)
		second, third, fourth := open(4), open(6), open(8)
		if !has(first) || !has(second) || !has(third) {
			t.Error("a session has no guesses, for which there is room")
		}
		if has(poisoned) || has(foreign) || has(long) {
			t.Error("guesses for a session that the engine refuses")
		}
		if has(fourth) {
			t.Error("guesses beyond the slots")
		}
		first.Close()
		fourth.Want(true)
		synctest.Wait()
		if !has(fourth) {
			t.Error("no guesses for a session that waited for a slot")
		}
		for _, s := range []*draft.Session{poisoned, foreign, long, second, third, fourth} {
			s.Close()
		}
	})
}

// Time per guess is measured, and forgotten when nothing was measured for a while. Run ends
// when nobody wants guesses.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := draft.New(large)
		d.Expect(3 * time.Millisecond)
		if got := d.Takes(); got != 3*time.Millisecond {
			t.Errorf("%s per guess, where 3 ms are expected", got)
		}
		e := newRuled(1, 1000, 64)
		e.takes = 80 * time.Millisecond
		ended := make(chan error)
		go func() {
			ended <- d.Run(t.Context(), draft.Loaded{Engine: e, Takes: 40 * time.Millisecond, Idle: time.Minute})
		}()
		s := d.Open(nil, func() {})
		defer s.Close()
		s.Prompt([]int32{1})
		s.Want(true)
		time.Sleep(20 * e.takes)
		if got := d.Takes(); got < 60*time.Millisecond || got > 80*time.Millisecond {
			t.Errorf("%s per guess, of passes that take 80 ms", got)
		}
		time.Sleep(10 * time.Second)
		if got := d.Takes(); got != 40*time.Millisecond {
			t.Errorf("%s per guess, where 40 ms were measured when it was loaded", got)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run ends with %v", err)
		}
	})
}

// FuzzDrafter: whatever sessions do, guesses are the engine's and follow on what is known,
// and the engine is asked for nothing that it has not room for.
func FuzzDrafter(f *testing.F) {
	f.Add([]byte("\x00\x00\x01\x05\x02\x01\x03\x00\x03\x01\x02\x00\x04\x00\x00\x01\x01\x09\x02\x01"))
	f.Add([]byte("\x00\x00\x00\x01\x00\x02\x01\xff\x05\x01\x09\x02\x02\x06\x02\x0a\x02\x03\x00\x07\x00\x0b\x01\x04\x00\x00\x00\x02\x01\x03\x02"))
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 400 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			d := run(t, newRuled(2, 100, 16))
			type one struct {
				s     *draft.Session
				known []int32
				final int
			}
			var all []*one
			for ; len(ops) > 1; ops = ops[2:] {
				if ops[0]%4 == 0 || len(all) == 0 {
					if len(all) < 5 {
						all = append(all, &one{s: d.Open(nil, func() {})})
					}
					continue
				}
				x := all[int(ops[0]/4)%len(all)]
				switch arg := ops[1]; ops[0] % 4 {
				case 1:
					if arg == 0 {
						x.s.Close()
						all = slices.DeleteFunc(all, func(y *one) bool { return x == y })
						continue
					}
					if x.final == 0 { // a prompt comes before the answer
						p := slices.Repeat([]int32{int32(arg) % large}, int(arg%40))
						x.s.Prompt(p)
						x.known = append(x.known, p...)
					}
				case 2:
					x.s.Want(arg%2 > 0)
				case 3:
					id := int32(arg) % large
					if arg%2 == 0 && len(x.known) > 0 {
						id = after(x.known, 1, greedy)[0] % large
					}
					x.s.Token(id)
					x.known, x.final = append(x.known, id), x.final+1
				}
				if ops[1]%3 > 0 {
					synctest.Wait()
				}
				final, guesses, _ := x.s.Take()
				if final != x.final || len(guesses) > draft.Depth {
					t.Fatalf("%d guesses after %d tokens, of %d", len(guesses), final, x.final)
				}
				agree(t, x.known, guesses, greedy)
			}
			d.stop()
			if err := <-d.ended; err != nil {
				t.Fatal(err)
			}
		})
	})
}
