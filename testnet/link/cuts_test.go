package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// scissors is the file of a link's cuts, and how to change it.
type scissors struct {
	t    testing.TB
	path string
}

func newScissors(t testing.TB) scissors {
	return scissors{t, filepath.Join(t.TempDir(), "cuts")}
}

// cut replaces the file and waits until no look at it is older.
func (s scissors) cut(addrs ...any) {
	s.t.Helper()
	var b bytes.Buffer
	for _, a := range addrs {
		fmt.Fprintln(&b, a)
	}
	if err := os.WriteFile(s.path+".new", b.Bytes(), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.path+".new", s.path); err != nil {
		s.t.Fatal(err)
	}
	time.Sleep(2 * lookEvery)
}

func multiaddr(t testing.TB, a net.Addr) ma.Multiaddr {
	t.Helper()
	m, err := manet.FromNetAddr(a)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCutFile(t *testing.T) {
	s := newScissors(t)
	c := newCuts(s.path)
	udp, tcp := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1).To4(), Port: 7}
	for _, tc := range []struct {
		lines    []any
		udp, tcp bool
	}{
		{nil, false, false},
		{[]any{"/ip4/127.0.0.1/udp/7/quic-v1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"}, true, false},
		{[]any{"nonsense", "", "/ip4/127.0.0.1/tcp/7", "/dns/localhost/tcp/7"}, false, true},
		{[]any{"/ip4/127.0.0.1/udp/8/quic-v1", "/ip6/::1/tcp/7"}, false, false},
	} {
		if tc.lines != nil { // else there is no file
			s.cut(tc.lines...)
		}
		if c.has(udp) != tc.udp || c.has(tcp) != tc.tcp {
			t.Errorf("with %q: udp %v, tcp %v", tc.lines, c.has(udp), c.has(tcp))
		}
	}
	if newCuts("").has(udp) {
		t.Error("cut without a file")
	}
}

// TestCutUDP: one end's file is enough to cut both directions.
func TestCutUDP(t *testing.T) {
	t.Parallel()
	s := newScissors(t)
	a, b := udpPair(t, newUplink(Params{Cuts: s.path}), newUplink(Params{}))
	buf := make([]byte, 10)
	passes := func(from, to net.PacketConn) bool {
		t.Helper()
		if _, err := from.WriteTo([]byte("x"), to.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		_ = to.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _, err := to.ReadFrom(buf)
		return err == nil
	}
	for _, cut := range []bool{false, true, false} {
		if cut {
			s.cut(multiaddr(t, b.LocalAddr()))
		} else {
			s.cut()
		}
		if passes(a, b) == cut || passes(b, a) == cut {
			t.Errorf("with the link cut: %v, it is not", cut)
		}
	}
}

// TestCutTCP: bytes wait for the link to heal, in both directions, and so does
// the end of the stream.
func TestCutTCP(t *testing.T) {
	t.Parallel()
	before := runtime.NumGoroutine()
	s := newScissors(t)
	a, b := tcpPair(t, Params{Cuts: s.path})
	s.cut(multiaddr(t, b.LocalAddr()))
	for _, c := range []*conn{a, b} {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []*conn{a, b} {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes over a cut link, %v", n, err)
		}
		_ = c.SetReadDeadline(time.Time{})
	}
	s.cut()
	for _, c := range []*conn{a, b} {
		if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
			t.Errorf("once it is healed: %q, %v", got, err)
		}
	}
	s.cut(multiaddr(t, b.LocalAddr()))
	b.Close()
	reading := make(chan error)
	go func() {
		_, err := a.Read(make([]byte, 1))
		reading <- err
	}()
	time.Sleep(2 * lookEvery)
	a.Close()
	if err := <-reading; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a reader of a cut link, after Close: %v", err)
	}
	s.cut()
	waitGoroutines(t, before)
}

// TestCutHosts: QUIC connections of real hosts stand still while their link is
// cut, and go on; no new ones are made.
func TestCutHosts(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	for name, addr := range transports {
		t.Run(name, func(t *testing.T) {
			s := newScissors(t)
			a, b := newHost(t, Params{Cuts: s.path}, addr), newHost(t, Params{}, addr)
			connect(t, a, b)
			st := open(t, a, b, echoProto)
			buf := make([]byte, 4)
			echo(t, st, []byte("calm"), buf)

			s.cut(b.Addrs()[0])
			_ = st.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if _, err := st.Write([]byte("cut!")); err != nil {
				t.Fatal(err)
			}
			if n, err := st.Read(buf); err == nil {
				t.Errorf("%q came over a cut link", buf[:n])
			}
			c, err := libp2p.New(append(Params{Cuts: s.path}.LibP2POptions(), libp2p.NoListenAddrs, libp2p.DisableMetrics())...)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if err := c.Connect(ctx, info(b)); err == nil {
				t.Error("connected over a cut link")
			}
			cancel()

			s.cut()
			_ = st.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.ReadFull(st, buf); err != nil || string(buf) != "cut!" {
				t.Errorf("once it is healed: %q, %v", buf, err)
			}
		})
	}
}
