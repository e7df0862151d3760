package stage_test

import (
	"bufio"
	"context"
	"errors"
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

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
)

const (
	fuzzWidth = 32 // of which Q8_0 makes whole blocks
	fuzzVocab = 97
	fuzzKV    = 256
	fuzzSeqs  = 4
)

// ordered is an engine whose numbers depend on all earlier positions of a slot,
// and that will have none computed out of turn.
type ordered struct {
	t    *testing.T
	last bool
	mu   sync.Mutex
	kv   map[int][]float64
}

func (e *ordered) Remove(seq int, from int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kv[seq] = e.kv[seq][:min(int(from), len(e.kv[seq]))]
	return nil
}

func (e *ordered) CopyPrefix(src, dst int, n int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.kv[src]) < int(n) || len(e.kv[dst]) > 0 {
		e.t.Errorf("%d positions of slot %d with %d go to slot %d with %d", n, src, len(e.kv[src]), dst, len(e.kv[dst]))
	}
	e.kv[dst] = slices.Clone(e.kv[src][:n])
	return nil
}

func (e *ordered) Run(_ context.Context, p *engine.Batch) (*engine.Result, error) {
	time.Sleep(5 * time.Millisecond)
	e.mu.Lock()
	defer e.mu.Unlock()
	res := &engine.Result{Hidden: make([]float32, len(p.Rows)*fuzzWidth)}
	for i, row := range p.Rows {
		past := e.kv[row.Seq]
		if len(past) != int(row.Pos) {
			e.t.Errorf("position %d of slot %d, which has %d", row.Pos, row.Seq, len(past))
			return nil, engine.ErrLost
		}
		var v float64
		if p.Tokens != nil {
			v = float64(p.Tokens[i])
		} else {
			v = float64(p.Hidden[i*fuzzWidth])
		}
		v = mix(past, v)
		e.kv[row.Seq] = append(past, v)
		res.Hidden[i*fuzzWidth] = float32(v)
	}
	if !e.last {
		return res, nil
	}
	for _, d := range p.Outputs {
		res.Tokens = append(res.Tokens, sample.Token{ID: int32(int(res.Hidden[d.Row*fuzzWidth]) % fuzzVocab)})
	}
	res.Hidden = nil
	return res, nil
}

// mix is a position's value, after those before it.
func mix(past []float64, in float64) float64 {
	if math.IsNaN(in) || math.IsInf(in, 0) {
		in = 1
	}
	v := math.Mod(math.Abs(in), 9973)
	if len(past) > 0 {
		v += 31 * past[len(past)-1]
	}
	return math.Mod(math.Floor(v), 9973)
}

// answer is what two stages of that engine say to a prompt.
func answer(prompt []int32, n int) (out []int32) {
	var first, last []float64
	ids := slices.Clone(prompt)
	for i := range len(prompt) + n - 1 {
		first = append(first, mix(first, float64(ids[i])))
		last = append(last, mix(last, first[i]))
		if i >= len(prompt)-1 {
			ids = append(ids, int32(int(last[i])%fuzzVocab))
		}
	}
	return ids[len(prompt):]
}

// pipeEnd is an end of a stream in memory.
type pipeEnd struct {
	net.Conn
	peer  peer.ID
	proto string
}

func (e pipeEnd) Reset() error            { return e.Close() }
func (e pipeEnd) Relayed() bool           { return false }
func (e pipeEnd) Better() <-chan struct{} { return nil }

func (e pipeEnd) Peer() peer.ID { return e.peer }

func (e pipeEnd) Protocol() string { return e.proto }
func (pipeEnd) Swarm() string      { return "" }

