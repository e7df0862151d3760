// Package testnet runs a network of shoal nodes on this machine: separate
// processes of the real binary, each with its own directory, ports and log,
// with emulated distance between them (package link). cmd/shoal exposes it as
// `shoal testnet`; tests and benchmarks use it directly. Faults while sessions
// run, and a report of what they did, are package scenario; networks in one
// process and virtual time are package sim.
//
//	t, err := testnet.Start(ctx, testnet.Config{Binary: "bin/shoal", Nodes: 3})
//	defer t.Close()
//	err = t.WaitReady(ctx)
//	code, err := t.Exec(ctx, []string{"bin/shoal", "prompt", "Once"})
//
// # How it works
//
// Start imports the model's spans into the nodes' directories, one after the
// other (`shoal model add --span`), so that each holds on disk only what it
// serves; starts the first node, then the others with the first's address as
// bootstrap. Nodes report events on standard output, one JSON object per line
// (`shoal node --json-events`): besides flags and signals, that is the whole
// interface. The system picks ports at the first start; they are read from the
// events and kept over restarts.
//
// Links can be cut and healed while nodes run (Cut): each node reads a file of
// the addresses that it cannot reach, in the network's directory.
//
// Blocks are divided evenly over Nodes/Replicas stages; node i serves stage
// i modulo the number of stages. A network with more nodes than blocks has
// replicas for the rest.
//
// # Invariants
//
//   - The package prints nothing: Config.Events receives events, Config.Log the
//     nodes' logs.
//   - Nothing stays behind after Close or a failed Start: no process (each node
//     has its own process group, which gets SIGTERM and after ten seconds SIGKILL;
//     children that outlive its leader are killed, too) and no temporary directory,
//     unless Config.Keep. On Linux the nodes die with this process even if it is
//     killed.
//   - Ctrl-C in a terminal reaches only this process, not the nodes: their
//     groups are not the terminal's. The caller turns it into Close.
//   - Nodes stop in reverse order: the first, through which the others joined, is
//     the last to stop.
//   - A node that exits unexpectedly makes Start and WaitReady fail with the end of
//     its log. Later it is only an event: networks are meant to survive that.
//   - SHOAL_* variables of this process do not reach the nodes or commands.
//
// # Why not the alternatives
//
// Containers or network namespaces need root or a daemon, and failures in them are
// harder to see. Nodes in one process share a heap, a scheduler and the engine's lock:
// they cannot be killed, and their timing is meaningless.
package testnet
