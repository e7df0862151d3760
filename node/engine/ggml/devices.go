package ggml

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/ollama/ollama/ml"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/remedy"
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
	if path, err := filepath.EvalSymlinks(exe); err == nil {
		exe = path
	}
	dir := filepath.Dir(exe)
	return []string{filepath.Join(dir, "lib", "ollama"), filepath.Join(dir, "..", "lib", "shoal", "lib", "ollama")}
}

// setLibraryDirs tells the library, which reads them once.
var setLibraryDirs = sync.OnceFunc(func() {
	_ = os.Setenv(libraryPath, strings.Join(LibraryDirs(), string(filepath.ListSeparator)))
})

// gpuDevices lists the GPUs that ggml finds, those named if any are; a name that
// is none's is an error. The library tells devices of a model only, so the stage
// file is opened for it without allocating anything.
func gpuDevices(path string, names []string) ([]ml.DeviceInfo, error) {
	if slices.Equal(names, []string{engine.NoDevice}) {
		return nil, nil
	}
	b, err := ml.NewBackend(path, ml.BackendParams{})
	if err != nil {
		return nil, nil //nolint:nilerr // the load that follows will say why
	}
	defer b.Close()
	return pick(b.BackendDevices(), names)
}

// pick takes the devices that are named, in that order; all, if none is.
func pick(found []ml.DeviceInfo, names []string) (out []ml.DeviceInfo, err error) {
	if len(names) == 0 {
		return found, nil
	}
	for _, name := range names {
		i := slices.IndexFunc(found, func(d ml.DeviceInfo) bool { return strings.EqualFold(name, d.Name) || name == d.ID })
		if i < 0 {
			there := []string{engine.NoDevice}
			for _, d := range found {
				there = append(there, fmt.Sprintf("%s (%s)", d.Name, d.Description))
			}
			err := fmt.Errorf("%w: there is no GPU %q here; there are: %s", engine.ErrUnsupported, name, strings.Join(there, ", "))
			return nil, remedy.For(err, remedy.ChooseDevice)
		}
		out = append(out, found[i])
	}
	return out, nil
}
