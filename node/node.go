package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/semaphore"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/generate"
	"github.com/shoalnet/shoal/node/metrics"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/page"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/standing"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/traces"
	"github.com/shoalnet/shoal/protocol"
)

// Node is one daemon.
type Node struct {
	cfg       Config
	store     *store.Store
	net       *network.Network
	exchange  *exchange.Exchange
	stages    *stage.Server
	handler   http.Handler
	token     string
	started   time.Time
	texts     once[cid.Cid, *textTools] // of the models in use; they are large
	encoding  *semaphore.Weighted       // bytes of text being tokenized
	names     *names
	convert   sync.WaitGroup // conversions under way
	download  rateMeter
	fetches   fetchBoard
	imported  atomic.Uint64 // bytes of models read from origins at their import
	gate      gate
	metrics   *metrics.Metrics
	traces    *traces.Traces
	survey    *survey.Survey
	generator *generate.Generator
	trust     map[peer.ID]bool // by the operator's word
	standing  *standing.Book
	life      life

	mu      sync.Mutex
	leave   context.CancelCauseFunc // ends Run
	leaving bool                    // nothing is offered any more
	serving []*serving
	word    Word // of how it is asked
}

// Files of a node's home.
const (
	keyFile      = "key"
	portFile     = "port"
	peersFile    = "peers.json"
	ledgerFile   = "ledger.json"
	tokenFile    = "api.token"
	apiFile      = "api.json"
	socketFile   = "api.sock"
	storeDir     = "store"
	standingFile = "standing.json"
)

// New opens the store and joins the network. Nothing is served before Run.
func New(cfg Config) (_ *Node, err error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, started: time.Now(), encoding: semaphore.NewWeighted(encodeRoom),
		standing: standing.Open(cfg.path(standingFile), cfg.Log.With("part", "standing")),
	}
	n.cfg.Events = n.life.observe(cfg.Events)
	n.shareMemory()
	if n.trust, err = cfg.trusted(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.names, err = openNames(&cfg); err != nil {
		return nil, err
	}
	n.store, err = store.Open(cfg.path(storeDir), store.Options{
		Check: func(md interface{ Value(key string) any }) error { return engine.Check(md) },
		Quota: cfg.Quota, Log: cfg.Log.With("part", "store"),
	})
	if err != nil {
		return nil, err
	}
	n.sweep()
	key, err := network.LoadKey(cfg.path(keyFile))
	if err != nil {
		return nil, err
	}
	port := cfg.ListenPort
	if port == 0 && !cfg.Client {
		port = n.keptPort()
	}
	listen := cfg.ListenAddrs
	join := func() error {
		n.net, err = network.New(network.Config{
			Key: key, ListenPort: port, ListenAddrs: listen, Bootstrap: cfg.Bootstrap, MDNS: !cfg.NoMDNS,
			Client: cfg.Client, PeersFile: cfg.path(peersFile), Options: cfg.Network, Version: cfg.Version,
			Log: cfg.Log.With("part", "network"),
		})
		return err
	}
	if err := join(); err != nil {
		if errors.Is(err, network.ErrAddress) {
			return nil, configError{err}
		}
		if cfg.ListenPort != 0 || port == 0 {
			return nil, err
		}
		port = 0 // the port drawn the last time is another's now
		if err := join(); err != nil {
			return nil, err
		}
	}
	if !cfg.Client && cfg.ListenPort == 0 {
		n.keepPort(n.net.Port())
	}
	for p := range n.trust {
		n.net.Protect(p)
	}
	n.survey = survey.New(n.net, n.standing, n.trust, cfg.Fastest)
	n.metrics = metrics.New(cfg.Version, n.state)
	n.traces, err = traces.New(traces.Config{Endpoint: cfg.OTLP, Node: n.net.Self().String(), Version: cfg.Version, Log: cfg.Log.With("part", "traces")})
	if err != nil {
		return nil, configError{err}
	}
	codec, err := codecOf(cfg.Wire)
	if err != nil {
		return nil, err
	}
	n.generator = generate.New(generate.Config{
		Models: answerModels{n}, Survey: n.survey, Network: sessionDialer{streams{n.net}}, Recorder: n.standing,
		Metrics: n.metrics, Tracer: n.traces.Tracer(), Codec: codec, Fastest: cfg.Fastest, Log: cfg.Log.With("part", "generate"),
	})
	n.stages = stage.NewServer(cfg.Log.With("part", "stage"), n.survey.Trusted)
	n.exchange = exchange.New(n.net.Host(), n.store, n.net, exchange.Options{
		Leaves: n.modelLeaves, Up: float64(cfg.Up), Down: float64(cfg.Down), Busy: n.busy,
		Worked: n.net.Worked, Believable: n.net.Believable, Dialling: n.net.Dialling(),
		Ledger: cfg.path(ledgerFile), Authorize: store.Authorize, Log: cfg.Log.With("part", "exchange"),
	})
	for _, proto := range []string{protocol.StageID, protocol.StageID1} {
		n.net.Handle(proto, func(s *network.Stream) { n.stages.Serve(s) })
	}
	n.net.ServeStatus(n.statusReply)
	if n.token, err = n.loadToken(); err != nil {
		return nil, err
	}
	n.handler = api.New(api.Config{Generator: n.generator, Library: n, Observer: n, Keeper: n, Catalogue: n, Viewer: n, Page: page.Handler(), Metrics: n.metrics.Handler(), Token: n.token, Key: cfg.APIKey, Hosts: cfg.APIHosts, Origins: cfg.APIOrigins, Log: cfg.Log.With("part", "api")})
	return n, nil
}

