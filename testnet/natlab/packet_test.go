package natlab

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/shoalnet/shoal/testnet/nat"
)

// packetOf makes a packet of a flow with wrong checksums.
func packetOf(f nat.Flow, data string) []byte {
	proto, header := byte(protoTCP), 20
	if f.UDP {
		proto, header = protoUDP, 8
	}
	var b []byte
	if f.Src.Addr().Is4() {
		b = make([]byte, 20+header)
		b[0], b[9] = 0x45, proto
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(data)))
		copy(b[12:], f.Src.Addr().AsSlice())
		copy(b[16:], f.Dst.Addr().AsSlice())
	} else {
		b = make([]byte, 40+header)
		b[0], b[6] = 0x60, proto
		binary.BigEndian.PutUint16(b[4:], uint16(header+len(data)))
		copy(b[8:], f.Src.Addr().AsSlice())
		copy(b[24:], f.Dst.Addr().AsSlice())
	}
	l4 := b[len(b)-header:]
	binary.BigEndian.PutUint16(l4, f.Src.Port())
	binary.BigEndian.PutUint16(l4[2:], f.Dst.Port())
	return append(b, data...)
}

// sums reports whether the checksums of a packet are right: with them, the sum
// of what they cover is 0xffff.
func sums(b []byte, s segment) bool {
	addrs := b[8:s.payload]
	if b[0]>>4 == 4 {
		addrs = b[12:20]
		if fold(sum(b[:s.payload])) != 0xffff {
			return false
		}
	}
	l4 := b[s.payload:]
	return fold(sum(addrs)+uint32(s.proto)+uint32(len(l4))+sum(l4)) == 0xffff
}

func flow(udp bool, src, dst string) nat.Flow {
	return nat.Flow{UDP: udp, Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
}

func TestRewrite(t *testing.T) {
	for _, c := range []struct{ before, after nat.Flow }{
		{flow(true, "10.0.0.2:4001", "5.0.0.1:4001"), flow(true, "6.0.0.1:1025", "5.0.0.1:4001")},
		{flow(false, "10.0.0.2:4001", "5.0.0.1:4001"), flow(false, "6.0.0.1:65535", "5.0.0.1:4001")},
		{flow(true, "[2a00::1]:1", "[2a01::2]:2"), flow(true, "[2a02::3]:3", "[2a01::2]:2")},
		{flow(false, "[2a00::1]:1", "[2a01::2]:2"), flow(false, "[2a02::3]:3", "[2a01::2]:2")},
	} {
		for _, data := range []string{"", "odd", "even"} {
			b := packetOf(c.before, data)
			f, s, ok := parse(b)
			if !ok || f != c.before {
				t.Fatalf("parsed %v as %v, %v", c.before, f, ok)
			}
			s.rewrite(c.after)
			if f, _, ok := parse(b); !ok || f != c.after || !sums(b, s) {
				t.Errorf("%v became %v in place of %v; checksums right: %v", c.before, f, c.after, sums(b, s))
			}
			if string(b[len(b)-len(data):]) != data {
				t.Error("the data changed")
			}
		}
	}
}

// TestNoChecksum: a UDP checksum that computes to 0 is sent as 0xffff, since 0
// means that there is none.
func TestNoChecksum(t *testing.T) {
	f := flow(true, "10.0.0.2:4001", "5.0.0.1:4001")
	for port := range 1 << 16 {
		f.Src = netip.AddrPortFrom(f.Src.Addr(), uint16(port))
		b := packetOf(f, "x")
		_, s, _ := parse(b)
		s.rewrite(f)
		if binary.BigEndian.Uint16(b[26:]) == 0 {
			t.Fatalf("port %d: no checksum", port)
		}
	}
}

func TestRefused(t *testing.T) {
	good := packetOf(flow(true, "10.0.0.2:1", "5.0.0.1:2"), "data")
	change := func(at int, to byte) []byte {
		b := append([]byte(nil), good...)
		b[at] = to
		return b
	}
	for what, b := range map[string][]byte{
		"nothing": nil, "ICMP": change(9, 1), "a later fragment": change(7, 1), "a first fragment": change(6, 0x20),
		"a short header": change(0, 0x44), "a long header": change(0, 0x4f), "version 5": change(0, 0x55), "half of UDP": good[:24],
	} {
		if f, _, ok := parse(b); ok {
			t.Errorf("%s: taken as %v", what, f)
		}
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(packetOf(flow(true, "10.0.0.2:1", "5.0.0.1:2"), "data"))
	f.Add(packetOf(flow(false, "[2a00::1]:1", "[2a01::2]:2"), "data"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before, s, ok := parse(b)
		if !ok {
			return
		}
		after := nat.Flow{UDP: before.UDP, Src: netip.AddrPortFrom(before.Dst.Addr(), 7), Dst: before.Src}
		s.rewrite(after)
		if got, s, ok := parse(b); !ok || got != after || !sums(b, s) {
			t.Fatalf("%v in place of %v, %v", got, after, ok)
		}
	})
}
