package llama

import (
	"os"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// TestMain lets this test program be its own engine child.
func TestMain(m *testing.M) {
	engine.ChildMain(engine.Backends{engine.Llama: Backend{}})
	os.Exit(m.Run())
}

// library finds the library of the tests, and skips without.
func library(t testing.TB) *Library {
	t.Helper()
	if os.Getenv(Variable) == "" {
		t.Skip("no library to test: ", Variable, " is empty")
	}
	lib, looked := Find("")
	if lib == nil {
		t.Fatal(looked)
	}
	return lib
}

func TestOpen(t *testing.T) {
	lib := library(t)
	v, err := open(lib)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(v.name)
}

// near is how far log probabilities may be apart that were computed in another
// order: keys and values are kept in 16 bits, and MXFP4 takes its input in 8.
const near = 0.1

// nearQuantized is how far they may be from the references': those were computed on a
// processor whose kernels take input in 8 bits in blocks of 32, and AMX has others.
const nearQuantized = 0.7

func TestBackend(t *testing.T) {
	library(t)
	enginetest.Run(t, enginetest.Backend{
		Backend: Backend{}, Engine: engine.Llama, Stage: stageFile, Threads: 1, Shared: "../../../../shared/models",
		NearFull: 0.02, NearQuantized: nearQuantized, Near: near,
		Whole: []string{"gemma2"},
		Lacks: []string{"mistral3", "gptoss of Ollama", "olmo3"},
		Exact: true, Even: func(_ gguf.Type, _ string, exact bool) bool { return exact },
	})
}
