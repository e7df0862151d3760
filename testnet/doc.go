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
// bootstrap. Nodes tell their life on standard output, one JSON object a line
// (`shoal node --json-events`): that is the whole interface, besides flags and
// signals. Ports are the system's choice at the first start, read from the
// events, and kept over restarts.
//
// Links can be cut and healed while nodes run (Cut): each node reads a file of
// the addresses that it does not reach, in the network's directory.
//
// Blocks are divided evenly over Nodes/Replicas stages; node i serves stage
// i modulo the number of stages. A network with more nodes than blocks has
// replicas for the rest.
//
// # Invariants
//
//   - The package prints nothing: Config.Events tells what happens, Config.Log
//     takes the nodes' logs.
//   - Nothing stays behind after Close or a failed Start: no process (each node
//     has a process group of its own, which gets SIGTERM, after ten seconds
//     SIGKILL; what the leader leaves of it is killed too) and no temporary
//     directory, unless asked for. On Linux the nodes die with this process even
//     if it is killed.
//   - Ctrl-C in a terminal reaches only this process, not the nodes: their
//     groups are not the terminal's. The caller turns it into Close.
//   - Nodes stop in reverse: the first, which the others know the network by,
//     is the last to go.
//   - A node that ends unasked makes Start and WaitReady fail with the end of
//     its log. Later it is an event: networks are made to lose nodes.
//   - SHOAL_* variables of this process do not reach the nodes or commands.
//
// # Why not the alternatives
//
// Containers or network namespaces need root or a daemon, and say less when a
// node fails. Nodes in one process share a heap, a scheduler and the engine's
// lock: they cannot be killed, and their timing says nothing.
package testnet
