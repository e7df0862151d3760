package node

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/metrics"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/traces"
	"github.com/shoalnet/shoal/protocol"
)

// What the node counts and traces. No text of a prompt or an answer is ever
// near it: an answer is observed by its numbers, and a failure by its kind.

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

// watch observes one answer: Generate begins it, and calls it on the way. Tokens
// may come where nobody watches (nil).
type watch struct {
	n     *Node
	root  trace.Span
	begin time.Time
	last  time.Time // of the last token
	of    metrics.Answer

	attempt trace.Span // the session under way, or the last one
}

// observe begins to observe an answer.
func (n *Node) observe(ctx context.Context, req *api.GenerateRequest) (context.Context, *watch) {
	a := &watch{n: n, begin: time.Now(), of: metrics.Answer{Operation: "chat"}}
	if req.Raw {
		a.of.Operation = "text_completion"
	}
	n.metrics.Begin()
	if under, ok := traces.Under(ctx, req.Trace); ok {
		ctx = under
	}
	ctx, a.root = n.traces.Tracer().Start(ctx, a.of.Operation, trace.WithSpanKind(trace.SpanKindClient))
	if !a.root.IsRecording() {
		return ctx, a
	}
	a.root.SetAttributes(
		attribute.String("gen_ai.operation.name", a.of.Operation), attribute.String("gen_ai.provider.name", "shoal"), attribute.String("gen_ai.output.type", "text"),
	)
	set := func(k string, v float64) {
		if v != 0 {
			a.root.SetAttributes(attribute.Float64(k, v))
		}
	}
	if t := req.Sampling.Temperature; t != nil {
		a.root.SetAttributes(attribute.Float64("gen_ai.request.temperature", *t))
	}
	set("gen_ai.request.top_p", req.Sampling.TopP)
	set("gen_ai.request.top_k", float64(req.Sampling.TopK))
	set("gen_ai.request.presence_penalty", req.Sampling.PresencePenalty)
	set("gen_ai.request.frequency_penalty", req.Sampling.FrequencyPenalty)
	if req.MaxTokens > 0 {
		a.root.SetAttributes(attribute.Int("gen_ai.request.max_tokens", req.MaxTokens))
	}
	return ctx, a
}

// encoded tells which model the prompt is for, and how long it is.
func (a *watch) encoded(model string, tokens int) {
	a.of.Model, a.of.Input = model, tokens
	a.root.SetName(a.of.Operation + " " + model)
	a.root.SetAttributes(attribute.String("gen_ai.request.model", model), attribute.Int("gen_ai.usage.input_tokens", tokens))
}

// step makes a child of the context's span; end ends it with an error, or none.
func (a *watch) step(ctx context.Context, name string, attrs ...attribute.KeyValue) (child context.Context, end func(error)) {
	ctx, span := a.n.traces.Tracer().Start(ctx, name, trace.WithAttributes(attrs...))
	return ctx, func(err error) {
		if err != nil {
			failed(span, kindOf(err))
		}
		span.End()
	}
}

// failed marks a span as failed. A failure's kind is of a fixed set; its text
// might quote.
func failed(span trace.Span, kind string) {
	span.SetStatus(codes.Error, kind)
	span.SetAttributes(attribute.String("error.type", kind))
}

// kindOf is an error's kind as callers of the API are told it.
func kindOf(err error) string { return string(api.AsError(explain(err)).Kind) }

// session begins the session of a route. parent is what its stages are told.
func (a *watch) session(ctx context.Context, r *route.Route) (child context.Context, parent string) {
	a.of.PredictedRate, a.of.PredictedTTFT = r.Prediction.TokensPerSecond(), r.Prediction.TTFT
	ctx, a.attempt = a.n.traces.Tracer().Start(ctx, "session", trace.WithAttributes(
		attribute.StringSlice("shoal.route", routeOf(r.Hops)), attribute.Float64("shoal.predicted_tokens_per_s", a.of.PredictedRate),
		attribute.Float64("shoal.predicted_ttft_ms", ms(a.of.PredictedTTFT))))
	return ctx, traces.Parent(ctx)
}

func routeOf(hops []route.Hop) (out []string) {
	for _, h := range hops {
		out = append(out, h.Peer+" "+h.Span.String())
	}
	return out
}

// token takes note of a token.
func (a *watch) token() {
	if a == nil {
		return
	}
	now := time.Now()
	if a.of.Output++; a.of.Output == 1 {
		a.of.First = now.Sub(a.begin)
	} else {
		a.n.metrics.Token(now.Sub(a.last))
	}
	a.last = now
}

// sessionOver takes note of what came of a session, in spans of its phases.
func (a *watch) sessionOver(ctx context.Context, begin time.Time, out *session.Outcome, err error) {
	for _, r := range out.Recoveries {
		a.n.metrics.Repaired(r.Code.Name(), r.Stall, r.Replayed, r.Failed)
	}
	a.of.Rate, a.of.SessionFirst = out.Rate(), out.TTFT
	if !a.attempt.IsRecording() {
		return
	}
	phase := func(name string, from, to time.Time, attrs ...attribute.KeyValue) {
		_, span := a.n.traces.Tracer().Start(ctx, name, trace.WithTimestamp(from), trace.WithAttributes(attrs...))
		span.End(trace.WithTimestamp(to))
	}
	if opened := begin.Add(out.Opened); out.Opened > 0 {
		phase("open", begin, opened, attribute.Int("shoal.kept_tokens", out.Cached))
		if first := begin.Add(out.TTFT); out.Tokens > 0 {
			phase("prefill", opened, first, attribute.Int("shoal.tokens", a.of.Input-out.Cached))
			phase("decode", first, first.Add(out.Elapsed), attribute.Int("shoal.tokens", out.Tokens), attribute.Float64("shoal.tokens_per_s", out.Rate()))
		}
	}
	for _, r := range out.Recoveries {
		lost := make([]string, 0, len(r.Lost))
		for _, h := range r.Lost {
			lost = append(lost, h.Peer.String()+" "+h.Span.String())
		}
		phase("repair", r.Begin, r.Begin.Add(r.Stall), attribute.String("shoal.reason", r.Code.Name()), attribute.StringSlice("shoal.lost", lost),
			attribute.Int("shoal.replayed_tokens", r.Replayed), attribute.Int("shoal.at_token", r.Token), attribute.Bool("shoal.failed", r.Failed))
	}
	if err != nil && !errors.Is(err, errStopped) {
		failed(a.attempt, kindOf(err))
	}
	a.attempt.End()
}

// finish takes note of why the answer ended.
func (a *watch) finish(reason string) {
	if a == nil {
		return
	}
	a.root.SetAttributes(attribute.StringSlice("gen_ai.response.finish_reasons", []string{reason}))
}

// end ends the answer.
func (a *watch) end(err error) {
	a.of.Took = time.Since(a.begin)
	a.root.SetAttributes(attribute.Int("gen_ai.usage.output_tokens", a.of.Output))
	if a.of.Output > 0 {
		a.root.SetAttributes(attribute.Float64("shoal.ttft_ms", ms(a.of.First)))
	}
	if err != nil {
		a.of.Error = kindOf(err)
		failed(a.root, a.of.Error)
	}
	a.root.End()
	a.n.metrics.Answered(a.of)
}

// modelLabel is a model's name as spans and labels have it.
func modelLabel(name string) string { return strings.ToValidUTF8(name, "") }
