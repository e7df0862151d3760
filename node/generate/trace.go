package generate

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
	"github.com/shoalnet/shoal/node/traces"
)

// answerTrace counts and traces one answer. The text of prompts and answers never
// reaches it: an answer is observed by its numbers, and a failure by its kind.
type answerTrace struct {
	metrics Metrics
	tracer  trace.Tracer
	root    trace.Span
	session trace.Span // of the attempt under way, or the last one
	begin   time.Time
	last    time.Time // of the last token
	of      metrics.Answer
}

// observe begins the trace of an answer. The context returned has its root span.
func (g *Generator) observe(ctx context.Context, req *api.GenerateRequest) (context.Context, *answerTrace) {
	operation := "chat"
	if req.Raw {
		operation = "text_completion"
	}
	ctx, a := g.begin(ctx, operation, req.Trace)
	if !a.root.IsRecording() {
		return ctx, a
	}
	a.root.SetAttributes(attribute.String("gen_ai.output.type", "text"))
	set := func(k string, v float64) {
		if v != 0 {
			a.root.SetAttributes(attribute.Float64(k, v))
		}
	}
	if t := req.Sampling.Temperature; t != nil {
		a.root.SetAttributes(attribute.Float64("gen_ai.request.temperature", *t))
	}
	if p := req.Sampling.TopP; p != nil {
		set("gen_ai.request.top_p", *p)
	}
	set("gen_ai.request.top_k", float64(req.Sampling.TopK))
	set("gen_ai.request.presence_penalty", req.Sampling.PresencePenalty)
	set("gen_ai.request.frequency_penalty", req.Sampling.FrequencyPenalty)
	if req.MaxTokens > 0 {
		a.root.SetAttributes(attribute.Int("gen_ai.request.max_tokens", req.MaxTokens))
	}
	return ctx, a
}

// begin begins the trace of an operation. The context returned has its root span; parent
// is the caller's traceparent, or empty.
func (g *Generator) begin(ctx context.Context, operation, parent string) (context.Context, *answerTrace) {
	a := &answerTrace{metrics: g.cfg.Metrics, tracer: g.cfg.Tracer, begin: time.Now(), of: metrics.Answer{Operation: operation}}
	a.metrics.Begin()
	if under, ok := traces.Under(ctx, parent); ok {
		ctx = under
	}
	ctx, a.root = a.tracer.Start(ctx, operation, trace.WithSpanKind(trace.SpanKindClient))
	a.root.SetAttributes(attribute.String("gen_ai.operation.name", operation), attribute.String("gen_ai.provider.name", "shoal"))
	return ctx, a
}

// encoded notes which model the prompt is for, and how long it is.
func (a *answerTrace) encoded(model string, tokens int) {
	model = strings.ToValidUTF8(model, "")
	a.of.Model, a.of.Input = model, tokens
	a.root.SetName(a.of.Operation + " " + model)
	a.root.SetAttributes(attribute.String("gen_ai.request.model", model), attribute.Int("gen_ai.usage.input_tokens", tokens))
}

// step begins a child of the context's span; end ends it, with an error or nil.
func (a *answerTrace) step(ctx context.Context, name string, attrs ...attribute.KeyValue) (child context.Context, end func(error)) {
	ctx, span := a.tracer.Start(ctx, name, trace.WithAttributes(attrs...))
	return ctx, func(err error) {
		if err != nil {
			failed(span, kindOf(err))
		}
		span.End()
	}
}

// failed marks a span as failed. A failure's kind is one of a fixed set; its text
// might quote the prompt.
func failed(span trace.Span, kind string) {
	span.SetStatus(codes.Error, kind)
	span.SetAttributes(attribute.String("error.type", kind))
}

// kindOf is an error's kind as callers of the API see it.
func kindOf(err error) string { return string(api.AsError(explain(err)).Kind) }

// beginSession begins the span of a session. parent is the traceparent for its stages.
func (a *answerTrace) beginSession(ctx context.Context, r *route.Route) (child context.Context, parent string) {
	a.of.PredictedRate, a.of.PredictedTTFT = r.Prediction.TokensPerSecond(), r.Prediction.TTFT
	ctx, a.session = a.tracer.Start(ctx, "session", trace.WithAttributes(
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

// token counts a token.
func (a *answerTrace) token() {
	now := time.Now()
	if a.of.Output++; a.of.Output == 1 {
		a.of.First = now.Sub(a.begin)
	} else {
		a.metrics.Token(now.Sub(a.last))
	}
	a.last = now
}

// endSession counts what came of a session, and makes spans of its phases.
func (a *answerTrace) endSession(ctx context.Context, begin time.Time, out *session.Outcome, err error) {
	for _, r := range out.Recoveries {
		a.metrics.Repaired(r.Code.Name(), r.Stall, r.Replayed, r.Failed)
	}
	a.of.Rate, a.of.SessionFirst = out.Rate(), out.TTFT
	if !a.session.IsRecording() {
		return
	}
	phase := func(name string, from, to time.Time, attrs ...attribute.KeyValue) {
		_, span := a.tracer.Start(ctx, name, trace.WithTimestamp(from), trace.WithAttributes(attrs...))
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
		failed(a.session, kindOf(err))
	}
	a.session.End()
}

// finish notes why the answer ended.
func (a *answerTrace) finish(reason string) {
	a.root.SetAttributes(attribute.StringSlice("gen_ai.response.finish_reasons", []string{reason}))
}

// end ends the trace; err is the answer's, or nil.
func (a *answerTrace) end(err error) {
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
	a.metrics.Answered(a.of)
}
