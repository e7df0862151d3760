package stage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// shared is a stage of a whole model for 8 sessions of full length.
func shared(t *testing.T, change func(*Config)) (*Stage, *Server) {
	t.Helper()
	cfg := Config{
		Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 0, To: 4}, Blocks: 4, Width: 8, Vocab: 100,
		KVTokens: 4096, MaxSeqs: 32, MaxBatch: 128, MaxContext: 512, Dir: t.TempDir(),
		Lending: lender{"own": {Class: "own", Own: true, Share: 1}},
	}
	change(&cfg)
	s := New(cfg, counting{}, nobody{})
	t.Cleanup(func() { s.Close(errors.New("the test is over")) })
	v := NewServer(nil, func(p peer.ID) bool { return p == "own" })
	v.Add(s)
	return s, v
}

// lender grants some peers what it says, and others a fifth.
type lender map[peer.ID]Grant

func (l lender) Grant(c Client, _ Want) (Grant, *protocol.Error) {
	if g, ok := l[c.Peer]; ok {
		return g, nil
	}
	return Grant{Class: "strangers", Share: 0.2}, nil
}

func (l lender) Seat(c Client, w Want, _ [16]byte) (Seat, Grant, *protocol.Error) {
	g, e := l.Grant(c, w)
	return freely{}, g, e
}

// talk is a client's end of a session.
type talk struct {
	net.Conn
	frames chan *protocol.Frame // all but Pong; closed when the stream ends
}

// begin opens a session and keeps it alive, as a client does that has nothing to
// say but Ping, until its stage ends it or ctx does.
func begin(t *testing.T, ctx context.Context, v *Server, p peer.ID, o *protocol.Open) *talk {
	client, server := net.Pipe()
	go v.Serve(wire{server, p})
	k := &talk{client, make(chan *protocol.Frame, 1000)}
	stop := context.AfterFunc(ctx, func() { _ = client.Close() })
	go func() {
		defer close(k.frames)
		defer stop()
		for r := bufio.NewReader(client); ; {
			f, _, err := protocol.ReadFrame(r, 0)
			if err != nil {
				return
			}
			if f.GetPong() == nil {
				k.frames <- f
			}
		}
	}()
	if !k.say(t, &protocol.Frame{Kind: &protocol.Frame_Open{Open: o}}) {
		return k
	}
	go func() {
		for k.say(t, &protocol.Frame{Kind: &protocol.Frame_Ping{Ping: &protocol.Ping{}}}) {
			time.Sleep(250 * time.Millisecond)
		}
	}()
	return k
}

func (k *talk) say(t *testing.T, f *protocol.Frame) bool {
	_, err := k.Write(framed(t, f))
	return err == nil
}

func someOpen(s *Stage, total int, id uint16) *protocol.Open {
	o := open(total, byte(id))
	o.Session[0] = byte(id >> 8)
	o.Model = s.cfg.Model.Bytes()
	o.Sampling.StopIds, o.Sampling.PromptTokens, o.Sampling.MaxTokens = nil, 3, uint32(total-3)
	return o
}

var threeTokens = &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{Rows: 3, Tokens: []int32{1, 2, 3}, Sample: true}}}

// prompt is how long an honest client waits for its first token, coming again
// whenever it is told to.
func prompt(t *testing.T, ctx context.Context, s *Stage, v *Server, p peer.ID, id uint16) (time.Duration, error) {
	for begun := time.Now(); ; id++ {
		ctx, done := context.WithCancel(ctx)
		k := begin(t, ctx, v, p, someOpen(s, 512, id))
		for f := range k.frames {
			switch {
			case f.GetOpened() != nil:
				k.say(t, threeTokens)
			case f.GetToken() != nil:
				done()
				return time.Since(begun), nil
			case f.GetFail() != nil:
				time.Sleep(min(time.Duration(f.GetFail().RetryAfterMs)*time.Millisecond, 500*time.Millisecond))
			}
		}
		done()
		if time.Since(begun) > time.Minute {
			return 0, errors.New("no token within a minute")
		}
	}
}

