package node

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/shoalnet/shoal/node/metrics"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/traces"
	"github.com/shoalnet/shoal/protocol"
)

// What the node counts and traces of the sessions of others. Its own answers are
// observed by package generate.

// state is what the metrics read at each scrape.
func (n *Node) state() metrics.State {
	open, _, _ := n.gate.look()
	st := metrics.State{
		Lending: open, Peers: len(n.net.Host().Network().Peers()), DHTPeers: n.net.DHTPeers(), Offers: n.net.KnownOffers(),
		QuotaBytes: n.cfg.Quota, FreeBytes: store.FreeSpace(n.cfg.path(storeDir)), Traffic: map[string]metrics.Traffic{},
	}
	for _, m := range n.store.Models() {
		st.StoreBytes += m.Allocated()
	}
	passed := n.exchange.Stats()
	st.Given, st.Fetched = passed.Given, map[string]uint64{"peers": passed.Taken, "origins": passed.Origins + n.imported.Load()}
	for p, t := range n.net.Traffic() {
		st.Traffic[p] = metrics.Traffic(t)
	}
	for _, l := range n.net.Links() {
		st.Links = append(st.Links, metrics.Link{Conn: l.Conn, Peer: l.Peer.String(), RTT: l.RTT, Sent: l.Sent, Lost: l.Lost})
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.serving {
		v := metrics.Span{Model: s.spec.Model, Blocks: s.span.String(), Ready: s.ready}
		if s.model != nil {
			v.Model = s.model.Name()
		}
		if s.stage != nil {
			load := s.stage.Status()
			v.Sessions, v.QueuedRows, v.KVTokens, v.KVFree = load.Sessions, load.QueuedRows, s.stage.Config().KVTokens, load.KVFree
			v.EngineBytes = s.info.Weights + s.info.KV + s.info.Graph
		}
		st.Spans = append(st.Spans, v)
	}
	return st
}

// stageObserver makes metrics of what a stage tells, and a span of each
// session whose client traces it.
type stageObserver struct {
	n      *Node
	model  string
	blocks protocol.Span
}

func (o stageObserver) Asked(refused protocol.Code) {
	if refused == protocol.Code_CODE_UNKNOWN {
		o.n.metrics.Opened()
		return
	}
	o.n.metrics.Refused(refused.Name())
}

func (o stageObserver) Pass(rows int) { o.n.metrics.Pass(rows) }

func (o stageObserver) Step(phase stage.Phase, part stage.Part, took time.Duration) {
	p := metrics.Decode
	if phase == stage.Prefill {
		p = metrics.Prefill
	}
	o.n.metrics.Step(p, metrics.Part(part), took)
}

func (o stageObserver) Closed(r stage.Report) {
	o.n.metrics.Closed(r.Outcome)
	ctx, ok := traces.Under(context.Background(), r.Trace)
	if !ok {
		return
	}
	_, span := o.n.traces.Tracer().Start(ctx, "stage "+o.blocks.String(), trace.WithTimestamp(r.Opened), trace.WithSpanKind(trace.SpanKindServer))
	span.SetAttributes(
		attribute.String("gen_ai.request.model", o.model), attribute.String("shoal.peer", o.n.net.Self().String()), attribute.String("shoal.blocks", o.blocks.String()),
		attribute.Int("shoal.stage", r.Index), attribute.Int("shoal.stages", r.Stages), attribute.String("shoal.outcome", r.Outcome),
		attribute.Int64("shoal.passes", r.Passes), attribute.Int64("shoal.rows", r.Rows),
		attribute.Float64("shoal.wait_ms", ms(r.Wait)), attribute.Float64("shoal.compute_ms", ms(r.Compute)), attribute.Float64("shoal.send_ms", ms(r.Sending)),
	)
	if r.Outcome != "bye" {
		span.SetStatus(codes.Error, r.Outcome)
	}
	span.End()
}

// modelLabel is a model's name as spans and labels have it.
func modelLabel(name string) string { return strings.ToValidUTF8(name, "") }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
