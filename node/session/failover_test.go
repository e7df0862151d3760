package session_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// fleet is a pipeline of which every span is served several times.
type fleet struct {
	*pipeline
	spans    []protocol.Span
	replicas int
	rate     float64       // bytes per second of links from the first stage; 0: no limit
	lag      time.Duration // of what is sent over a link

	mu    sync.Mutex
	down  map[peer.ID]bool    // not to be planned with, as if its offer were gone
	cut   map[[2]peer.ID]bool // pairs between which nothing is delivered any more
	hung  map[peer.ID]bool    // reads and writes nothing
	plans int
}

func newFleet(t testing.TB, blocks, replicas int, cuts ...int) *fleet {
	return fleetOf(t, new(pipeline), blocks, replicas, cuts...)
}

func fleetOf(t testing.TB, p *pipeline, blocks, replicas int, cuts ...int) *fleet {
	f := &fleet{pipeline: p.build(t, blocks, cuts...), replicas: replicas, down: map[peer.ID]bool{}, cut: map[[2]peer.ID]bool{}, hung: map[peer.ID]bool{}}
	for _, h := range f.route {
		f.spans = append(f.spans, h.Span)
	}
	n := len(f.spans)
	for r := 1; r < replicas; r++ {
		for i, span := range f.spans {
			f.addStage(t, nodeID(r*n+i), span, blocks)
		}
	}
	f.net.wrap = f.fragile
	return f
}

// fragile makes a pipe whose ends obey the fleet's faults.
func (f *fleet) fragile(from, to peer.ID) (end, end) {
	slow := f.rate > 0 && slices.ContainsFunc(f.firsts(), func(p peer.ID) bool { return p == from })
	relay := func(dst io.WriteCloser, src net.Conn) {
		if f.lag > 0 {
			dst = late(dst, f.lag)
		}
		buf := make([]byte, 64<<10)
		for {
			n, err := src.Read(buf)
			for f.blocked(from, to) {
				time.Sleep(time.Millisecond)
			}
			if err == nil {
				if slow {
					time.Sleep(time.Duration(float64(n) / f.rate * float64(time.Second)))
				}
				_, err = dst.Write(buf[:n])
			}
			if err != nil {
				_ = dst.Close()
				_ = src.Close()
				return
			}
		}
	}
	x1, x2 := net.Pipe()
	y1, y2 := net.Pipe()
	go relay(y1, x2)
	go relay(x2, y1)
	return end{Conn: x1, peer: to}, end{Conn: y2, peer: from}
}

// late delivers what is written to it a while later, in order, and so does Close.
func late(to io.WriteCloser, by time.Duration) io.WriteCloser {
	l := &lagging{by: by, queue: make(chan parcel, 1<<12), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		defer to.Close()
		for p := range l.queue {
			time.Sleep(time.Until(p.due))
			if _, err := to.Write(p.b); err != nil {
				return
			}
		}
	}()
	return l
}

// lagging is what late returns. It is used by one goroutine.
type lagging struct {
	by     time.Duration
	queue  chan parcel
	closed bool
	done   chan struct{} // nothing is delivered any more
}

type parcel struct {
	due time.Time
	b   []byte
}

func (l *lagging) Write(b []byte) (int, error) {
	select {
	case l.queue <- parcel{time.Now().Add(l.by), slices.Clone(b)}:
		return len(b), nil
	case <-l.done:
		return 0, io.ErrClosedPipe
	}
}

func (l *lagging) Close() error {
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	return nil
}

// firsts are the peers that serve the model's beginning.
func (f *fleet) firsts() (all []peer.ID) {
	for r := range f.replicas {
		all = append(all, nodeID(r*len(f.spans)))
	}
	return all
}

func (f *fleet) blocked(a, b peer.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hung[a] || f.hung[b] || f.cut[[2]peer.ID{a, b}] || f.cut[[2]peer.ID{b, a}]
}