// Strangers that open all the sessions they can, and again when they lose one,
// and never use one, hold up nobody.
func TestHolders(t *testing.T) {
	for _, holders := range []int{1, 20} {
		t.Run(fmt.Sprint(holders), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, v := shared(t, func(c *Config) { c.MaxSeqs = 12 })
				ctx, cancel := context.WithCancel(t.Context())
				for h := range holders {
					for i := range 12 {
						go func() {
							for n := 0; ctx.Err() == nil; n++ {
								k := begin(t, ctx, v, peer.ID(fmt.Sprint("holder ", h)), someOpen(s, 512, uint16(1000+h*100+i)))
								for range k.frames { // until it is refused or ended
								}
								time.Sleep(500 * time.Millisecond)
							}
						}()
					}
				}
				time.Sleep(2 * firstStep) // what they are is known
				for n := range 3 {        // at any time
					time.Sleep(1300 * time.Millisecond)
					for _, p := range []peer.ID{"own", "stranger"} {
						took, err := prompt(t, ctx, s, v, p, uint16(n*10))
						t.Logf("%s after %s", p, took)
						if err != nil || took > 2*time.Second {
							t.Errorf("%s waits for %s: %v; %+v", p, took, err, s.Status())
						}
					}
				}
				cancel()
				time.Sleep(10 * time.Second)
			})
		})
	}
}

// steady is a session that is at work until it is ended: each token is a step.
func steady(t *testing.T, ctx context.Context, s *Stage, v *Server, p peer.ID, id uint16) (opened bool, k *talk) {
	k = begin(t, ctx, v, p, someOpen(s, 200, id))
	f := <-k.frames
	return f.GetOpened() != nil && k.say(t, threeTokens), k
}

// One client may have all there is while nobody else wants it, and no more than
// its share then; and nobody drives another below his.
func TestBorrowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v := shared(t, func(c *Config) { c.MaxSeqs = 8; c.KVTokens = 8192 })
		ctx, cancel := context.WithCancel(t.Context())
		admitted := func(p peer.ID, from, n int) (in int) {
			for i := range n {
				if ok, _ := steady(t, ctx, s, v, p, uint16(from+i)); ok {
					in++
				}
			}
			return in
		}
		count := func(p peer.ID) (n int) {
			for _, sess := range s.all() {
				if sess.peer == p {
					n++
				}
			}
			return n
		}
		if n := admitted("first", 0, 9); n != 7 {
			t.Fatalf("a client alone has %d of 8 sessions, of which one is kept for others", n)
		}
		if n := admitted("second", 100, 5); n != 2 || count("second") != 2 {
			t.Errorf("another, with a right to two, has %d", n)
		}
		if n := admitted("third", 200, 5); n != 2 || count("first") != 3 {
			t.Errorf("a third has %d, and the first has %d left", n, count("first"))
		}
		if n := admitted("own", 300, 2); n != 2 || count("first") != 2 || count("second") != 2 || count("third") != 2 {
			t.Errorf("the operator's own has %d, and the others %d, %d, %d", n, count("first"), count("second"), count("third"))
		}
		if n := admitted("own", 310, 3); n != 3 || count("first") != 2 || count("second") != 1 || count("third") != 0 {
			t.Errorf("then %d more, and the others %d, %d, %d", n, count("first"), count("second"), count("third"))
		}
		if n := admitted("fourth", 400, 1); n != 0 {
			t.Errorf("where all are within their shares and at work, %d were driven out", n)
		}
		cancel()
		time.Sleep(10 * time.Second)
	})
}

// The operator's own prompt finds room though all is taken by strangers who are
// within their shares.
func TestFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v := shared(t, func(c *Config) { c.MaxSeqs = 8; c.KVTokens = 8192 })
		ctx, cancel := context.WithCancel(t.Context())
		for i := range uint16(7) {
			if ok, _ := steady(t, ctx, s, v, peer.ID(fmt.Sprint("stranger ", i/2)), i); !ok {
				t.Fatal("a stranger finds no room")
			}
		}
		for i := range uint16(8) {
			if ok, _ := steady(t, ctx, s, v, "own", 100+i); !ok {
				t.Error("one's own prompt finds no room: ", i)
			}
		}
		cancel()
		time.Sleep(10 * time.Second)
	})
}

