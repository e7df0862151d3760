package serve

import (
	"context"
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

// stageObserver makes metrics of what a stage reports, and a span of each session
// whose client traces it.
type stageObserver struct {
	srv    *Server
	model  string // its name, as valid UTF-8
	blocks protocol.Span
}

func (o stageObserver) Asked(refused protocol.Code) {
	if refused == protocol.Code_CODE_UNKNOWN {
		o.srv.cfg.Metrics.Opened()
		return
	}
	o.srv.cfg.Metrics.Refused(refused.Name())
}

func (o stageObserver) Pass(rows int) { o.srv.cfg.Metrics.Pass(rows) }

func (o stageObserver) Step(phase stage.Phase, part stage.Part, took time.Duration) {
	p := metrics.Decode
	if phase == stage.Prefill {
		p = metrics.Prefill
	}
	o.srv.cfg.Metrics.Step(p, metrics.Part(part), took)
}

func (o stageObserver) Closed(r stage.Report) {
	o.srv.cfg.Metrics.Closed(r.Outcome)
	o.srv.cfg.Metrics.Guessed(r.Guesses, r.Kept)
	ctx, ok := traces.Under(context.Background(), r.Trace)
	if !ok {
		return
	}
	_, span := o.srv.cfg.Tracer.Start(ctx, "stage "+o.blocks.String(), trace.WithTimestamp(r.Opened), trace.WithSpanKind(trace.SpanKindServer))
	span.SetAttributes(
		attribute.String("gen_ai.request.model", o.model), attribute.String("shoal.peer", o.srv.cfg.Network.Self().String()), attribute.String("shoal.blocks", o.blocks.String()),
		attribute.Int("shoal.stage", r.Index), attribute.Int("shoal.stages", r.Stages), attribute.String("shoal.outcome", r.Outcome),
		attribute.Int64("shoal.passes", r.Passes), attribute.Int64("shoal.rows", r.Rows),
		attribute.Int64("shoal.guesses", r.Guesses), attribute.Int64("shoal.guesses_kept", r.Kept),
		attribute.Float64("shoal.wait_ms", ms(r.Wait)), attribute.Float64("shoal.compute_ms", ms(r.Compute)), attribute.Float64("shoal.send_ms", ms(r.Sending)),
	)
	if r.Outcome != "bye" {
		span.SetStatus(codes.Error, r.Outcome)
	}
	span.End()
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// stageFormats reads formats for a stage that ends a model.
type stageFormats struct {
	models Models
	model  *store.Model
}

// Compile implements stage.Formats. The model's header is here, so it does not wait
// for the network.
func (f stageFormats) Compile(format []*protocol.Piece, stopIDs []int32) (stage.Format, error) {
	m, err := f.models.Compile(context.Background(), f.model, format)
	if err != nil {
		return nil, err
	}
	return m.Start(stopIDs), nil
}
