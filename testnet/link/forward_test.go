package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// TestForward: all bytes come through in both directions, no sooner than the handshake and
// the way there and back allow, and the ends of both streams with them.
func TestForward(t *testing.T) {
	server, proxy := listen(t), listen(t)
	go func() { // reverses what it gets
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c)
			for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
				b[i], b[j] = b[j], b[i]
			}
			_, _ = c.Write(b)
			c.Close()
		}
	}()
	p := Params{RTT: rtt}
	ended := make(chan error, 1)
	go func() { ended <- Forward(proxy, p.Machine(), p.Machine(), server.Addr().String()) }()

	for _, n := range []int{1, 300 << 10} {
		start := time.Now()
		c, err := net.Dial("tcp", proxy.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		sent := bytes.Repeat([]byte("shoal"), n)
		_ = c.SetDeadline(start.Add(20 * time.Second))
		go func() {
			_, _ = c.Write(sent)
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		if want := bytes.Repeat([]byte("laohs"), n); !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back as %d, or as other ones", len(want), len(got))
		}
		if took := time.Since(start); took < 2*rtt {
			t.Errorf("an answer after %v: the handshake and a question take %v", took, 2*rtt)
		}
		c.Close()
	}

	proxy.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ended with %v", err)
	}
}

// TestForwardNowhere: a connection to an address at which nobody listens ends.
func TestForwardNowhere(t *testing.T) {
	proxy, nobody := listen(t), listen(t)
	nobody.Close()
	go func() { _ = Forward(proxy, Params{}.Machine(), Params{}.Machine(), nobody.Addr().String()) }()
	c, err := net.Dial("tcp", proxy.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}
