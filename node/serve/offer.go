package serve

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// maxHeld is of how many models the shards are offered.
const maxHeld = 32

// Offer tells the network what is served and held now. It returns when an offer has
// been made that was begun after the call, by whichever goroutine.
func (s *Server) Offer() {
	if s.cfg.Light {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	for mine := s.asked; s.made < mine && !s.leaving; {
		if s.offering {
			s.offeringEnded.Wait()
			continue
		}
		s.offering = true
		begun := s.asked
		s.mu.Unlock()
		s.makeOffer()
		s.mu.Lock()
		s.offering, s.made = false, begun
		s.offeringEnded.Broadcast()
	}
}

func (s *Server) makeOffer() {
	snap := s.Snapshot()
	body := s.offerOf(&snap, time.Now())
	for _, m := range s.cfg.Models.List() {
		if h := heldOf(m); h != nil && len(body.Shards) < maxHeld {
			body.Shards = append(body.Shards, h)
		}
	}
	s.mu.Lock()
	for i := range snap.Spans {
		snap.Spans[i].of.offered = snap.Spans[i].Load
	}
	s.mu.Unlock()
	var own *protocol.OfferBody
	if !snap.Lending {
		snap.Lending = true
		own = s.offerOf(&snap, time.Now())
	}
	if err := s.cfg.Network.SetOffers(body, own); err != nil {
		s.cfg.Log.Warn("the offer cannot be made", "error", err)
	}
}

// offerOf makes an offer of the spans of a snapshot.
func (s *Server) offerOf(snap *Snapshot, now time.Time) *protocol.OfferBody {
	body := &protocol.OfferBody{}
	if !snap.Lending {
		return body
	}
	for i := range snap.Spans {
		v := &snap.Spans[i]
		if v.Auto {
			body.AutoBytes = max(body.AutoBytes, uint64(v.Left))
			for _, m := range v.Takes {
				body.Takes = append(body.Takes, m.Bytes())
			}
		}
		if v.Model == nil || v.Leaving {
			continue
		}
		body.Spans = append(body.Spans, v.offer(now))
		if v.Next != nil {
			body.Spans = append(body.Spans, v.Next.offer(now))
		}
		if body.Device == nil && v.Loaded {
			body.Device = &protocol.Device{Memory: uint64(s.limits().Memory), Threads: uint32(s.limits().Threads)}
			for _, d := range v.Engine.Devices {
				body.Device.Name, body.Device.Backend = d.Name, d.Library
			}
		}
	}
	return body
}

// heldOf returns the shards of a model that are on disk; nil: none.
func heldOf(m *store.Model) *protocol.HeldShards {
	held := m.Holds()
	bits := make([]byte, (len(held)+7)/8)
	some := false
	for i, h := range held {
		if h {
			bits[i/8] |= 1 << (i % 8)
			some = true
		}
	}
	if !some {
		return nil
	}
	return &protocol.HeldShards{Model: m.ID().Bytes(), Bitmap: bits, Name: m.Name()}
}

// spanOffer is what an offer says of any span of a model.
func spanOffer(m *store.Model, span protocol.Span, since, now time.Time) *protocol.ServedSpan {
	man := m.Manifest()
	return &protocol.ServedSpan{
		Model: m.ID().Bytes(), From: uint32(span.From), To: uint32(span.To), Blocks: uint32(man.Blocks), Width: uint32(man.Width),
		Name: m.Name(), SinceS: uint32(now.Sub(since).Seconds()),
	}
}

// offer is the span as peers are told of it. It must have a model.
func (v *Span) offer(now time.Time) *protocol.ServedSpan {
	o := spanOffer(v.Model, v.Span, v.Since, now)
	o.Auto, o.Ready, o.Loaded = v.Auto, v.Ready, v.Loaded
	if !v.Loaded {
		return o
	}
	o.Engine = v.Computes()
	if v.Asleep > 0 {
		o.LoadMs = uint32(max(1, min(v.Asleep.Milliseconds(), math.MaxInt32)))
	}
	o.Pooling = string(v.Engine.Pooling)
	decode := v.Decode
	if v.Stage.DecodePass > 0 { // what sessions see is truer than the first measurement
		decode = min(4*decode, v.Stage.DecodePass/time.Duration(v.Span.Len()))
	}
	o.UsPerBlock, o.UsPerBlockPrefill = uint32(max(1, decode.Microseconds())), uint32(max(1, v.Prefill.Microseconds()))
	o.KvTokens, o.KvFree, o.MaxContext = uint32(v.KVTokens), uint32(v.Stage.KVFree), uint32(v.Context)
	permille := func(x float64) uint32 { return uint32(1000 * max(0, min(1, x))) }
	o.LoadPermille, o.LoadLongPermille, o.RefusedPermille = permille(v.Load.Minute), permille(v.Load.Ten), permille(v.Load.Refused)
	return o
}

// Computes names what computes the span, as peers are told; nil: nothing yet. Names come
// from a library that its operator chose, and are cut to what an offer may say.
func (v *Span) Computes() *protocol.Engine {
	if !v.Loaded {
		return nil
	}
	var kinds []string
	for _, d := range v.Engine.Devices {
		if !slices.Contains(kinds, d.Library) {
			kinds = append(kinds, d.Library)
		}
	}
	slices.Sort(kinds)
	name := protocol.MachineName
	return &protocol.Engine{Name: name(v.Engine.Engine), Version: name(v.Engine.Version), Device: name(strings.Join(kinds, "+")), Kv: name(v.Engine.KVType), Exact: v.Engine.Exact}
}

// offer announces a span that is being fetched.
func (n *Next) offer(now time.Time) *protocol.ServedSpan {
	o := spanOffer(n.Model, n.Span, n.Since, now)
	o.Auto = true
	return o
}

// loadEvery is how often the load is compared with what the offer says.
const loadEvery = 10 * time.Second

// followLoad renews the offer when the load has moved away from what it says: peers
// decide about replicas by it.
func (s *Server) followLoad(ctx context.Context) {
	for backoff.Pause(ctx, loadEvery) == nil {
		if s.loadMoved() {
			s.Offer()
		}
	}
}

func (s *Server) loadMoved() bool {
	s.mu.Lock()
	offered := map[*stage.Stage]stage.Load{}
	for _, v := range s.spans {
		if v.stage != nil {
			offered[v.stage] = v.offered
		}
	}
	s.mu.Unlock()
	for st, o := range offered {
		l := st.Load()
		if math.Abs(l.Minute-o.Minute) > 0.05 || math.Abs(l.Ten-o.Ten) > 0.05 || math.Abs(l.Refused-o.Refused) > 0.02 {
			return true
		}
	}
	return false
}

// StatusReply is the load that a peer is told when it asks.
func (s *Server) StatusReply(asker peer.ID, req *protocol.StatusRequest) *protocol.StatusReply {
	r := &protocol.StatusReply{UptimeMs: uint64(time.Since(s.started).Milliseconds())}
	if s.cfg.Survey.Trusted(asker) {
		r.Name = s.cfg.Name
	}
	open, _, _ := s.gate.look()
	client := stage.Client{Peer: asker, Swarm: s.cfg.Network.InSwarm(asker)}
	for _, st := range s.cfg.Stages.Stages() {
		if !open && !s.own(asker) {
			break
		}
		if st.Lends(client) != nil {
			continue
		}
		cfg, now := st.Config(), st.Status()
		r.Spans = append(r.Spans, &protocol.SpanStatus{
			Model: cfg.Model.Bytes(), From: uint32(cfg.Span.From), To: uint32(cfg.Span.To), Sessions: uint32(now.Sessions),
			QueuedRows: uint32(now.QueuedRows), KvFree: uint32(st.Room(client)), TokensPerS: float32(now.TokensPerS),
			Early: true, RollbackRows: uint32(cfg.Rollback), Back: uint32(cfg.Back),
		})
		if string(req.Model) == string(cfg.Model.Bytes()) {
			r.Spans[len(r.Spans)-1].Cached = uint32(st.Kept(asker, req.Prefix))
		}
	}
	return r
}
