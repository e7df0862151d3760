package natlab

import (
	"encoding/binary"
	"net/netip"

	"github.com/shoalnet/shoal/testnet/nat"
)

const (
	protoTCP = 6
	protoUDP = 17
)

// segment is the part of an IP packet that a NAT rewrites.
type segment struct {
	packet  []byte
	payload int // where TCP or UDP begins
	proto   byte
}

// parse finds the flow of an IPv4 or IPv6 packet. It is false for what is
// neither TCP nor UDP, a fragment, damaged, or has IPv6 extension headers.
func parse(b []byte) (nat.Flow, segment, bool) {
	s := segment{packet: b}
	var src, dst netip.Addr
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		const fragment = 0x3fff // more to come, or not the first
		if s.payload = int(b[0]&15) * 4; s.payload < 20 || binary.BigEndian.Uint16(b[6:])&fragment != 0 {
			return nat.Flow{}, s, false
		}
		s.proto = b[9]
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 40 && b[0]>>4 == 6:
		s.payload, s.proto = 40, b[6]
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return nat.Flow{}, s, false
	}
	least := map[byte]int{protoTCP: 20, protoUDP: 8}[s.proto]
	if least == 0 || len(b) < s.payload+least {
		return nat.Flow{}, s, false
	}
	f := nat.Flow{UDP: s.proto == protoUDP,
		Src: netip.AddrPortFrom(src, binary.BigEndian.Uint16(b[s.payload:])),
		Dst: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[s.payload+2:]))}
	return f, s, true
}

// rewrite gives the packet the addresses and ports of a flow of the same
// protocol and IP version, and mends its checksums.
func (s segment) rewrite(f nat.Flow) {
	b, l4 := s.packet, s.packet[s.payload:]
	addrs := b[12:20]
	if f.Src.Addr().Is4() {
		src, dst := f.Src.Addr().As4(), f.Dst.Addr().As4()
		copy(b[12:], src[:])
		copy(b[16:], dst[:])
		binary.BigEndian.PutUint16(b[10:], 0)
		binary.BigEndian.PutUint16(b[10:], ^fold(sum(b[:s.payload])))
	} else {
		src, dst := f.Src.Addr().As16(), f.Dst.Addr().As16()
		copy(b[8:], src[:])
		copy(b[24:], dst[:])
		addrs = b[8:40]
	}
	binary.BigEndian.PutUint16(l4, f.Src.Port())
	binary.BigEndian.PutUint16(l4[2:], f.Dst.Port())
	at := 16 // of TCP's checksum
	if s.proto == protoUDP {
		at = 6
	}
	binary.BigEndian.PutUint16(l4[at:], 0)
	c := ^fold(sum(addrs) + uint32(s.proto) + uint32(len(l4)) + sum(l4))
	if c == 0 && s.proto == protoUDP { // 0 means that there is none
		c = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], c)
}

func sum(b []byte) (s uint32) {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
