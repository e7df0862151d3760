package engine

import (
	"slices"
	"strings"

	"github.com/ollama/ollama/ml"
	"golang.org/x/sys/cpu"
)

// gpuDevices lists the GPUs that ggml finds, those named if any are. The
// library tells devices of a model only, so the stage file is opened for it
// without allocating anything. Never run on a GPU so far.
func gpuDevices(path string, names []string) []ml.DeviceInfo {
	b, err := ml.NewBackend(path, ml.BackendParams{})
	if err != nil {
		return nil // the load that follows will say why
	}
	defer b.Close()
	found := b.BackendDevices()
	if len(names) == 0 {
		return found
	}
	return slices.DeleteFunc(found, func(d ml.DeviceInfo) bool {
		return !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, d.Name) || n == d.ID })
	})
}

// BuiltForThisMachine is a warning if this program was built for any x86-64
// while the machine can do much better, else "".
func BuiltForThisMachine() string {
	if cpu.X86.HasAVX2 && !compiledWithAVX2() {
		return "this program was built without AVX2, which this machine has: it computes 5 to 10 times slower than it could. Build it with `make`, which sets the C flags."
	}
	return ""
}
