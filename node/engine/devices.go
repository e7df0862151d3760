package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/ollama/ollama/ml"
)

// Module is the Go module that the engine's sources are of.
const Module = "github.com/ollama/ollama"

// libraryPath names, in the environment, where ggml's backends are.
const libraryPath = "OLLAMA_LIBRARY_PATH"

// LibraryDirs are where backends for GPUs are looked for: what OLLAMA_LIBRARY_PATH
// says, else lib/ollama beside this program, and where `make install` puts it. It
// is not where an Ollama on this machine has its own, of another version. The
// library takes no directory whose path does not have lib/ollama in it.
func LibraryDirs() []string {
	if dirs, ok := os.LookupEnv(libraryPath); ok {
		return filepath.SplitList(dirs)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	dir := filepath.Dir(exe)
	return []string{filepath.Join(dir, "lib", "ollama"), filepath.Join(dir, "..", "lib", "shoal", "lib", "ollama")}
}

// setLibraryDirs tells the library, which reads them once.
var setLibraryDirs = sync.OnceFunc(func() {
	_ = os.Setenv(libraryPath, strings.Join(LibraryDirs(), string(filepath.ListSeparator)))
})

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
