package link

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
)

const (
	echoProto = "/test/echo/1"
	sinkProto = "/test/sink/1"
)

var transports = map[string]string{
	"quic": "/ip4/127.0.0.1/udp/0/quic-v1",
	"tcp":  "/ip4/127.0.0.1/tcp/0",
}

// newHost is a host on the link that listens by the given transport.
func newHost(t testing.TB, p Params, listen string) host.Host {
	t.Helper()
	h, err := libp2p.New(append(p.LibP2POptions(), libp2p.ListenAddrStrings(listen), libp2p.DisableMetrics())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	h.SetStreamHandler(echoProto, func(s network.Stream) { _, _ = io.Copy(s, s); s.Close() })
	h.SetStreamHandler(sinkProto, func(s network.Stream) {
		n, _ := io.Copy(io.Discard, s)
		fmt.Fprint(s, n)
		s.Close()
	})
	return h
}

func info(h host.Host) peer.AddrInfo { return peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()} }

func connect(t testing.TB, a, b host.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := a.Connect(ctx, info(b)); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, a, b host.Host, proto string) network.Stream {
	t.Helper()
	s, err := a.NewStream(context.Background(), b.ID(), protocol.ID(proto))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Reset() })
	return s
}

func echo(t testing.TB, s network.Stream, msg, buf []byte) time.Duration {
	t.Helper()
	start := time.Now()
	if _, err := s.Write(msg); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, buf[:len(msg)]); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

// TestHosts: no answer and no connection comes sooner than the distance allows,
// and the streams work in both directions from a reused port.
func TestHosts(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	for name, addr := range transports {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			p := Params{RTT: rtt, Rate: 100e6, Loss: 0.001}
			a, b := newHost(t, p, addr), newHost(t, p, addr)
			start := time.Now()
			connect(t, a, b)
			handshakes := time.Duration(1) // QUIC's
			if name == "tcp" {
				handshakes = 3 // TCP's, the choice of security, its own
			}
			if d := time.Since(start); d < handshakes*rtt {
				t.Errorf("connected after %v, at least %d RTT are needed", d, handshakes)
			}
			s := open(t, a, b, echoProto)
			buf := make([]byte, 100<<10)
			for i := range 5 {
				if d := echo(t, s, make([]byte, 1+i*20000), buf); d < rtt {
					t.Errorf("echo of %d bytes after %v", 1+i*20000, d)
				}
			}
			// The dialer used the port that it listens on, where the system can.
			remote := b.Network().ConnsToPeer(a.ID())[0].RemoteMultiaddr()
			if !slices.ContainsFunc(a.Network().ListenAddresses(), func(l ma.Multiaddr) bool { return port(l) == port(remote) }) {
				t.Errorf("dialed from %v, listening on %v", remote, a.Network().ListenAddresses())
			}
			if d := echo(t, open(t, b, a, echoProto), []byte("back"), buf); d < rtt {
				t.Errorf("echo the other way after %v", d)
			}
			a.Close()
			b.Close()
			waitGoroutines(t, before+2) // libp2p keeps one or two for good
		})
	}
}

// port is the port in an address, if it has one.
func port(a ma.Multiaddr) string {
	parts := strings.Split(a.String(), "/")
	if len(parts) < 5 {
		return "none"
	}
	return parts[4]
}

func TestZeroParamsChangeNothing(t *testing.T) {
	if o := (Params{}).LibP2POptions(); o != nil {
		t.Errorf("%d options", len(o))
	}
}

// TestTwoTransports: a host with both listens and answers on both.
func TestTwoTransports(t *testing.T) {
	p := Params{RTT: 10 * time.Millisecond}
	b, err := libp2p.New(append(p.LibP2POptions(), libp2p.ListenAddrStrings(transports["quic"], transports["tcp"]), libp2p.DisableMetrics())...)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	b.SetStreamHandler(echoProto, func(s network.Stream) { _, _ = io.Copy(s, s); s.Close() })
	for _, addr := range b.Addrs() {
		a := newHost(t, p, transports["tcp"])
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := a.Connect(ctx, peer.AddrInfo{ID: b.ID(), Addrs: []ma.Multiaddr{addr}}); err != nil {
			t.Errorf("%v: %v", addr, err)
			continue
		}
		echo(t, open(t, a, b, echoProto), []byte("hello"), make([]byte, 5))
	}
}

// BenchmarkEcho is the round trip of an activation over real hosts 40 ms apart.
func BenchmarkEcho(b *testing.B) {
	for name, addr := range transports {
		for _, size := range []int{64, 16 << 10} {
			b.Run(fmt.Sprintf("%s/%dB", name, size), func(b *testing.B) {
				p := Params{RTT: rtt}
				x, y := newHost(b, p, addr), newHost(b, p, addr)
				connect(b, x, y)
				s := open(b, x, y, echoProto)
				msg, buf := make([]byte, size), make([]byte, size)
				echo(b, s, msg, buf) // the protocol's negotiation goes with it
				var took []time.Duration
				for b.Loop() {
					took = append(took, echo(b, s, msg, buf))
				}
				slices.Sort(took)
				b.ReportMetric(took[len(took)/2].Seconds()*1e3, "ms-median")
				b.ReportMetric(took[len(took)*9/10].Seconds()*1e3, "ms-p90")
			})
		}
	}
}

// BenchmarkBulk is the throughput of one stream over a link.
func BenchmarkBulk(b *testing.B) {
	for name, addr := range transports {
		for _, p := range []Params{{RTT: rtt, Rate: 100e6}, {RTT: rtt, Rate: 100e6, Loss: 0.001}, {RTT: rtt}} {
			b.Run(fmt.Sprintf("%s/%v", name, p), func(b *testing.B) {
				const size = 16 << 20
				x, y := newHost(b, p, addr), newHost(b, p, addr)
				connect(b, x, y)
				chunk := make([]byte, 64<<10)
				for b.Loop() {
					s := open(b, x, y, sinkProto)
					for range size / len(chunk) {
						if _, err := s.Write(chunk); err != nil {
							b.Fatal(err)
						}
					}
					_ = s.CloseWrite()
					if _, err := io.ReadAll(s); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(size)*8*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mbit/s")
			})
		}
	}
}
