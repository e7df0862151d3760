package session_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

var errNobody = errors.New("nobody else serves this")

// path is what a stream runs over.
type path struct {
	relayed bool
	better  <-chan struct{}
}

func (p *path) closesAt() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.better
}

// slowConn delivers what is written after a delay, in order, as a path does.
type slowConn struct {
	net.Conn
	delay time.Duration
	queue chan slowWrite
	over  chan struct{}
	once  sync.Once
}

type slowWrite struct {
	b  []byte // none: the end
	at time.Time
}

func newSlowConn(c net.Conn, delay time.Duration) *slowConn {
	s := &slowConn{Conn: c, delay: delay, queue: make(chan slowWrite, 1024), over: make(chan struct{})}
	go s.deliver()
	return s
}

func (s *slowConn) deliver() {
	for {
		select {
		case w := <-s.queue:
			time.Sleep(time.Until(w.at))
			if len(w.b) == 0 {
				_ = s.Conn.Close()
				return
			}
			if _, err := s.Conn.Write(w.b); err != nil {
				return
			}
		case <-s.over:
			return
		}
	}
}

func (s *slowConn) Write(b []byte) (int, error) {
	select {
	case <-s.over:
		return 0, net.ErrClosed
	case s.queue <- slowWrite{slices.Clone(b), time.Now().Add(s.delay)}:
		return len(b), nil
	}
}

// Close ends the stream for the other side after all that was written.
func (s *slowConn) Close() error {
	select {
	case <-s.over:
	case s.queue <- slowWrite{at: time.Now().Add(s.delay)}:
	}
	return nil
}

// SetDeadline leaves writing alone, which never waits here.
func (s *slowConn) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// Reset cuts the stream at once.
func (s *slowConn) Reset() error {
	s.once.Do(func() { close(s.over) })
	return s.Conn.Close()
}

// relays makes pairs of peers reach each other over a relay until a direct path
// appears.
type relays struct {
	slow, fast time.Duration // one way, over the relay and directly

	mu     sync.Mutex
	direct map[[2]peer.ID]chan struct{} // closed once there is a direct path
	live   map[[2]peer.ID][]*slowConn   // of streams over the relay
	all    []*slowConn
}

// viaRelays makes all of a pipeline's streams cross a relay.
func viaRelays(p *pipeline, slow, fast time.Duration) *relays {
	r := &relays{slow: slow, fast: fast, direct: map[[2]peer.ID]chan struct{}{}, live: map[[2]peer.ID][]*slowConn{}}
	p.net.wrap = r.open
	return r
}

func pairOf(a, b peer.ID) [2]peer.ID { return [2]peer.ID{min(a, b), max(a, b)} }

// punched returns the channel that is closed once two peers have a direct path.
func (r *relays) punched(a, b peer.ID) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := pairOf(a, b)
	if r.direct[k] == nil {
		r.direct[k] = make(chan struct{})
	}
	return r.direct[k]
}

// end ends the stages and all streams.
func (r *relays) end(p *pipeline) {
	for _, s := range p.stages {
		s.Close(nil)
	}
	r.mu.Lock()
	for _, c := range r.all {
		_ = c.Reset()
	}
	r.mu.Unlock()
	time.Sleep(time.Minute) // what still waits for something gives up
}

// cut resets the streams over the relay between two peers.
func (r *relays) cut(a, b peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.live[pairOf(a, b)] {
		_ = c.Reset()
	}
}

func (r *relays) open(from, to peer.ID) (client, server end) {
	p, delay := &path{relayed: true, better: r.punched(from, to)}, r.slow
	select {
	case <-p.better:
		p, delay = nil, r.fast
	default:
	}
	x, y := net.Pipe()
	a, b := newSlowConn(x, delay), newSlowConn(y, delay)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, a, b)
	if p != nil {
		r.live[pairOf(from, to)] = append(r.live[pairOf(from, to)], a, b)
	}
	return end{Conn: a, peer: to, path: p}, end{Conn: b, peer: from, path: p}
}

const overRelay, direct = 40 * time.Millisecond, 10 * time.Millisecond // one way

// answer is what came of a session.
type answer struct {
	ids []int32
	at  []time.Time
	out *session.Outcome
}

