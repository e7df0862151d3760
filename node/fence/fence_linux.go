package fence

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// system lists what every process reads after it has started: libraries that
// are opened late, and what C libraries and OpenMP read about the processor,
// the memory and the time zone.
var system = []string{
	"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local", "/usr/share", "/opt",
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/localtime",
	"/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm", "/proc/sys/kernel",
	"/sys/devices/system", "/sys/kernel/mm", "/sys/fs/cgroup",
}

// drivers lists what GPU drivers read in addition.
var drivers = []string{
	"/etc/vulkan", "/etc/OpenCL", "/etc/nvidia", "/etc/drirc", "/etc/alternatives", "/run/opengl-driver", "/nix/store",
	"/proc/driver", "/proc/modules", "/proc/devices", "/proc/version", "/sys",
}

// harmless lists device files that are safe for any process.
var harmless = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}

const (
	readFile landlock.AccessFSSet = ll.AccessFSReadFile
	readDir  landlock.AccessFSSet = ll.AccessFSReadFile | ll.AccessFSReadDir
	device   landlock.AccessFSSet = ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSIoctlDev
	own      landlock.AccessFSSet = readDir | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSRemoveFile
)

// Up puts this process behind the fence, and reports which protections hold.
func Up(rules Rules) *Report {
	r := &Report{}
	r.say("environment", true, "")
	abi, err := ll.LandlockGetABIVersion()
	why := fmt.Sprintf("Landlock is here of version %d", abi)
	if err != nil || abi < 1 {
		abi, why = 0, "Landlock is not here, or not used by this kernel"
	}
	// Open for as long as this process lives, so that the kernel keeps
	// /proc/self cached: if it were dropped and looked up again, Landlock would
	// see another directory.
	_, _ = unix.Open("/proc/self", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err := landlock.V11.BestEffort().Restrict(rules.paths()...); err != nil {
		abi, why = 0, err.Error()
	}
	core := noCore()
	caps := dropCapabilities()
	calls := denyCalls(rules.Sockets)
	r.sockets, r.memory = rules.Sockets, rules.Memory

	r.say("files", abi >= 3, why+"; from 3 on it also keeps files from being cut short")
	r.say("network", calls == nil, text(calls))
	r.say("programs", calls == nil, text(calls))
	r.say("signals", calls == nil || abi >= 6, text(calls))
	if caps != nil {
		why = caps.Error()
	}
	r.say("parent", abi >= 1 && caps == nil, why)
	r.say("cores", core == nil, text(core))
	if rules.Memory == 0 {
		r.say("memory", false, "no bound is set where a GPU may be used")
	} else {
		err := boundMemory(rules.Memory)
		r.say("memory", err == nil, text(err))
	}
	return r
}

// text returns an error's text, or "" for nil.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (r *Rules) paths() []landlock.Rule {
	var out []landlock.Rule
	allow := func(dir, file landlock.AccessFSSet, paths ...string) {
		for _, p := range paths {
			st, err := os.Stat(p)
			switch {
			case err != nil:
			case st.IsDir():
				out = append(out, landlock.PathAccess(dir, p).IgnoreIfMissing())
			default:
				out = append(out, landlock.PathAccess(file, p).IgnoreIfMissing())
			}
		}
	}
	allow(readDir, readFile, system...)
	if r.System {
		allow(readDir, readFile, drivers...)
	}
	allow(readDir, readFile, r.Read...)
	allow(own, readFile|ll.AccessFSWriteFile|ll.AccessFSTruncate, r.Write...)
	allow(device|readDir, device, harmless...)
	for _, d := range r.Devices {
		found, _ := filepath.Glob(d)
		allow(device|readDir, device, found...)
	}
	return out
}

// noCore keeps this process's memory out of core dumps and out of reach of the
// user's other processes.
func noCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// boundMemory bounds this process's private memory, unless a tighter bound is
// set.
func boundMemory(bytes int64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_DATA, &now); err != nil {
		return err
	}
	most := min(uint64(bytes), now.Max)
	return unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: min(most, now.Cur), Max: most})
}

// Settle tightens the fence once everything is loaded: sockets allowed by
// Rules.Sockets are denied, and the memory bound becomes what this process has
// now, plus room for its work: 1 GiB, an eighth of what it has, and a stack per
// thread.
func (r *Report) Settle() {
	if r.sockets {
		if err := denySockets(); err != nil {
			r.Lacks = append(r.Lacks, "unix sockets: "+err.Error())
		}
	}
	if has, err := ownMemory(); err == nil && r.memory > 0 {
		_ = boundMemory(min(r.memory, has+has/8+1<<30+int64(runtime.NumCPU())*stack))
	}
}

// stack is twice the usual size of a C library thread's stack, in bytes.
const stack = 16 << 20

// ownMemory returns what counts against RLIMIT_DATA, in bytes.
func ownMemory() (int64, error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), "\nVmData:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	return kib << 10, err
}

// dropCapabilities drops all capabilities of a process that runs as root, on
// all threads, but the one to read and write files of other users.
func dropCapabilities() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var has [2]unix.CapUserData
	if err := unix.Capget(&head, &has[0]); err != nil {
		return err
	}
	const keep = 1 << unix.CAP_DAC_OVERRIDE
	if (has[0].Effective|has[0].Permitted)&^keep|has[1].Effective|has[1].Permitted == 0 {
		return nil // a service's system call filter may deny even asking
	}
	has = [2]unix.CapUserData{{Effective: has[0].Effective & keep, Permitted: has[0].Permitted & keep}, {}}
	_, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&has[0])), 0)
	runtime.KeepAlive(&head)
	runtime.KeepAlive(&has)
	if errno != 0 {
		return fmt.Errorf("dropping capabilities: %w", errno)
	}
	return nil
}
