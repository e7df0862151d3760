package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/standing"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

const (
	decideEvery = 10 * time.Second
	decideFirst = time.Second // while a network forms, and for a node that serves nothing yet
	forming     = 15 * time.Second
)

// chooser has a serving serve what the network needs most of the models that
// the operator allows: route.Decide says what, from the offers known here.
type chooser struct {
	n     *Node
	s     *serving
	names []string
	rules route.Rules
	last  route.Decision
	began time.Time

	mu     sync.Mutex
	models map[string]*store.Model // by CID

	seen   map[string]sight     // spans in the offers of others, by peer and name
	tried  map[string]time.Time // when they were last probed
	probes chan struct{}        // a place for each probe under way
}

// sight is when a span was in an offer first and last, by this node's clock.
type sight struct{ first, last time.Time }

const (
	// A span of another's is asked for a token when its last is so long ago, which
	// is well within the time for which that counts; and not again within a minute.
	probeAge   = standing.Fresh / 2
	probeAgain = time.Minute
	probesMost = 2 // at once

	placedMost = 128 // peers that are asked, in a round, whether they are there
)

// serveAuto serves a span of the node's own choice of one of the models.
func (n *Node) serveAuto(ctx context.Context, s *serving, names []string) error {
	c := &chooser{n: n, s: s, names: names, rules: route.DefaultRules(), began: time.Now(), models: map[string]*store.Model{},
		seen: map[string]sight{}, tried: map[string]time.Time{}, probes: make(chan struct{}, probesMost)}
	s.auto = true
	if err := c.findModels(ctx); err != nil {
		return err
	}
	c.lookRound(ctx)
	for ctx.Err() == nil {
		d, err := c.await(ctx)
		if err != nil {
			return err
		}
		if d.Action != route.Serve {
			return nil // ctx has ended
		}
		if err := c.serve(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// lookRound waits for others to be seen, and for them to see this node: many
// start at once, and none of them should take what another is about to.
func (c *chooser) lookRound(ctx context.Context) {
	wait, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if c.n.net.WaitPeers(wait) != nil {
		return
	}
	select {
	case <-wait.Done():
	case <-time.After(1500 * time.Millisecond):
	}
	for _, m := range c.known() {
		c.n.net.Offers(ctx, m.ID(), nil)
	}
}

func (c *chooser) known() []*store.Model {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*store.Model, 0, len(c.models))
	for _, m := range c.models {
		out = append(out, m)
	}
	return out
}

// findModels waits until one of the models is known; the others may come later.
func (c *chooser) findModels(ctx context.Context) error {
	c.s.set("looking for the model")
	found := make(chan error, len(c.names))
	for _, name := range c.names {
		go func() {
			m, err := c.n.library.Await(ctx, name, nil)
			if errors.Is(err, store.ErrFull) {
				// Of an origin's file that is too big all is read and its header
				// kept; what is chosen comes from there then.
				m, err = c.n.library.Await(ctx, name, &protocol.Span{})
			}
			if err == nil {
				c.mu.Lock()
				c.models[m.ID().String()] = m
				c.mu.Unlock()
				c.n.mu.Lock()
				c.s.takes = append(c.s.takes, m.ID())
				c.n.mu.Unlock()
				c.n.offerAll()
			}
			found <- err
		}()
	}
	var errs []error
	for range c.names {
		err := <-found
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// await asks until there is a span to serve.
func (c *chooser) await(ctx context.Context) (route.Decision, error) {
	for {
		d, err := c.decide(ctx, nil)
		if err != nil || ctx.Err() != nil || d.Action == route.Serve && !time.Now().Before(d.Due) {
			return d, err
		}
		c.s.set("standing by: " + d.Reason)
		select {
		case <-ctx.Done():
			return route.Decision{}, nil
		case <-time.After(c.pause(d)):
		}
	}
}

// pause is the time until the next look: every node has a second of its own.
func (c *chooser) pause(d route.Decision) time.Duration {
	every := decideEvery
	if time.Since(c.began) < forming {
		every = decideFirst
	}
	h := fnv.New32a()
	h.Write([]byte(c.n.net.Self()))
	every += time.Duration(h.Sum32()%1000) * every / 10_000
	if d.Action != route.Stay {
		every = min(every, max(time.Until(d.Due), 10*time.Millisecond))
	}
	return every
}

// serve serves a span until it is to be left, and moves on to others.
func (c *chooser) serve(ctx context.Context, d route.Decision) error {
	for {
		m := c.model(d.Model)
		if m == nil {
			return nil
		}
		c.n.cfg.Log.Info("chosen", "model", m.Name(), "blocks", d.Span, "because", d.Reason)
		c.last = route.Decision{}
		c.s.settle(m, d.Span)
		c.n.offerAll()
		kept, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- c.s.keep(kept) }()
		next, err := c.watch(ctx, ended)
		stop()
		if err == nil {
			err = <-ended
		}
		c.s.next(nil, protocol.Span{})
		if err != nil || ctx.Err() != nil || next.Action != route.Serve {
			c.s.settle(nil, protocol.Span{})
			c.n.offerAll()
			return err
		}
		d = next
	}
}

// watch waits until the span served is to be left, and for what. What comes
// next is fetched meanwhile.
func (c *chooser) watch(ctx context.Context, ended chan error) (d route.Decision, err error) {
	var fetched chan error
	for {
		var look <-chan time.Time
		if fetched == nil {
			look = time.After(c.pause(d))
		}
		select {
		case <-ctx.Done():
			return route.Decision{}, nil
		case err := <-ended:
			if err == nil {
				err = errors.New("the span is served no more")
			}
			return d, err
		case err := <-fetched:
			if err == nil {
				return d, nil
			}
			c.n.cfg.Log.Warn("what was chosen cannot be fetched", "error", err)
			c.s.next(nil, protocol.Span{})
			fetched = nil
			continue
		case <-look:
		}
		if d, err = c.decide(ctx, c.s); err != nil {
			c.n.cfg.Log.Debug("deciding what to serve", "error", err)
			continue
		}
		if d.Action == route.Stay || time.Now().Before(d.Due) {
			continue
		}
		m := c.model(d.Model)
		if d.Action == route.Leave || m == nil {
			return d, nil
		}
		c.s.next(m, d.Span)
		c.n.offerAll()
		fetched = make(chan error, 1)
		go func() { fetched <- c.n.library.Fetch(ctx, m, m.Manifest().ShardsFor(d.Span), nil) }()
	}
}

func (c *chooser) model(id string) *store.Model {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.models[id]
}

// decide asks the rules.
func (c *chooser) decide(ctx context.Context, serving *serving) (route.Decision, error) {
	self := route.Self{ID: c.n.net.Self().String(), Held: map[string][]bool{}, Download: c.n.library.Download(), Last: c.last}
	var infos []route.ModelInfo
	models := c.known()
	fits := false
	self.Lent = c.n.lent()
	for _, m := range models {
		info := c.n.modelInfo(m)
		infos = append(infos, info)
		self.Held[info.ID] = blocksOf(m.Manifest(), m.Holds())
		fits = fits || info.Bytes(protocol.Span{From: 1, To: 2}) <= self.Lent
	}
	if open, _, _ := c.n.gate.look(); !fits && open {
		return route.Decision{}, fmt.Errorf("not one block fits in the %d MiB lent; raise --memory", self.Lent>>20)
	}
	if serving != nil {
		self.Serving = serving.served()
		if row := self.Serving.Row; row > 0 {
			for _, info := range infos {
				if info.ID == self.Serving.Model {
					self.Speed = float64(info.BlockBytes) / row.Seconds()
				}
			}
		}
	}
	peers := c.peers(ctx, models)
	c.last = c.rules.Decide(time.Now(), self, peers, infos)
	c.probe(ctx, peers)
	return c.last, nil
}

// probe asks spans of strangers for a token, in the background, a few at a time:
// what they say of themselves is no copy.
func (c *chooser) probe(ctx context.Context, peers []route.Peer) {
	now := time.Now()
	for k, at := range c.tried {
		if now.Sub(at) >= probeAgain {
			delete(c.tried, k)
		}
	}
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	for _, p := range peers {
		for _, s := range p.Serves {
			m, key := c.model(s.Model), p.ID+" "+s.Model+" "+s.Span.String()
			if p.Trusted || p.ID == c.n.net.Self().String() || !s.Ready || m == nil || now.Sub(s.Answered) < probeAge || !c.tried[key].IsZero() {
				continue
			}
			select {
			case c.probes <- struct{}{}:
			default:
				return
			}
			c.tried[key] = now
			go func() {
				defer func() { <-c.probes }()
				if err := c.n.probe(ctx, m, route.Hop{Peer: p.ID, Span: s.Span}); err != nil {
					c.n.cfg.Log.Debug("another's span does not answer", "peer", p.ID, "blocks", s.Span, "error", err)
				}
			}()
		}
	}
}

// lent is the memory for a span of the node's own choice: what is lent, without
// what its operator's own choices take.
func (n *Node) lent() int64 {
	if open, _, _ := n.gate.look(); !open {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	left := n.cfg.Memory
	for _, s := range n.serving {
		if !s.auto {
			left -= int64(s.info.Weights + s.info.KV + s.info.Graph)
		}
	}
	return max(0, left)
}

// modelInfo is what a span of a model costs.
func (n *Node) modelInfo(m *store.Model) route.ModelInfo {
	man := m.Manifest()
	info := route.ModelInfo{ID: m.ID().String(), Name: m.Name(), Blocks: int(man.Blocks), KVBytes: n.kvBytes(m), KVTokens: int(min(max(man.Context, 512), 4096))}
	for _, sh := range man.Shards {
		switch sh.Kind {
		case protocol.ShardBlock:
			info.BlockBytes = max(info.BlockBytes, sh.Size)
		case protocol.ShardEmbedding:
			info.EmbedBytes = sh.Size
			if man.TiedOutput {
				info.HeadBytes += sh.Size
			}
		case protocol.ShardOutput:
			info.HeadBytes += sh.Size
		}
	}
	return info
}

// blocksOf says which blocks a node holds, of which shards it holds.
func blocksOf(man *protocol.Manifest, shards []bool) []bool {
	out := make([]bool, man.Blocks)
	for i, sh := range man.Shards {
		if sh.Kind == protocol.ShardBlock && i < len(shards) {
			out[sh.Block] = shards[i]
		}
	}
	return out
}

// peers are those who serve or may serve one of the models, as their offers show
// them and as this node knows them. Who does not answer is none of them, and who
// is known to lie or has failed of late and never worked, neither.
func (c *chooser) peers(ctx context.Context, models []*store.Model) []route.Peer {
	n := c.n
	ctx, cancel := context.WithTimeout(ctx, decideEvery)
	defer cancel()
	seen := map[peer.ID]*protocol.Offer{}
	for _, m := range models {
		some := func(offers []*protocol.Offer) bool { return len(offers) > 0 }
		for _, o := range n.net.Offers(ctx, m.ID(), some) {
			if n.survey.Trusted(o.From) || !survey.Shunned(n.standing.Of(o.From)) {
				seen[o.From] = o
			}
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var out []route.Peer
	now := time.Now()
	for _, id := range n.acquaintances(slices.Collect(maps.Keys(seen)), placedMost) {
		wg.Go(func() {
			if _, err := n.net.Status(ctx, id, cid.Undef, nil); err != nil {
				return
			}
			p := placed(seen[id], now, models)
			mu.Lock()
			defer mu.Unlock()
			c.witness(&p, id, now)
			out = append(out, p)
		})
	}
	wg.Wait()
	for k, s := range c.seen {
		if now.Sub(s.last) > c.rules.Patience {
			delete(c.seen, k)
		}
	}
	return out
}

// acquaintances are at most so many of some peers: those that are trusted, those
// that have worked for this node, those met before, and then any.
func (n *Node) acquaintances(peers []peer.ID, most int) []peer.ID {
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	class := map[peer.ID]int{}
	for _, p := range peers {
		switch s := n.standing.Of(p); {
		case n.survey.Trusted(p):
		case s.Done > 0:
			class[p] = 1
		case !s.Since.IsZero():
			class[p] = 2
		default:
			class[p] = 3
		}
	}
	slices.SortStableFunc(peers, func(a, b peer.ID) int { return cmp.Compare(class[a], class[b]) })
	return peers[:min(len(peers), most)]
}

// witness fills in what this node itself has seen of a peer and its spans.
func (c *chooser) witness(p *route.Peer, id peer.ID, now time.Time) {
	n := c.n
	n.standing.Meet(id) // it has answered
	p.Trusted, p.Met, p.Group = n.survey.Trusted(id), n.standing.Since(id), n.net.Group(id)
	for i := range p.Serves {
		s := &p.Serves[i]
		what := s.Model + " " + s.Span.String()
		s.First, s.Answered = n.standing.Answers(id, what)
		at, ok := c.seen[p.ID+" "+what]
		if !ok {
			at.first = now
		}
		at.last = now
		c.seen[p.ID+" "+what] = at
		if at.first.After(s.Since) && !p.Trusted {
			s.Since = at.first // what was before is its word alone
		}
	}
}

// placed is an offer as the rules of placement see it.
func placed(o *protocol.Offer, now time.Time, models []*store.Model) route.Peer {
	p := route.Peer{ID: o.From.String(), Expires: o.Expires(), Lent: int64(min(o.AutoBytes, 1<<50)), Held: map[string][]bool{}}
	for _, raw := range o.Takes {
		if id, err := cid.Cast(raw); err == nil {
			p.Takes = append(p.Takes, id.String())
		}
	}
	for _, h := range o.Shards {
		for _, m := range models {
			if string(h.Model) == string(m.ID().Bytes()) {
				bits := make([]bool, len(m.Manifest().Shards))
				for i := range bits {
					bits[i] = i/8 < len(h.Bitmap) && h.Bitmap[i/8]>>(i%8)&1 == 1
				}
				p.Held[m.ID().String()] = blocksOf(m.Manifest(), bits)
			}
		}
	}
	for _, s := range o.Spans {
		p.Serves = append(p.Serves, route.Served{
			Model: s.ModelID().String(), Span: s.Span(), Ready: s.Ready, Loaded: s.Loaded, Auto: s.Auto,
			Since: now.Add(-time.Duration(s.SinceS) * time.Second), Row: time.Duration(s.UsPerBlockPrefill) * time.Microsecond,
			Load: float64(s.LoadPermille) / 1000, LoadLong: float64(s.LoadLongPermille) / 1000, Refused: float64(s.RefusedPermille) / 1000,
		})
	}
	return p
}

// settle makes a serving one of a span, or of none.
func (s *serving) settle(m *store.Model, span protocol.Span) {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	s.model, s.span, s.since, s.info = m, span, time.Now(), engine.Info{}
}

// next announces the span that a serving will move to.
func (s *serving) next(m *store.Model, span protocol.Span) {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	s.nextModel, s.nextSpan, s.nextSince = m, span, time.Now()
}

// served is the span as the rules of placement see it.
func (s *serving) served() *route.Served {
	n := s.node
	n.mu.Lock()
	defer n.mu.Unlock()
	v := &route.Served{Model: s.model.ID().String(), Span: s.span, Ready: s.ready, Loaded: s.stage != nil, Auto: true, Since: s.since, Row: s.measure.prefill}
	if s.stage != nil {
		l := s.stage.Load()
		v.Load, v.LoadLong, v.Refused = l.Minute, l.Ten, l.Refused
	}
	return v
}
