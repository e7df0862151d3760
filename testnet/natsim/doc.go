// Package natsim puts libp2p hosts behind NATs, in one process and in virtual
// time: inside testing/synctest, without a socket and without root.
//
//	synctest.Test(t, func(t *testing.T) {
//		internet := natsim.New()
//		home := internet.Behind(nat.Symmetric, netip.MustParseAddr("6.1.0.1"), 5*time.Millisecond)
//		at, err := home.Host(netip.MustParseAddr("10.1.0.2"), 5*time.Millisecond)
//		...
//		host, err := libp2p.New(append(at.Options(), libp2p.Identity(at.Key), libp2p.ListenAddrs(at.Addr))...)
//		...
//		host.Close()
//		time.Sleep(time.Minute) // timers of what was closed end
//	})
//
// # How it works
//
// Networks are a tree with the internet at its root. A packet to an address of
// its own network goes there; any other goes up through the box of the network
// (package nat), and down through those on the other side. So hosts of one home
// see each other directly, a network behind a network is a carrier's NAT or a
// phone's hotspot, and the firewall of an IPv6 home is a box without an address
// of its own. Each line between a host or a box and its network has a delay, the
// same both ways.
//
// Hosts are real libp2p hosts with the real QUIC transport; only the kernel's
// sockets are replaced. Any address is allowed; 5.0.0.0/8 and 6.0.0.0/8 are
// public and in nobody's special list, so libp2p and shoal treat them as such.
//
// # Invariants
//
//   - Lines keep the order of packets, lose none unless cut, and have no rate.
//   - The n-th host has the n-th key; a box's random ports come from a seed.
//   - Everything stays in one synctest bubble: it ends when all hosts are closed
//     and time has passed for their timers.
//
// # Why not the alternatives
//
// Package sim has links with rate, queue and loss, but one flat network with one
// address per host. Package natlab has TCP and real processes, but needs root and
// takes real time. simnet's own router knows no NAT.
package natsim
