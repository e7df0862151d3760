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
	maxQueued  = 32               // frames queued for a socket
	queueBytes = 2 << 20          // at which the queue is full; the last frame may exceed it
	writeStall = 30 * time.Second // a stream that accepts no data for this long is lost
	warmUp     = 4                // frames in a row without a pause, after which a connection has its speed
	lastWords  = 5 * time.Second  // to write the last queued frame when the session ends
)

// sender writes frames to one stream in a goroutine of its own, so that the
// loop never waits for a socket.
type sender struct {
	onLoss  func(error)                // called at most once, not from push
	onRoom  func()                     // the full queue has space again
	onSent  func(Phase, time.Duration) // a step's frame was written; the time since push
	onRow   func(time.Duration)        // likewise that of one row; how long the writing took; nil: nobody wants to know
	onChunk func(int, time.Duration)   // likewise that of several, once frames have followed each other without a pause; bytes, and how long the writing took; nil: likewise

	mu       sync.Mutex
	stream   Stream // nil until start
	queue    []outgoing
	bytes    int    // in the queue
	limited  bool   // rows are sent only within the successor's credit
	credit   uint64 // total rows that the successor has granted
	rows     uint64 // sent so far
	wake     chan struct{}
	took     chan struct{} // capacity 1: the full queue has space again
	finished bool          // no more frames; the stream is closed when the queue is empty
	dead     bool
	over     chan struct{} // closed with dead
	heir     *sender       // has taken over: frames are pushed there, and the queue is still written
	before   *sender       // whose heir this is; it may still be writing
}

// outgoing is a frame queued for a socket.
type outgoing struct {
	frame  []byte
	phase  Phase
	kind   kind
	rows   uint64 // of a step; 0: not limited by credit
	guess  bool   // of a step: its token is a guess
	base   int    // of such a step: its position
	queued time.Time
}

// kind is a kind of frame of which only the latest is queued, so that the queue of
// a client that does not read stays bounded.
type kind uint8

const (
	each kind = iota // all of them are queued
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

// newSender returns a sender for st, or, if that is nil, for the stream that start
// gets later.
func newSender(st Stream, onLoss func(error), onRoom func(), onSent func(Phase, time.Duration)) *sender {
	s := &sender{onLoss: onLoss, onRoom: onRoom, onSent: onSent, wake: make(chan struct{}, 1), took: make(chan struct{}, 1), over: make(chan struct{})}
	if st != nil {
		s.start(st, nil, false)
	}
	return s
}

// start begins to write to st: first the frame first, unless it is nil, then the queue.
// If limited is set, rows wait for grant.
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

// room reports whether another frame may be pushed.
func (s *sender) room() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.roomy()
}

// roomy is called with mu held.
func (s *sender) roomy() bool { return len(s.queue) < maxQueued && s.bytes < queueBytes }

// empty reports whether nothing waits to be written.
func (s *sender) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) == 0
}

// dropGuesses drops the rows of guesses from a position on that have not been written, so
// that what follows need not wait for them.
func (s *sender) dropGuesses(from int) {
	s.mu.Lock()
	s.queue = slices.DeleteFunc(s.queue, func(o outgoing) bool {
		void := o.guess && o.base >= from
		if void {
			s.bytes -= len(o.frame)
		}
		return void
	})
	before := s.before
	s.mu.Unlock()
	if before != nil {
		before.dropGuesses(from)
	}
}

// grant raises the total of rows that may be sent to rows.
func (s *sender) grant(rows uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit = max(s.credit, rows)
	s.poke()
}

// waitRoom waits until another frame may be pushed. It returns false if the sender or
// ctx has ended.
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

// push queues a frame. It never blocks; the loop checks room first.
func (s *sender) push(o outgoing) {
	s.mu.Lock()
	if heir := s.heir; heir != nil {
		s.mu.Unlock()
		heir.push(o)
		return
	}
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

// handOver makes heir continue after what is queued and a last frame. The stream
// stays open: the other side closes it once it has read all.
func (s *sender) handOver(last []byte, heir *sender) {
	s.mu.Lock()
	defer s.mu.Unlock()
	heir.before, s.before = s, nil // one stream at a time is handed over, so that an older one is done
	s.heir = heir
	if s.dead || s.finished {
		return
	}
	s.queue = append(s.queue, outgoing{frame: last, queued: time.Now()})
	s.bytes += len(last)
	s.poke()
}

// dropBefore abandons what the sender before this one has still to write.
func (s *sender) dropBefore() {
	s.mu.Lock()
	before := s.before
	s.before = nil
	s.mu.Unlock()
	if before != nil {
		before.drop()
	}
}

// relayed reports whether the stream crosses a relay.
func (s *sender) relayed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream != nil && s.stream.Relayed()
}

// lost abandons the stream and calls onLoss, once.
func (s *sender) lost(err error) {
	if s.giveUp() {
		s.onLoss(err)
	}
}

// drop abandons the stream without calling onLoss.
func (s *sender) drop() { s.giveUp() }

// giveUp resets the stream, and reports whether the sender was in use until now. One
// that has handed over and has nothing left to write is not.
func (s *sender) giveUp() bool {
	s.dropBefore()
	s.mu.Lock()
	inUse := !s.dead && !s.finished && (s.heir == nil || len(s.queue) > 0)
	s.die()
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

// die is called with mu held.
func (s *sender) die() {
	if !s.dead {
		s.dead = true
		close(s.over)
	}
}

// next waits for the next frame to write. last: the sender is finished. room: the
// queue was full and has space again. none: there are no more frames. paused: it was not
// there at once.
func (s *sender) next(st Stream) (out outgoing, last, room, none, paused bool) {
	for {
		s.mu.Lock()
		waits := len(s.queue) == 0 || s.limited && s.queue[0].rows > 0 && s.rows+s.queue[0].rows > s.credit
		switch {
		case s.dead:
			s.mu.Unlock()
			return out, false, false, true, paused
		case len(s.queue) == 0 && s.heir != nil:
			s.die()
			s.mu.Unlock()
			return out, false, false, true, paused
		case waits && s.finished: // rows without credit are dropped with the session
			s.mu.Unlock()
			if st.Close() != nil {
				_ = st.Reset()
			}
			return out, false, false, true, paused
		case waits:
			s.mu.Unlock()
			<-s.wake
			paused = true
			continue
		}
		full := !s.roomy()
		out, s.queue = s.queue[0], s.queue[1:]
		s.bytes -= len(out.frame)
		s.rows += out.rows
		last, room = s.finished, full && s.roomy()
		s.mu.Unlock()
		return out, last, room, false, paused
	}
}

func (s *sender) run(st Stream) {
	for streak := 0; ; {
		out, last, room, none, paused := s.next(st)
		if none {
			return
		}
		limit := writeStall
		if last {
			limit = lastWords
		}
		begin := time.Now()
		_ = st.SetDeadline(begin.Add(limit))
		_, err := st.Write(out.frame)
		_ = st.SetDeadline(time.Time{})
		if err != nil {
			s.lost(errors.Join(errors.New("writing"), err))
			return
		}
		if s.onRow != nil && out.rows == 1 {
			s.onRow(time.Since(begin))
		}
		if streak++; paused {
			streak = 0
		}
		if s.onChunk != nil && out.rows > 1 && streak >= warmUp {
			s.onChunk(len(out.frame), time.Since(begin))
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