func (f *fleet) set(m map[peer.ID]bool, p peer.ID, on bool) {
	f.mu.Lock()
	m[p] = on
	f.mu.Unlock()
}

// replan takes the first replica that is not to be avoided.
func (f *fleet) replan(_ context.Context, gap session.Gap) ([]session.Hop, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plans++
	var hops []session.Hop
	for at := gap.Span.From; at < gap.Span.To; {
		i := slices.IndexFunc(f.spans, func(s protocol.Span) bool { return s.From == at })
		found := false
		for r := range f.replicas {
			id := nodeID(r*len(f.spans) + i)
			if !f.down[id] && !slices.Contains(gap.Avoid, id) {
				hops = append(hops, session.Hop{Peer: id, Span: f.spans[i]})
				found = true
				break
			}
		}
		if !found {
			return nil, errors.New("nobody serves it")
		}
		at = f.spans[i].To
	}
	return hops, nil
}

// ask is a session that survives; at gets the number of each token.
func (f *fleet) ask(ctx context.Context, prompt []int32, n int, at func(token int)) ([]int32, *session.Outcome, error) {
	var got []int32
	out, err := session.Run(ctx, sessionDialer{dialer{f.net, nodeID(-1)}}, &session.Request{
		Model: f.model, Route: f.route, Prompt: prompt, Chunk: 7, Step: time.Millisecond, Prefill: 10 * time.Millisecond,
		Sampling: inThirds(n, f.format), Replan: f.replan, MaxInFlight: f.inFlight,
	}, func(tok *protocol.Token) error {
		if int(tok.Index) != len(got) {
			return errors.New("a token out of turn")
		}
		got = append(got, tok.Id)
		if at != nil {
			at(len(got))
		}
		return nil
	})
	return got, out, err
}

// Whichever stage is lost, and however, the answer is the undisturbed one.
func TestFailover(t *testing.T) {
	prompt := someTokens(5, 40)
	whole := newPipeline(t, 9, 3, 6)
	whole.format = "2"
	want, err := whole.ask(t.Context(), prompt, 60)
	if err != nil {
		t.Fatal(err)
	}
	faults := map[string]func(f *fleet, i int){
		"its engine is lost": func(f *fleet, i int) {
			f.engines[i].breakNow()
			f.set(f.down, nodeID(i), true)
		},
		"it hangs": func(f *fleet, i int) {
			f.set(f.hung, nodeID(i), true)
			f.set(f.down, nodeID(i), true)
		},
		"it drains": func(f *fleet, i int) { f.stages[i].Drain(true); f.set(f.down, nodeID(i), true) },
		"a link is cut": func(f *fleet, i int) {
			f.mu.Lock()
			f.cut[[2]peer.ID{nodeID(i), nodeID((i + 1) % 3)}] = true
			f.mu.Unlock()
		},
		"its process ends": func(f *fleet, i int) {
			f.set(f.down, nodeID(i), true)
			go f.stages[i].Close(errors.New("killed"))
		},
	}
	for name, fault := range faults {
		for i := range 3 {
			for _, when := range []int{0, 1, 25} { // 0: in the middle of prefill
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					f := newFleet(t, 9, 2, 3, 6)
					f.format = whole.format
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					defer cancel()
					for _, e := range f.engines { // else the ring is far ahead of the client
						e.slow(time.Millisecond)
					}
					if when == 0 {
						go func() {
							for f.stages[2].Status().Rows == 0 {
								time.Sleep(time.Millisecond)
							}
							fault(f, i)
						}()
					}
					got, out, err := f.ask(ctx, prompt, 60, func(n int) {
						if n == when {
							fault(f, i)
						}
					})
					if err != nil || !slices.Equal(got, want) {
						t.Fatalf("stage %d at token %d: %v\n%v\n%v", i, when, err, got, want)
					}
					if len(out.Recoveries) == 0 {
						t.Errorf("stage %d at token %d: nothing was repaired", i, when)
					}
					for _, r := range out.Recoveries {
						t.Logf("stage %d at token %d: %s: stall %s, %d positions again", i, when, r.Why, r.Stall, r.Replayed)
					}
				})
			}
		}
	}
}

