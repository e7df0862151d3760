package session_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math"
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

// script is what a bad stage does: bytes that choose.
type script []byte

func (s *script) next() int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b)
}

// pick chooses one of a list.
func pick[T any](s *script, list ...T) T { return list[s.next()%len(list)] }

// villain is a stage that computes nothing. What it draws is right, so that an
// answer which differs was put together wrongly; all else it says as it likes.
type villain struct {
	id     peer.ID
	answer []int32

	mu    sync.Mutex
	todo  script
	sent  int    // tokens
	epoch uint64 // of the client's last word
	ended bool   // it has called the answer complete
	wild  bool   // it has sent bytes that may mean anything
	polls int    // Pings answered
}

// mouth is a villain's end of a stream. Nobody who speaks waits for it to be
// heard: who waits for a lock is not waiting in virtual time.
type mouth struct {
	net.Conn
	words chan []byte
}

func (m mouth) say(b []byte) {
	select {
	case m.words <- b:
	default: // he is not listened to
	}
}

func (m mouth) frame(f *protocol.Frame) {
	b, err := protocol.AppendFrame(nil, f, nil)
	if err != nil {
		panic(err)
	}
	m.say(b)
}

func (m mouth) speak(gone chan struct{}) {
	for {
		select {
		case b := <-m.words:
			if _, err := m.Write(b); err != nil {
				return
			}
		case <-gone:
			return
		}
	}
}

// serve acts on one stream: it takes the client's word, then does what is left of
// the script.
func (v *villain) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	manner := v.step(func(s *script) []byte {
		return []byte{byte(s.next())}
	})[0]
	m := mouth{conn, make(chan []byte, 100)}
	opened, gone := make(chan struct{}), make(chan struct{})
	go m.speak(gone)
	go func() {
		v.listen(m, manner, opened)
		close(gone)
	}()
	<-opened
	if manner%4 > 0 {
		m.frame(&protocol.Frame{Kind: &protocol.Frame_Opened{Opened: &protocol.Opened{Format: true}}})
	}
	for b := v.step(v.act); b != nil; b = v.step(v.act) {
		m.say(b)
		select {
		case <-gone:
			return
		case <-time.After(time.Millisecond):
		}
	}
	if manner/4%2 == 1 { // it is silent from now on
		<-gone
	}
}

// step takes of the script under its lock: two streams may be open for a moment.
func (v *villain) step(f func(*script) []byte) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return f(&v.todo)
}

// listen reads what the client says, to the end, and by its manner answers some.
func (v *villain) listen(m mouth, manner byte, opened chan struct{}) {
	r := bufio.NewReader(m)
	for first := true; ; first = false {
		f, _, err := protocol.ReadFrame(r, math.MaxInt32)
		if first {
			close(opened)
		}
		if err != nil {
			return
		}
		v.mu.Lock()
		switch k := f.Kind.(type) {
		case *protocol.Frame_Open:
			v.epoch = k.Open.Epoch
		case *protocol.Frame_Halt:
			v.epoch = k.Halt.Epoch
		case *protocol.Frame_Ping:
			v.polls++
		}
		epoch, polls := v.epoch, v.polls
		v.mu.Unlock()
		switch {
		case f.GetPing() != nil && manner/8%2 == 1:
			m.frame(&protocol.Frame{Kind: &protocol.Frame_Pong{Pong: &protocol.Pong{Epoch: epoch, Computing: true, Waiting: 1, Passes: uint64(polls)}}})
		case f.GetHalt() != nil && manner/16%2 == 1:
			m.frame(&protocol.Frame{Kind: &protocol.Frame_Halted{Halted: &protocol.Halted{Epoch: epoch, Length: uint32(manner / 32), CanReplay: true}}})
		}
	}
}

// act is the script's next word in bytes; nil: there is none, as at its end.
func (v *villain) act(s *script) []byte {
	op := s.next() % 16
	if op == 0 {
		return nil // it leaves off here; another stream may go on
	}
	switch op {
	case 1, 2:
		v.mu.Unlock()
		time.Sleep(time.Duration(s.next()%50) * 10 * time.Millisecond)
		v.mu.Lock()
		return []byte{}
	case 3: // whatever the bytes are
		n := min(s.next()%16, len(*s))
		b := slices.Clone((*s)[:n])
		*s = (*s)[n:]
		v.wild = true
		return b
	}
	b, err := protocol.AppendFrame(nil, v.frame(s), nil)
	if err != nil {
		panic(err)
	}
	if op == 4 { // a part, which what comes next completes
		v.wild = true
		b = b[:len(b)*s.next()/256]
	}
	return b
}

