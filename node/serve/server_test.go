package serve

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// tiny is a model in a store of its own.
func tiny(t *testing.T) *store.Model {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "tiny.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	m, err := s.Add(t.Context(), file, store.AddOptions{Name: "tiny"})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// around is what surrounds a server: it calls back into the server whenever the
// server calls it, which would never return if the server held its mutex.
type around struct {
	Models // nothing but List is called
	srv    *Server
	models []*store.Model

	mu    sync.Mutex
	last  *protocol.OfferBody
	count int
}

func (a *around) List() []*store.Model {
	a.srv.Snapshot()
	return a.models
}

func (a *around) Self() peer.ID        { return "self" }
func (a *around) Own(p peer.ID) bool   { return p == "self" }
func (a *around) Group(peer.ID) string { return "" }
func (*around) InSwarm(peer.ID) string { return "" }
func (a *around) WaitPeers(ctx context.Context) error {
	a.srv.Snapshot()
	return ctx.Err()
}

func (a *around) Offers(context.Context, cid.Cid, func([]*protocol.Offer) bool) []*protocol.Offer {
	a.srv.Snapshot()
	return nil
}

func (a *around) SetOffers(body, own *protocol.OfferBody) error {
	a.srv.Snapshot()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last, a.count = body, a.count+1
	return nil
}

func newServer(t *testing.T, m *store.Model) (*Server, *around) {
	t.Helper()
	a := &around{models: []*store.Model{m}}
	a.srv = New(Config{
		Memory: 1 << 30, Threads: 3, InProcess: true, Models: a, Network: a, Stages: stage.NewServer(slog.New(slog.DiscardHandler), func(peer.ID) bool { return true }),
		Events: func(Event) { a.srv.Snapshot() }, Log: slog.New(slog.DiscardHandler), Free: func() int64 { return -1 },
	})
	return a.srv, a
}

// A span moves to and fro while everybody looks: nobody sees half of a move, and no
// call out of the package waits for the server's mutex.
func TestSnapshot(t *testing.T) {
	m := tiny(t)
	srv, _ := newServer(t, m)
	s, all := add(srv, Spec{Model: "tiny", Span: "all"}), m.Manifest().All()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			s.settle(target{m, all})
			s.announce(target{m, protocol.Span{From: 0, To: 1}})
			s.set("serving")
			s.lost(errors.New("signal: killed"))
			s.claim(1)
			s.settle(target{})
			s.announce(target{})
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			srv.Offer()
			srv.gate.set(true, "")
		}
	})
	for i := 0; i < 2000 || srv.Snapshot().Spans[0].Losses.Count == 0; i++ {
		snap := srv.Snapshot()
		if len(snap.Spans) != 1 {
			t.Fatal(snap)
		}
		v := &snap.Spans[0]
		if v.Model == nil && v.Span.Len() > 0 || v.Model != nil && (v.Span != all || v.Name() != "tiny") || v.Next != nil && v.Next.Model != m {
			t.Fatalf("half of a move: %+v", v)
		}
		srv.Serves(m)
	}
	stop()
	wg.Wait()
	if l := srv.Snapshot().Spans[0].Losses; l.Count == 0 || !l.Killed {
		t.Errorf("losses %+v", l)
	}
}

