package serve

import (
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

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/placement"
	"github.com/shoalnet/shoal/node/remedy"
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
	othersTime  = time.Second     // for the models of other specs to be found
	lookTime    = 3 * time.Second // to see others before the first decision, at most
)

// chooser has a serving serve what the network needs most of its models:
// placement.Rules.Decide chooses, from the offers known here. A model that fits whole
// into what is left of the memory lent has a chooser of its own. The others share one,
// the host's, which chooses one span of all of them.
type chooser struct {
	srv   *Server
	s     *serving
	rules placement.Rules
	last  placement.Decision
	began time.Time
	over  chan struct{} // closed when it chooses no more

	mu     sync.Mutex
	models map[string]*store.Model // by CID

	seen   map[string]sight     // spans in the offers of others, by peer and name
	tried  map[string]time.Time // when they were last probed
	probes chan struct{}        // has an element for each probe under way
}

// sight is when a span was in an offer first and last, by this node's clock.
type sight struct{ first, last time.Time }

const (
	// A span of another peer is asked for a token when its last one is this old, well
	// before it no longer counts; and not again within a minute.
	probeAge   = standing.Fresh / 2
	probeAgain = time.Minute
	probesMost = 2 // at the same time
)

// runAuto serves a span of the node's own choice of the spec's model until ctx ends. Its
// error is as that of persist.
func (s *serving) runAuto(ctx context.Context) error {
	s.update(func() { s.auto = true })
	return s.persist(ctx, func(ctx context.Context) error {
		m, err := s.find(ctx, nil)
		if errors.Is(err, store.ErrFull) {
			// A file of an origin that is too big is read as a whole, and its
			// header kept; what is chosen is then fetched from there.
			m, err = s.find(ctx, &protocol.Span{})
		}
		if err != nil {
			return err
		}
		if err := s.srv.computable(m); err != nil { // it must not stand in the way of models that are
			return err
		}
		s.update(func() { s.goal = m })
		return s.choose(ctx, m)
	})
}

// choose serves all of a model, or a span of it, or waits for the host to choose one.
func (s *serving) choose(ctx context.Context, m *store.Model) error {
	for ctx.Err() == nil {
		all := target{m, m.Manifest().All()}
		small := s.reserve(s.srv.comfort(all))
		if small == nil {
			defer s.release()
			return newChooser(s, m).run(ctx, all)
		}
		host, is := s.srv.hostOf(s, m)
		if is {
			defer s.srv.leaveHost(host)
			s.srv.letOthers(ctx)
			return host.run(ctx, target{})
		}
		s.update(func() { s.guest, s.trouble = true, small })
		s.set(fmt.Sprintf("standing by: all of %s does not fit (%s); one span is chosen of it and others", m.Name(), small))
		s.srv.mu.Lock()
		news := s.wake // of the reserve above
		s.srv.mu.Unlock()
		select {
		case <-host.over:
		case <-news:
		case <-ctx.Done():
		}
		host.remove(m)
		s.update(func() { s.guest, s.trouble = false, nil })
	}
	return nil
}

func newChooser(s *serving, m *store.Model) *chooser {
	c := &chooser{srv: s.srv, s: s, rules: placement.DefaultRules(), began: time.Now(), over: make(chan struct{}), models: map[string]*store.Model{},
		seen: map[string]sight{}, tried: map[string]time.Time{}, probes: make(chan struct{}, probesMost)}
	c.add(m)
	return c
}

func (c *chooser) add(m *store.Model) {
	c.mu.Lock()
	c.models[m.ID().String()] = m
	c.mu.Unlock()
	c.s.update(func() { c.s.takes = append(c.s.takes, m.ID()) })
}

func (c *chooser) remove(m *store.Model) {
	c.mu.Lock()
	delete(c.models, m.ID().String())
	c.mu.Unlock()
	c.s.update(func() {
		c.s.takes = slices.DeleteFunc(c.s.takes, func(id cid.Cid) bool { return id == m.ID() })
	})
}

// hostOf returns the chooser of models that do not fit whole, to which m is added. If
// there is none, it is a new one of s, and is reports that.
func (s *Server) hostOf(v *serving, m *store.Model) (c *chooser, is bool) {
	s.hosting.Lock()
	defer s.hosting.Unlock()
	if s.host != nil {
		s.host.add(m)
		return s.host, false
	}
	s.host = newChooser(v, m)
	return s.host, true
}

