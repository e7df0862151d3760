package fence

import (
	"os"
	"slices"
	"strings"
)

// Rules are what a process needs, besides what every process here does.
type Rules struct {
	Read    []string // files and directories; those that are not there are passed over
	Write   []string // directories in which it makes, reads and removes files
	Devices []string // device files, or directories of them, to read, write and control
	System  bool     // all that the system tells of its devices, which drivers ask for
	Sockets bool     // unix sockets, until Settle
	Memory  int64    // bytes that it may have for itself until Settle, which lowers that; 0: no bound
}

// Report tells what a fence keeps from a process, and what it does not, and
// why.
type Report struct {
	Holds []string // of: environment, files, network, programs, signals, parent, cores, memory
	Lacks []string // the rest of them, each with the reason

	sockets bool  // are left until Settle
	memory  int64 // the bound, in bytes; 0: none
}

func (r *Report) say(what string, holds bool, why string) {
	if holds {
		r.Holds = append(r.Holds, what)
	} else {
		r.Lacks = append(r.Lacks, what+": "+why)
	}
}

// passed are the environment's variables that a fenced process gets, or how
// their names begin. They say where things are and how to compute: PATH and
// HOME, which libraries look for and which open no door, the language and the
// time zone, where libraries and backends lie, and the settings of OpenMP, of
// ggml, and of GPUs' drivers. Everything else may be a secret.
var passed = []string{
	"PATH", "HOME", "TMPDIR", "LANG", "LC_", "TZ", "GODEBUG", "GOTRACEBACK", "GOMAXPROCS",
	"LD_LIBRARY_PATH", "OLLAMA_LIBRARY_PATH", "OMP_", "GOMP_", "KMP_", "GGML_",
	"CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "GPU_DEVICE_ORDINAL", "VK_", "MESA_", "LP_NUM_THREADS", "RADV_", "AMD_", "MTL_",
}

// Environ is this process's environment as a fenced one gets it.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !slices.ContainsFunc(passed, func(p string) bool {
			return name == p || strings.HasSuffix(p, "_") && strings.HasPrefix(name, p)
		})
	})
}