func peerOf(name string) peer.ID {
	mh, err := multihash.Sum([]byte(name), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return peer.ID(mh)
}

var (
	theNode  = peerOf("node")
	honest   = peerOf("honest")
	badPeer  = peerOf("bad")
	theModel = protocol.ModelKey(cid.Undef)
)

// arena is a node with both halves of a model, and the peers around it.
type arena struct {
	srv    *stage.Server
	stages []*stage.Stage
	deaf   bool // the bad peer does not read what stages dial it for
	old    bool // nor knows of credit
}

// dial gives from's end of a stream to a peer.
func (a *arena) dial(from, to peer.ID) (pipeEnd, error) {
	x, y := net.Pipe()
	proto := protocol.StageID
	if a.old && (from == badPeer || to == badPeer) {
		proto = protocol.StageID1
	}
	switch {
	case to == theNode:
		go a.srv.Serve(pipeEnd{y, from, proto})
	case to == badPeer && !a.deaf:
		go func() { _, _ = io.Copy(io.Discard, y) }()
	case to != badPeer:
		return pipeEnd{}, errors.New("nobody is there")
	}
	return pipeEnd{x, to, proto}, nil
}

type fromNode struct{ *arena }

func (d fromNode) OpenStage(_ context.Context, _ string, p peer.ID, _ []byte) (stage.Stream, error) {
	return d.dial(theNode, p)
}

type fromClient struct{ *arena }

func (d fromClient) OpenStage(_ context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	return d.dial(honest, p)
}

func (fromClient) Self() peer.ID { return honest }

func newArena(t *testing.T, dir string) *arena {
	a := &arena{srv: stage.NewServer(nil, nil)}
	for i := range 2 {
		e := &ordered{t: t, last: i == 1, kv: map[int][]float64{}}
		s := stage.New(stage.Config{
			Model: theModel, Span: protocol.Span{From: 2 * i, To: 2*i + 2}, Blocks: 4, Width: fuzzWidth, Vocab: fuzzVocab,
			KVTokens: fuzzKV, MaxSeqs: fuzzSeqs, MaxBatch: 16, MaxContext: 128, Dir: dir,
			Rollback: 16, Guess: func(most int) stage.Guesser { return &coin{most: most} },
		}, e, fromNode{a})
		a.stages = append(a.stages, s)
		a.srv.Add(s)
	}
	return a
}

// ask has the honest client's session run to its end.
func (a *arena) ask(ctx context.Context, prompt []int32, n int) (got []int32, err error) {
	req := &session.Request{
		Model: theModel, Prompt: prompt, Chunk: 4, Sampling: &protocol.Sampling{MaxTokens: uint32(n)}, MaxInFlight: 8,
		Route: []session.Hop{{Peer: theNode, Span: protocol.Span{From: 0, To: 2}}, {Peer: theNode, Span: protocol.Span{From: 2, To: 4}}},
	}
	_, err = session.Run(ctx, fromClient{a}, req, func(tok *protocol.Token) error {
		if int(tok.Index) != len(got) {
			return fmt.Errorf("token %d, where %d was due", tok.Index, len(got))
		}
		got = append(got, tok.Id)
		return nil
	})
	return got, err
}

// script is what a bad peer does: bytes that choose.
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

func (s *script) epoch() uint64  { return pick[uint64](s, 1, 1, 2, 3, 4, 0, math.MaxUint64) }
func (s *script) number() uint32 { return pick[uint32](s, 0, 1, 2, 4, 8, 16, 100, 128, math.MaxUint32) }

func (s *script) session() []byte { return append(make([]byte, 15), byte(s.next()%3)) }

func (s *script) prefix() []uint64 { return make([]uint64, pick(s, 0, 0, 1, 2, 5)) }

func (s *script) hop() *protocol.Hop {
	p := pick(s, theNode, badPeer, honest, "", "no peer")
	if p == "" {
		return nil
	}
	return &protocol.Hop{Peer: []byte(p), Index: uint32(s.next() % 3), Addrs: [][]byte{{4, 127, 0, 0, 1, 6, 0, 80}}, Offer: []byte("none")}
}

func (s *script) sampling() *protocol.Sampling {
	p := &protocol.Sampling{MaxTokens: s.number(), PromptTokens: s.number(), Temperature: pick[float32](s, 0, 1, float32(math.NaN()))}
	for range s.next() % 4 {
		p.Sampled = append(p.Sampled, int32(s.next()))
		p.StopIds = append(p.StopIds, int32(s.next()))
	}
	return p
}

func (s *script) tokens(n uint32) (out []int32) {
	for range min(n, 20) {
		out = append(out, int32(s.next()%100))
	}
	return out
}

// frame is one of any kind, as likely one that is due as not.
func (s *script) frame() (*protocol.Frame, []byte) {
	f := &protocol.Frame{}
	var payload []byte
	switch s.next() % 13 {
	case 0, 1:
		half := uint32(s.next() % 2)
		f.Kind = &protocol.Frame_Open{Open: &protocol.Open{
			Session: s.session(), Model: theModel.Bytes(), From: 2 * half, To: 2*half + 2, Index: half, Stages: 1 + uint32(s.next()+1)%3,
			Next: s.hop(), Epoch: s.epoch(), MaxTokensTotal: pick[uint32](s, 16, 64, 128, 1, math.MaxUint32), Sampling: s.sampling(),
			Codec: protocol.TensorCodec(s.next() % 4), Prev: []byte(pick(s, theNode, badPeer)), Wait: s.next()%3 == 1, Again: s.next()%3 == 1, Prefix: s.prefix(),
			PromptRows: pick[uint32](s, 0, 1, 7, 16, 64), PromptCodec: protocol.TensorCodec(s.next() % 4), SlowestUs: pick[uint32](s, 0, 1, math.MaxUint32),
		}}
	case 2:
		f.Kind = &protocol.Frame_Link{Link: &protocol.Link{Session: s.session(), Epoch: s.epoch(), Index: uint32(s.next() % 2)}}
	case 3, 4:
		rows := s.number()
		st := &protocol.Step{Epoch: s.epoch(), Base: s.number(), Rows: rows, Codec: protocol.TensorCodec(s.next() % 4), Sample: s.next()%2 == 0}
		if s.next()%4 > 0 {
			st.Tokens = s.tokens(rows)
		} else {
			payload = make([]byte, protocol.TensorSize(st.Codec, int(min(rows, 20))*fuzzWidth)+s.next()%2)
			for i := range payload {
				payload[i] = byte(s.next())
			}
		}
		f.Kind = &protocol.Frame_Step{Step: st}
	case 5:
		f.Kind = &protocol.Frame_Ping{Ping: &protocol.Ping{Prefix: s.prefix()}}
	case 6:
		f.Kind = &protocol.Frame_Halt{Halt: &protocol.Halt{Epoch: s.epoch()}}
	case 7, 8:
		f.Kind = &protocol.Frame_Resume{Resume: &protocol.Resume{
			Epoch: s.epoch(), At: s.number(), ForwardFrom: s.number(), Next: s.hop(), Prev: []byte(pick(s, theNode, badPeer)), Stages: s.number(),
		}}
	case 9:
		f.Kind = &protocol.Frame_Bye{Bye: &protocol.Bye{Prefix: s.prefix()}}
	case 10: // of those that a stage says
		f = pick(s,
			&protocol.Frame{Kind: &protocol.Frame_Opened{Opened: &protocol.Opened{}}}, &protocol.Frame{Kind: &protocol.Frame_Pong{Pong: &protocol.Pong{}}},
			&protocol.Frame{Kind: &protocol.Frame_Halted{Halted: &protocol.Halted{}}}, &protocol.Frame{Kind: &protocol.Frame_Trouble{Trouble: &protocol.Trouble{}}},
			&protocol.Frame{Kind: &protocol.Frame_Token{Token: &protocol.Token{}}}, &protocol.Frame{Kind: &protocol.Frame_Fail{Fail: &protocol.Fail{}}}, &protocol.Frame{})
	case 11:
		f.Kind = &protocol.Frame_Credit{Credit: &protocol.Credit{Rows: uint64(s.number())}}
	default:
		f.Kind = &protocol.Frame_Ping{Ping: &protocol.Ping{}}
	}
	return f, payload
}

// misbehave does what the script says, over three streams. Frames are the script's own,
// as change leaves them.
func (a *arena) misbehave(s script, change func(*script, *protocol.Frame)) {
	streams := make([]net.Conn, 3)
	for len(s) > 0 {
		time.Sleep(time.Millisecond)
		op := s.next()
		i := op / 8 % len(streams)
		if streams[i] == nil {
			st, err := a.dial(badPeer, theNode)
			if err != nil {
				panic(err)
			}
			streams[i] = st
			if op/24%4 > 0 { // else it reads nothing
				go func() { _, _ = io.Copy(io.Discard, st) }()
			}
		}
		st := streams[i]
		_ = st.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		switch op % 8 {
		case 0:
			_ = st.Close()
			streams[i] = nil
		case 1:
			time.Sleep(time.Duration(s.next()) * 10 * time.Millisecond)
		case 2: // whatever the bytes are
			n := min(len(s), s.next())
			_, _ = st.Write(s[:min(n, len(s))])
			s = s[min(n, len(s)):]
		default:
			f, payload := s.frame()
			change(&s, f)
			b, err := protocol.AppendFrame(nil, f, payload)
			if err != nil {
				panic(err)
			}
			if op%8 == 3 { // a part of it, and the rest never
				b = b[:len(b)*s.next()/256]
			}
			_, _ = st.Write(b)
		}
	}
	for _, st := range streams {
		if st != nil {
			_ = st.Close()
		}
	}
}

// refuses says what of a node's room does not come back to one who asks for all
// of it.
func (a *arena) refuses() error {
	for n := range fuzzSeqs {
		st, err := a.dial(honest, theNode)
		if err != nil {
			return err
		}
		defer func() { _ = st.Close() }()
		b, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Open{Open: &protocol.Open{
			Session: append(make([]byte, 15), byte(100+n)), Model: theModel.Bytes(), To: 2, Stages: 2, MaxTokensTotal: fuzzKV / fuzzSeqs, Wait: true,
			Next: &protocol.Hop{Peer: []byte(badPeer)},
		}}}, nil)
		if err != nil {
			return err
		}
		if _, err := st.Write(b); err != nil {
			return err
		}
		f, _, err := protocol.ReadFrame(bufio.NewReader(st), 0)
		if err != nil {
			return err
		}
		if f.GetOpened() == nil {
			return fmt.Errorf("session %d of %d: %v", n, fuzzSeqs, f)
		}
	}
	return nil
}

