package link

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/net/nettest"
)

const rtt = 40 * time.Millisecond

func udpPair(t testing.TB, a, b *uplink) (net.PacketConn, net.PacketConn) {
	t.Helper()
	var c [2]net.PacketConn
	for i, u := range []*uplink{a, b} {
		var err error
		if c[i], err = u.listenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c[i].Close() })
	}
	return c[0], c[1]
}

func TestUDP(t *testing.T) {
	before := runtime.NumGoroutine()
	a, b := udpPair(t, newUplink(Params{RTT: rtt}), newUplink(Params{RTT: rtt}))
	go func() { // echo
		buf := make([]byte, 64<<10)
		for {
			n, from, err := b.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = b.WriteTo(buf[:n], from)
		}
	}()
	start := time.Now()
	const n = 40 // they arrive at once: what the kernel's buffer takes
	want := make([][]byte, n)
	for i := range want {
		want[i] = bytes.Repeat([]byte{byte(i)}, 1+i*30)
		if i == n-1 {
			want[i] = bytes.Repeat([]byte{7}, 9000) // beyond the usual buffer
		}
		b1 := bytes.Clone(want[i])
		if _, err := a.WriteTo(b1, b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		clear(b1) // the line has its own copy
	}
	buf := make([]byte, 64<<10)
	for i := range want {
		_ = a.SetReadDeadline(time.Now().Add(10 * time.Second))
		got, from, err := a.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && time.Since(start) < rtt {
			t.Errorf("first echo after %v", time.Since(start))
		}
		if !bytes.Equal(buf[:got], want[i]) || from.String() != b.LocalAddr().String() {
			t.Fatalf("datagram %d of %d bytes came as %d bytes from %v", i, len(want[i]), got, from)
		}
	}
	_ = a.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, _, err := a.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read past the deadline: %v", err)
	}
	a.Close()
	b.Close()
	waitGoroutines(t, before)
}

// TestUDPHidesBatching guards the trap that embedding the socket would open:
// quic-go would find its WriteMsgUDP and send around the delay.
func TestUDPHidesBatching(t *testing.T) {
	a, _ := udpPair(t, newUplink(Params{RTT: rtt}), newUplink(Params{RTT: rtt}))
	if _, ok := a.(interface {
		WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	}); ok {
		t.Error("WriteMsgUDP is exposed")
	}
	if _, ok := a.(interface{ SetReadBuffer(int) error }); !ok {
		t.Error("SetReadBuffer is not")
	}
}

