package fence

import (
	"fmt"
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

// roleVariable tells a process in its environment what it was started to be.
const roleVariable = "SHOAL_CHILD"

// Environ is this process's environment as a fenced one gets it that is started to
// be a role, such as "engine".
func Environ(role string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !slices.ContainsFunc(passed, func(p string) bool {
			return name == p || strings.HasSuffix(p, "_") && strings.HasPrefix(name, p)
		})
	})
	return append(env, roleVariable+"="+role)
}

// Role is what this process was started to be, by a node: "" if it is not a child.
func Role() string { return os.Getenv(roleVariable) }

// ThisProgram is a path that starts this very program again. After an upgrade the
// path that it was started by leads to another one, whose protocol may differ;
// Linux has a name for the program that runs.
func ThisProgram() (string, error) {
	if _, err := os.Stat("/proc/self/exe"); err == nil {
		return "/proc/self/exe", nil
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	return exe, nil
}