// Handler is the node's API, for callers in this process.
func (n *Node) Handler() http.Handler { return n.handler }

// Token opens shoal's own endpoints of the API.
func (n *Node) Token() string { return n.token }

// Client is the node's API as a client of this process.
func (n *Node) Client() *api.Client { return api.InProcess(n.handler, n.token) }

// Generator answers prompts, for callers in this process. Unlike Client it does not
// go through the API's encoding.
func (n *Node) Generator() api.Generator { return n.generator }

// WaitPeers waits until some peer is connected.
func (n *Node) WaitPeers(ctx context.Context) error { return n.net.WaitPeers(ctx) }

// Run serves until ctx ends, then stops in order. It fails if the API's
// address is taken, or something that was asked for cannot be served at all.
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
	lending := n.watchLending(ctx)
	n.cfg.Events(Event{Event: "listening", Peer: n.net.Self().String(), Addrs: n.net.FullAddrs(), API: n.word.API, Socket: n.word.Socket})
	n.offerAll()
	var wg sync.WaitGroup
	select { // what the machine is like must be known before anything is loaded
	case <-lending:
	case <-ctx.Done():
	}
	var own []string // models of which a span of the node's own choice may be
	for _, spec := range n.cfg.Serve {
		if _, auto, _ := spec.span(); auto {
			own = append(own, spec.Model)
			continue
		}
		s := n.addServing(spec)
		wg.Go(func() {
			if err := s.run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("serving %s: %w", spec.Model, err))
			}
		})
	}
	if len(own) > 0 {
		s := n.addServing(ServeSpec{Model: strings.Join(own, " or ")})
		wg.Go(func() {
			if err := n.serveAuto(ctx, s, own); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("serving %s: %w", s.spec.Model, err))
			}
		})
	}
	wg.Go(func() { n.tellLoad(ctx) })
	<-ctx.Done()
	cause := context.Cause(ctx)
	// Nobody new first, then those who are there, then what they stood on.
	n.mu.Lock()
	n.leaving = true
	n.mu.Unlock()
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

func (n *Node) addServing(spec ServeSpec) *serving {
	s := &serving{node: n, spec: spec, state: "starting"}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.serving = append(n.serving, s)
	return s
}

// errDrained ends Run in order, as a signal would.
var errDrained = errors.New("asked to leave")

// Drain has the node refuse new sessions, hand over those under way, and leave.
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
	n.convert.Wait() // whoever asked for one has gone, and it cleans up
	n.texts.wait()
	if n.stages != nil {
		for _, s := range n.stages.Stages() {
			n.stages.Remove(s)
			s.Close(nil)
		}
	}
	if n.traces != nil { // the stages' last sessions are among them
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

// keptPort is the port that was drawn at the first start.
func (n *Node) keptPort() int {
	raw, err := os.ReadFile(n.cfg.path(portFile))
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || port < 1 || port > 65535 {
		return 0
	}
	return port
}

func (n *Node) keepPort(port int) {
	if err := files.Replace(n.cfg.path(portFile), []byte(strconv.Itoa(port)+"\n"), 0o644); err != nil {
		n.cfg.Log.Warn("the port cannot be kept for the next start", "error", err)
	}
}

// loadToken reads or makes the token that shoal's own endpoints ask for.
func (n *Node) loadToken() (string, error) {
	path := n.cfg.path(tokenFile)
	if raw, err := os.ReadFile(path); err == nil && len(raw) >= 32 {
		return strings.TrimSpace(string(raw)), nil
	}
	b := make([]byte, 24)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	token := hex.EncodeToString(b)
	return token, files.Replace(path, []byte(token+"\n"), 0o600)
}
