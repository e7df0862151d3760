// Package sim puts libp2p hosts of one process on simulated links, for tests in
// virtual time: inside testing/synctest a network of many hosts that runs for
// seconds is over in milliseconds, and takes the same time on every run.
//
//	synctest.Test(t, func(t *testing.T) {
//		net := sim.New(link.Params{RTT: 40 * time.Millisecond})
//		defer net.Close()
//		a, err := net.NewHost()
//		...
//	})
//
// # How it works
//
// github.com/marcopolo/simnet carries the packets; when they arrive is decided by
// link.Model, so that a link is the same thing here and between processes: one
// uplink per host with a rate, a drop-tail queue and losses, then RTT/2. Hosts are
// real libp2p hosts with the real QUIC transport; only the kernel's sockets are
// replaced. Code that builds its own host (a node) takes Endpoint's options
// instead of NewHost.
//
// # Invariants
//
//   - QUIC only, one address per host, in 1.0.0.0/8: public, so that nothing
//     treats the network as a LAN.
//   - The shape of the network is a function of the calls made: the n-th host
//     has the n-th key and address. Losses come from a seed.
//   - The network and all its hosts live inside one synctest bubble; Close ends
//     the network's goroutines, after the hosts were closed.
//
// What is not repeatable: which of two goroutines that wake at the same virtual
// instant runs first, and the keys and nonces of TLS. With a Rate set the order
// of two packets sent at one instant can therefore move a time by the length of
// a packet; without a Rate, times are exact.
//
// # Why not the alternatives
//
// go-libp2p's x/simlibp2p builds such hosts too, but takes no identities or
// host options and brings a test framework into the build; this needs only its
// way to plug a socket in. Package link delays real sockets in real time, which
// no virtual clock can drive.
package sim