func (v *villain) frame(s *script) *protocol.Frame {
	f := &protocol.Frame{}
	epoch := pick(s, v.epoch, v.epoch, v.epoch, 0, 1, v.epoch+1, math.MaxUint64)
	number := pick[uint32](s, 0, 1, 4, 9, 10, 15, 22, math.MaxUint32)
	code := pick(s, protocol.Code_CODE_PEER_LOST, protocol.Code_CODE_DRAINING, protocol.Code_CODE_BUSY, protocol.Code_CODE_ENGINE, protocol.Code_CODE_STALE_EPOCH, protocol.Code_CODE_UNKNOWN, 999)
	some := s.next()%2 == 1
	switch s.next() % 10 {
	case 0, 1, 2:
		at := pick(s, v.sent, v.sent, v.sent, 0, v.sent+1, math.MaxUint32)
		tok := &protocol.Token{Epoch: epoch, Index: uint32(at), Id: v.answer[at%len(v.answer)]}
		if at == v.sent {
			v.sent++
		}
		if s.next()%8 == 7 {
			tok.Finish, v.ended = protocol.Finish_FINISH_STOP, true
		}
		f.Kind = &protocol.Frame_Token{Token: tok}
	case 3, 4:
		f.Kind = &protocol.Frame_Pong{Pong: &protocol.Pong{Epoch: epoch, Length: number, Waiting: uint32(s.next() % 3), Computing: some, Passes: uint64(s.next())}}
	case 5:
		f.Kind = &protocol.Frame_Halted{Halted: &protocol.Halted{Epoch: epoch, Length: number, CanReplay: some, Floor: number % 100}}
	case 6:
		f.Kind = &protocol.Frame_Trouble{Trouble: &protocol.Trouble{Epoch: epoch, Code: code, Successor: some}}
	case 7:
		f.Kind = &protocol.Frame_Fail{Fail: &protocol.Fail{Code: code, Message: "no", RetryAfterMs: number}}
	case 8:
		f.Kind = &protocol.Frame_Opened{Opened: &protocol.Opened{Cached: number, Format: some, Floor: number % 100}}
	default: // of those that a client says
		f = pick(s, f, &protocol.Frame{Kind: &protocol.Frame_Ping{Ping: &protocol.Ping{}}}, &protocol.Frame{Kind: &protocol.Frame_Halt{Halt: &protocol.Halt{Epoch: epoch}}},
			&protocol.Frame{Kind: &protocol.Frame_Bye{Bye: &protocol.Bye{}}}, &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{Epoch: epoch, Rows: number}}})
	}
	return f
}

// amongVillains opens streams to good stages and to bad ones.
type amongVillains struct {
	dialer
	bad map[peer.ID]*villain
}

func (d amongVillains) OpenStage(_ context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	v := d.bad[p]
	if v == nil {
		return d.dial(p)
	}
	x, y := net.Pipe()
	go v.serve(y)
	return end{x, p, protocol.StageID, nil}, nil
}

// amidVillains is a pipeline of two halves that may also be served by villains,
// who take what good stages send them.
func amidVillains(t *testing.T, raw script, answer []int32) (*pipeline, amongVillains) {
	p := newPipeline(t, 6, 3)
	d := amongVillains{dialer{p.net, nodeID(-1)}, map[peer.ID]*villain{}}
	cut := min(len(raw), raw.next())
	for i, todo := range []script{raw[:min(cut, len(raw))], raw[min(cut, len(raw)):]} {
		v := &villain{id: nodeID(100 + i), answer: answer, todo: todo}
		d.bad[v.id], p.net.servers[v.id] = v, p.net.servers[nodeID(i)]
	}
	p.net.wrap = func(from, to peer.ID) (end, end) {
		x, y := net.Pipe()
		if d.bad[to] != nil {
			go func() { _, _ = io.Copy(io.Discard, y) }()
			_, nothing := net.Pipe() // for the server that it is not meant for
			_ = nothing.Close()
			return end{x, to, protocol.StageID1, nil}, end{nothing, from, protocol.StageID1, nil}
		}
		return end{x, to, protocol.StageID, nil}, end{y, from, protocol.StageID, nil}
	}
	return p, d
}

