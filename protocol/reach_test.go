package protocol

import (
	"bytes"
	"errors"
	"testing"

	"github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"
)

func addrBytes(list ...string) (out [][]byte) {
	for _, s := range list {
		out = append(out, multiaddr.StringCast(s).Bytes())
	}
	return out
}

func TestOpenReach(t *testing.T) {
	id := []byte("\x00\x24\x08\x01\x12\x20" + string(bytes.Repeat([]byte{7}, 32)))
	quic := "/ip4/5.0.0.1/udp/4001/quic-v1"
	for _, c := range []struct {
		name string
		m    *ReachRequest
		ok   bool
	}{
		{"nothing", &ReachRequest{}, false},
		{"a kind that is not known", &ReachRequest{Kind: 99}, false},
		{"check", &ReachRequest{Kind: ReachKind_REACH_CHECK, Udp: []uint32{4001}, Tcp: []uint32{65535}}, true},
		{"check without ports", &ReachRequest{Kind: ReachKind_REACH_CHECK}, false},
		{"check of port 0", &ReachRequest{Kind: ReachKind_REACH_CHECK, Udp: []uint32{0}}, false},
		{"check of port 65536", &ReachRequest{Kind: ReachKind_REACH_CHECK, Tcp: []uint32{65536}}, false},
		{"check of many ports", &ReachRequest{Kind: ReachKind_REACH_CHECK, Udp: []uint32{1, 2, 3, 4, 5}}, false},
		{"dial", &ReachRequest{Kind: ReachKind_REACH_DIAL, Peer: id, Addrs: addrBytes(quic, "/ip6/2001:db8::1/tcp/1")}, true},
		{"dial nobody", &ReachRequest{Kind: ReachKind_REACH_DIAL, Addrs: addrBytes(quic)}, false},
		{"dial nowhere", &ReachRequest{Kind: ReachKind_REACH_DIAL, Peer: id}, false},
		{"dial a name", &ReachRequest{Kind: ReachKind_REACH_DIAL, Peer: id, Addrs: addrBytes("/dns4/example.com/udp/1/quic-v1")}, false},
		{"dial a circuit", &ReachRequest{Kind: ReachKind_REACH_DIAL, Peer: id, Addrs: addrBytes(quic + "/p2p-circuit")}, false},
		{"dial a socket of the machine", &ReachRequest{Kind: ReachKind_REACH_DIAL, Peer: id, Addrs: addrBytes("/unix/tmp/x")}, false},
		{"dial plain UDP", &ReachRequest{Kind: ReachKind_REACH_DIAL, Peer: id, Addrs: addrBytes("/ip4/5.0.0.1/udp/53")}, false},
		{"dial noise", &ReachRequest{Kind: ReachKind_REACH_DIAL, Peer: id, Addrs: [][]byte{{1, 2, 3}}}, false},
		{"dial at many", &ReachRequest{Kind: ReachKind_REACH_DIAL, Peer: id, Addrs: addrBytes(quic, quic, quic, quic, quic)}, false},
		{"punch", &ReachRequest{Kind: ReachKind_REACH_PUNCH}, true},
		{"punch on a LAN", &ReachRequest{Kind: ReachKind_REACH_PUNCH, Addrs: addrBytes("/ip4/192.168.1.2/tcp/1"), Outside: [][]byte{{6, 0, 1, 1}}}, true},
		{"punch from 3 bytes", &ReachRequest{Kind: ReachKind_REACH_PUNCH, Outside: [][]byte{{6, 0, 1}}}, false},
	} {
		_, err := OpenReach(c.m)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrReach) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzOpenReach(f *testing.F) {
	for _, m := range []*ReachRequest{
		{Kind: ReachKind_REACH_CHECK, Udp: []uint32{4001}},
		{Kind: ReachKind_REACH_DIAL, Peer: []byte{0, 0}, Addrs: addrBytes("/ip4/5.0.0.1/tcp/4001")},
		{Kind: ReachKind_REACH_PUNCH, Outside: [][]byte{{6, 0, 1, 1}}},
	} {
		raw, _ := proto.Marshal(m)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m ReachRequest
		if proto.Unmarshal(raw, &m) != nil {
			return
		}
		r, err := OpenReach(&m)
		if err != nil {
			return
		}
		if len(r.UDP) > MaxReachAddrs || len(r.TCP) > MaxReachAddrs || len(r.Addrs) > MaxReachAddrs || len(r.Outside) > MaxReachAddrs {
			t.Errorf("too much of something: %+v", r)
		}
		for _, a := range r.Addrs {
			if !plainAddr(a) {
				t.Errorf("address %s", a)
			}
			if s := a.String(); !plainAddr(multiaddr.StringCast(s)) {
				t.Errorf("address %s, read again", s)
			}
		}
	})
}
