package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/trace"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/lend"
	"github.com/shoalnet/shoal/node/metrics"
	"github.com/shoalnet/shoal/node/placement"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
)

// Models are the models of this node and of its peers.
type Models interface {
	// Obtain returns the model of a name, a file or an address. What is imported for
	// that is the blocks of only, or everything if only is nil; progress is that in
	// bytes, and may be nil. The errors are api's UnknownModel if nobody knows it, wrap
	// store.ErrSpan if the model does not have these blocks, store.ErrFull if there is
	// no room for what is imported, and store.ErrSource if it cannot be read.
	Obtain(ctx context.Context, name string, only *protocol.Span, progress func(done, total int64)) (*store.Model, error)
	// List returns the models of which something is in the store.
	List() []*store.Model
	// Fetch brings what shards lack. progress may be nil.
	Fetch(ctx context.Context, m *store.Model, shards []int, progress func(api.Progress)) error
	// Download is the rate of the last long enough fetch, in bytes per second; 0 if
	// there was none.
	Download() float64
	// Compile reads a format of answers, for the vocabulary of a model.
	Compile(ctx context.Context, m *store.Model, format []*protocol.Piece) (*constrain.Machine, error)
	// Prepare does beforehand what takes long at the first Compile for a model.
	Prepare(ctx context.Context, m *store.Model) error
}

// Network is what a server needs of the network.
type Network interface {
	Self() peer.ID
	Own(peer.ID) bool       // reports whether a peer is this node, in any network
	Group(peer.ID) string   // of addresses
	InSwarm(peer.ID) string // ID of the swarm in which a peer is known; "": the open network
	// SetOffers offers body to peers, and own to this node itself; nil: body.
	SetOffers(body, own *protocol.OfferBody) error
	// Offers returns the known offers of a model's peers, and asks for more until
	// they are enough.
	Offers(ctx context.Context, model cid.Cid, enough func([]*protocol.Offer) bool) []*protocol.Offer
	WaitPeers(context.Context) error
}

// Survey is what this node knows of its peers.
type Survey interface {
	Trusted(peer.ID) bool
	// Prospects is another number when peers offer something else of a model, or, if it
	// is undefined, of what is called so; 0: they offer nothing.
	Prospects(model cid.Cid, name string) uint64
	Choose(ctx context.Context, q survey.Query, pick survey.Pick) (*route.Route, map[string]session.Hop, error)
	PlacementPeers(ctx context.Context, models map[cid.Cid]*protocol.Manifest) []placement.Peer
}

// Config is what a server is made of. All fields are needed but those marked.
type Config struct {
	Light       bool   // serves nothing and offers nothing
	Name        string // of this machine, for peers that are trusted; may be empty
	Specs       []Spec // what to serve
	Home        string
	Memory      int64 // bytes lent, weights and KV together
	Threads     int   // of each engine; 0: chosen by measuring
	Nice        int
	Devices     []string // none: all found
	KVType      string   // "f16" or "f32"
	KVTokens    int      // KV cells per span; 0: from Memory
	Exact       bool     // results are bit-identical however many sessions share a pass
	MaxSessions int      // per span, at the same time
	DrainTime   time.Duration
	UnloadAfter time.Duration // after how long without use an engine is unloaded, until it is used again; 0: never
	NoAhead     bool          // stages send no rows of guesses ahead
	Guess       Guess         // of sessions: for tests; nil: node/ahead's
	Lend        lend.Rules

	// Load loads a span into an engine.
	Load func(context.Context, engine.Config, *slog.Logger) (engine.Engine, error)
	// Engines are those that may compute.
	Engines Engines
	Version string // of this program: what was measured with another is measured again
	// Measured is the file that keeps which engine was faster; "": none.
	Measured string
	// InProcess says that engines run in this process, whose memory is not limited then.
	InProcess bool

	Models  Models
	Network Network
	Survey  Survey
	// Probe drives a session for one token along a route, and records that its peers
	// answered. where has the offers of the peers.
	Probe   func(ctx context.Context, m *store.Model, r *route.Route, where map[string]session.Hop, prompt []int32) error
	Dialer  stage.Dialer  // to the next stage of a session
	Lending stage.Lending // what clients may have; nil: everything
	Stages  *stage.Server // where stages are reached by sessions
	Metrics *metrics.Metrics
	Tracer  trace.Tracer
	Events  func(Event)
	Began   func() // Run has; may be nil
	Log     *slog.Logger
	Free    func() int64 // bytes of disk that models may still take; negative: not known
}

