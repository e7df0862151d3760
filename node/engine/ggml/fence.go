package ggml

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/fence"
)

// gpuFiles are the files of GPUs: NVIDIA's own driver, those of the kernel's,
// AMD's for computing, and that of Windows' subsystem.
var gpuFiles = []string{"/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/dxg"}

// fenceRules are what an engine's process needs: its stage file, the backends,
// and, if it may compute on a GPU, what drivers ask for.
func fenceRules(cfg *engine.Config) fence.Rules {
	r := fence.Rules{Read: append([]string{cfg.Path}, LibraryDirs()...), Memory: cfg.Memory}
	if slices.Equal(cfg.Devices, []string{engine.NoDevice}) {
		return r
	}
	for _, name := range gpuBackends() {
		r.System, r.Sockets, r.Devices, r.Memory = true, true, gpuFiles, 0
		if strings.Contains(name, "ggml-hip") || strings.Contains(name, "ggml-cuda") {
			r.Write = []string{"/dev/shm"} // these drivers' processes agree there on who has which memory
		}
	}
	return r
}

// gpuBackends are the files of the backends for GPUs.
func gpuBackends() (files []string) {
	for _, dir := range LibraryDirs() {
		found, _ := filepath.Glob(filepath.Join(dir, "*ggml-*"))
		for _, f := range found {
			if name := filepath.Base(f); !strings.Contains(name, "ggml-cpu") && !strings.Contains(name, "ggml-base") {
				files = append(files, name)
			}
		}
	}
	return files
}