// askOver runs a session over a pipeline, and calls do after some of its tokens.
func askOver(t *testing.T, p *pipeline, prompt []int32, n int, do map[int]func()) answer {
	t.Helper()
	var a answer
	var err error
	a.out, err = session.Run(t.Context(), sessionDialer{dialer{p.net, nodeID(-1)}}, &session.Request{
		Model: p.model, Route: p.route, Prompt: prompt, Chunk: 7, Sampling: inThirds(n, ""), Step: 150 * time.Millisecond,
		Replan: func(context.Context, session.Gap) ([]session.Hop, error) { return nil, errNobody },
	}, func(tok *protocol.Token) error {
		a.ids, a.at = append(a.ids, tok.Id), append(a.at, time.Now())
		if f := do[len(a.ids)]; f != nil {
			f()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// gap is the time from the token before one to it.
func (a answer) gap(i int) time.Duration { return a.at[i].Sub(a.at[i-1]) }

// A session over relays moves, stream by stream, when direct paths appear: the text is
// the same to the letter, nothing is repaired, and no step takes longer than before.
func TestMoveToDirectPath(t *testing.T) {
	const n = 900
	prompt := someTokens(5, 60)
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), prompt, n)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		p := newPipeline(t, 9, 3, 6)
		r := viaRelays(p, overRelay, direct)
		do := map[int]func(){}
		peers := []peer.ID{nodeID(-1), nodeID(0), nodeID(1), nodeID(2)}
		at := 200
		for i, a := range peers {
			for _, b := range peers[:i] {
				do[at] = func() { close(r.punched(a, b)) }
				at += 100
			}
		}
		a := askOver(t, p, prompt, n, do)
		if !slices.Equal(a.ids, want) {
			t.Errorf("got %v\nwant %v", a.ids, want)
		}
		if len(a.out.Recoveries) > 0 {
			t.Errorf("a move needs no repair: %+v", a.out.Recoveries)
		}
		links, streams := 0, 0
		for _, m := range a.out.Moves {
			if m.Link {
				links++
			} else if streams++; m.Relayed || m.Took <= 0 {
				t.Errorf("a move to a direct path: %+v", m)
			}
		}
		if links != 3 || streams != 3 {
			t.Errorf("%d links and %d streams have moved: %+v", links, streams, a.out.Moves)
		}
		before, after := a.gap(150), a.gap(n-1)
		if before < 3*overRelay || after >= 3*overRelay/2 || after < 3*direct {
			t.Errorf("a step takes %s over relays and %s directly", before, after)
		}
		for i := 1; i < n; i++ {
			if a.gap(i) > before+overRelay {
				t.Errorf("token %d took %s, where a step over relays takes %s", i, a.gap(i), before)
			}
		}
		for i, path := range a.out.Paths {
			if path.Relayed || path.LinkRelayed {
				t.Errorf("stage %d still crosses a relay: %+v", i, path)
			}
		}
		p.empty(t)
		r.end(p)
	})
}

// Whatever moment the path appears at, while prompts are computed, too, the text is the
// same.
func TestMoveAtAnyMoment(t *testing.T) {
	const n = 40
	prompt := someTokens(6, 300)
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), prompt, n)
	if err != nil {
		t.Fatal(err)
	}
	for late := time.Duration(0); late < 700*time.Millisecond; late += 23 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			p := newPipeline(t, 9, 3, 6)
			r := viaRelays(p, overRelay, direct)
			for _, e := range p.engines {
				e.slow(time.Millisecond)
			}
			for _, pair := range [][2]int{{-1, 0}, {-1, 2}, {0, 1}, {1, 2}, {2, 0}} {
				time.AfterFunc(late, func() { close(r.punched(nodeID(pair[0]), nodeID(pair[1]))) })
			}
			a := askOver(t, p, prompt, n, nil)
			if !slices.Equal(a.ids, want) {
				t.Errorf("after %s: got %v\nwant %v", late, a.ids, want)
			}
			if len(a.out.Recoveries) > 0 {
				t.Errorf("after %s: a move needs no repair: %+v", late, a.out.Recoveries)
			}
			r.end(p)
		})
	}
}

// A relay that cuts its circuits in the middle of a move costs a repair, and no token.
func TestRelayCutsDuringMove(t *testing.T) {
	const n = 60
	prompt := someTokens(7, 60)
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), prompt, n)
	if err != nil {
		t.Fatal(err)
	}
	for late := time.Duration(0); late < 150*time.Millisecond; late += 13 * time.Millisecond {
		for _, pair := range [][2]int{{-1, 2}, {0, 1}, {2, 0}} {
			synctest.Test(t, func(t *testing.T) {
				p := newPipeline(t, 9, 3, 6)
				r := viaRelays(p, overRelay, direct)
				x, y := nodeID(pair[0]), nodeID(pair[1])
				a := askOver(t, p, prompt, n, map[int]func(){20: func() {
					close(r.punched(x, y))
					time.AfterFunc(late, func() { r.cut(x, y) })
				}})
				if !slices.Equal(a.ids, want) {
					t.Errorf("%v cut after %s: got %v\nwant %v", pair, late, a.ids, want)
				}
				r.end(p)
			})
		}
	}
}
