package traces

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestEndpoint(t *testing.T) {
	for _, bad := range []string{"127.0.0.1:4318", "localhost:4318", "grpc://127.0.0.1:4317", "http://", "http://a b", "::"} {
		if _, err := New(Config{Endpoint: bad, Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrEndpoint) || !strings.Contains(err.Error(), "http://127.0.0.1:4318") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestOff(t *testing.T) {
	off, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := off.Tracer().Start(t.Context(), "a")
	if span.IsRecording() || Parent(ctx) != "" {
		t.Error("a span that nobody asked for")
	}
	if err := off.Close(); err != nil {
		t.Error(err)
	}
}

func TestParent(t *testing.T) {
	on, err := New(Config{Endpoint: "http://127.0.0.1:1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := on.Tracer().Start(t.Context(), "a")
	parent := Parent(ctx)
	span.End()
	if len(parent) != 55 {
		t.Errorf("%q has %d bytes", parent, len(parent))
	}
	under, ok := Under(t.Context(), parent)
	if !ok {
		t.Fatal("not taken: ", parent)
	}
	_, child := on.Tracer().Start(under, "b")
	if child.SpanContext().TraceID() != span.SpanContext().TraceID() {
		t.Error("another trace")
	}
	if err := on.Close(); err != nil { // nobody listens there: that is no failure
		t.Error(err)
	}
}

// What a peer sends is a trace context that is exported, or nothing.
func FuzzUnder(f *testing.F) {
	for _, s := range []string{"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ctx, ok := Under(t.Context(), s)
		if parent := Parent(ctx); ok != (parent != "") || ok && !strings.EqualFold(s[3:52], parent[3:52]) {
			t.Errorf("%q: %v, %q", s, ok, parent)
		}
	})
}