// letOthers waits, for a moment at most, until the models of all specs are known: those
// that fit whole come first.
func (s *Server) letOthers(ctx context.Context) {
	for end := time.Now().Add(othersTime); time.Now().Before(end) && ctx.Err() == nil; {
		s.mu.Lock()
		wait := slices.ContainsFunc(s.spans, func(v *serving) bool { return v.auto && v.goal == nil })
		s.mu.Unlock()
		if !wait {
			return
		}
		_ = backoff.Pause(ctx, 20*time.Millisecond)
	}
}

func (s *Server) leaveHost(c *chooser) {
	s.hosting.Lock()
	s.host = nil
	s.hosting.Unlock()
	close(c.over)
}

// run chooses and serves until ctx ends, or there is nothing that it could serve. all is
// what it may serve at once, without looking around first, if it is here; or none.
func (c *chooser) run(ctx context.Context, all target) error {
	c.srv.Offer()
	if all.model == nil || !all.model.Whole(all.shards()) {
		c.lookRound(ctx)
	}
	for ctx.Err() == nil {
		d, err := c.await(ctx)
		if err != nil {
			return err
		}
		if d.Action != placement.Serve {
			return nil // ctx has ended
		}
		if err := c.serve(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// lookRound waits until this node sees others and they see it: many start at the same
// time, and none should take what another is about to take.
func (c *chooser) lookRound(ctx context.Context) {
	look, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	if c.srv.cfg.Network.WaitPeers(look) != nil {
		return
	}
	_ = backoff.Pause(look, lookTime/2)
	for _, m := range c.known() {
		c.srv.cfg.Network.Offers(ctx, m.ID(), nil)
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

// await asks until there is a span to serve.
func (c *chooser) await(ctx context.Context) (placement.Decision, error) {
	for {
		d, err := c.decide(ctx, target{})
		if err != nil || ctx.Err() != nil || d.Action == placement.Serve && !time.Now().Before(d.Due) {
			return d, err
		}
		c.s.set("standing by: " + d.Reason)
		if backoff.Pause(ctx, c.pause(d)) != nil {
			return placement.Decision{}, nil //nolint:nilerr // told to stop
		}
	}
}

// pause is the time until the next decision: every node has an offset of its own.
func (c *chooser) pause(d placement.Decision) time.Duration {
	every := decideEvery
	if time.Since(c.began) < forming {
		every = decideFirst
	}
	h := fnv.New32a()
	h.Write([]byte(c.srv.cfg.Network.Self()))
	every += time.Duration(h.Sum32()%1000) * every / 10_000
	if d.Action != placement.Stay {
		every = min(every, max(time.Until(d.Due), 10*time.Millisecond))
	}
	return every
}

// serve serves a span until it is to be left, and moves on to others.
func (c *chooser) serve(ctx context.Context, d placement.Decision) error {
	for {
		m := c.model(d.Model)
		if m == nil {
			return nil
		}
		c.srv.cfg.Log.Info("chosen", "model", m.Name(), "blocks", d.Span, "because", d.Reason)
		c.last = placement.Decision{}
		t := target{m, d.Span}
		c.s.settle(t)
		c.srv.Offer()
		kept, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		c.srv.work.Go(func() { ended <- c.s.keep(kept, t) })
		next, err := c.awaitMove(ctx, t, ended)
		stop()
		if err == nil {
			err = <-ended
		}
		c.s.announce(target{})
		if err != nil || ctx.Err() != nil || next.Action != placement.Serve {
			c.s.settle(target{})
			c.srv.Offer()
			return err
		}
		d = next
	}
}

// awaitMove waits until the target served is to be left, and returns for what. That
// is fetched meanwhile.
func (c *chooser) awaitMove(ctx context.Context, t target, ended chan error) (d placement.Decision, err error) {
	var fetched chan error
	for {
		var look <-chan time.Time
		if fetched == nil {
			look = time.After(c.pause(d))
		}
		select {
		case <-ctx.Done():
			return placement.Decision{}, nil
		case err := <-ended:
			if err == nil {
				err = errServedNoMore
			}
			return d, err
		case err := <-fetched:
			if err == nil {
				return d, nil
			}
			c.srv.cfg.Log.Warn("what was chosen cannot be fetched", "error", err)
			c.s.announce(target{})
			fetched = nil
			continue
		case <-look:
		}
		if d, err = c.decide(ctx, t); err != nil {
			c.srv.cfg.Log.Debug("deciding what to serve", "error", err)
			continue
		}
		if d.Action == placement.Stay || time.Now().Before(d.Due) {
			continue
		}
		m := c.model(d.Model)
		if d.Action == placement.Leave || m == nil {
			return d, nil
		}
		next := target{m, d.Span}
		c.s.announce(next)
		c.srv.Offer()
		fetched = make(chan error, 1)
		c.srv.work.Go(func() { fetched <- c.srv.cfg.Models.Fetch(ctx, m, next.shards(), nil) })
	}
}

func (c *chooser) model(id string) *store.Model {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.models[id]
}

// decide asks the rules what to do about the target that is served, which may be none.
func (c *chooser) decide(ctx context.Context, t target) (placement.Decision, error) {
	self := placement.Self{
		ID: c.srv.cfg.Network.Self().String(), Held: map[string][]bool{}, Download: c.srv.cfg.Models.Download(), Last: c.last, Lent: c.srv.limits().Memory,
	}
	var infos []placement.ModelInfo
	models := c.known()
	least := int64(0)
	for _, m := range models {
		info := c.srv.modelInfo(m)
		infos = append(infos, info)
		self.Held[info.ID] = survey.HeldBlocks(m.Manifest(), m.Holds())
		self.Lent = min(self.Lent, c.srv.leftOf(c.s, m))
		if one := info.Bytes(protocol.Span{From: 1, To: 2}); least == 0 || one < least {
			least = one
		}
	}
	if least > self.Lent {
		return placement.Decision{}, remedy.For(fmt.Errorf("not one block fits: %w", noRoom{least, self.Lent, c.srv.limits().Memory}), remedy.RaiseMemory)
	}
	if t.model != nil {
		self.Serving = c.s.served(t)
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

// served is the target as the rules of placement see it.
func (s *serving) served(t target) *placement.Served {
	s.srv.mu.Lock()
	v := &placement.Served{
		Model: t.model.ID().String(), Span: t.span, Ready: s.ready, Loaded: s.stage != nil, Auto: true, Since: s.since, Row: s.measure.prefill,
	}
	st := s.stage
	s.srv.mu.Unlock()
	if st != nil {
		l := st.Load()
		v.Load, v.LoadLong, v.Refused = l.Minute, l.Ten, l.Refused
	}
	return v
}

// probe asks spans of strangers for a token, in the background, a few at a time: a
// claim alone is no copy.
func (c *chooser) probe(ctx context.Context, peers []placement.Peer) {
	now := time.Now()
	maps.DeleteFunc(c.tried, func(_ string, at time.Time) bool { return now.Sub(at) >= probeAgain })
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	for _, p := range peers {
		for i := range p.Serves {
			s := &p.Serves[i]
			m, key := c.model(s.Model), spanKey(p.ID, s)
			if p.Trusted || p.ID == c.srv.cfg.Network.Self().String() || !s.Ready || s.Asleep || m == nil || now.Sub(s.Answered) < probeAge || !c.tried[key].IsZero() {
				continue
			}
			select {
			case c.probes <- struct{}{}:
			default:
				return
			}
			c.tried[key] = now
			c.srv.work.Go(func() {
				defer func() { <-c.probes }()
				if err := c.srv.probe(ctx, m, route.Hop{Peer: p.ID, Span: s.Span}); err != nil {
					c.srv.cfg.Log.Debug("another's span does not answer", "peer", p.ID, "blocks", s.Span, "error", err)
				}
			})
		}
	}
}

// leftOf is the memory for the weights and KV cells of a span of a model, in bytes: what
// the other spans leave of what is lent, without what a pass takes besides; and no more
// than there is disk for.
func (s *Server) leftOf(v *serving, m *store.Model) int64 {
	left := s.leftFor(v) - s.passBytes(m)
	if free := s.cfg.Free(); free >= 0 && free < m.Manifest().Size()-m.Held() {
		left = min(left, free+m.Held())
	}
	return max(0, left)
}

// passBytes is what the smallest passes through a span of a model take besides its
// weights and KV cells, and its engine's process.
func (s *Server) passBytes(m *store.Model) int64 {
	c := s.costsOf(target{m, protocol.Span{From: 0, To: 1}})
	return c.own + leastBatch*(c.Row+c.Score*int64(s.modelInfo(m).KVTokens))
}

// comfort is what a target takes with as many KV cells as a span of the node's own choice
// is to have, in bytes.
func (s *Server) comfort(t target) int64 {
	return s.costsOf(t).bytes(s.autoCells(t.model), leastBatch)
}

// autoCells is how many KV cells a span of the node's own choice is to have at least.
func (s *Server) autoCells(m *store.Model) int {
	if s.cfg.KVTokens > 0 {
		return s.cfg.KVTokens
	}
	return int(min(max(m.Manifest().Context, 512), 4096))
}

// cuts are the spans of a model that can be served here; nil: all.
func (s *Server) cuts(m *store.Model) *protocol.Cuts { return s.cutsBy(s.cfg.Engines.Use, m) }

// cutsBy are the spans of a model that an engine can compute; nil: all.
func (s *Server) cutsBy(use string, m *store.Model) *protocol.Cuts {
	key := cutsKey{use, m.ID()}
	if c, ok := s.cutsOf.Load(key); ok {
		return c.(*protocol.Cuts)
	}
	h, err := m.Header()
	if err != nil {
		return nil // loading says why
	}
	if m.IsAdapter() { // which the built-in engine does not compute
		use = engine.Llama
	}
	c := engine.CutsFor(use, h)
	s.cutsOf.Store(key, c)
	return c
}

type cutsKey struct {
	use   string
	model cid.Cid
}

// modelInfo is what a span of a model costs.
func (s *Server) modelInfo(m *store.Model) placement.ModelInfo {
	man := m.Manifest()
	info := placement.ModelInfo{ID: m.ID().String(), Name: m.Name(), Blocks: int(man.Blocks), KVBytes: s.kvBytes(m), KVTokens: engine.Cells(s.autoCells(m), s.limits().MaxSessions), Cuts: s.cuts(m)}
	for _, p := range (target{model: m}).parts() {
		man, sizes := p.model.Manifest(), placement.ModelInfo{}
		for _, sh := range man.Shards {
			switch sh.Kind {
			case protocol.ShardBlock:
				sizes.BlockBytes = max(sizes.BlockBytes, sh.Size)
			case protocol.ShardEmbedding:
				sizes.EmbedBytes = sh.Size
				if man.TiedOutput { // see costsOf
					if !engine.Maps {
						sizes.EmbedBytes = 2 * sh.Size
					}
					sizes.HeadBytes += sizes.EmbedBytes
				}
			case protocol.ShardOutput:
				sizes.HeadBytes += sh.Size
			}
		}
		info.BlockBytes, info.EmbedBytes, info.HeadBytes = info.BlockBytes+sizes.BlockBytes, info.EmbedBytes+sizes.EmbedBytes, info.HeadBytes+sizes.HeadBytes
	}
	return info
}

// peers are those that serve or may serve one of the models, with what this node has
// seen of their spans. Peers that do not answer within a round are left out.
func (c *chooser) peers(ctx context.Context, models []*store.Model) []placement.Peer {
	ctx, cancel := context.WithTimeout(ctx, decideEvery)
	defer cancel()
	manifests := map[cid.Cid]*protocol.Manifest{}
	for _, m := range models {
		manifests[m.ID()] = m.Manifest()
	}
	peers, now := c.srv.cfg.Survey.PlacementPeers(ctx, manifests), time.Now()
	for i := range peers {
		c.witness(&peers[i], now)
	}
	maps.DeleteFunc(c.seen, func(_ string, s sight) bool { return now.Sub(s.last) > c.rules.Patience })
	return peers
}

// witness has the spans of a stranger count from when this node first saw them: what
// was before is known from its claim alone.
func (c *chooser) witness(p *placement.Peer, now time.Time) {
	for i := range p.Serves {
		s := &p.Serves[i]
		key := spanKey(p.ID, s)
		at, ok := c.seen[key]
		if !ok {
			at.first = now
		}
		at.last = now
		c.seen[key] = at
		if at.first.After(s.Since) && !p.Trusted {
			s.Since = at.first
		}
	}
}

// spanKey names a span of a peer.
func spanKey(peer string, s *placement.Served) string {
	return peer + " " + s.Model + " " + s.Span.String()
}
