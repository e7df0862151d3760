package survey

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// While a model is in use, its peers are asked for their load in the background, so that a
// prompt which finds this node at rest need not wait for their answers: a round trip that
// every first token would take.

const (
	warmEvery  = time.Second     // between two rounds
	warmFresh  = 3 * time.Second // for which an answer will do
	warmFor    = time.Minute     // since a model was last used
	warmModels = 8               // at once

	// What peers have kept of this node's prompts is not asked for in the background: it is
	// remembered. Stages keep it for five minutes.
	keptFor      = 4 * time.Minute
	mostSessions = 128
)

// warm is what is known without asking. The zero value knows nothing. It is safe for
// concurrent use.
type warm struct {
	mu       sync.Mutex
	models   map[cid.Cid]*inUse
	sessions []ended // the oldest first
}

// inUse is a model that prompts use.
type inUse struct {
	used  time.Time
	peers []peer.ID // to ask
	said  map[peer.ID]said

	unsure bool // peers may keep something else than is remembered: the next prompt asks
}

// said is what a peer has answered; nil: nothing.
type said struct {
	st *protocol.StatusReply
	at time.Time // when it was asked
}

// ended is a session that has ended well, the prefix of which its stages keep.
type ended struct {
	model  cid.Cid
	hops   []session.Hop
	prefix []uint64
	at     time.Time
}

// said notes what a peer has answered; nil: nothing.
func (w *warm) said(model cid.Cid, id peer.ID, st *protocol.StatusReply, asked time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.models[model]; m != nil && slices.Contains(m.peers, id) {
		m.said[id] = said{st, asked}
	}
}

// recent returns a model's answers that are not older than warmFresh.
func (w *warm) recent(model cid.Cid, now time.Time) map[peer.ID]*protocol.StatusReply {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.models[model]
	if m == nil || m.unsure {
		return nil
	}
	all := map[peer.ID]*protocol.StatusReply{}
	for id, x := range m.said {
		if now.Sub(x.at) <= warmFresh {
			all[id] = x.st
		}
	}
	return all
}

// errCold means that answers are missing.
var errCold = errors.New("survey: not all peers have said lately what they have room for")

// pickWarm has pick choose a route by what peers have said a moment ago. It returns an error
// if that is not known of all of them, or pick finds none.
func (s *Survey) pickWarm(q *Query, turn turn, pick Pick) (*route.Route, error) {
	if !q.Warm {
		return nil, errCold
	}
	recent := s.warm.recent(q.Model, time.Now())
	r := s.expect(turn.of.self, slices.Clone(turn.list), q)
	for p := range r.peers {
		r.peers[p] = false // nobody has been asked what it has kept
	}
	for p := range r.peers {
		id, err := peer.Decode(p)
		if err != nil {
			continue
		}
		st, ok := recent[id]
		if s.net.Own(id) { // which costs no time
			r.peers[p] = true
			st, err = s.status(context.Background(), id, q.Model, q.Prefix)
			ok = err == nil
		}
		if !ok {
			return nil, errCold
		}
		r.take(id, st)
	}
	silent := r.silent()
	return pick(turn.of.self, route.Price(slices.DeleteFunc(r.list, func(c route.Candidate) bool { return silent[c.Peer] })), r.links)
}

// keepWarm has the peers of a round asked in the background for as long as the model is in
// use.
func (s *Survey) keepWarm(q *Query, turn turn) {
	var peers []peer.ID
	for _, c := range turn.list {
		if id, err := peer.Decode(c.Peer); err == nil && !s.net.Own(id) && !slices.Contains(peers, id) {
			peers = append(peers, id)
		}
	}
	if len(peers) == 0 {
		return
	}
	now := time.Now()
	w := &s.warm
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.models[q.Model]; m != nil {
		m.used, m.peers, m.unsure = now, peers, false
		maps.DeleteFunc(m.said, func(id peer.ID, _ said) bool { return !slices.Contains(peers, id) })
		return
	}
	if len(w.models) >= warmModels {
		return
	}
	if w.models == nil {
		w.models = map[cid.Cid]*inUse{}
	}
	w.models[q.Model] = &inUse{used: now, peers: peers, said: map[peer.ID]said{}}
	go s.askAgain(q.Model)
}

// askAgain asks the peers of a model, and again later while it is in use and some answer.
func (s *Survey) askAgain(model cid.Cid) {
	w := &s.warm
	w.mu.Lock()
	peers := w.models[model].peers
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), warmFresh)
	defer cancel()
	var wg sync.WaitGroup
	var some atomic.Bool
	for _, id := range peers {
		wg.Go(func() {
			began := time.Now()
			st, err := s.status(ctx, id, model, nil)
			if err != nil {
				st = nil
			} else {
				some.Store(true)
			}
			w.said(model, id, st, began)
		})
	}
	wg.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if some.Load() && time.Since(w.models[model].used) <= warmFor {
		time.AfterFunc(warmEvery, func() { s.askAgain(model) })
		return
	}
	delete(w.models, model)
}

// Ended notes that a session with a model has ended, the prefix of which its stages keep for
// this node. unsure: what they keep of this one or of earlier ones is not known any more, so
// that the next prompt has to ask.
func (s *Survey) Ended(model cid.Cid, hops []session.Hop, prefix []uint64, unsure bool) {
	w, now := &s.warm, time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions = slices.DeleteFunc(w.sessions, func(e ended) bool {
		old := e.model == model && protocol.SharedPrefix(e.prefix, prefix) == protocol.PrefixBlock*len(e.prefix) && sameStages(e.hops, hops)
		return now.Sub(e.at) > keptFor || unsure && e.model == model || old
	})
	if m := w.models[model]; m != nil && unsure {
		m.unsure = true
	}
	if len(prefix) == 0 {
		return
	}
	if len(w.sessions) >= mostSessions {
		w.sessions = slices.Delete(w.sessions, 0, 1)
	}
	w.sessions = append(w.sessions, ended{model, slices.Clone(hops), prefix, now})
}

// sameStages reports whether two routes have the same stages.
func sameStages(a, b []session.Hop) bool {
	return slices.EqualFunc(a, b, func(x, y session.Hop) bool { return x.Peer == y.Peer && x.Span == y.Span })
}

// kept returns how many tokens of a query's prompt a candidate has kept.
func (w *warm) kept(q *Query, c *route.Candidate, now time.Time) (tokens int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.sessions {
		has := func(h session.Hop) bool { return h.Span == c.Span && h.Peer.String() == c.Peer }
		if e.model == q.Model && now.Sub(e.at) <= keptFor && slices.ContainsFunc(e.hops, has) {
			tokens = max(tokens, protocol.SharedPrefix(e.prefix, q.Prefix))
		}
	}
	return tokens
}