func TestUDPClose(t *testing.T) {
	a, b := udpPair(t, newUplink(Params{RTT: rtt}), newUplink(Params{RTT: rtt}))
	readErr := make(chan error)
	go func() {
		_, _, err := a.ReadFrom(make([]byte, 10))
		readErr <- err
	}()
	_, _ = a.WriteTo([]byte("last words"), b.LocalAddr())
	closed := make(chan error)
	go func() { closed <- a.Close() }()
	if err := <-readErr; !errors.Is(err, net.ErrClosed) {
		t.Errorf("reader got %v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	a.Close() // again
	if _, err := a.WriteTo([]byte("x"), b.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	buf := make([]byte, 100)
	_ = b.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, _, err := b.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "last words" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func TestUDPLoss(t *testing.T) {
	a, b := udpPair(t, newUplink(Params{Loss: 0.5}), newUplink(Params{}))
	const n = 400
	go func() {
		for i := range n {
			_, _ = a.WriteTo([]byte{byte(i)}, b.LocalAddr())
		}
		time.Sleep(50 * time.Millisecond)
		for range 100 { // one of these gets through
			_, _ = a.WriteTo([]byte("end"), b.LocalAddr())
		}
	}()
	got := 0
	buf := make([]byte, 10)
	for {
		k, _, err := b.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if k == 3 {
			break
		}
		got++
	}
	if got < n/4 || got > n*3/4 { // ten sigma
		t.Errorf("%d of %d arrived at 50 %% loss", got, n)
	}
}

// tcpPair is a dialed and an accepted connection on two uplinks, as the
// transport makes them but for the dialer's first RTT.
func tcpPair(t testing.TB, p Params) (dialed, accepted *conn) {
	t.Helper()
	nl, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ml, err := manet.WrapNetListener(nl)
	if err != nil {
		t.Fatal(err)
	}
	l := listener{Listener: ml, up: newUplink(p)}
	defer l.Close()
	raw, err := manet.Dial(l.Multiaddr())
	if err != nil {
		t.Fatal(err)
	}
	dialed = newConn(raw, newUplink(p), time.Now())
	acc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted = acc.(*conn)
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed, accepted
}

// TestTCPIsAConn is the standard conformance suite for net.Conn.
func TestTCPIsAConn(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	for _, p := range []Params{{}, {RTT: 2 * time.Millisecond, Rate: 1e9, Loss: 0.01}} {
		t.Run(fmt.Sprintf("link=%v", p), func(t *testing.T) {
			nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
				a, b := tcpPair(t, p)
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}

func TestTCPRoundTrip(t *testing.T) {
	a, b := tcpPair(t, Params{RTT: rtt})
	start := time.Now()
	hello := make(chan time.Duration)
	go func() {
		_, _ = b.Write([]byte("server first"))
		_, _ = io.ReadFull(b, make([]byte, 4))
		_, _ = b.Write([]byte("pong"))
	}()
	go func() {
		_, _ = io.ReadFull(a, make([]byte, 12))
		hello <- time.Since(start)
	}()
	if d := <-hello; d < 2*rtt {
		t.Errorf("what the accepting side says first came after %v, want 2 RTT (handshake, then its way)", d)
	}
	start = time.Now()
	_, _ = a.Write([]byte("ping"))
	if _, err := io.ReadFull(a, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < rtt {
		t.Errorf("echo after %v", d)
	}
}

// TestTCPStream sends more than the window, with losses: all arrives, in order;
// the half-close comes after it, and the other direction stays open.
func TestTCPStream(t *testing.T) {
	before := runtime.NumGoroutine()
	a, b := tcpPair(t, Params{RTT: 10 * time.Millisecond, Rate: 400e6, Loss: 0.002})
	data := make([]byte, 4<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	start := time.Now()
	go func() {
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(100000))
			if _, err := a.Write(rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
		if err := a.CloseWrite(); err != nil {
			t.Error(err)
		}
		if _, err := a.Write([]byte("x")); err == nil {
			t.Error("write after CloseWrite passes")
		}
	}()
	got, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(data) {
		t.Fatalf("%d bytes arrived changed, of %d", len(got), len(data))
	}
	if least := time.Duration(float64(len(data)) * 8 / 400e6 * 1e9); time.Since(start) < least {
		t.Errorf("took %v, the rate allows %v", time.Since(start), least)
	}
	_, _ = b.Write([]byte("thanks"))
	b.Close()
	if got, err := io.ReadAll(a); err != nil || string(got) != "thanks" {
		t.Errorf("the other way after the half-close: %q, %v", got, err)
	}
	a.Close()
	waitGoroutines(t, before)
	for _, c := range []*conn{a, b} {
		c.up.mu.Lock()
		if c.up.flight != 0 {
			t.Errorf("%d bytes still held by the uplink", c.up.flight)
		}
		c.up.mu.Unlock()
	}
}

// TestTCPCloseLingers: what was written before Close arrives, then the end.
func TestTCPCloseLingers(t *testing.T) {
	before := runtime.NumGoroutine()
	a, b := tcpPair(t, Params{RTT: rtt})
	data := bytes.Repeat([]byte("linger"), 20000) // several windows
	if _, err := a.Write(data); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	a.Close()
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
	}
	if d := time.Since(start); d < rtt/2 {
		t.Errorf("the end came after %v", d)
	}
	b.Close()
	waitGoroutines(t, before)
}

// TestTCPPeerGone: a reset peer fails writers that wait for room.
func TestTCPPeerGone(t *testing.T) {
	before := runtime.NumGoroutine()
	a, b := tcpPair(t, Params{RTT: 4 * time.Millisecond})
	_ = b.SetLinger(0)
	b.Close()
	var err error
	for range 1000 {
		if _, err = a.Write(make([]byte, 1<<20)); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("writes to a closed peer go on for 1 GiB")
	}
	a.Close()
	waitGoroutines(t, before)
}

func TestTCPWriteDeadline(t *testing.T) {
	a, _ := tcpPair(t, Params{RTT: rtt}) // the peer does not read
	much := make([]byte, 64<<20)
	_ = a.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := a.Write(much)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == len(much) {
		t.Errorf("wrote %d, %v", n, err)
	}
}