// Server keeps spans served and tells the network of them. It is safe for concurrent
// use.
type Server struct {
	cfg     Config
	started time.Time
	gate    gate
	live    atomic.Pointer[Limits]
	rules   chan lend.Rules // the newest that WatchLending has not taken yet
	review  reviews
	work    sync.WaitGroup // all goroutines; Run waits for them
	sharing sync.Mutex     // of shareMemory: no older limit replaces a newer one
	cutsOf  sync.Map       // by cutsKey: *protocol.Cuts

	vocabularies sync.Map // by cid.Cid: vocabulary

	hosting sync.Mutex
	host    *chooser // of the models that do not fit whole; nil: none

	verdicts *verdicts

	mu      sync.Mutex
	spans   []*serving          // each in the order in which it was asked for
	base    context.Context     // of Run; nil before
	began   chan struct{}       // closed when base is set
	news    chan struct{}       // closed and replaced by Retry
	failed  map[brokenKey]error // libraries that were given up, and why
	crashes map[brokenKey]int   // how often they ended their process, where they are the only engine
	ended   bool                // nothing is started any more
	leaving bool                // nothing is offered any more

	// Offers are made one at a time, or an older one could replace a newer one.
	offering      bool
	asked, made   int        // offers; made is the number of asked when the last was begun
	offeringEnded *sync.Cond // of mu
}

// New makes a server that serves nothing before Run.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, started: time.Now(), began: make(chan struct{}), news: make(chan struct{}), rules: make(chan lend.Rules, 1),
		failed: map[brokenKey]error{}, crashes: map[brokenKey]int{}, verdicts: readVerdicts(cfg.Measured)}
	s.live.Store(&Limits{Memory: cfg.Memory, Threads: cfg.Threads, MaxSessions: cfg.MaxSessions, Lend: cfg.Lend, UnloadAfter: cfg.UnloadAfter})
	s.offeringEnded = sync.NewCond(&s.mu)
	s.shareMemory()
	return s
}

// Run serves what the specs name, and what Serve adds, until ctx ends and every span has
// drained. It calls failed with the error of each spec that asks for what cannot be; the
// others go on. It is called once. When it returns, nothing that it, Serve or
// WatchLending started is under way.
func (s *Server) Run(ctx context.Context, failed func(error)) {
	s.mu.Lock()
	s.base = ctx
	for _, spec := range s.cfg.Specs {
		s.begin(s.newServing(spec), failed)
	}
	close(s.began)
	s.mu.Unlock()
	if s.cfg.Began != nil {
		s.cfg.Began()
	}
	s.work.Go(func() { s.followLoad(ctx) })
	<-ctx.Done()
	s.mu.Lock()
	s.ended = true // no work is added that Wait does not see
	s.mu.Unlock()
	s.work.Wait()
}

// begin starts a span. failed is called with what ends it before it is told to stop. It
// returns false if Run has ended. Called with mu held.
func (s *Server) begin(v *serving, failed func(error)) bool {
	if s.ended {
		return false
	}
	ctx, stop := context.WithCancel(s.base)
	v.stop = stop
	s.spans = append(s.spans, v)
	s.work.Go(func() {
		defer close(v.over)
		defer stop()
		run := v.run
		if _, auto, _ := v.spec.Parse(); auto {
			run = v.runAuto
		}
		if err := run(ctx); err != nil && ctx.Err() == nil {
			failed(fmt.Errorf("serving %s: %w", v.spec.Model, err))
		}
	})
	return true
}

func (s *Server) newServing(spec Spec) *serving {
	return &serving{srv: s, spec: spec, state: "starting", over: make(chan struct{}), changed: make(chan struct{})}
}

// end stops a span, waits until it has drained, and forgets it.
func (s *Server) end(v *serving) {
	v.stop()
	<-v.over
	s.mu.Lock()
	s.spans = slices.DeleteFunc(s.spans, func(x *serving) bool { return x == v })
	s.mu.Unlock()
	s.Offer()
}

