package serve

import (
	"math/rand/v2"
	"time"

	"github.com/shoalnet/shoal/node/ahead"
	"github.com/shoalnet/shoal/node/stage"
)

// guessers returns what makes the guessers of a stage's sessions, with a drafter if f is
// not nil; nil: it is to send no guesses.
func (s *Server) guessers(f *drafting) func(most int) stage.Guesser {
	if s.cfg.NoAhead {
		return nil
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
