package serve

import (
	"math/rand/v2"
	"time"

	"github.com/shoalnet/shoal/node/ahead"
	"github.com/shoalnet/shoal/node/stage"
)

// Guess makes the guesser of a session with at most so many guesses on their way at once.
type Guess = func(most int) stage.Guesser

// guessers returns what makes the guessers of a stage's sessions, with a drafter if f is
// not nil; nil: it is to send no guesses.
func (s *Server) guessers(f *drafting) Guess {
	switch {
	case s.cfg.NoAhead:
		return nil
	case s.cfg.Guess != nil:
		return s.cfg.Guess
	}
	trials := ahead.NewTrials(rand.Uint64())
	return func(most int) stage.Guesser {
		g := guesser{ahead.New(ahead.Config{MaxInFlight: most, Trials: trials})}
		if f != nil {
			return &draftGuesser{guesser: g, of: f}
		}
		return g
	}
}

// guesser is a Runner as a stage wants it: the stage keeps its own account of what is on
// its way.
type guesser struct{ *ahead.Runner }

func (g guesser) Token(id int32, at time.Time, m stage.Measures) {
	g.Runner.Token(id, at, ahead.Measures(m))
}
