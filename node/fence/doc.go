// Package fence takes from a process what it has no need of, before it opens
// what strangers made: the engine's, whose C++ parses their models, and the
// converter's, whose library panics at odd directories. Whoever takes such a
// process over has a model and the processor, and not the node's key, its
// network, its user's files or other programs.
//
// [Up] does it, from inside the process, once and for good:
//
//	environment  by allowlist (Environ), given by who starts it
//	files        Landlock: those of Rules, the system's libraries and what
//	             describes the processor; nothing may be executed
//	network      seccomp: no socket of any kind, TCP, UDP, unix or netlink
//	programs     seccomp: no execve, no fork
//	signals      seccomp: to itself alone; Landlock's scope besides
//	parent       Landlock: no ptrace, and of /proc only its own directory
//	cores        not dumpable, and no core's size
//	memory       RLIMIT_DATA, if Rules.Memory says so
//
// The [Report] tells which of these hold. Nothing is fatal: a kernel that knows
// less fences less, and `shoal status` and `shoal doctor` say so.
//
// The list of system calls is one of those denied (with EPERM), and the rest is
// allowed. The other way round would be stricter, and is not possible here:
// drivers of GPUs, which live in the process, make calls that change with each
// release, and nobody here can run them all. What is denied is what reaches
// beyond the process, and what has been a way into the kernel without being of
// any use to a driver: io_uring, bpf, keys, userfaultfd, perf, mounts and
// namespaces. Calls by other conventions than the machine's own (32 bits, x32)
// are denied, too, for their numbers mean other things.
//
// Some drivers make unix sockets when they begin (CUDA listens on one), so
// Rules.Sockets leaves those, of all sockets, until [Report.Settle].
//
// A process of root's keeps one capability, to pass over the owners of files:
// a store may be of another user, and which files these are is Landlock's
// matter.
//
// RLIMIT_DATA bounds what a process can write to and has for itself: the heap,
// and with it weights and KV cells, which the engine reads into memory of its
// own. RLIMIT_AS would count what Go only reserves, hundreds of gigabytes, and
// a control group of its own needs one delegated, which hardly any machine
// does. Drivers of GPUs map the GPU's memory into the process, so one that uses
// a GPU has no bound. While a model is loaded nobody knows how much a pass will
// need beside weights and KV cells (it grows with heads times cells), so the
// bound is wide until then; Settle draws it close.
package fence
