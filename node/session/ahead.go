package session

import (
	"crypto/rand"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/protocol"
)

// Running ahead: the first stage sends the rows of guesses before their tokens are known
// (node/stage). The client allows it, once it knows that each stage can take rows back,
// gives the first and the last stage the key by which the one marks guesses and the other
// recognizes them, and counts what came of it.

// Ahead sums up the guesses of an answer.
type Ahead struct {
	Sent int // rows of guesses that the first stage had sent by the last token
	Kept int // tokens of the answer that came from such rows

	// Gain is how many times faster the tokens after the first came than they would have
	// without guesses, by the measured time of those that no guess brought; 0: unknown.
	Gain float64
}

// Trip returns the mean time once around the ring, by the tokens that no guess brought;
// 0: there were none after the first.
func (o *Outcome) Trip() time.Duration {
	switch {
	case o.Tokens < 2, o.Ahead.Kept > 0 && o.Ahead.Gain == 0:
		return 0
	case o.Ahead.Kept > 0:
		return time.Duration(o.Ahead.Gain * float64(o.Elapsed) / float64(o.Tokens-1))
	}
	return o.Elapsed / time.Duration(o.Tokens-1)
}

// newTagKey returns a key for the tags of guesses; nil: there are to be none.
func (s *session) newTagKey() []byte {
	if s.req.MaxInFlight <= 0 {
		return nil
	}
	key := make([]byte, protocol.TagKeySize)
	_, _ = rand.Read(key) // it never fails
	return key
}

// drawsOf returns what a first stage is to know of how tokens are drawn: with the same
// noise a drafter's guesses are more often right.
func drawsOf(p *protocol.Sampling) *protocol.Sampling {
	p = proto.CloneOf(p)
	p.Sampled, p.Format, p.Scored, p.Readings, p.Logprobs, p.TopLogprobs = nil, nil, nil, nil, false, 0
	return p
}

// inFlight returns how many guesses may be on their way round a ring at once. A stage of
// an older version cannot take rows back, nor a model with recurrent blocks; and in a
// ring of one stage there is no way to hide.
func (s *session) inFlight(stages []*stage) int {
	n := min(s.req.MaxInFlight, protocol.MaxInFlight)
	for _, g := range stages {
		n = min(n, g.rollback)
	}
	if len(stages) == 1 {
		return 0
	}
	return max(0, n)
}

// trips are the times that tokens took which no guess brought.
type trips struct {
	n   int
	sum time.Duration
}

// tally counts a token that came so long after the one before it.
func (s *session) tally(tok *protocol.Token, took time.Duration) {
	a := &s.out.Ahead
	switch {
	case tok.Guessed:
		a.Kept++
	case s.out.Tokens > 1 && s.deadline.steady: // else a repair lies between
		s.trips.n, s.trips.sum = s.trips.n+1, s.trips.sum+took
	}
	a.Sent = max(a.Sent, a.Kept, int(min(tok.Guesses, 1<<20)))
	if elapsed := s.out.Elapsed + took; s.trips.n > 0 && elapsed > 0 {
		a.Gain = float64(s.out.Tokens-1) * (s.trips.sum.Seconds() / float64(s.trips.n)) / elapsed.Seconds()
	}
}
