package fence

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// Rules say what a process needs, besides what every fenced process gets.
type Rules struct {
	Read    []string // files and directories that it reads; missing ones are skipped
	Write   []string // directories in which it creates, reads and removes files
	Devices []string // device files, or directories of them, that it reads, writes and controls
	System  bool     // everything that the system publishes about its devices, which drivers read
	Sockets bool     // allow unix sockets until Settle
	Memory  int64    // bytes of private memory until Settle, which lowers the bound; 0: no bound
}

// Report lists what a fence denies a process, and what it fails to deny, and
// why.
type Report struct {
	Holds []string // protections that hold, of: environment, files, network, programs, signals, parent, cores, memory
	Lacks []string // the others, each with the reason

	sockets bool  // unix sockets are allowed until Settle
	memory  int64 // the bound, in bytes; 0: none
}

func (r *Report) say(what string, holds bool, why string) {
	if holds {
		r.Holds = append(r.Holds, what)
	} else {
		r.Lacks = append(r.Lacks, what+": "+why)
	}
}

// passed lists the environment variables that a fenced process receives, by
// name or prefix. They say where things are and how to compute: PATH and HOME,
// which libraries look up and which grant no access; the language and time
// zone; where libraries and back ends are; and the settings of OpenMP, ggml and
// GPU drivers. Any other variable may contain a secret.
var passed = []string{
	"PATH", "HOME", "TMPDIR", "LANG", "LC_", "TZ", "GODEBUG", "GOTRACEBACK", "GOMAXPROCS",
	"LD_LIBRARY_PATH", "OLLAMA_LIBRARY_PATH", "SHOAL_LIBLLAMA", "OMP_", "GOMP_", "KMP_", "GGML_",
	"CUDA_", "NVIDIA_", "HIP_", "ROCR_", "HSA_", "GPU_DEVICE_ORDINAL", "VK_", "MESA_", "LP_NUM_THREADS", "RADV_", "AMD_", "MTL_",
}

// roleVariable is the environment variable that names a process's role.
const roleVariable = "SHOAL_CHILD"

// Environ returns the part of this process's environment for a fenced process
// to be started in a role, such as "engine".
func Environ(role string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !slices.ContainsFunc(passed, func(p string) bool {
			return name == p || strings.HasSuffix(p, "_") && strings.HasPrefix(name, p)
		})
	})
	return append(env, roleVariable+"="+role)
}

// Role returns the role in which a node started this process, or "" if it is
// not a node's child.
func Role() string { return os.Getenv(roleVariable) }

// ThisProgram returns a path that starts this same program again. After an
// upgrade the path it was started by leads to another version, whose protocol
// may differ; Linux has a name for the running program. Errors are those of
// os.Executable.
func ThisProgram() (string, error) {
	if _, err := os.Stat("/proc/self/exe"); err == nil && runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	return exe, nil
}