// What peers are told of a snapshot.
func TestOffer(t *testing.T) {
	m := tiny(t)
	srv, a := newServer(t, m)
	now := time.Now()
	served := Span{
		Model: m, Span: protocol.Span{From: 0, To: 5}, Ready: true, Loaded: true, Since: now.Add(-time.Minute), Decode: 100 * time.Microsecond, Prefill: 10 * time.Microsecond,
		Engine: engine.Info{Devices: []engine.Device{{Name: "card", Library: "lib"}}}, Stage: stage.Status{KVFree: 7, DecodePass: time.Millisecond}, KVTokens: 9, Context: 8,
		Load: stage.Load{Minute: 0.5, Ten: 2, Refused: -1},
	}
	leaving, unresolved := served, Span{Target: "other"}
	leaving.Leaving = true
	own := Span{Left: 1 << 29, Model: m, Span: protocol.Span{From: 5, To: 8}, Auto: true, Takes: []cid.Cid{m.ID()}, Since: now, Next: &Next{m, protocol.Span{From: 1, To: 2}, now}}
	snap := Snapshot{Lending: true, Spans: []Span{unresolved, leaving, served, own}}

	body := srv.offerOf(&snap, now)
	if len(body.Spans) != 3 || body.AutoBytes != 1<<29 || len(body.Takes) != 1 || body.Device.Name != "card" || body.Device.Threads != 3 {
		t.Fatalf("%+v", body)
	}
	if s := body.Spans[0]; !s.Ready || !s.Loaded || s.Auto || s.SinceS != 60 || s.UsPerBlock != 200 || s.UsPerBlockPrefill != 10 || s.KvFree != 7 || s.KvTokens != 9 ||
		s.MaxContext != 8 || s.LoadPermille != 500 || s.LoadLongPermille != 1000 || s.RefusedPermille != 0 || s.Name != "tiny" || s.Blocks != 8 {
		t.Errorf("served: %+v", s)
	}
	if s := body.Spans[1]; s.Ready || s.Loaded || !s.Auto || s.From != 5 || s.UsPerBlock != 0 {
		t.Errorf("not loaded yet: %+v", s)
	}
	if s := body.Spans[2]; s.Ready || s.Loaded || !s.Auto || s.From != 1 || s.To != 2 {
		t.Errorf("next: %+v", s)
	}
	snap.Lending = false
	if body := srv.offerOf(&snap, now); len(body.Spans) != 0 || body.AutoBytes != 0 || body.Device != nil {
		t.Errorf("offered while nothing is lent: %+v", body)
	}

	srv.Offer()
	if h := a.last.GetShards(); len(h) != 1 || h[0].Name != "tiny" || h[0].Bitmap[0] != 0xff {
		t.Errorf("held: %+v", h)
	}
	srv.Leave()
	srv.Offer()
	if a.count != 1 {
		t.Error("an offer after leaving")
	}
}

// However many offer at the same time, no offer is replaced by an older one, each
// caller's state has been offered when it goes on, and none comes after Leave.
func TestOffersInOrder(t *testing.T) {
	m := tiny(t)
	srv, a := newServer(t, m)
	s := add(srv, Spec{Model: "tiny"})
	s.auto = true
	offered := func() (takes, count int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.last.GetTakes()), a.count
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				srv.mu.Lock()
				s.takes = append(s.takes, m.ID())
				mine := len(s.takes)
				srv.mu.Unlock()
				srv.Offer()
				if n, _ := offered(); n < mine {
					t.Errorf("offered %d of %d", n, mine)
				}
			}
		})
	}
	wg.Wait()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for range 100 {
			srv.Offer()
		}
	}()
	srv.Leave()
	_, before := offered()
	<-stopped
	if _, after := offered(); after != before {
		t.Error("an offer after leaving")
	}
}

// slow is models that nobody knows, and that take a second to stop looking for.
type slow struct {
	Models
	looking atomic.Int32
}

func (s *slow) Obtain(ctx context.Context, _ string, _ *protocol.Span, _ func(done, total int64)) (*store.Model, error) {
	s.looking.Add(1)
	defer s.looking.Add(-1)
	<-ctx.Done()
	time.Sleep(time.Second)
	return nil, ctx.Err()
}

// What a server has started does not outlive Run: the store is closed next.
func TestRunWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, _ := newServer(t, nil)
		models := &slow{}
		srv.cfg.Models, srv.cfg.Specs = models, []Spec{{Model: "a"}, {Model: "b"}, {Model: "c", Span: "all"}}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			srv.Run(ctx, func(err error) { t.Error(err) })
		}()
		synctest.Wait()
		if n := models.looking.Load(); n != 3 {
			t.Errorf("%d models are looked for", n)
		}
		stop()
		<-ended
		if n := models.looking.Load(); n != 0 {
			t.Errorf("%d models are looked for when Run has returned", n)
		}
	})
}

// A node that is told to serve what a model does not have learns so as a mistake of
// its configuration.
func TestSpec(t *testing.T) {
	for text, want := range map[string]struct {
		span protocol.Span
		auto bool
		bad  bool
	}{
		"": {auto: true}, "AUTO": {auto: true}, "all": {span: protocol.Span{From: 0, To: -1}}, "2-5": {span: protocol.Span{From: 2, To: 5}}, "5-2": {bad: true}, "some": {bad: true},
	} {
		span, auto, err := Spec{Span: text}.Parse()
		if errors.Is(err, ErrSpec) != want.bad || err == nil && (span != want.span || auto != want.auto) {
			t.Errorf("%q: %v %v %v", text, span, auto, err)
		}
	}
}

// add is a span that nobody runs.
func add(s *Server, spec Spec) *serving {
	v := s.newServing(spec)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spans = append(s.spans, v)
	return v
}
