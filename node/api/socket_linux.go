package api

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

const (
	established = "01"
	nobody      = 65534 // stands for users of other user namespaces
)

// sameUser reports whether the socket at from, connected to to, belongs to exactly the
// user of this process. Root is nobody special.
func sameUser(from, to netip.AddrPort) bool {
	self := os.Geteuid()
	if self == nobody {
		return false
	}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} { // IPv4 may be in the second, too
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		uid, ok := socketUser(f, from, to)
		_ = f.Close()
		if ok {
			return uid == self
		}
	}
	return false
}

// socketUser finds a connected socket in one of the kernel's tables and returns its user.
func socketUser(table io.Reader, from, to netip.AddrPort) (uid int, ok bool) {
	from, to = unmapped(from), unmapped(to)
	for lines := bufio.NewScanner(table); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 8 || f[3] != established {
			continue
		}
		if local, ok := tableAddr(f[1]); !ok || local != from {
			continue
		}
		if remote, ok := tableAddr(f[2]); !ok || remote != to {
			continue
		}
		uid, err := strconv.Atoi(f[7])
		return uid, err == nil
	}
	return 0, false
}

// tableAddr reads an address as the kernel's tables have it: words of 32 bits in
// the machine's byte order, in hex, a colon, and the port.
func tableAddr(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	p, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	ip, ok := netip.AddrFromSlice(raw)
	return unmapped(netip.AddrPortFrom(ip, uint16(p))), ok
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
