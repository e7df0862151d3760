package sim

import (
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/testnet/link"
)

const proto = "/test/echo/1"

// echoes connects two hosts and returns how long (virtually) echoes of the
// given sizes took on one stream.
func echoes(t *testing.T, p link.Params, sizes ...int) (took []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		nw := New(p)
		defer nw.Close()
		a, b := newHost(t, nw), newHost(t, nw)
		connect(t, a, b)
		s, err := a.NewStream(context.Background(), b.ID(), proto)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, s, 1) // carries the protocol's negotiation
		for _, size := range sizes {
			took = append(took, echo(t, s, size))
		}
		_ = s.Reset()
	})
	return took
}

func newHost(t *testing.T, nw *Network) host.Host {
	t.Helper()
	h, err := nw.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	h.SetStreamHandler(proto, func(s network.Stream) { _, _ = io.Copy(s, s); s.Close() })
	return h
}

func connect(t *testing.T, a, b host.Host) {
	t.Helper()
	if err := a.Connect(context.Background(), peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // identify is done, and the acknowledgements are back
}

func echo(t *testing.T, s network.Stream, size int) time.Duration {
	t.Helper()
	start := time.Now()
	go func() { _, _ = s.Write(make([]byte, size)) }() // an echo can be longer than the flow control windows
	if _, err := io.ReadFull(s, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

// TestEchoIsOneRTT: a message that fits the window costs one round trip of
// virtual time, the same on every run.
func TestEchoIsOneRTT(t *testing.T) {
	const rtt = 40 * time.Millisecond
	sizes := []int{1, 4, 1000, 4000, 1, 1, 1, 1}
	first := echoes(t, link.Params{RTT: rtt}, sizes...)
	for i, d := range first {
		if d < rtt || d > rtt+time.Millisecond {
			t.Errorf("echo %d of %d bytes took %v", i, sizes[i], d)
		}
	}
	t.Log(first)
	for range 3 {
		if again := echoes(t, link.Params{RTT: rtt}, sizes...); !slices.Equal(first, again) {
			t.Errorf("another run took %v, the first %v", again, first)
		}
	}
}

// TestRate: a megabyte each way through 20 Mbit/s takes its time on the wire.
func TestRate(t *testing.T) {
	p := link.Params{RTT: 20 * time.Millisecond, Rate: 20e6}
	d := echoes(t, p, 1<<20)[0]
	if least := 400 * time.Millisecond; d < least || d > 4*least {
		t.Errorf("took %v, the wire alone %v", d, least)
	}
}

// TestLoss: all arrives in spite of losses, later than without them.
func TestLoss(t *testing.T) {
	p := link.Params{RTT: 20 * time.Millisecond}
	clean := echoes(t, p, 1<<20)[0]
	p.Loss = 0.05
	lossy := echoes(t, p, 1<<20)[0]
	if lossy <= clean {
		t.Errorf("%v with losses, %v without", lossy, clean)
	}
}

// TestRing passes a token round a ring of hosts, as stages do: a round costs
// the sum of the one-way hops and nothing else.
func TestRing(t *testing.T) {
	const hosts, rounds = 5, 32
	const rtt = 40 * time.Millisecond
	start := time.Now()
	var per time.Duration
	synctest.Test(t, func(t *testing.T) {
		nw := New(link.Params{RTT: rtt})
		defer nw.Close()
		h := make([]host.Host, hosts)
		out := make([]network.Stream, hosts)
		in := make([]chan network.Stream, hosts)
		for i := range h {
			h[i] = newHost(t, nw)
			in[i] = make(chan network.Stream, 1)
			h[i].SetStreamHandler("/test/ring/1", func(s network.Stream) {
				_, _ = io.ReadFull(s, make([]byte, 1))
				in[i] <- s
			})
		}
		for i := range h {
			next := h[(i+1)%hosts]
			connect(t, h[i], next)
			s, err := h[i].NewStream(context.Background(), next.ID(), "/test/ring/1")
			if err != nil {
				t.Fatal(err)
			}
			out[i] = s
			fmt.Fprint(s, "o")
		}
		token := make([]byte, 2304) // one row of activations
		for i := 1; i < hosts; i++ {
			s := <-in[i]
			go func() {
				buf := make([]byte, len(token))
				for {
					if _, err := io.ReadFull(s, buf); err != nil {
						return
					}
					_, _ = out[i].Write(buf)
				}
			}()
		}
		back := <-in[0]
		time.Sleep(time.Second)
		begin := time.Now()
		for range rounds {
			_, _ = out[0].Write(token)
			if _, err := io.ReadFull(back, token); err != nil {
				t.Fatal(err)
			}
		}
		per = time.Since(begin) / rounds
	})
	if floor := hosts * rtt / 2; per < floor || per > floor+time.Millisecond {
		t.Errorf("a round costs %v, the hops alone %v", per, floor)
	}
	t.Logf("%v a round, %v of real time", per, time.Since(start))
}
