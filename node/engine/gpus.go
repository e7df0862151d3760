package engine

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/fence"
)

// gpuFiles are the files of GPUs: NVIDIA's own driver, those of the kernel's,
// AMD's for computing, and that of Windows' subsystem.
var gpuFiles = []string{"/dev/nvidia*", "/dev/dri", "/dev/kfd", "/dev/dxg"}

// FenceGPUs adds to rules what drivers ask for, if cfg allows GPUs and one of ggml's
// back ends in dirs is for them. There is no bound on memory then.
func FenceGPUs(rules *fence.Rules, cfg *Config, dirs ...string) {
	if slices.Equal(cfg.Devices, []string{NoDevice}) {
		return
	}
	for _, name := range gpuBackends(dirs) {
		rules.System, rules.Sockets, rules.Devices, rules.Memory = true, true, gpuFiles, 0
		if strings.Contains(name, "ggml-hip") || strings.Contains(name, "ggml-cuda") {
			rules.Write = []string{"/dev/shm"} // these drivers' processes agree there on who has which memory
		}
	}
}

// gpuBackends are the files of ggml's back ends for GPUs.
func gpuBackends(dirs []string) (files []string) {
	for _, dir := range dirs {
		found, _ := filepath.Glob(filepath.Join(dir, "*ggml-*"))
		for _, f := range found {
			if name := filepath.Base(f); !strings.Contains(name, "ggml-cpu") && !strings.Contains(name, "ggml-base") {
				files = append(files, name)
			}
		}
	}
	return files
}
