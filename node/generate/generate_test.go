package generate

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/standing"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol"
)

// A network in memory: real stages and sessions over pipes, a real record of the
// peers, and an engine that draws the tokens that it is given.

// conn is one end of a stream.
type conn struct {
	net.Conn
	peer peer.ID
}

func (c conn) Reset() error  { return c.Close() }
func (c conn) Peer() peer.ID { return c.peer }

func (c conn) Relayed() bool           { return false }
func (c conn) Better() <-chan struct{} { return nil }
func (c conn) Protocol() string        { return protocol.StageID }

func (conn) Swarm() string { return "" }

// reciter draws a text's tokens one after the other, or the first that are allowed.
type reciter []int32

func (r reciter) Run(_ context.Context, b *engine.Batch) (*engine.Result, error) {
	res := &engine.Result{}
	for _, d := range b.Outputs {
		id := r[min(len(d.Sampled), len(r)-1)]
		for d.Allowed != nil && d.Allowed[id>>6]>>(id&63)&1 == 0 {
			id = (id + 1) % int32(64*len(d.Allowed))
		}
		res.Tokens = append(res.Tokens, sample.Token{ID: id})
	}
	return res, nil
}

func (reciter) Remove(int, int32) error          { return nil }
func (reciter) CopyPrefix(int, int, int32) error { return nil }

// formats has an honest stage keep to the format that it was asked for.
type formats struct{ tools *Tools }

func (f formats) Compile(format []*protocol.Piece, stopIDs []int32) (stage.Format, error) {
	m, err := f.tools.Compile(context.Background(), format)
	if err != nil {
		return nil, err
	}
	return m.Start(stopIDs), nil
}

// lies accepts every format and keeps to none.
type lies struct{}

func (lies) Compile([]*protocol.Piece, []int32) (stage.Format, error) { return lies{}, nil }
func (lies) Allowed([]int32) ([]uint64, error)                        { return nil, nil }

// world is the network, as the generator under test sees it.
type world struct {
	*oneModel
	self   peer.ID
	peers  map[peer.ID]func(conn) // how they serve a stream
	list   []route.Candidate
	opened map[peer.ID]int // streams
	worked []peer.ID
	book   *standing.Book
	stages []*stage.Stage
}

func newWorld(m *oneModel) *world {
	w := &world{oneModel: m, peers: map[peer.ID]func(conn){}, opened: map[peer.ID]int{}, book: standing.Open("", slog.New(slog.DiscardHandler))}
	w.self = id("self")
	return w
}