// Two losses in a row, a loss while a repair is under way, and all replicas in
// turn.
func TestFailoverAgain(t *testing.T) {
	prompt := someTokens(6, 50)
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), prompt, 80)
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, 9, 4, 3, 6)
	rng := rand.New(rand.NewPCG(8, 8))
	lost := 0
	got, out, err := f.ask(t.Context(), prompt, 80, func(n int) {
		if n%20 != 0 {
			return
		}
		for range 2 { // two at once; of each span one is left
			i := rng.IntN(3)*3 + lost%3
			lost++
			f.set(f.down, nodeID(i), true)
			f.engines[i].breakNow()
		}
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%v\n%v\n%v", err, got, want)
	}
	t.Logf("%d repairs", len(out.Recoveries))
}

// A repair for which there is no way ends the session, and is told of. Before it there may
// be one that succeeded: where the predecessor's word comes first, the stage that it misses
// still answers.
func TestFailoverInVain(t *testing.T) {
	p := newPipeline(t, 6, 2, 4)
	begin := time.Now()
	out, err := session.Run(t.Context(), sessionDialer{dialer{p.net, nodeID(-1)}}, &session.Request{
		Model: p.model, Route: p.route, Prompt: someTokens(7, 30), Sampling: &protocol.Sampling{MaxTokens: 600}, // stages run ahead of the client: it must not have all when one breaks
		Replan: func(context.Context, session.Gap) ([]session.Hop, error) {
			return nil, protocol.Errorf(protocol.Code_CODE_FORBIDDEN, "there is nobody who may")
		},
	}, func(tok *protocol.Token) error {
		if tok.Index == 10 {
			p.engines[1].breakNow()
		}
		return nil
	})
	if err == nil || len(out.Recoveries) == 0 {
		t.Fatalf("%v, %+v", err, out.Recoveries)
	}
	for _, r := range out.Recoveries[:len(out.Recoveries)-1] {
		if r.Failed {
			t.Errorf("the session went on after %+v", r)
		}
	}
	if r := out.Recoveries[len(out.Recoveries)-1]; !r.Failed || r.Code == protocol.Code_CODE_UNKNOWN || r.Begin.Before(begin) || r.Stall <= 0 || r.Token < 10 {
		t.Errorf("%+v", r)
	}
}

