// Package lend decides whether this machine is lent just now: within the hours
// its owner allows, while nobody else needs it, and not from a battery. [Watch]
// looks every few seconds and tells of changes; what a pause does is its
// caller's business.
//
// # Load by others
//
// What counts is what the owner would notice: processor time that goes to other
// programs. It is the time that all programs had since the last reading, less
// what this process and its descendants had (the engines are its children), as
// a part of all the time that the machine's cores had:
//
//	others = (user + nice + system - ours) / (user + nice + system + irq + softirq + steal + idle + iowait)
//
// The load average will not do. It counts the node's own threads and those that
// wait for a disk, and it answers minutes late.
//
//   - ours is utime + stime + cutime + cstime of the node and all below it, from
//     /proc/PID/stat, by parent. With the c-values the sum stays whole when an
//     engine ends: its time moves to the parent that waited for it.
//   - Programs that others run at a nice level count like any: their owner waits
//     for them too.
//   - Interrupts are no program's, and many of them are the node's own traffic.
//     Stolen time went to other virtual machines; iowait is idle time. None of
//     these counts, though all are in the whole.
//   - What is measured is what others get, and while the engine computes that may
//     be less than they want. Where the kernel shares by session (autogroup) or
//     by cgroup, a nice level does not reach across, and programs that want
//     everything may get but half. A limit of 0.5 or more may then never be
//     reached; hence [DefaultPauseLoad]. While lending is paused, others get what
//     they want, so the limit for resuming is met only by a machine that is
//     truly quiet.
//   - Other nodes on the same machine are others. Where many share it, as in a
//     testnet, switch this off, or each pauses because of the rest.
//   - In a container, /proc/stat is that of the whole machine, and so is the
//     answer. A systemd unit with ProcSubset=pid hides it.
//
// # Battery
//
// On battery means: some battery or UPS of the machine itself discharges (not
// that of a mouse), and no mains or USB supply is online, by
// /sys/class/power_supply.
//
// # When it changes
//
// Hours count to the minute, in local time. The other two must last, since a
// pause drains and unloads, which costs seconds to undo: load at or above
// [Rules].PauseLoad, or running on battery, for [Rules].PauseAfter in all, where
// quiet time in between takes off what busy time put on; then the opposite for
// [Rules].Resume without a break. Quiet means below three quarters of PauseLoad,
// so that a load that hovers at the limit does not flap. A node that starts on
// battery does not lend first.
//
// # Where
//
// Load and battery are read on Linux only. Elsewhere nothing is read, and the
// hours are all that pauses; [Rules.Unmeasured] says so.
package lend