func id(name string) peer.ID {
	mh, err := multihash.Sum([]byte(name), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return peer.ID(mh)
}

func (w *world) generator() *Generator {
	return New(observed(Config{Models: w, Survey: w, Network: w, Recorder: w.book, Log: slog.New(slog.DiscardHandler)}))
}

// serve adds a peer that serves all of the model, and how fast it claims to be.
func (w *world) serve(p peer.ID, trust route.Trust, block time.Duration, how func(conn)) {
	w.peers[p] = how
	w.list = append(w.list, route.Candidate{
		Peer: p.String(), Span: w.Manifest().All(), Decode: block, Prefill: block, KVFree: 4096, MaxContext: 512, Trust: trust, Done: 20, Age: 48 * time.Hour,
	})
}

// recites is a stage that answers with a text; with formats nil it keeps to none.
func (w *world) recites(t *testing.T, s string, f stage.Formats) func(conn) {
	t.Helper()
	ids, err := w.tools.Encode(t.Context(), s, text.EncodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	man := w.Manifest()
	st := stage.New(stage.Config{
		Model: w.ID(), Span: man.All(), Blocks: int(man.Blocks), Width: int(man.Width), Vocab: w.tools.VocabSize(), Formats: f,
		KVTokens: 4096, MaxSeqs: 4, MaxBatch: 64, MaxContext: 512,
	}, append(reciter(ids), w.tools.EOG()[0]), nil)
	w.stages = append(w.stages, st)
	srv := stage.NewServer(slog.New(slog.DiscardHandler), nil)
	srv.Add(st)
	return func(c conn) { srv.Serve(c) }
}

// refuses is a stage that accepts no session.
func refuses(code protocol.Code) func(conn) {
	return func(c conn) {
		defer c.Close()
		if _, _, err := protocol.ReadFrame(bufio.NewReader(c), 0); err != nil {
			return
		}
		if b, err := protocol.AppendFrame(nil, protocol.Errorf(code, "no").Fail(), nil); err == nil {
			_, _ = c.Write(b)
		}
	}
}

func (w *world) close() {
	for _, s := range w.stages {
		s.Close(nil)
	}
}

func (w *world) Self() peer.ID { return w.self }

func (w *world) Own(p peer.ID) bool { return p == w.self }

func (w *world) SwarmName(string) string { return "" }

func (w *world) OpenStage(_ context.Context, p peer.ID, _ []byte) (session.Stream, error) {
	w.opened[p]++
	a, b := net.Pipe()
	go w.peers[p](conn{b, w.self})
	return conn{a, p}, nil
}

func (w *world) Worked(p peer.ID) { w.worked = append(w.worked, p) }

func (w *world) Fastest() bool { return false }

func (w *world) MachineName(peer.ID) string { return "" }

func (w *world) Trusted(p peer.ID) bool {
	return slices.ContainsFunc(w.list, func(c route.Candidate) bool { return c.Peer == p.String() && c.Trust != route.Stranger })
}

func (*world) Ended(cid.Cid, []session.Hop, []uint64, bool) {}

func (w *world) Ask(peer.ID) {}

func (w *world) Choose(_ context.Context, q survey.Query, pick survey.Pick) (*route.Route, map[string]session.Hop, error) {
	where := map[string]session.Hop{}
	for p := range w.peers {
		where[p.String()] = session.Hop{Peer: p}
	}
	list := slices.DeleteFunc(slices.Clone(w.list), func(c route.Candidate) bool { return q.Excluded[c.Peer] })
	if len(list) == 0 {
		return nil, nil, route.ErrNoServer
	}
	r, err := pick(w.self.String(), route.Price(list), survey.Distances{})
	return r, where, err
}

// answers asks a generator for an answer, and returns its text and the peer it came from.
func answers(t *testing.T, g *Generator, req api.GenerateRequest) (said, from string, err error) {
	t.Helper()
	req.Raw, req.Prompt = true, "Once upon a time"
	var events []api.Event
	var busy atomic.Int64
	err = g.Generate(t.Context(), &req, func(e api.Event) error {
		events = append(events, e)
		busy.Store(int64(g.Active()))
		return nil
	})
	for i, e := range events {
		switch {
		case (e.Start != nil) != (i == 0) || (e.Done != nil) != (i == len(events)-1):
			t.Errorf("event %d of %d is %+v", i, len(events), e)
		case e.Start != nil:
			from = e.Start.Route[0].Peer
		case e.Token != nil:
			said += e.Token.Text
		case e.Done != nil:
			said += e.Done.Text
		}
	}
	if len(events) > 0 && busy.Load() != 1 || g.Active() != 0 {
		t.Errorf("%d answers were active, and %d are afterwards", busy.Load(), g.Active())
	}
	return said, from, err
}

// A prompt goes through to the end of its answer, and the peer gets its credit.
func TestGenerate(t *testing.T) {
	m := tiny(t)
	w := newWorld(m)
	defer w.close()
	a := id("a")
	w.serve(a, route.Stranger, time.Millisecond, w.recites(t, " there was a fox.", nil))
	g := w.generator()
	said, from, err := answers(t, g, api.GenerateRequest{})
	if err != nil || said != " there was a fox." || from != a.String() {
		t.Errorf("%q from %s, %v", said, from, err)
	}
	if s := w.book.Of(a); s.Done != 1 || s.Marks != (standing.Standing{}).Marks {
		t.Errorf("recorded as %+v", s)
	}
	if first, _ := w.book.Answers(a, survey.SpanName(m.ID(), m.Manifest().All())); first.IsZero() || !slices.Equal(w.worked, []peer.ID{a}) {
		t.Errorf("it answered at %s, and %v worked", first, w.worked)
	}
	said, _, err = answers(t, g, api.GenerateRequest{Stop: []string{" a "}})
	if err != nil || said != " there was" {
		t.Errorf("cut to %q, %v", said, err)
	}
	if err := g.Probe(t.Context(), m.Model, &route.Route{Hops: []route.Hop{{Peer: a.String(), Span: m.Manifest().All()}}}, map[string]session.Hop{a.String(): {Peer: a}}, []int32{1, 2}); err != nil {
		t.Errorf("a probe: %v", err)
	}
}

// A stage that refuses is left for another, unless the caller has named it or no
// other could do better.
func TestGenerateElsewhere(t *testing.T) {
	m := tiny(t)
	for name, test := range map[string]struct {
		code  protocol.Code
		named bool // the caller names the stage
		kind  api.Kind
	}{
		"full":     {protocol.Code_CODE_BUSY, false, ""},
		"leaving":  {protocol.Code_CODE_DRAINING, false, ""},
		"named":    {protocol.Code_CODE_DRAINING, true, api.Refused},
		"too long": {protocol.Code_CODE_TOO_LONG, false, api.TooLong},
	} {
		w := newWorld(m)
		a, b := id("a"), id("b")
		w.serve(a, route.Stranger, time.Millisecond, refuses(test.code))
		w.serve(b, route.Stranger, 2*time.Millisecond, w.recites(t, " there", nil))
		var req api.GenerateRequest
		if test.named {
			req.Route = []api.Hop{{Peer: a.String(), From: 0, To: int(m.Manifest().Blocks)}}
		}
		said, from, err := answers(t, w.generator(), req)
		switch {
		case test.kind == "" && (err != nil || said != " there" || from != b.String()):
			t.Errorf("%s: %q from %s, %v", name, said, from, err)
		case test.kind != "" && (err == nil || api.AsError(err).Kind != test.kind || w.opened[b] > 0):
			t.Errorf("%s: %v, %d sessions elsewhere", name, err, w.opened[b])
		}
		if s := w.book.Of(a); s.Failed > 0 {
			t.Errorf("%s: a refusal is no fault, and was recorded as %+v", name, s)
		}
		w.close()
	}
}

// A stage that answers with what is not due is left for another, too.
func TestGenerateWrongFrame(t *testing.T) {
	w := newWorld(tiny(t))
	defer w.close()
	a, b := id("a"), id("b")
	w.serve(a, route.Stranger, time.Millisecond, func(c conn) {
		defer c.Close()
		_, _, _ = protocol.ReadFrame(bufio.NewReader(c), 0)
		if f, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Pong{Pong: &protocol.Pong{}}}, nil); err == nil {
			_, _ = c.Write(f)
		}
	})
	w.serve(b, route.Stranger, 2*time.Millisecond, w.recites(t, " there", nil))
	if said, from, err := answers(t, w.generator(), api.GenerateRequest{}); err != nil || said != " there" || from != b.String() || w.opened[a] != 1 {
		t.Errorf("%q from %s after %d sessions with the other: %v", said, from, w.opened[a], err)
	}
}

