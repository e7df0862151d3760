package stage

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// assisted guesses what it is told meanwhile.
type assisted struct {
	same
	draws  *protocol.Sampling
	more   func()
	given  int // guesses that it may still make
	begun  int
	closed int
}

func (a *assisted) Begin(draws *protocol.Sampling, more func()) {
	a.draws, a.more = draws, more
	a.begun++
}

func (a *assisted) Close() { a.closed++ }

func (a *assisted) Next(at time.Time, full bool) (int32, bool) {
	if a.given == 0 || full {
		return 0, false
	}
	a.given--
	return a.same.Next(at, full)
}

// Guesses that come between tokens are sent at once, a guesser knows how tokens are drawn,
// and it is closed with its epoch, and with the session.
func TestAssisted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rest := func() {
			time.Sleep(20 * time.Second)
			synctest.Wait()
		}
		var all []*assisted
		s, v, e := stageOf(t, 0, 2, func(int) Guesser {
			all = append(all, &assisted{same: 7})
			return all[len(all)-1]
		})
		o := someOpen(s, 300, 1)
		o.From, o.To, o.Stages, o.TagKey = 0, 2, 2, []byte(tagged)
		o.Draws, o.Sampling = o.Sampling, nil
		o.Draws.Seed = 5
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
		rest()
		if len(all) != 1 || all[0].begun != 1 || all[0].draws.GetSeed() != 5 || len(e.cells) != 33 {
			t.Fatalf("%d guessers, %+v, %d rows", len(all), all, len(e.cells))
		}
		a := all[0]
		a.given = 3 // while nobody calls it
		a.more()
		rest()
		if len(e.cells) != 36 || e.cells[35] != 7 {
			t.Errorf("the rows %v, where three guesses have come", e.cells[32:])
		}
		client.say(t, step(1, 33, 2))
		rest()
		if len(all) != 2 || a.closed != 1 || all[1].begun != 1 || all[1].closed != 0 {
			t.Errorf("in another epoch: %+v, %+v", a, all[1:])
		}
		client.say(t, &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{}}})
		rest()
		if a.closed != 1 || all[1].closed != 1 {
			t.Errorf("when the session has ended: closed %d and %d times", a.closed, all[1].closed)
		}
		a.given, all[1].given = 3, 3
		a.more()
		all[1].more()
	})
}

// What a first stage is told of how tokens are drawn is checked.
func TestDrawsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, _ := stageOf(t, 0, 2, func(int) Guesser { return same(7) })
		for name, p := range map[string]*protocol.Sampling{
			"temperature": {Temperature: -1},
			"history":     {History: []int32{1000}},
			"long":        {History: make([]int32, 5000)},
			"format":      {Format: []*protocol.Piece{{Kind: &protocol.Piece_Text{Text: "a"}}}},
			"scored":      {Scored: []int32{1}, PromptTokens: 2},
			"sampled":     {Sampled: []int32{1}},
			"readings":    {Readings: []*protocol.Labels{{Ids: []int32{1}}}},
			"":            {Temperature: 0.8, Seed: 1, StopIds: []int32{1}, History: []int32{1}},
		} {
			o := someOpen(s, 300, 1)
			o.From, o.To, o.Stages, o.Sampling, o.Draws = 0, 2, 2, nil, p
			o.Prev, o.Next = []byte("last"), &protocol.Hop{Peer: []byte("last"), Index: 1}
			if err := s.check(o); (err == nil) != (name == "") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