// Who opens a session has to begin with it, and Ping is no work: it goes when
// somebody waits, and one that does not begin goes at once.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v := shared(t, func(c *Config) { c.MaxSeqs = 2 })
		ctx, cancel := context.WithCancel(t.Context())
		never := begin(t, ctx, v, "a", someOpen(s, 64, 1))
		time.Sleep(firstStep + time.Second)
		<-never.frames
		if f := <-never.frames; f.GetFail().GetCode() != protocol.Code_CODE_TIMEOUT {
			t.Errorf("no step in %s: %v", firstStep, f)
		}
		waiting := someOpen(s, 64, 2)
		waiting.Wait = true
		taking := begin(t, ctx, v, "b", waiting)
		time.Sleep(resumeTime - time.Second)
		if n := s.Status().Sessions; n != 1 {
			t.Errorf("a stage that takes over is given %s: %d sessions", resumeTime, n)
		}
		time.Sleep(2 * time.Second)
		<-taking.frames
		if f := <-taking.frames; f.GetFail().GetCode() != protocol.Code_CODE_TIMEOUT {
			t.Errorf("no Resume in %s: %v", resumeTime, f)
		}
		for i := range uint16(2) { // that end their turn, and stay
			k := begin(t, ctx, v, peer.ID(fmt.Sprint("c", i)), someOpen(s, 64, 3+i))
			<-k.frames
			k.say(t, &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{Rows: 1, Tokens: []int32{1}}}})
		}
		if took, err := prompt(t, ctx, s, v, "d", 10); err != nil || took < idleTime || took > idleTime+time.Second {
			t.Errorf("room among those that work no more after %s: %v", took, err)
		}
		cancel()
		time.Sleep(10 * time.Second)
	})
}

// A session that is opened twice while it waits for room is opened once.
func TestSameOpenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pass := make(chan struct{})
		s := New(Config{
			Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 0, To: 4}, Blocks: 4, Width: 8, Vocab: 100,
			KVTokens: 2048, MaxSeqs: 3, MaxBatch: 128, MaxContext: 512, Dir: t.TempDir(),
		}, gated{pass: pass}, nobody{})
		v := NewServer(nil, nil)
		v.Add(s)
		ctx, cancel := context.WithCancel(t.Context())
		for i := range uint16(2) {
			idle := begin(t, ctx, v, peer.ID(fmt.Sprint("idle ", i)), someOpen(s, 64, i))
			<-idle.frames
		}
		time.Sleep(idleTime)
		if ok, _ := steady(t, ctx, s, v, "busy", 2); !ok { // its pass goes on, and the others' slots do not come free
			t.Fatal("no room for three")
		}
		said := map[string]int{}
		for range 2 {
			k := begin(t, ctx, v, "new", someOpen(s, 64, 3))
			go func() { f := <-k.frames; s.mu.Lock(); said[fmt.Sprintf("%T", f.GetKind())]++; s.mu.Unlock() }()
		}
		time.Sleep(yieldTime / 2)
		close(pass)
		time.Sleep(100 * time.Millisecond)
		s.mu.Lock()
		cells, opened := 0, 0
		for _, sess := range s.sessions { // the two may have had one idle session give way, or both
			cells += sess.cells
			if sess.peer == "new" {
				opened++
			}
		}
		if len(said) != 2 || opened != 1 || len(s.sessions)+len(s.free) != 3 || cells != s.kvUsed {
			t.Errorf("%v; %d of %d sessions, %d free slots, %d cells of %d", said, opened, len(s.sessions), len(s.free), cells, s.kvUsed)
		}
		s.mu.Unlock()
		cancel()
		time.Sleep(10 * time.Second)
		s.Close(errors.New("the test is over"))
	})
}

// Sessions that use more than was expected of them come to an end, one after the
// other, and never all wait for each other.
func TestOvercommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v := shared(t, func(c *Config) { c.KVTokens = 1024 })
		ctx, cancel := context.WithCancel(t.Context())
		var all []*talk
		for i := range uint16(4) { // 272 expected of each, and all use 512
			k := begin(t, ctx, v, peer.ID(fmt.Sprint("peer ", i%2)), someOpen(s, 512, i))
			if f := <-k.frames; f.GetOpened() == nil {
				break
			}
			k.say(t, threeTokens)
			all = append(all, k)
		}
		if len(all) != 3 {
			t.Fatalf("%d sessions were let in", len(all))
		}
		ended := map[string]int{}
		for _, k := range all {
			for f := range k.frames {
				switch {
				case f.GetToken().GetFinish() != protocol.Finish_FINISH_NONE:
					ended["whole"]++
					k.say(t, &protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{}}})
				case f.GetFail() != nil:
					ended[f.GetFail().Code.Name()]++
				}
				s.mu.Lock()
				used := s.kvUsed
				s.mu.Unlock()
				if used > s.cfg.KVTokens {
					t.Fatalf("%d cells are taken", used)
				}
			}
		}
		if ended["whole"] < 2 || ended["whole"]+ended["busy"] != 3 {
			t.Errorf("%v", ended)
		}
		t.Log(ended)
		cancel()
		time.Sleep(10 * time.Second)
	})
}

