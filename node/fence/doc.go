// Package fence takes away a process's access to everything that it does not
// need, before it opens data from strangers. It is used for the engine's
// process, whose C++ parses their models, and for the converter's, whose
// library panics at unexpected directories. An attacker who takes over such a
// process gets a model and the processor, but not the node's key, its network,
// its user's files or other programs.
//
// [Up] sets up the fence from inside the process, irrevocably:
//
//	environment  an allowlist (Environ), applied by the parent
//	files        Landlock: only those in Rules, the system's libraries and files that
//	             describe the processor; nothing may be executed
//	network      seccomp: no socket of any kind, TCP, UDP, unix or netlink
//	programs     seccomp: no execve, no fork
//	signals      seccomp: only to itself; also Landlock's scope
//	parent       Landlock: no ptrace, and in /proc only its own directory
//	cores        not dumpable, and core size 0
//	memory       RLIMIT_DATA, if Rules.Memory is set
//
// The [Report] lists which of these hold. A missing one is not fatal: an older
// kernel supports fewer, and `shoal status` and `shoal doctor` show which.
//
// The list of system calls names those that are denied (with EPERM); all others
// are allowed. An allowlist would be stricter, but is not feasible: GPU
// drivers, which run in the process, make calls that change with each release,
// and we cannot test them all. Denied are the calls that reach beyond the
// process, and those that have been ways into the kernel and are of no use to a
// driver: io_uring, bpf, keys, userfaultfd, perf, mounts and namespaces. Calls
// by conventions other than the machine's own (32-bit, x32) are denied too,
// because their numbers mean other calls.
//
// Some drivers create unix sockets when they start (CUDA listens on one), so
// Rules.Sockets allows unix sockets until [Report.Settle].
//
// A process that runs as root keeps one capability, which overrides file
// ownership: a store may belong to another user, and Landlock decides which
// files are accessible.
//
// RLIMIT_DATA bounds a process's private writable memory: the heap, and with it KV cells
// and what is laid out for weights, whether they are then copied there or mapped.
// RLIMIT_AS would count address space that Go only reserves, hundreds of
// gigabytes, and a control group would have to be delegated, which hardly any
// machine does. GPU drivers map the GPU's memory into the process, so a process
// that uses a GPU has no bound. Until a model is loaded it is not known how
// much a pass needs besides weights and KV cells (it grows with heads times
// cells), so the bound is wide until then; Settle tightens it.
package fence
