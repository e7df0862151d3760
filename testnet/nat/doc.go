// Package nat is a NAT as a pure table: no clock, no socket, no packet. The
// caller passes the flow of each packet and the time, and gets the flow as it
// leaves the box, or a refusal.
//
//	box := nat.New(nat.Symmetric, netip.MustParseAddr("6.0.1.1"), 1)
//	out, ok := box.Out(nat.Flow{UDP: true, Src: inside, Dst: remote}, now)
//	back, ok := box.In(nat.Flow{UDP: true, Src: remote, Dst: out.Src}, now)
//
// Package natsim puts it between libp2p hosts in virtual time, package natlab
// between real processes.
//
// # The kinds
//
// RFC 4787 describes a NAT by how it chooses the outside port (mapping) and by
// whose packets it lets in (filtering). Five kinds cover what homes have:
//
//	kind       mapping                     lets in
//	Full       one port per inside port    anyone
//	Address    one port per inside port    addresses it has sent to, any port
//	Port       one port per inside port    endpoints it has sent to
//	Linux      per remote endpoint, but    endpoints it has sent to
//	           with the inside port when
//	           that is free
//	Symmetric  a random port per remote    endpoints it has sent to
//	           endpoint
//
// Of the 25 ordered pairs of them, hole punching can connect 20. The others are
// Symmetric with Port, Linux or Symmetric, in both orders: neither side can know
// the port that the other will use.
//
// A box without an outside address is a firewall, such as a home has on IPv6:
// it filters and translates nothing. BlockUDP makes any kind one that lets no
// UDP through. Two boxes in a row are a carrier's NAT or a phone's hotspot.
//
// # Invariants
//
//   - A packet comes in only to an inside endpoint that has sent one out through
//     the same outside port, and within the idle time.
//   - An incoming packet never matches two inside endpoints.
//   - The answer to a packet that went out comes back to its sender.
//   - Dead entries are swept once per idle time. Ports that run out are a
//     refusal.
//
// # Why not the kernel's NAT
//
// nftables gives most of these kinds, but not in virtual time, not without root,
// and not without its tool. What is not modelled: fragments, ICMP, TCP's states
// (an entry lives while packets pass, as for UDP), pools of outside addresses.
package nat