// Where all are full a prompt waits a while for room; and it waits for the operator's
// own machine before it goes to a stranger.
func TestGenerateWaits(t *testing.T) {
	m := tiny(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(m)
		w.serve(id("a"), route.Stranger, time.Millisecond, refuses(protocol.Code_CODE_BUSY))
		begin := time.Now()
		_, _, err := answers(t, w.generator(), api.GenerateRequest{})
		if took := time.Since(begin); api.AsError(err).Kind != api.Refused || took < roomTime || took > 3*roomTime || w.opened[id("a")] < 3 {
			t.Errorf("%v after %s and %d attempts", err, took, w.opened[id("a")])
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(m)
		defer w.close()
		own, stranger := id("own"), id("stranger")
		w.serve(own, route.Trusted, 2*time.Millisecond, refuses(protocol.Code_CODE_BUSY))
		w.serve(stranger, route.Stranger, time.Millisecond, w.recites(t, " there", nil))
		begin := time.Now()
		_, from, err := answers(t, w.generator(), api.GenerateRequest{})
		if took := time.Since(begin); err != nil || from != stranger.String() || took < ownTime || w.opened[own] < 3 || w.opened[stranger] != 1 {
			t.Errorf("from %s after %s, %v; %d attempts at its own", from, took, err, w.opened[own])
		}
	})
}

// A stage that breaks the format it has accepted is recorded as a liar, and another
// answers in its place. The caller sees none of it.
func TestGenerateLiar(t *testing.T) {
	m := tiny(t)
	w := newWorld(m)
	defer w.close()
	liar, honest := id("liar"), id("honest")
	w.serve(liar, route.Stranger, time.Millisecond, w.recites(t, "tr", lies{}))
	w.serve(honest, route.Stranger, 2*time.Millisecond, w.recites(t, "Well", formats{m.tools}))
	said, from, err := answers(t, w.generator(), api.GenerateRequest{Format: json.RawMessage(`{"enum":[7]}`)})
	if err != nil || said != "7" || from != honest.String() || w.opened[liar] != 1 {
		t.Errorf("%q from %s, %v; the liar had %d sessions", said, from, err, w.opened[liar])
	}
	if s := w.book.Of(liar); s.Marks[standing.Lied] < 0.9 {
		t.Errorf("recorded as %+v", s)
	}
}

// The caller's error ends the answer, and is no peer's fault.
func TestGenerateCallerLeaves(t *testing.T) {
	w := newWorld(tiny(t))
	defer w.close()
	a := id("a")
	w.serve(a, route.Stranger, time.Millisecond, w.recites(t, " there was a fox.", nil))
	gone := errors.New("the caller has gone")
	count := 0
	err := w.generator().Generate(t.Context(), &api.GenerateRequest{Raw: true, Prompt: "Once"}, func(e api.Event) error {
		if e.Token != nil {
			if count++; count == 2 {
				return gone
			}
		}
		return nil
	})
	if s := w.book.Of(a); !errors.Is(err, gone) || count != 2 || s.Failed > 0 {
		t.Errorf("%v after %d tokens; recorded as %+v", err, count, s)
	}
}
