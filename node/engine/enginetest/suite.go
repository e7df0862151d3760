package enginetest

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Backend is a back end, and what it claims of itself.
type Backend struct {
	// The back end. The test binary's TestMain calls engine.ChildMain with it
	// first.
	engine.Backend
	// Engine is its name in the backends that TestMain gives to engine.ChildMain;
	// empty: BuiltIn.
	Engine string
	// Stage makes its stage files; nil: StageFile does.
	Stage Stager
	// Threads that it computes on; 0: all. On a busy machine two may take far longer
	// than one.
	Threads int
	// Shared is the directory of the reference models.
	Shared string
	// NearFull and NearQuantized are how far a log probability, relative to the
	// best one, may be from the reference's: with weights as they were trained, and
	// with quantized ones.
	NearFull, NearQuantized float64
	// Near is how far log probabilities may be apart that were computed in another
	// order: in other chunks, or beside other rows.
	Near float64
	// Steady: the same passes have the same results to the last bit, whoever came
	// before and is there besides. Otherwise they are only Near.
	Steady bool
	// Exact: with Config.Exact, neither do results depend on how many rows a pass
	// has.
	Exact bool
	// Even reports whether the same holds for a type of weights and of KV cache, with
	// Config.Exact or without; nil: for none.
	Even func(weights gguf.Type, kv string, exact bool) bool
	// Forgets: positions far behind a sliding window are given up, and sequences do
	// not go back to them.
	Forgets bool
	// Overflows: keys and values are kept in 16 bits, so that large activations are
	// errors.
	Overflows bool
	// Whole names the random models that it computes in one stage only.
	Whole []string
	// Lacks names the random models that it does not compute.
	Lacks []string
}

// Run holds a back end to the contract of engine.Engine.
func Run(t *testing.T, b Backend) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"References", b.testReferences},
		{"Stages", b.testStages},
		{"RandomModels", b.testRandomModels},
		{"Ahead", b.testAhead},
		{"Window", b.testWindow},
		{"WindowForgets", b.testWindowForgets},
		{"LatentAttention", b.testLatentAttention},
		{"Mistral3Names", b.testMistral3Names},
		{"Overflow", b.testOverflow},
		{"SameWhoeverElse", b.testSameWhoeverElse},
		{"Exact", b.testExact},
		{"Company", b.testCompany},
		{"BadBatches", b.testBadBatches},
		{"BadModels", b.testBadModels},
		{"Memory", b.testMemory},
		{"Closed", b.testClosed},
		{"Cancel", b.testCancel},
		{"Child", b.testChild},
		{"Crash", b.testCrash},
	} {
		t.Run(test.name, test.run)
	}
}

// noise is how far results may be apart that should be the same.
func (b Backend) noise() float64 {
	if b.Steady {
		return 0
	}
	return b.Near
}

// near is how far results of a random model may be apart that were computed in another
// order.
func (b Backend) near() float64 {
	if b.Even != nil && b.Even(typeF32, "f16", false) {
		return 0
	}
	return b.Near
}

// same compares results of the same pass.
func (b Backend) same(x, y *engine.Result) bool {
	if len(x.Hidden) != len(y.Hidden) || len(x.Tokens) != len(y.Tokens) {
		return false
	}
	for i := range x.Hidden {
		if math.Abs(float64(x.Hidden[i]-y.Hidden[i])) > b.noise() {
			return false
		}
	}
	for i := range x.Tokens {
		if Apart(x.Tokens[i], y.Tokens[i]) > b.noise() {
			return false
		}
	}
	return true
}

// cut loads a model in n stages, in this process.
func (b Backend) cut(t *testing.T, path string, n int) Chain {
	t.Helper()
	return b.cutBy(t, path, n, b.Load, nil)
}

// stages is n, or 1 for a random model that cannot be cut.
func (b Backend) stages(m Model, n int) int {
	if slices.Contains(b.Whole, m.Name) {
		return 1
	}
	return n
}

// cutBy is Cut with this back end's stage files.
func (b Backend) cutBy(t testing.TB, path string, n int, load engine.Loader, edit func(*engine.Config)) Chain {
	t.Helper()
	return CutBy(t, b.stage, path, n, load, func(cfg *engine.Config) {
		cfg.Engine, cfg.Threads = b.Engine, b.Threads
		if edit != nil {
			edit(cfg)
		}
	})
}

// stage makes a stage file.
func (b Backend) stage(t testing.TB, path string, from, to int) string {
	t.Helper()
	if b.Stage != nil {
		return b.Stage(t, path, from, to)
	}
	return StageFile(t, path, from, to)
}

// models lists the random models that the back end computes.
func (b Backend) models() []Model {
	return slices.DeleteFunc(RandomModels(), func(m Model) bool { return slices.Contains(b.Lacks, m.Name) })
}

// tinyModel stands for the model inside the program.
const tinyModel = "tinytales"

// model is the path of a model by its file's name.
func (b Backend) model(t *testing.T, name string) string {
	t.Helper()
	if name == tinyModel {
		return Tiny(t)
	}
	return b.shared(t, name)
}

// shared is the path of a file that a stranger's clone does not have.
func (b Backend) shared(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(b.Shared, name)
	if _, err := os.Stat(path); err != nil {
		t.Skip("no reference models beside this clone: ", path)
	}
	return path
}
