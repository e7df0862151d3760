// Package link puts emulated distance between real sockets: delay, a rate and
// loss, without root, network namespaces or a proxy. A node that takes
// Params.SocketOptions sends everything that its libp2p transports put on the
// wire through a delay line first, connection set-up included, in all of its
// networks: a private swarm's, too, which has a QUIC transport of its own.
//
// # How it works
//
// Each node delays only what it sends, by RTT/2; two nodes with the same Params
// therefore see RTT between them. All sockets of one node share one uplink: a
// wire clock that is busy for size/rate per packet, with a drop-tail queue of
// one bandwidth-delay product (at least 64 KiB) before it. So Rate is the
// node's upload capacity over all its peers, not a rate per connection, and
// the download side is limited only by what others send.
//
//	write -> uplink (loss, queue, rate clock) -> timeline (wait RTT/2) -> socket
//
// A timeline is one goroutine with a heap of things due and one alarm. Go's own
// timers are a millisecond late on an idle Linux machine (the runtime polls
// with millisecond timeouts), which three hops would triple, so the alarm is a
// timerfd there.
//
// UDP (QUIC): every datagram takes its own chance of loss and its own place in
// the queue; quic-go's congestion control, pacing and recovery then are the
// real ones. The wrapped socket does without segmentation offload, batched reads
// and ECN, which costs CPU time above a few hundred Mbit/s.
//
// TCP: a socket's own recovery cannot be seen from outside the kernel, so a
// stream carries a model of it: dialing takes a full RTT; an accepted
// connection sends nothing before the dialer's third packet would be there; the
// window starts at ten segments and doubles every RTT until it fills the link,
// the queue overflows (then 0.7 of it) or it reaches 3 MiB; a lost segment
// stalls it and all bytes behind it by one RTT and leaves the window alone, as
// BBR does. Bytes are never lost. Accepting does not wait: only the bytes do.
//
// # Programs of others
//
// [Forward] puts the same link between programs that know nothing of it, such as those
// that a benchmark compares with: it accepts a TCP connection, dials the program that is
// meant, and delays what it carries in either direction as each end's [Machine] would.
// The handshake costs what it costs over the link. To both programs their peer seems to
// be on this machine.
//
// # Cuts
//
// Params.Cuts names a file of multiaddrs, one per line, that the link cannot reach at
// present, neither to send nor to receive: QUIC's datagrams are lost, the bytes and
// ends of TCP streams wait, and no connection can be made. The program that runs the
// network replaces the file (by rename) to cut and heal links. It is read again when
// packets pass, at most every 20 ms, so nothing watches it while nothing is sent. Each
// connection has a listening address at one end, so a link between two nodes is
// certain to be cut once each node's file names the other's addresses. What was sent
// before the cut still arrives.
//
// # Invariants
//
//   - Order is kept, per uplink for datagrams and per connection for streams.
//   - Nothing arrives early: a packet leaves at or after its due time.
//   - Memory is bounded: the queue limits what waits for the wire, and an
//     uplink holds at most 64 MiB in flight however fast it is.
//   - Close of a UDP socket returns when its last datagram has left (at most
//     two seconds); Close of a stream returns at once and its bytes go on, as a
//     kernel's would, for at most ten seconds. The goroutine of a timeline ends
//     with its last socket.
//   - Loopback traffic is delayed once, by its sender. The HTTP API of a node
//     is not a libp2p transport and is not delayed.
//
// # Why not the alternatives
//
// Network namespaces and tc need root; a proxy between nodes breaks addresses,
// the DHT's view of them and port reuse, and sees connections only after they
// are set up. What remains is to wrap the sockets inside the node. A program that only
// dials a server misses nothing of that, so Forward is a proxy.
//
// A limitation: when a node is killed, what is still in its delay line is lost. Its
// peers miss its last RTT/2 of packets, and see its TCP connections reset at once.
package link