// FuzzStageMachine: whatever a peer says, in whatever order, on whichever
// streams, an honest session beside it gets its tokens to the letter, nothing is
// computed out of turn, and soon after he has gone everything is free. Time is
// virtual, and whoever waits for ever fails the test.
func FuzzStageMachine(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "100x") // else a minute for each new input
	dir := f.TempDir()
	seed := func(parts ...[]byte) {
		f.Add(slices.Concat([]byte{0}, slices.Concat(parts...)))
		f.Add(slices.Concat([]byte{1}, slices.Concat(parts...))) // he does not read what he is dialled for
		f.Add(slices.Concat([]byte{2}, slices.Concat(parts...))) // he is of the version before
	}
	// In the order in which the script is read; epochs and numbers by their place in its lists.
	on := func(stream byte, frame ...byte) []byte { return append([]byte{24 + 8*stream + 4}, frame...) }
	wait := func(centis byte) []byte { return []byte{24 + 1, centis} }
	open := func(half, epoch, prev, wait, again byte) []byte {
		return []byte{0, half, 0, 0, 0, 1 - half, epoch, 1, 4, 3, 0, 0, 0, prev, wait, again, 0}
	}
	step := func(epoch, base byte) []byte { return []byte{3, 3, epoch, base, 0, 0, 1, 10, 20, 30, 40} }
	halt := func(epoch byte) []byte { return []byte{6, epoch} }
	resume := func(half, epoch, at, from byte) []byte { return []byte{7, epoch, at, from, 0, 1 - half, 0, 2} }
	both := slices.Concat(on(1, open(1, 0, 0, 0, 0)...), on(0, open(0, 0, 0, 0, 0)...), wait(1), on(0, step(0, 0)...), wait(6))
	halted := slices.Concat(both, on(0, halt(2)...), on(1, halt(2)...), wait(1))
	seed()
	seed(both, on(0, 5, 0), on(1, 5, 0), wait(90), on(0, 9, 0))
	seed(halted, on(1, resume(1, 2, 3, 3)...), on(0, resume(0, 2, 3, 3)...), on(0, step(2, 3)...), wait(10))
	seed(halted, on(1, resume(1, 2, 0, 0)...), on(0, resume(0, 2, 3, 0)...), wait(10), on(0, 5, 0), on(0, step(2, 3)...), wait(10)) // replayed
	seed(both, []byte{24, 24 + 8}, on(0, open(0, 2, 0, 0, 1)...), on(1, open(1, 2, 0, 1, 1)...), on(0, resume(0, 2, 2, 2)...), on(1, resume(1, 2, 2, 2)...), wait(10))
	seed(on(0, open(1, 0, 1, 0, 0)...), on(1, 2, 0, 0, 1), on(1, 3, 3, 0, 0, 0, 0, 0), make([]byte, 520), wait(10)) // a predecessor of his own
	seed([]byte{4}, open(0, 0, 0, 0, 0), []byte{4}, step(0, 0), []byte{4, 5, 0, 4, 5, 0, 4, 6, 2, 4, 6, 3})         // he reads nothing
	long := []byte{0, 0, 0, 0, 1, 1, 0, 2, 4, 3, 0, 0, 0, 0, 0, 0, 2}
	again := slices.Clone(long)
	again[2] = 1 // another session that begins alike
	whole := func(base byte) []byte { return append([]byte{3, 5, 0, base, 0, 0, 1}, make([]byte, 16)...) }
	seed(on(0, long...), on(0, whole(0)...), on(0, whole(5)...), wait(10), on(1, again...), on(0, 9, 0), wait(1), on(2, append(again[:2:2], append([]byte{2}, again[3:]...)...)...))
	seed(on(0, 5, 0), on(1, 2, 0, 0, 0), []byte{24 + 16 + 3, 0, 0, 0, 200, 24 + 2, 3, 255, 255, 255})
	f.Fuzz(func(t *testing.T, raw []byte) { amid(t, dir, raw, func(*script, *protocol.Frame) {}) })
}

