package stage

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// firstOf is a session at a first stage that guesses 7 forever, after a prompt of 32
// tokens. say has the last stage say that a position's token is known.
func firstOf(t *testing.T, v *Server, s *Stage, total int) (client *talk, say func(base int, id int32)) {
	o := someOpen(s, total, 9)
	o.From, o.To, o.Stages, o.Sampling, o.TagKey = 0, 2, 2, nil, []byte(tagged)
	o.Prev, o.Next = []byte("last"), &protocol.Hop{Peer: []byte("last"), Index: 1}
	client = begin(t, t.Context(), v, "client", o)
	if f := <-client.frames; f.GetOpened() == nil {
		t.Fatal(f)
	}
	step := func(base int, ids ...int32) *protocol.Frame {
		return &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{
			Base: uint32(base), Rows: uint32(len(ids)), Tokens: ids, Sample: true, MaxInFlight: 40,
		}}}
	}
	client.say(t, step(0, make([]int32, 32)...))
	link := dial(t, v, "last")
	go discard(link)
	_, _ = link.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: o.Session}}}))
	return client, func(base int, id int32) {
		_, _ = link.Write(framed(t, step(base, id)))
		time.Sleep(2 * time.Second)
	}
}

// The rows of guesses take cells that are free, and not those of a prefix that is kept for
// another client. Once a guess is known to be right, its row takes them like any other.
func TestGuessesEvictNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v, _ := stageOf(t, 0, 2, func(int) Guesser { return same(7) }, func(c *Config) { c.KVTokens = 160 })
		o := someOpen(s, 80, 1)
		o.From, o.To, o.Stages, o.Sampling = 0, 2, 2, nil
		o.Prev, o.Next = []byte("last"), &protocol.Hop{Peer: []byte("last"), Index: 1}
		other := begin(t, t.Context(), v, "other", o)
		<-other.frames
		other.say(t, &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{Rows: 64, Tokens: make([]int32, 64)}}})
		time.Sleep(10 * time.Second)
		prefix := []uint64{5, 6}
		other.say(t, &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{Prefix: prefix}}})
		time.Sleep(10 * time.Second)
		before := s.Status().Rows
		_, say := firstOf(t, v, s, 150)
		say(32, 1)
		time.Sleep(time.Minute)
		// 96 cells are free, and the guesses at 33 to 72 could have them. The session has
		// taken 64 of them with its prompt.
		if n, kept := s.Status().Rows-before, s.Kept("other", prefix); n != 73 || kept != 64 {
			t.Fatalf("%d rows were computed, and of the other's prefix %d are kept", n, kept)
		}
		for at := 33; at < 60; at++ {
			say(at, 7)
		}
		if n, kept := s.Status().Rows-before, s.Kept("other", prefix); n != 96 || kept != 64 {
			t.Errorf("%d rows were computed, and of the other's prefix %d are kept", n, kept)
		}
		for at := 60; at <= 96; at++ {
			say(at, 7)
		}
		if n, kept := s.Status().Rows-before, s.Kept("other", prefix); n < 97 || kept != 0 {
			t.Errorf("%d rows were computed, and of the other's prefix %d are kept", n, kept)
		}
	})
}

// Nor do they take cells for which a session waits.
func TestGuessesLeaveCells(t *testing.T) {
	s := newStage(t)
	sess := newSession(s, key{}, open(200, 1), sink{"a"}, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	sess.cells, s.kvUsed = 10, s.cfg.KVTokens-2
	for _, c := range []struct {
		starved bool
		upto    int
		want    bool
	}{{false, 10, true}, {true, 10, true}, {true, 11, false}, {false, 13, false}, {false, 12, true}} {
		if s.starved = c.starved; s.spare(sess, c.upto) != c.want {
			t.Errorf("%+v, with %d cells of %d used", c, s.kvUsed, s.cfg.KVTokens)
		}
	}
	if sess.cells != 12 || s.kvUsed != s.cfg.KVTokens {
		t.Errorf("it has %d cells, and %d are used", sess.cells, s.kvUsed)
	}
}

// Between the first stage and the last, a guess is right once a later position is settled,
// or no line has come in its place for long: it must not wait for cells for ever.
func TestUnsure(t *testing.T) {
	s := newStage(t)
	sess := newSession(s, key{}, open(200, 1), sink{"a"}, 0)
	now := time.Now()
	at := func(from int, st *step, settled int, after time.Duration) bool {
		s.cfg.Span.From = from
		sess.pending, sess.settled, st.queued = []*step{st}, settled, now
		return s.unsure(sess, now.Add(after))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range map[string]struct{ got, want bool }{
		"known":                      {at(2, &step{base: 9}, 9, 0), false},
		"a guess":                    {at(2, &step{base: 9, tag: 1}, 9, 0), true},
		"settled since":              {at(2, &step{base: 9, tag: 1}, 10, 0), false},
		"old":                        {at(2, &step{base: 9, tag: 1}, 9, sureAfter), false},
		"old, where it is not known": {at(0, &step{base: 9, tag: 1}, 9, time.Hour), true},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", name, c.got)
		}
	}
}
