package traces

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Config of a node's traces.
type Config struct {
	Endpoint string // base URL of a collector, to which /v1/traces is added; "": no traces
	Node     string // this node's peer ID
	Version  string
	Log      *slog.Logger
}

// Traces makes spans and exports them. It is safe for concurrent use.
type Traces struct {
	tracer   trace.Tracer
	provider *sdk.TracerProvider // nil: off
}

const (
	scope     = "github.com/shoalnet/shoal"
	exportMax = 5 * time.Second // for one export, tries included
	closeMax  = 3 * time.Second // for what is left at the end
)

// ErrEndpoint marks an endpoint that cannot be one.
var ErrEndpoint = errors.New("OTLP endpoint")

// New makes the traces of a node. It does not look whether the collector is
// there: what cannot be exported is dropped, and logged. Errors are ErrEndpoint,
// and those of the OTEL_* variables of the environment.
func New(cfg Config) (*Traces, error) {
	if cfg.Endpoint == "" {
		return &Traces{tracer: noop.NewTracerProvider().Tracer(scope)}, nil
	}
	base, err := url.Parse(cfg.Endpoint)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("%w %q: write it like http://127.0.0.1:4318", ErrEndpoint, cfg.Endpoint)
	}
	// Headers, certificates and such come from OTEL_EXPORTER_OTLP_*.
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(base.JoinPath("v1/traces").String()),
		otlptracehttp.WithTimeout(exportMax), otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false}))
	if err != nil {
		return nil, err
	}
	about, err := resource.New(context.Background(),
		resource.WithAttributes(attribute.String("service.name", "shoal"), attribute.String("service.version", cfg.Version),
			attribute.String("service.instance.id", cfg.Node)),
		resource.WithFromEnv()) // OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	p := sdk.NewTracerProvider(sdk.WithBatcher(&quiet{SpanExporter: exporter, log: cfg.Log}, sdk.WithBatchTimeout(time.Second)), sdk.WithResource(about))
	return &Traces{tracer: p.Tracer(scope), provider: p}, nil
}

// quiet tells the log when exports begin to fail, and when they work again;
// OpenTelemetry would tell the standard error, each time.
type quiet struct {
	sdk.SpanExporter
	log    *slog.Logger
	failed atomic.Bool
}

func (q *quiet) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := q.SpanExporter.ExportSpans(ctx, spans)
	if was := q.failed.Swap(err != nil); err != nil && !was {
		q.log.Warn("traces cannot be exported and are dropped", "error", err)
	} else if err == nil && was {
		q.log.Info("traces are exported again")
	}
	return nil
}

// Tracer makes spans; of nothing if traces are off.
func (t *Traces) Tracer() trace.Tracer { return t.tracer }

// Close exports what is left, for a moment at most, and returns the error of
// that.
func (t *Traces) Close() error {
	if t.provider == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeMax)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // a collector that is gone is no failure of the node
	return nil
}

const traceparent = "traceparent" // the one field of W3C's that travels: no state, no baggage

// Parent is the context's span as others are told of it; "" if there is none
// that is exported.
func Parent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return ""
	}
	m := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, m)
	return m[traceparent]
}

// Under gives a context whose spans are children of what another node calls
// its span; ok is false if it is no trace context of W3C's, or one that is not
// exported.
func Under(ctx context.Context, parent string) (child context.Context, ok bool) {
	child = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceparent: parent})
	sc := trace.SpanContextFromContext(child)
	return child, sc.IsRemote() && sc.IsSampled()
}
