package stage

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

const (
	maxQueued  = 32               // frames that wait for a socket
	queueBytes = 2 << 20          // in them, and as much again as the last of them has
	writeStall = 30 * time.Second // a socket that takes nothing for so long is lost
	lastWords  = 5 * time.Second  // to write what is queued when the session ends
)

// sender writes frames to one stream in a goroutine of its own, so that the
// loop never waits for a socket.
type sender struct {
	onLoss func(error) // at most once, from another goroutine than push's caller
	onRoom func()
	onSent func(Phase, time.Duration) // from push until the socket had taken a step's frame

	mu       sync.Mutex
	stream   Stream // nil until start
	queue    []outgoing
	bytes    int  // in the queue
	limited  bool // rows go by the successor's credit
	credit   uint64
	rows     uint64 // sent, of those
	wake     chan struct{}
	took     chan struct{} // capacity 1: a frame left the full queue
	finished bool          // no more frames; close when the queue is empty
	dead     bool
}

// outgoing is a frame that waits for the socket.
type outgoing struct {
	frame  []byte
	phase  Phase
	kind   kind
	rows   uint64 // of a step
	queued time.Time
}

// kind of a frame of which only the last one waits: a client that does not read
// makes nothing grow.
type kind uint8

const (
	each kind = iota // all of them wait
	pong
	halted
	leaving
	lostPredecessor
	lostSuccessor
	credits
)

func kindOf(f *protocol.Frame) kind {
	switch k := f.Kind.(type) {
	case *protocol.Frame_Pong:
		return pong
	case *protocol.Frame_Halted:
		return halted
	case *protocol.Frame_Credit:
		return credits
	case *protocol.Frame_Trouble:
		switch {
		case k.Trouble.Code == protocol.Code_CODE_DRAINING:
			return leaving
		case k.Trouble.Successor:
			return lostSuccessor
		}
		return lostPredecessor
	}
	return each
}

// newSender makes a sender for a stream that is there, or, with nil, for one
// that start brings later.
func newSender(st Stream, onLoss func(error), onRoom func(), onSent func(Phase, time.Duration)) *sender {
	s := &sender{onLoss: onLoss, onRoom: onRoom, onSent: onSent, wake: make(chan struct{}, 1), took: make(chan struct{}, 1)}
	if st != nil {
		s.start(st, nil, false)
	}
	return s
}

// start begins to write to st: first the given frame, if any, then the queue.
// With limited, rows wait for grant.
func (s *sender) start(st Stream, first []byte, limited bool) {
	s.mu.Lock()
	if s.dead || s.finished && len(s.queue) == 0 {
		s.mu.Unlock()
		_ = st.Reset()
		return
	}
	s.stream, s.limited = st, limited
	if first != nil {
		s.queue = append([]outgoing{{frame: first}}, s.queue...)
		s.bytes += len(first)
	}
	s.mu.Unlock()
	go s.run(st)
}

// room says that another frame may be pushed.
func (s *sender) room() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roomy()
}

// roomy is called with mu held.
func (s *sender) roomy() bool { return len(s.queue) < maxQueued && s.bytes < queueBytes }

// grant lets so many rows go in all.
func (s *sender) grant(rows uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit = max(s.credit, rows)
	s.poke()
}

// waitRoom waits until another frame may be pushed; false if none may ever be.
func (s *sender) waitRoom(ctx context.Context) bool {
	for {
		s.mu.Lock()
		over, room := s.dead || s.finished, s.roomy()
		s.mu.Unlock()
		if over || room {
			return !over
		}
		select {
		case <-s.took:
		case <-ctx.Done():
			return false
		}
	}
}

// push queues a frame. It never waits; the loop asks room first.
func (s *sender) push(o outgoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead || s.finished {
		return
	}
	if o.kind != each {
		s.queue = slices.DeleteFunc(s.queue, func(old outgoing) bool {
			if old.kind == o.kind {
				s.bytes -= len(old.frame)
			}
			return old.kind == o.kind
		})
	}
	o.queued = time.Now()
	s.queue = append(s.queue, o)
	s.bytes += len(o.frame)
	s.poke()
}

func (s *sender) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// finish closes the stream once the queue is written.
func (s *sender) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	s.poke()
}

// lost gives up the stream and tells the owner, once.
func (s *sender) lost(err error) {
	if s.giveUp() {
		s.onLoss(err)
	}
}

// drop gives up the stream for another.
func (s *sender) drop() { s.giveUp() }

// giveUp says whether the sender was in use until now.
func (s *sender) giveUp() bool {
	s.mu.Lock()
	inUse := !s.dead && !s.finished
	s.dead = true
	st := s.stream
	s.queue, s.bytes = nil, 0
	s.poke()
	s.mu.Unlock()
	select {
	case s.took <- struct{}{}:
	default:
	}
	if st != nil {
		_ = st.Reset()
	}
	return inUse
}

// next waits for the frame whose turn it is. room: the queue was full until it
// was taken. none: there is none any more.
func (s *sender) next(st Stream) (out outgoing, last, room, none bool) {
	for {
		s.mu.Lock()
		waits := len(s.queue) == 0 || s.limited && s.queue[0].rows > 0 && s.rows+s.queue[0].rows > s.credit
		switch {
		case s.dead:
			s.mu.Unlock()
			return out, false, false, true
		case waits && s.finished: // rows that nobody has asked for are lost with the session
			s.mu.Unlock()
			if st.Close() != nil {
				_ = st.Reset()
			}
			return out, false, false, true
		case waits:
			s.mu.Unlock()
			<-s.wake
			continue
		}
		full := !s.roomy()
		out, s.queue = s.queue[0], s.queue[1:]
		s.bytes -= len(out.frame)
		s.rows += out.rows
		last, room = s.finished, full && s.roomy()
		s.mu.Unlock()
		return out, last, room, false
	}
}

func (s *sender) run(st Stream) {
	for {
		out, last, room, none := s.next(st)
		if none {
			return
		}
		limit := writeStall
		if last {
			limit = lastWords
		}
		_ = st.SetDeadline(time.Now().Add(limit))
		_, err := st.Write(out.frame)
		_ = st.SetDeadline(time.Time{})
		if err != nil {
			s.lost(errors.Join(errors.New("writing"), err))
			return
		}
		if out.phase != control {
			s.onSent(out.phase, time.Since(out.queued))
		}
		if room {
			select {
			case s.took <- struct{}{}:
			default:
			}
			s.onRoom()
		}
	}
}
