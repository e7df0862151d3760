// Package natlab runs real shoal daemons behind NATs on one machine: over TCP and
// QUIC, IPv4 and IPv6, each machine in a network namespace of its own, with the
// NATs of package nat and the delays in this process. It needs Linux, root,
// /dev/net/tun and ip(8).
//
//	make reach                                   all pairs and scenarios, half an hour
//	make reach REACH=-homes                      two homes and three commands
//	go run ./testnet/natlab/reach -pairs port:symmetric -scenarios none
//
// Three homes hold a third each of the tiny model, and know each other only
// through public nodes. The first home asks; for each pair of NATs (the first
// home's, the others') and for each scenario (UDP blocked, IPv6 alone, a relay
// that dies, an address that changes, a sleep of 40 seconds), a line says whether
// the prompt was answered, how soon and how fast, over which paths, and what was
// repaired.
//
// With -homes there are two homes and one public node that is a stranger to them: at one
// home a node serves the model, and `shoal invite` prints a code; at the other one `shoal
// join CODE` and `shoal prompt` use it. A line says how long each took, and when the path
// became direct.
//
// # Figures
//
// Seen on two busy cores, 10 ms one way per line (40 ms directly, 80 ms through a
// relay), three public nodes:
//
//	                                      pairs that answer   first token
//	nodes that ask for no relay           0 of 25 in 15 s
//	nodes with relays and hole punching   25 of 25 in 6 s     0.16 to 0.68 s
//
// 20 of 25 pairs are direct at all hops of the first home within four seconds of the
// answer, as in virtual time (package natsim); five cannot be. Directly 8 to 15 tokens/s,
// relayed 6 to 8.
//
// Scenarios. Long answers had the same text in all of them.
//
//	nothing happens, direct               14.3 tokens/s, 11 s for 150 tokens
//	all behind symmetric NATs, relayed    6.4 to 7.4 tokens/s
//	IPv6 alone, or beside symmetric IPv4  direct
//	a public node is killed               a stall of 0 to 1.9 s (it may not be the relay in use)
//	a server sleeps for 40 s              a stall of 40.0 s, nothing replayed
//	a server's address changes            a stall of 2.7 to 4.8 s, then direct again
//	the asker's address changes           a stall of 0 to 3.4 s, then direct again
//	UDP blocked at one end, or at all     direct over TCP
//
//	a hole is punched in mid-answer       no stall: the move takes 0.08 to 0.16 s
//
// Long answers, against what their routes' round trips predict: 0.96 directly (the
// processors are busy), 1.00 to 1.07 relayed.
//
// Two homes (-homes), one node that is a stranger to them. A prompt is a whole command: it
// joins the swarm, fetches the model's header, and gets 24 tokens.
//
//	NATs                    invite   join    prompt   first token   path
//	port, port              1.0 s    0.6 s   3.7 s    135 ms        direct, 1.3 s after a start
//	linux, address          1.0 s    0.9 s   3.5 s    149 ms        direct, 1.4 s
//	symmetric, full         1.0 s    0.8 s   5.8 s    145 ms        direct, 3.8 s
//	symmetric, port         1.0 s    0.7 s   1.5 s    183 ms        relayed
//	symmetric, symmetric    1.0 s    0.6 s   1.2 s    182 ms        relayed
//
// # How it works
//
// A namespace has no name: it lives while a thread or process is in it. So
// nothing is left behind, however this process ends; daemons and their engines
// are killed with it. A machine's only device is a TUN, read here: parse finds
// the flow, the box of the sender's home translates it, the receiver's queue
// delays it, the box of its home admits it. Machines' addresses are in 5.0.0.0/8,
// 6.0.0.0/8 and 2a00::/8: public, and in nobody's special list.
//
// # Why not the alternatives
//
// The kernel's NAT gives fewer kinds and needs a tool of its own; netem is missing
// in many kernels. What is not modelled: rate, loss, ICMP, fragments.
package natlab
