package node

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/door"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/generate"
	"github.com/shoalnet/shoal/node/keys"
	"github.com/shoalnet/shoal/node/lending"
	"github.com/shoalnet/shoal/node/library"
	"github.com/shoalnet/shoal/node/metrics"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/joint"
	"github.com/shoalnet/shoal/node/page"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/report"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/standing"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/node/swarms"
	"github.com/shoalnet/shoal/node/traces"
	"github.com/shoalnet/shoal/protocol"
)

// Node is one daemon. It is safe for concurrent use, except that Close must come after
// Run.
type Node struct {
	cfg       Config
	now       atomic.Pointer[Config] // cfg with what Adjust has changed since
	adjusting sync.Mutex
	store     *store.Store
	net       *joint.Networks
	exchange  *exchange.Exchange
	stages    *stage.Server
	survey    *survey.Survey
	desk      *lending.Desk
	library   *library.Library
	generator *generate.Generator
	serve     *serve.Server
	keys      *keys.Book
	metrics   *metrics.Metrics
	traces    *traces.Traces
	standing  *standing.Book
	handler   http.Handler
	token     string
	life      life

	mu    sync.Mutex
	leave context.CancelCauseFunc // ends Run
	word  Word                    // where the API listens
}

// New opens the store and joins the network. Nothing is served before Run. Its errors
// wrap ErrConfig where a setting is wrong, and engine.ErrNoChild where the program
// cannot start engines.
func New(cfg Config) (_ *Node, err error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, standing: standing.Open(cfg.home().Standing(), cfg.Log.With("part", "standing"))}
	n.cfg.Events = n.life.observe(cfg.Events)
	n.now.Store(&n.cfg)
	trust, err := cfg.trusted()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	listed, err := library.LoadCatalog(cfg.Home, cfg.Catalogs, cfg.CatalogKeys)
	if errors.Is(err, library.ErrCatalog) {
		err = configError{err}
	}
	if err != nil {
		return nil, err
	}
	n.store, err = store.Open(cfg.home().Store(), store.Options{
		Check: usable,
		Quota: cfg.Quota, Log: cfg.Log.With("part", "store"),
	})
	if err != nil {
		return nil, err
	}
	files.Sweep(cfg.Home) // no other node is at work here, since the store is open
	if cfg.Begin != nil {
		if err = cfg.Begin(&n.cfg); err != nil {
			return nil, err
		}
		cfg.Swarms, cfg.Private = n.cfg.Swarms, n.cfg.Private
	}
	if n.net, err = swarms.Open(cfg.networks()); errors.Is(err, network.ErrAddress) {
		err = configError{err}
	}
	if err != nil {
		return nil, err
	}
	n.net.Protect(trust)
	n.survey = survey.New(n.net, n.standing, trust, cfg.Fastest)
	n.survey.SetFellows(cfg.Swarms.MachineName)
	n.desk = lending.New(lending.Config{Network: n.net, Trusted: n.survey.Trusted, Named: n.survey.Named, Names: n.store.NamesOf, Guest: lending.Guests(n.net)}, lending.Rules{Lend: cfg.Policy, Use: cfg.Use})
	n.net.Lend(n.desk.Anybody)
	var reports *report.Reporter // of all that follows
	n.metrics = metrics.New(cfg.Version, func() metrics.State { return reports.State() })
	n.traces, err = traces.New(traces.Config{Endpoint: cfg.OTLP, Node: n.net.Self().String(), Version: cfg.Version, Log: cfg.Log.With("part", "traces")})
	if err != nil {
		return nil, configError{err}
	}
	codec, auto, err := codecOf(cfg.Wire)
	if err != nil {
		return nil, err
	}
	n.keys, err = keys.Open(cfg.home().Keys(), cfg.Log.With("part", "keys"), func(name string, more api.KeyUsage) {
		n.metrics.Used(name, more.Requests, more.PromptTokens, more.AnswerTokens)
	})
	if err != nil {
		return nil, configError{remedy.For(err, remedy.KeysFile)}
	}
	n.keys.SetDefault(cfg.APIKey)
	n.generator = generate.New(generate.Config{
		Models: models{n}, Survey: n.survey, Network: sessionDialer{n.net}, Recorder: n.standing,
		Metrics: n.metrics, Tracer: n.traces.Tracer(), Codec: codec, AutoWire: auto, NoAhead: cfg.Ahead == "off", Use: n.desk.Use, Log: cfg.Log.With("part", "generate"),
	})
	n.stages = stage.NewServer(cfg.Log.With("part", "stage"), n.survey.Trusted)
	n.stages.Restrict(n.refuses)
	n.stages.Charge(cfg.Swarms.Spend)
	n.exchange = exchange.New(n.store, exchange.Options{
		Leaves: library.Leaves(n.store), Up: float64(cfg.Up), Down: float64(cfg.Down), Busy: func() bool { return n.stages.Busy() || n.generator.Active() > 0 },
		Ledger: cfg.home().Ledger(), Authorize: store.Authorize, Log: cfg.Log.With("part", "exchange"),
	})
	n.net.Each(n.exchangeIn)
	if n.library, err = n.newLibrary(listed); err != nil {
		return nil, err
	}
	for _, proto := range []string{protocol.StageID, protocol.StageID1} {
		n.net.Handle(proto, func(s *network.Stream) { n.stages.Serve(s) })
	}
	if n.token, err = door.Token(cfg.home().APIToken()); err != nil {
		return nil, err
	}
	n.serve = serve.New(n.served())
	n.net.ServeStatus(n.serve.StatusReply)
	reports = report.New(n.reported())
	n.handler = api.New(api.Config{
		Generator: n.generator, Counter: n.generator, Embedder: n.generator, Decider: n.generator, Library: n.library, Keeper: n.library, Controller: n.serve, Catalogue: n.library, Vocabulary: n.library, Observer: reports, Viewer: reports,
		Page: page.Handler(), Metrics: n.metrics.Handler(), Token: n.token, Access: n.access, Keys: n.keys, Unready: n.unready, Settings: cfg.Settings, Swarms: swarm.Owned(cfg.Swarms), Policies: lending.Owner{Desk: n.desk, Known: swarm.Owned(cfg.Swarms), Find: n.library.Called},
		Log: cfg.Log.With("part", "api"),
	})
	return n, nil
}

