package ggml

import (
	"log/slog"
	"os"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// TestMain lets this test program be its own engine child.
func TestMain(m *testing.M) {
	engine.ChildMain(Backend{})
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the library logs there
	os.Exit(m.Run())
}

// near is how far log probabilities may be apart that were computed in another
// order: keys and values are kept in 16 bits, and MXFP4 takes its input in 8.
const near = 0.05

// nearQuantized is how far log probabilities of quantized weights may be from the
// references': those were computed with one row per pass in its own order, which ggml
// gives up where one row is summed like many (single.go), and the model magnifies that.
func nearQuantized() float64 {
	if companyRows() == 1 {
		return 0.5
	}
	return near
}

func TestBackend(t *testing.T) {
	enginetest.Run(t, enginetest.Backend{
		Backend: Backend{}, Shared: "../../../../shared/models",
		NearFull: 0.02, NearQuantized: nearQuantized(), Near: near,
		Steady: true, Exact: true, Forgets: true, Overflows: true,
		Even: func(_ gguf.Type, _ string, exact bool) bool { return exact || companyRows() == 1 },
	})
}
