package serve

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/placement"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// here is models of which all is on the disk.
type here struct {
	Models
	m *store.Model
}

func (h here) List() []*store.Model { return []*store.Model{h.m} }

func (h here) Obtain(context.Context, string, *protocol.Span, func(done, total int64)) (*store.Model, error) {
	return h.m, nil
}

func (h here) Download() float64 { return 0 }

// nobody is a network without peers.
type nobody struct{ Survey }

func (nobody) PlacementPeers(context.Context, map[cid.Cid]*protocol.Manifest) []placement.Peer {
	return nil
}

func (nobody) Prospects(cid.Cid, string) uint64 { return 0 }

// loading is a server that has begun, whose engines are what load returns.
func loading(t *testing.T, m *store.Model, load func(context.Context) error, specs ...Spec) *Server {
	t.Helper()
	srv, _ := newServer(t, m)
	srv.cfg.Models, srv.cfg.Survey, srv.cfg.Specs, srv.cfg.MaxSessions = here{m: m}, nobody{}, specs, 1
	srv.cfg.Load = func(ctx context.Context, _ engine.Config, _ *slog.Logger) (engine.Engine, error) {
		return nil, load(ctx)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		srv.Run(ctx, func(err error) { t.Error(err) })
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	return srv
}

// Callers that ask for a model at the same time wait for one span, whatever each calls it.
func TestServeTwice(t *testing.T) {
	m := tiny(t)
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int32
		srv := loading(t, m, func(ctx context.Context) error {
			loads.Add(1)
			<-ctx.Done()
			return ctx.Err()
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		requests := []api.ServeRequest{{Model: "tiny"}, {Model: "tiny"}, {Model: "tiny", Span: "auto"}, {Model: "Tiny:latest", Span: "all"}, {Model: m.ID().String(), Span: "0-3"}}
		for _, req := range requests {
			go func() {
				_, err := srv.Serve(ctx, req, nil)
				ended <- err
			}()
		}
		synctest.Wait()
		// The part may have been first; then it is a span of its own, and one file loads one at a time.
		if n := len(srv.Snapshot().Spans); n < 1 || n > 2 || loads.Load() != 1 {
			t.Errorf("%d spans, %d engines", n, loads.Load())
		}
		stop()
		for range requests {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		synctest.Wait()
		if n := len(srv.Snapshot().Spans); n != 0 {
			t.Errorf("%d spans are left", n)
		}
	})
}

// Spans that cannot be loaded do not wake each other: the pauses grow.
func TestNoEndlessRetries(t *testing.T) {
	m := tiny(t)
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int32
		loading(t, m, func(context.Context) error {
			loads.Add(1)
			return engine.ErrUnsupported
		}, Spec{"one", "all"}, Spec{"two", "0-3"}, Spec{"three", "auto"})
		time.Sleep(time.Minute)
		if n := loads.Load(); n < 6 || n > 30 {
			t.Errorf("%d loads in a minute", n)
		}
	})
}

// A span that does not fit is refused as such, and is loaded as soon as more memory is
// lent.
func TestMoreMemory(t *testing.T) {
	m := tiny(t)
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int32
		srv := loading(t, m, func(ctx context.Context) error {
			loads.Add(1)
			<-ctx.Done()
			return ctx.Err()
		})
		limits := *srv.limits()
		few := limits
		few.Memory = 1
		srv.Adjust(few)
		for _, span := range []string{"all", "auto"} {
			_, err := srv.Serve(t.Context(), api.ServeRequest{Model: "tiny", Span: span}, nil)
			if !errors.Is(err, &api.Error{Kind: api.Refused}) {
				t.Errorf("%s: %v", span, err)
			}
		}
		srv.mu.Lock()
		srv.begin(srv.newServing(Spec{"tiny", "all"}), func(err error) { t.Error(err) })
		srv.mu.Unlock()
		time.Sleep(5 * time.Minute) // its pauses have grown
		if n := loads.Load(); n != 0 {
			t.Errorf("%d loads", n)
		}
		srv.Adjust(limits)
		time.Sleep(time.Second)
		if n := loads.Load(); n != 1 {
			t.Errorf("%d loads with more memory", n)
		}
	})
}