// Library returns the models of this node.
func (n *Node) Library() *library.Library { return n.library }

// Handler returns the node's API, for callers in this process.
func (n *Node) Handler() http.Handler { return n.handler }

// Token returns the token that shoal's own endpoints of the API require.
func (n *Node) Token() string { return n.token }

// Client returns a client of the node's API, for use in this process.
func (n *Node) Client() *api.Client { return api.InProcess(n.handler, n.token) }

// Generator returns what answers prompts, for callers in this process. Unlike Client
// it does not go through the API's encoding.
func (n *Node) Generator() api.Generator { return n.generator }

// WaitPeers waits until a peer is connected. Its error is ctx's.
func (n *Node) WaitPeers(ctx context.Context) error { return n.net.WaitPeers(ctx) }

// Run serves until ctx ends or Drain is called, then stops in order and returns nil. It
// returns an error if the API's address is in use, or if something in Config.Serve
// cannot be served at all; the latter wraps ErrConfig if the entry is wrong.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() { n.life.end(err) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n.mu.Lock()
	n.leave = cancel
	n.mu.Unlock()
	stopAPI, err := n.listen(cancel)
	if err != nil {
		return err
	}
	lending := n.serve.WatchLending(ctx)
	n.cfg.Events(Event{Event: "listening", Peer: n.net.Self().String(), Addrs: n.net.FullAddrs(), API: n.word.API, URLs: n.word.URLs, TLS: n.word.Fingerprint, Socket: n.word.Socket, Open: new(!n.cfg.Private)})
	n.serve.Offer()
	select { // whether the rules allow lending must be known before anything is loaded
	case <-lending:
	case <-ctx.Done():
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		n.serve.Run(ctx, func(err error) {
			if errors.Is(err, serve.ErrSpec) {
				err = configError{err}
			}
			cancel(err)
		})
	})
	<-ctx.Done()
	cause := context.Cause(ctx)
	// First no new sessions, then the running ones, then what they depend on.
	n.serve.Leave()
	n.cfg.Events(Event{Event: "leaving"})
	if err := n.net.Withdraw(context.WithoutCancel(ctx)); err != nil {
		n.cfg.Log.Warn("withdrawing the offer", "error", err)
	}
	wg.Wait() // each span drains
	stopAPI()
	n.cfg.Events(Event{Event: "stopped"})
	if errors.Is(cause, context.Canceled) || errors.Is(cause, errDrained) {
		return nil
	}
	return cause
}

// errDrained makes Run stop in order, as a signal would.
var errDrained = errors.New("asked to leave")

// Drain makes the node refuse new sessions, hand over running ones, and leave. Its
// error is an api.Refused if the node is a light client or does not run.
func (n *Node) Drain(context.Context) error {
	n.mu.Lock()
	leave := n.leave
	n.mu.Unlock()
	if leave == nil || n.cfg.Client {
		return api.Errorf(api.Refused, "this is a light client; it serves nobody")
	}
	leave(errDrained)
	return nil
}

// Close leaves the network and closes the store. Run must have returned.
func (n *Node) Close() error {
	var errs []error
	if n.library != nil {
		n.library.Close() // its callers have gone; it cleans up
	}
	if n.keys != nil {
		n.keys.Close()
	}
	if n.traces != nil { // those of the stages' last sessions are among them
		errs = append(errs, n.traces.Close())
	}
	if n.exchange != nil {
		errs = append(errs, n.exchange.Close())
	}
	if n.net != nil {
		errs = append(errs, n.net.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	errs = append(errs, n.standing.Close())
	return errors.Join(errs...)
}
