package session

import (
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// earlyRows is how many rows, at most, the first stage gets before all stages have
// accepted. Computing so many takes longer than most round trips; a refusal makes them
// void.
const earlyRows = 1024

// Said is what a peer has said of a stage before a session is opened there. A peer of an
// older version says nothing.
type Said struct {
	Early    bool // it takes Open.early
	Kept     int  // tokens of the prompt that it has cached
	Rollback int  // rows that it can take back at any time
	Back     int  // rows by which it can certainly be taken back without beginning at 0; 0: all
}

// head is the beginning of what a session's first stage gets, if it is sent before all
// stages have accepted.
type head struct {
	steps []*protocol.Step
	early int           // of them, those that go right behind Open
	from  int           // position of the first row
	ahead int           // guesses that may be on their way at once
	at    time.Time     // when the first was sent
	sent  chan struct{} // closed when the early ones are written, or cannot be
}

// expected returns the position from which stages will have to compute a prompt of which
// they may have cached up to most, by what their peers have said; false: some peer has said
// nothing.
func expected(route []Hop, most int, chain []uint64) (from int, ok bool) {
	from = min(most, protocol.PrefixBlock*min(len(chain), protocol.MaxOpenPrefix))
	for _, h := range route {
		if !h.Said.Early {
			return 0, false
		}
		from = min(from, h.Said.Kept)
	}
	from -= from % protocol.PrefixBlock // as when they have answered
	for _, h := range route {
		if back := h.Said.Back; back > 0 && from < h.Said.Kept-back {
			return 0, true
		}
	}
	return from, true
}

// newHead returns the head that steps begin with.
func newHead(steps []*protocol.Step, from, ahead int) *head {
	h := &head{steps: steps, from: from, ahead: ahead, sent: make(chan struct{})}
	for rows := 0; h.early < len(steps); h.early++ {
		if rows += int(steps[h.early].Rows); rows > earlyRows {
			break
		}
	}
	return h
}

// begin sends the early steps, beside what else is written and read: a stage that refuses
// the session does not read them.
func (h *head) begin(g *stage) {
	h.at = time.Now()
	go func() {
		defer close(h.sent)
		g.sendSteps(h.steps[:h.early])
	}()
}

// rest sends what is left of the steps.
func (h *head) rest(g *stage) {
	<-h.sent
	g.sendSteps(h.steps[h.early:])
}

// holds reports whether open stages have taken the early rows, or will: they have all that
// comes before these, and can do what was expected of them. ahead is how many guesses they
// allow.
func (h *head) holds(stages []*stage, ahead int) bool {
	for _, g := range stages {
		if h.from > g.cached || g.backTo(h.from) != h.from || g.back != g.hop.Said.Back {
			return false
		}
	}
	return h.ahead <= ahead
}

// sendSteps sends a stage steps, one after another.
func (g *stage) sendSteps(steps []*protocol.Step) {
	for _, st := range steps {
		if g.send(&protocol.Frame{Kind: &protocol.Frame_Step{Step: st}}) != nil {
			return // read fails as well
		}
	}
}

// head returns the beginning of the prompt as it may be sent before all stages have
// accepted; nil: it must wait.
func (s *session) head() *head {
	from, ok := expected(s.req.Route, len(s.ids)-1, s.chain)
	ahead := s.inFlight(s.stages)
	if !ok || ahead > 0 && len(s.req.Expected) > earlyRows {
		return nil
	}
	return newHead(s.steps(ahead, s.epoch+1, s.ids, from), from, ahead)
}