// A client whose streams break goes on where it was.
func TestFailoverReconnect(t *testing.T) {
	const tokens = 600 // stages run ahead of the client: it must not have all when the streams break
	prompt := someTokens(7, 30)
	want, err := newPipeline(t, 6, 2, 4).ask(t.Context(), prompt, tokens)
	if err != nil {
		t.Fatal(err)
	}
	p := newPipeline(t, 6, 2, 4)
	d := &breaker{dialer: dialer{p.net, nodeID(-1)}}
	var got []int32
	out, err := session.Run(t.Context(), d, &session.Request{
		Model: p.model, Route: p.route, Prompt: prompt, Sampling: &protocol.Sampling{MaxTokens: tokens},
		Replan: func(_ context.Context, gap session.Gap) ([]session.Hop, error) {
			return nil, errors.New("there is nobody else")
		},
	}, func(tok *protocol.Token) error {
		got = append(got, tok.Id)
		if len(got) == 20 {
			d.breakAll()
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%v\n%v\n%v", err, got, want)
	}
	if len(out.Recoveries) == 0 {
		t.Error("nothing was repaired")
	}
	for _, r := range out.Recoveries {
		if r.Replayed > 3 {
			t.Errorf("%+v: the stages still had everything", r)
		}
	}
	p.empty(t)
}

type breaker struct {
	dialer
	mu  sync.Mutex
	all []session.Stream
}

func (b *breaker) OpenStage(ctx context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	s, err := b.dial(p)
	b.mu.Lock()
	b.all = append(b.all, s)
	b.mu.Unlock()
	return s, err
}

func (b *breaker) breakAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.all {
		_ = s.Close()
	}
}

// Sessions that use more KV than was expected of them are moved or wait, and all
// are answered as if each had been alone.
func TestOverbooked(t *testing.T) {
	const sessions = 7 // of 4,096 cells, each 528 by what is expected, and 1,000 in the end
	f := newFleet(t, 6, 1, 3)
	var wg sync.WaitGroup
	var repairs atomic.Int64
	alone := newPipeline(t, 6)
	var want [sessions][]int32
	for i := range want {
		var err error
		if want[i], err = alone.ask(t.Context(), someTokens(uint64(40+i), 24), 976); err != nil {
			t.Fatal(err)
		}
	}
	var met sync.WaitGroup // all hold so much before any goes on that not all can finish
	met.Add(sessions)
	meet := func(token int) {
		if token == 450 {
			met.Done()
			met.Wait()
		}
	}
	for i := range want {
		wg.Go(func() {
			got, out, err := f.ask(t.Context(), someTokens(uint64(40+i), 24), 976, meet)
			if err != nil || !slices.Equal(got, want[i]) {
				t.Errorf("session %d: %v, %d tokens of %d", i, err, len(got), len(want[i]))
			}
			repairs.Add(int64(len(out.Recoveries)))
		})
	}
	wg.Wait()
	t.Logf("%d repairs", repairs.Load())
	if repairs.Load() == 0 {
		t.Error("there was room for all: nothing was tested")
	}
	f.empty(t)
}

// The beginning of a session that has ended is not computed again for the next.
func TestPrefixKept(t *testing.T) {
	p, other := newPipeline(t, 6, 2, 4), newPipeline(t, 6, 2, 4)
	prompt := someTokens(9, 100)
	rows := func(q *pipeline) (n int64) {
		for _, s := range q.stages {
			n += s.Status().Rows
		}
		return n
	}
	first, err := p.ask(t.Context(), prompt, 40)
	if err != nil {
		t.Fatal(err)
	}
	p.empty(t)
	before := rows(p)
	longer := append(append(slices.Clone(prompt), first...), someTokens(10, 20)...)
	want, err := other.ask(t.Context(), longer, 30)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.ask(t.Context(), longer, 30)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%v\n%v\n%v", err, got, want)
	}
	if again, all := rows(p)-before, rows(other); again > all*2/5 {
		t.Errorf("%d rows were computed for the second turn, %d without the first", again, all)
	}
	// Two at once that begin alike, and one that begins otherwise.
	var wg sync.WaitGroup
	for i := range 6 {
		mine := append(slices.Clone(longer), someTokens(uint64(20+i), 8)...)
		if i == 5 {
			mine[0]++
		}
		want, err := other.ask(t.Context(), mine, 20)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if got, err := p.ask(t.Context(), mine, 20); err != nil || !slices.Equal(got, want) {
				t.Errorf("session %d: %v\n%v\n%v", i, err, got, want)
			}
		})
	}
	wg.Wait()
	p.empty(t)
}

// A thousand sessions opened and dropped at random leave nothing behind.
func TestChurnOfSessions(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	p := newPipeline(t, 6, 2, 4)
	var wg sync.WaitGroup
	gate := make(chan struct{}, 12)
	for i := range 1000 {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			rng := rand.New(rand.NewPCG(uint64(i), 2))
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(30))*time.Millisecond)
			defer cancel()
			_, _ = p.ask(ctx, someTokens(uint64(i%7), 1+rng.IntN(200)), 1+rng.IntN(200))
		})
	}
	wg.Wait()
	p.empty(t)
}