// Many sessions of one peer get as much of the passes as one of another, and
// within a peer who has waited longest is first.
func TestTurns(t *testing.T) {
	s := newStage(t)
	s.cancel(errors.New("the loop is this test"))
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*session
	for i := range 9 {
		sess := &session{group: "many", seq: i, pending: []*step{{turn: uint64(100 - i)}}}
		if i == 8 {
			sess.group = "one"
		}
		list = append(list, sess)
	}
	taken := map[string]int{}
	var order []int
	for range 12 { // one a pass
		s.takeTurns(list)
		sess := list[0]
		s.takes++
		s.served[sess.group] = s.takes
		sess.pending[0].turn = 100 + s.takes
		taken[sess.group]++
		if sess.group == "many" {
			order = append(order, sess.seq)
		}
	}
	if taken["one"] != 6 || !slices.Equal(order, []int{7, 6, 5, 4, 3, 2}) {
		t.Errorf("%v, the many in the order %v", taken, order)
	}
}

// What a peer has kept, within its share, does not go for one beyond his.
func TestKeptOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := shared(t, func(c *Config) { c.MaxSeqs = 8; c.KVTokens = 2048 })
		keep := func(group string, seq, tokens int) {
			s.kept = append(s.kept, &kept{group: group, since: time.Now(), tokens: tokens, seq: seq})
			s.kvKept += tokens
			s.free = slices.DeleteFunc(s.free, func(x int) bool { return x == seq })
		}
		s.mu.Lock()
		keep("a", 0, 320)
		keep("b", 1, 320)
		keep("b", 2, 320)
		keep("b", 3, 320)
		left := func() (groups []string) {
			for _, k := range s.kept {
				groups = append(groups, k.group)
			}
			return groups
		}
		greedy := applicant{group: "c", slots: 1, need: 1000, first: 1800}
		if s.evict(greedy, time.Now()) || !slices.Equal(left(), []string{"a", "b"}) {
			t.Errorf("beyond its share, others' beginnings were given up down to %v", left())
		}
		if modest := (applicant{group: "c", slots: 1, need: 500, first: 1500}); !s.evict(modest, time.Now()) || len(s.kept) != 1 {
			t.Errorf("within its share, %v are left", left())
		}
		s.mu.Unlock()
		time.Sleep(keptTime + time.Second)
		s.mu.Lock()
		defer s.mu.Unlock()
		if greedy.first = 2048; !s.evict(greedy, time.Now()) || len(s.kept) != 0 {
			t.Errorf("after %s, %v are left", keptTime, left())
		}
	})
}

// TestLimit: a lower limit of sessions holds from then on; those that are open go on.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, v := shared(t, func(*Config) {})
		ctx, cancel := context.WithCancel(t.Context())
		opened := func(id uint16) bool {
			ok, _ := steady(t, ctx, s, v, peer.ID(fmt.Sprint("peer ", id)), id)
			return ok
		}
		if !opened(1) || !opened(2) || !opened(3) {
			t.Fatal("no room for three of 32")
		}
		s.Limit(2)
		if opened(4) || s.Status().Sessions != 3 {
			t.Errorf("%d sessions at a limit of 2, which came when 3 were open", s.Status().Sessions)
		}
		s.Limit(4)
		if !opened(5) || opened(6) {
			t.Errorf("%d sessions at a limit of 4", s.Status().Sessions)
		}
		s.Limit(100)
		if !opened(7) {
			t.Error("a limit above what the engine has room for leaves no room")
		}
		cancel()
		time.Sleep(10 * time.Second)
		s.Close(errors.New("the test is over"))
	})
}
