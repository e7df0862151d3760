package report

import (
	"context"
	"maps"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/door"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/lend"
	"github.com/shoalnet/shoal/node/metrics"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/network/joint"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

// maxListed is how many models, peers, and holders of a model an answer has at most.
const maxListed = 200

// askTime is how long peers are waited for that are asked for their offers.
const askTime = 2 * time.Second

// Library is what this node knows of models.
type Library interface {
	// Describe tells of a model of the store.
	Describe(*store.Model) api.Model
	// DescribeClaim tells of a model that only peers have.
	DescribeClaim(*survey.Claim) api.Model
	// Listed returns the claims that belong into a list of models.
	Listed([]*survey.Claim) []*survey.Claim
	// Fetches are those under way, by name. The slice is not nil.
	Fetches() []api.Fetch
	// Imported is how many bytes of models were read from origins at their import.
	Imported() uint64
}

// Network is the networks of this node.
type Network interface {
	Self() peer.ID
	Own(peer.ID) bool // reports whether a peer is this node, in any network
	FullAddrs() []string
	Port() int
	Peers() []network.PeerInfo
	RTT(peer.ID) (time.Duration, bool)
	Health() network.Health
	Reach() network.ReachReport
	Swarms() []joint.Swarm
	Sizes() joint.Sizes
	Traffic() map[string]network.Traffic
	Links() []network.Link
	Offers(ctx context.Context, model cid.Cid, enough func([]*protocol.Offer) bool) []*protocol.Offer
}

// Config is what a reporter is made of. All parts are needed.
type Config struct {
	Version  string
	Name     string // of this machine, for its owner
	Home     string
	StoreDir string // whose disk is looked at for free space
	Light    bool   // the node serves nothing
	Exact    bool   // what it serves was to be exact
	Nice     int
	Devices  []string

	Limits   func() Limits    // of now: the operator may change them
	Word     func() door.Word // where the API is, once it listens
	Warnings []string         // about this program on this machine
	Drain    func(context.Context) error
	Ahead    func() *api.Ahead // what guesses brought this node's answers; nil: none were sent

	Network  Network
	Exchange *exchange.Exchange
	Store    *store.Store
	Survey   *survey.Survey
	Serving  func() serve.Snapshot
	Library  Library
	Swarms   api.Swarms // private ones; nil: none
}

// Limits are what the operator allows now.
type Limits struct {
	APIOpen     bool  // anyone who reaches the API may use it
	APIClosed   bool  // callers of other machines are refused, because there is no key
	Memory      int64 // bytes lent
	Quota       int64 // bytes of disk; 0: no limit
	Up, Down    int64 // bytes per second; 0: no limit
	Threads     int   // 0: as many as make it faster
	MaxSessions int   // per span
	Lend        lend.Rules
}

// Reporter answers questions about the node. It implements api.Observer and
// api.Viewer, and is safe for concurrent use.
type Reporter struct {
	cfg     Config
	started time.Time
}

// New makes a reporter of a node that starts now.
func New(cfg Config) *Reporter { return &Reporter{cfg: cfg, started: time.Now()} }

// Drain implements api.Observer.
func (r *Reporter) Drain(ctx context.Context) error { return r.cfg.Drain(ctx) }

// State is what the metrics read at each scrape.
func (r *Reporter) State() metrics.State {
	snap, sizes := r.cfg.Serving(), r.cfg.Network.Sizes()
	st := metrics.State{
		Lending: snap.Lending, Peers: sizes.Peers, DHTPeers: sizes.DHT, Offers: sizes.Offers,
		Punches:    map[string]uint64{network.PunchDialed: 0, network.PunchOpened: 0, network.PunchFailed: 0, network.PunchError: 0},
		QuotaBytes: r.cfg.Limits().Quota, FreeBytes: files.FreeSpace(r.cfg.StoreDir), StoreBytes: r.allocated(), Traffic: map[string]metrics.Traffic{},
	}
	st.Lookups = lookupsOf(sizes.Lookups)
	passed := r.cfg.Exchange.Stats()
	st.Given, st.Fetched = passed.Given, map[string]uint64{"peers": passed.Taken, "origins": passed.Origins + r.cfg.Library.Imported()}
	for p, t := range r.cfg.Network.Traffic() {
		st.Traffic[p] = metrics.Traffic(t)
	}
	rep := r.cfg.Network.Reach()
	st.Paths, st.CircuitMin = map[string]int{"direct": 0, "relayed": 0}, network.NoLimit
	maps.Copy(st.Punches, rep.Punches)
	for _, p := range rep.Paths {
		if p.Direct {
			st.Paths["direct"]++
			continue
		}
		st.Paths["relayed"]++
		st.CircuitMin = min(st.CircuitMin, p.Left)
	}
	for _, l := range r.cfg.Network.Links() {
		st.Links = append(st.Links, metrics.Link{Conn: l.Conn, Peer: l.Peer.String(), RTT: l.RTT, Sent: l.Sent, Lost: l.Lost})
	}
	for i := range snap.Spans {
		s := &snap.Spans[i]
		v := metrics.Span{Model: s.Name(), Blocks: s.Span.String(), Ready: s.Ready}
		if s.Loaded {
			v.Sessions, v.QueuedRows, v.KVTokens, v.KVFree = s.Stage.Sessions, s.Stage.QueuedRows, s.KVTokens, s.Stage.KVFree
			v.EngineBytes = s.Memory()
		}
		st.Spans = append(st.Spans, v)
	}
	return st
}

// allocated is what models take on disk, in bytes.
func (r *Reporter) allocated() (n int64) {
	for _, m := range r.cfg.Store.Models() {
		n += m.Allocated()
	}
	return n
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func lookupsOf(l network.Lookups) metrics.Lookups {
	of := func(d network.Distribution, bounds []float64) metrics.Histogram {
		h := metrics.Histogram{Count: d.Count, Sum: d.Sum, Buckets: map[float64]uint64{}}
		for _, b := range bounds { // also before there is any, for a rate
			h.Buckets[b] = 0
		}
		for i, n := range d.Within {
			h.Buckets[bounds[i]] = n
		}
		return h
	}
	return metrics.Lookups{Hops: of(l.Hops, network.HopBounds), First: of(l.First, network.FirstBounds), Vain: l.Vain, Dials: l.Dials, Dead: l.Dead}
}
