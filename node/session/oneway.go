package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// oneWay is a session that sends its rows and takes what comes of them: nothing that comes
// decides what is sent next. It is not repaired. Its first stage that fails ends it, and the
// caller has what is missing computed by another session.
type oneWay struct {
	session
	rows       int           // that are sent
	wait       time.Duration // how long nothing may come before a stage is taken to hang
	progressed time.Time     // when something last came
}

// taker takes what comes of a session.
type taker interface {
	// finished reports whether all has come.
	finished() bool
	// reply takes a frame of the stage at a position, other than those that all sessions
	// have.
	reply(pos int, ev event) error
}

// silentTime is how long a stage may send nothing, beyond a round trip.
const silentTime = 2 * time.Second

// errNotDue is the error for a frame that no honest stage sends now.
var errNotDue = fmt.Errorf("%w: not due", protocol.ErrFrame)

// open opens all stages; frame is the Open for each. The first stage gets the early rows of
// h at once; nil: there are none.
func (s *oneWay) open(ctx context.Context, h *head, frame func(pos int) *protocol.Open) error {
	if _, err := rand.Read(s.id[:]); err != nil {
		return err
	}
	opening, cancel := context.WithTimeoutCause(ctx, openTime, errors.New("no answer in time"))
	defer cancel()
	err := s.openAll(opening, cancel, s.stages, h, func(pos int) *protocol.Open {
		o := frame(pos)
		o.Early = h != nil
		return o
	})
	if err != nil {
		return err
	}
	now := time.Now()
	s.deadline.opened(now.Sub(s.begin))
	s.progressed = now
	for _, g := range s.stages {
		g.heard = now
		go s.read(g)
	}
	go s.heartbeat()
	return nil
}

// run takes what comes until all has.
func (s *oneWay) run(ctx context.Context, to taker) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for !to.finished() {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev := <-s.events:
			err = s.take(ev, to)
		case now := <-look.C:
			err = s.inspect(now)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// take takes a frame of a stage, or the end of its stream.
func (s *oneWay) take(ev event, to taker) error {
	g, pos := ev.g, s.position(ev.g)
	if ev.err != nil {
		return g.fail(pos, ev.err)
	}
	if ev.moved != nil {
		return nil
	}
	now := time.Now()
	g.heard = now
	switch k := ev.f.Kind.(type) {
	case *protocol.Frame_Pong:
		g.pong(k.Pong, now)
	case *protocol.Frame_Trouble:
		if k.Trouble.Code == protocol.Code_CODE_DRAINING {
			return nil // it stays for as long as it can
		}
		other, which := pos-1, "successor"
		if k.Trouble.Successor {
			other, which = pos+1, "predecessor"
		}
		if other < 0 || other >= len(s.stages) {
			return g.fail(pos, fmt.Errorf("%w: trouble with a neighbour that it does not have", protocol.ErrFrame))
		}
		return s.stages[other].fail(other, protocol.Errorf(protocol.Code_CODE_PEER_LOST, "its %s lost it", which))
	default:
		s.progressed = now
		return to.reply(pos, ev)
	}
	return nil
}

// inspect finds a stage that is silent, or that keeps the session waiting.
func (s *oneWay) inspect(now time.Time) error {
	for i, g := range s.stages {
		if quiet := now.Sub(g.heard); quiet > silentTime+s.deadline.roundTrip {
			return g.fail(i, protocol.Errorf(protocol.Code_CODE_TIMEOUT, "it has been silent for %s", quiet.Round(time.Millisecond)))
		}
	}
	if now.Sub(s.progressed) <= s.wait {
		return nil
	}
	// The first stage that has computed less than those before it keeps the others waiting.
	slow, length := 0, s.rows
	for i, g := range s.stages {
		if g.length < length {
			slow, length = i, g.length
		}
	}
	return s.stages[slow].fail(slow, protocol.Errorf(protocol.Code_CODE_TIMEOUT, "nothing came for %s, and it is behind", s.wait.Round(time.Second)))
}