// FuzzClientMachine: whatever stages say, in whatever order, a session ends in
// good time; what it gives is the right answer or the beginning of it, in order
// and once, and whole where it says so; and good stages beside are free again.
func FuzzClientMachine(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "100x") // else a minute for each new input
	prompt, n := someTokens(3, 10), 12
	want, err := newPipeline(f, 6).ask(f.Context(), prompt, n)
	if err != nil {
		f.Fatal(err)
	}
	// How the session is set up, how long the first villain's script is, and the scripts.
	seed := func(how, patience byte, first []byte, second ...byte) {
		f.Add(slices.Concat([]byte{how, patience, byte(len(first))}, first, second))
	}
	token := []byte{5, 0, 0, 0, 0, 0, 0, 0}
	pong := []byte{5, 0, 2, 0, 1, 3, 1, 7}
	say := func(kind, epoch, number, code, some byte) []byte { return []byte{5, epoch, number, code, some, kind} }
	wait := []byte{1, 20}
	all := slices.Concat([]byte{1 + 8 + 16}, token, token, wait, token, pong, token, wait)
	for how := range byte(12) {
		seed(how, 0, nil)
		seed(how, 0, all, all...)
		seed(how, 0, slices.Concat([]byte{1}, say(6, 0, 0, 0, 1), wait, say(5, 0, 4, 0, 1), say(6, 0, 0, 1, 0), wait), slices.Concat([]byte{1 + 16}, token, say(6, 0, 0, 0, 0), wait, token, say(7, 0, 0, 3, 0))...)
		seed(how, 30, slices.Concat([]byte{5 + 8}, wait, wait), slices.Concat([]byte{1 + 8}, token, wait, token, token, []byte{5, 0, 0, 0, 0, 0, 0, 7})...)
	}
	seed(1, 0, []byte{0, 3, 4, 255, 255, 255, 255}, slices.Concat([]byte{1, 4, 0, 0, 0, 0, 0, 0, 0, 100}, wait)...)
	f.Add([]byte("\x01\x00\a\x00\x03\xff\xff\xff\xff\xff\x1d\x00d")) // claims to work for ever
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 400 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			s := script(raw)
			how, patience := s.next(), s.next()
			p, d := amidVillains(t, s, want)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if patience > 0 {
				defer time.AfterFunc(time.Duration(patience)*20*time.Millisecond, cancel).Stop()
			}
			bad := []bool{how%3 != 1, how%3 != 0} // which halves villains serve at first
			hop := func(i int, bad bool) session.Hop {
				if bad {
					return session.Hop{Peer: nodeID(100 + i), Span: p.route[i].Span}
				}
				return p.route[i]
			}
			req := &session.Request{
				Model: p.model, Route: []session.Hop{hop(0, bad[0]), hop(1, bad[1])}, Prompt: prompt, Chunk: 4,
				Step: 5 * time.Millisecond, Prefill: 20 * time.Millisecond, Sampling: &protocol.Sampling{MaxTokens: uint32(n)},
			}
			tries := how / 3 % 4 // plans that give villains again; 3: there is no other plan at all
			if tries < 3 {
				req.Replan = func(_ context.Context, gap session.Gap) (hops []session.Hop, _ error) {
					for i, h := range p.route {
						if gap.Span.Contains(h.Span) {
							hops = append(hops, hop(i, tries > 0))
						}
					}
					tries--
					return hops, nil
				}
			}
			var got []int32
			begin := time.Now()
			out, err := session.Run(ctx, d, req, func(tok *protocol.Token) error {
				if int(tok.Index) != len(got) {
					return fmt.Errorf("token %d, where %d was due", tok.Index, len(got))
				}
				got = append(got, tok.Id)
				return nil
			})
			if took := time.Since(begin); took > 5*time.Minute {
				t.Errorf("it took %s", took)
			}
			a, b := d.bad[nodeID(100)], d.bad[nodeID(101)]
			wild := a.wild || b.wild
			if out.Tokens != len(got) || len(got) > n || !wild && !slices.Equal(got, want[:len(got)]) {
				t.Errorf("%d tokens %v, not the beginning of %v", out.Tokens, got, want)
			}
			if err == nil && len(got) < n && !wild && !a.ended && !b.ended {
				t.Errorf("an answer of %d tokens is called complete", len(got))
			}
			cancel()
			time.Sleep(10 * time.Second) // silence and last words
			p.empty(t)
		})
	})
}