// Leave makes Offer do nothing from now on, and waits for an offer that is being made.
// The caller then withdraws the last one.
func (s *Server) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	for s.offering {
		s.offeringEnded.Wait()
	}
}

// Serves reports that a span of a model is served, or about to be, or that the model drafts.
func (s *Server) Serves(m *store.Model) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.spans {
		if v.target.model == m || v.draft != nil && v.draft.reserved > 0 && v.draft.model == m {
			return true
		}
	}
	return false
}

// Snapshot is what a server does at one moment.
type Snapshot struct {
	Begun   bool // Run has: all that the specs name is among Spans
	Lending bool
	Why     string // if it does not lend
	Spans   []Span // in the order of the specs
}

// Span is one span of a snapshot. Its zero Model means that it is not resolved yet, or
// that the node has chosen none.
type Span struct {
	Target    string       // what its operator asked for
	Model     *store.Model // nil: none yet
	Span      protocol.Span
	State     string    // in words
	Since     time.Time // when it became ready, or loaded, or began to be fetched
	Ready     bool      // a probe has come through
	Loaded    bool
	Leaving   bool          // draining: not offered any more
	Asleep    time.Duration // how long the engine takes to load, which was unloaded for want of use; 0: it is loaded
	Guest     bool          // another span is chosen of its model and others, which do not fit whole
	Auto      bool          // of the node's own choice
	Takes     []cid.Cid     // models that it may be of, if Auto
	Left      int64         // bytes of the memory lent that the other spans leave
	EnginePID int           // 0: none, or in this process
	GaveUp    error         // why llama.cpp's library was given up for it, which the built-in engine computes instead; nil: it was not
	Engine    engine.Info   // of the engine loaded, or else of the last one of this span
	Decode    time.Duration
	Prefill   time.Duration // a row through one block, alone and in a chunk, as first measured
	Stage     stage.Status  // zero if not Loaded, as are the next three
	Load      stage.Load
	KVTokens  int // KV cells, in tokens
	Context   int // tokens that one session may have
	Losses    api.Losses
	Next      *Next     // what it is about to move to; nil: nothing
	Draft     *Draft    // nil: it has no drafter
	Expires   time.Time // when the engine is unloaded if nobody uses it; zero: never, or it is unloaded

	stays time.Duration // loaded after its last use; negative: for ever
	of    *serving
}

// Next is a span that is being fetched while another is served.
type Next struct {
	Model *store.Model
	Span  protocol.Span
	Since time.Time
}

// Name is the model's name, or, before it is known, what the operator asked for.
func (v *Span) Name() string {
	if v.Model == nil {
		return v.Target
	}
	return v.Model.Name()
}

// Memory is what the engine may take, in bytes; 0 while it is unloaded.
func (v *Span) Memory() uint64 {
	if v.Asleep > 0 {
		return 0
	}
	return v.Engine.Weights + v.Engine.KV + v.Engine.Graph
}

// Snapshot returns what is served now.
func (s *Server) Snapshot() Snapshot {
	snap := Snapshot{}
	snap.Lending, snap.Why, _ = s.gate.look()
	now := time.Now()
	s.mu.Lock()
	snap.Begun = s.base != nil
	stages, drafts := make([]*stage.Stage, 0, len(s.spans)), make([]*drafting, 0, len(s.spans))
	for _, v := range s.spans {
		snap.Spans, stages, drafts = append(snap.Spans, v.snapshot(now)), append(stages, v.stage), append(drafts, v.draft)
	}
	s.mu.Unlock()
	for i := range snap.Spans {
		if v := &snap.Spans[i]; !snap.Lending && v.Loaded && !v.Leaving {
			v.State = "paused: " + snap.Why + "; " + v.State + " for this node alone"
		}
	}
	for i, f := range drafts { // they have locks of their own, as have stages
		snap.Spans[i].Draft.measured(f)
	}
	for i, st := range stages {
		if st != nil {
			v, cfg := &snap.Spans[i], st.Config()
			v.Stage, v.Load, v.KVTokens, v.Context = st.Status(), st.Load(), cfg.KVTokens, cfg.MaxContext
			v.Expires = v.expires(now, v.Stage)
		}
	}
	return snap
}

var errServedNoMore = errors.New("the span is served no more")