// amid has an honest session run amid what a script says, and checks both.
func amid(t *testing.T, dir string, raw []byte, change func(*script, *protocol.Frame)) {
	if len(raw) > 800 {
		return
	}
	synctest.Test(t, func(t *testing.T) {
		a := newArena(t, dir)
		s := script(raw)
		kind := s.next()
		a.deaf, a.old = kind&1 > 0, kind&2 > 0
		prompt, n := []int32{3, 1, 4, 1, 5, 9}, 12
		begin := time.Now()
		told := make(chan struct{})
		go func() {
			defer close(told)
			got, err := a.ask(t.Context(), prompt, n)
			if want := answer(prompt, n); err != nil || !slices.Equal(got, want) {
				t.Errorf("the honest session got %v (%v), not %v", got, err, want)
			}
		}()
		a.misbehave(s, change)
		<-told
		if took := time.Since(begin); took > 5*time.Minute {
			t.Errorf("it took %s", took)
		}
		time.Sleep(45 * time.Second) // silence, last words, and what is kept safe from those beyond their share
		for i, s := range a.stages {
			if st := s.Status(); st.Sessions != 0 || st.KVFree != fuzzKV {
				t.Errorf("stage %d still holds %+v", i, st)
			}
		}
		if err := a.refuses(); err != nil {
			t.Error(err)
		}
		for _, s := range a.stages {
			s.Close(nil)
		}
		time.Sleep(time.Minute) // for sockets that take nothing to be given up
	})
}
