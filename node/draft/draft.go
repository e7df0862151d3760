package draft

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
)

// Depth is how many guesses a session has at most: with more, the last ones are hardly ever
// right.
const Depth = 16

// stale is after how long without a pass the time per guess is taken to be what it was at
// first: the machine may have been busy.
const stale = 5 * time.Second

// Engine computes the whole drafter. Its errors are those of engine.Engine.
type Engine interface {
	Info() engine.Info
	Run(ctx context.Context, b *engine.Batch) (*engine.Result, error)
	Remove(seq int, from int32) error
}

// Drafter guesses for the sessions of one stage. It is safe for concurrent use.
type Drafter struct {
	vocab  int           // tokens below this are the large model's
	wake   chan struct{} // capacity 1: there may be work
	wanted chan struct{} // capacity 1: guesses are wanted, and there is no engine

	mu       sync.Mutex
	sessions []*Session
	running  bool
	first    time.Duration // per guess, as expected or measured when it was loaded
	takes    time.Duration // as measured since
	passed   time.Time     // when that was
	judged   Score
}

// Score counts guesses for tokens that have come.
type Score struct{ Right, Wrong int }

// New makes a drafter for a model whose tokens are below vocab.
func New(vocab int) *Drafter {
	return &Drafter{vocab: vocab, wake: make(chan struct{}, 1), wanted: make(chan struct{}, 1)}
}

// Expect sets how long a guess is expected to take, until one is measured.
func (d *Drafter) Expect(takes time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.first, d.takes = takes, takes
}

// Takes returns how long a guess takes, by the last passes; 0: not known.
func (d *Drafter) Takes() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.passed) > stale {
		d.takes = d.first
	}
	return d.takes
}

// Score returns what became of all guesses so far.
func (d *Drafter) Score() Score {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.judged
}

// Wanted has a value when a session wants guesses while Run does not.
func (d *Drafter) Wanted() <-chan struct{} { return d.wanted }

// Open begins a session. draws is how its tokens are drawn; nil: the likeliest. more is
// called when there is something to Take, by any goroutine. Close must be called.
func (d *Drafter) Open(draws *protocol.Sampling, more func()) *Session {
	s := &Session{d: d, more: more}
	if draws != nil {
		s.stops, s.draws = draws.StopIds, proto.CloneOf(draws)
		s.draws.StopIds = nil // the engine does not read them
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sessions = append(d.sessions, s)
	return s
}

// Session is one answer of the large model. It is safe for concurrent use.
type Session struct {
	d     *Drafter
	draws *protocol.Sampling
	stops []int32
	more  func()

	// Guarded by Drafter.mu.
	known  []int32 // prompt and final tokens
	final  int     // of them, final tokens
	made   []int32 // guesses that follow
	round  int     // of guesses: a wrong one begins the next
	over   bool    // what follows the guesses ends the answer, or is no token of the large model
	wants  bool
	unable bool // the engine has refused it
	fresh  bool // made has grown since Take
	score  Score
}

// Prompt adds tokens that are known before the answer goes on.
func (s *Session) Prompt(tokens []int32) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.known = append(s.known, tokens...)
	s.begin()
}

// begin begins a round. Called with mu held.
func (s *Session) begin() { s.made, s.round, s.over = nil, s.round+1, false }

// Token adds a final token.
func (s *Session) Token(id int32) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	s.known, s.final = append(s.known, id), s.final+1
	switch {
	case len(s.made) == 0:
		s.begin()
	case s.made[0] == id:
		s.made = s.made[1:]
		s.score.Right++
		d.judged.Right++
	default:
		s.begin()
		s.score.Wrong++
		d.judged.Wrong++
	}
	if s.wants {
		d.poke()
	}
}

// Want says whether guesses would be of use now.
func (s *Session) Want(want bool) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.wants = want; want {
		d.poke()
	}
}

// poke has Run look for work, or whoever loads the engine. Called with mu held.
func (d *Drafter) poke() {
	to := d.wake
	if !d.running {
		to = d.wanted
	}
	select {
	case to <- struct{}{}:
	default:
	}
}

// Take returns the guesses that follow the first final tokens, if there are new ones.
func (s *Session) Take() (final int, tokens []int32, ok bool) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	ok, s.fresh = s.fresh && len(s.made) > 0, false
	return s.final, slices.Clone(s.made), ok
}

// Close ends the session, and returns what became of its guesses.
func (s *Session) Close() Score {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	s.wants = false
	d.sessions = slices.DeleteFunc(d.sessions, func(x *Session) bool { return x == s })
	return s.score
}

// at returns the token at an index of what is known and guessed. Called with mu held.
func (s *Session) at(i int) int32 {
	if i < len(s.known) {
		return s.known[i]
	}
	return s.made[i-len(s.known)]
}

// length is the number of tokens that are known or guessed. Called with mu held.
func (s *Session) length() int { return len(s.known) + len(s.made) }

// agrees returns how many of the tokens are the session's first ones. Called with mu held.
func (s *Session) agrees(tokens []int32) int {
	n := min(len(tokens), s.length())
	for i := range n {
		if tokens[i] != s.at(i) {
			return i
		}
	}
	return n
}

// output is how the token after the session's first n is drawn. Called with mu held.
func (s *Session) output(n int) engine.Output {
	o := engine.Output{Sampling: s.draws, Position: uint64(n)}
	p := s.draws
	if p.GetRepeatPenalty() != 0 || p.GetPresencePenalty() != 0 || p.GetFrequencyPenalty() != 0 {
		for i := int(p.PromptTokens); i < n; i++ {
			o.Sampled = append(o.Sampled, s.at(i))
		}
	}
	return o
}

// took counts the time of a pass of single rows.
func (d *Drafter) took(pass time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := cmp.Or(d.takes, pass)
	d.takes, d.passed = before+(pass-before)/8, time.Now()
}
