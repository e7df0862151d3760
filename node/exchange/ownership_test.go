package exchange

import (
	"bytes"
	"cmp"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/link"
	"github.com/shoalnet/shoal/testnet/sim"
)

// pipeListener accepts connections that are made in memory, so that a real HTTP
// server runs in virtual time.
type pipeListener struct {
	conns chan net.Conn
	over  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.over) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.over:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// downlink is what one fetcher's connections to an origin share.
type downlink struct {
	rate float64 // bytes per second

	mu   sync.Mutex
	free time.Time // when the bytes read so far have arrived
}

// pass waits until n more bytes have arrived.
func (d *downlink) pass(n int) {
	d.mu.Lock()
	now := time.Now()
	if d.free.Before(now) {
		d.free = now
	}
	d.free = d.free.Add(time.Duration(float64(n) / d.rate * float64(time.Second)))
	wait := d.free.Sub(now)
	d.mu.Unlock()
	time.Sleep(wait)
}

// downConn is a connection over a downlink.
type downConn struct {
	net.Conn
	link *downlink
	o    *virtualOrigin
}

func (c downConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.o.mu.Lock()
	c.o.sent += int64(n)
	c.o.mu.Unlock()
	c.link.pass(n)
	return n, err
}

// virtualOrigin is an HTTP server of one file in virtual time. It counts the
// bytes that it sends.
type virtualOrigin struct {
	listen *pipeListener
	size   int64

	mu   sync.Mutex
	sent int64
}

func serveVirtual(t *testing.T, path string) *virtualOrigin {
	t.Helper()
	o := &virtualOrigin{listen: &pipeListener{conns: make(chan net.Conn), over: make(chan struct{})}, size: mustSize(t, path)}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, path) })}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(o.listen)
	}()
	t.Cleanup(func() { srv.Close(); <-served })
	return o
}

// from is the origin as a fetcher with a link of its own sees it.
func (o *virtualOrigin) from(rate float64) Origin {
	l := &downlink{rate: rate}
	return Origin{Where: "http://origin.example/model.gguf", Size: o.size, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := o.listen.dial(ctx)
			if err != nil {
				return nil, err
			}
			return downConn{c, l, o}, nil
		},
	}}
}

func (o *virtualOrigin) bytes() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent
}

// pulling is a swarm that pulls one model from an origin, in virtual time.
type pulling struct {
	t    *testing.T
	nw   *sim.Network
	rate float64 // of each link, bits per second
	r    *roster
	o    *virtualOrigin
	made *node // has the model and takes no part
	raw  []byte
	id   cid.Cid
}

// pullFrom runs a test on a swarm of nodes whose links have a rate in bits per
// second. Each seed gives the nodes other identities, so that they own others
// of the leaves.
func pullFrom(t *testing.T, path string, rate float64, seed int, test func(t *testing.T, p *pulling)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pulling{t: t, nw: sim.New(link.Params{RTT: home.RTT, Rate: rate}), rate: rate, r: &roster{}}
		t.Cleanup(func() { p.nw.Close() })
		for range 16 * seed {
			if _, err := p.nw.NewEndpoint(); err != nil {
				t.Fatal(err)
			}
		}
		p.o = serveVirtual(t, path)
		p.made = newHolder(t, p.host(), path, nil)
		var err error
		if p.raw, p.id, err = p.made.m.Manifest().Encode(); err != nil {
			t.Fatal(err)
		}
		test(t, p)
	})
}

func (p *pulling) host() host.Host {
	p.t.Helper()
	h, err := p.nw.NewHost()
	if err != nil {
		p.t.Fatal(err)
	}
	return h
}

// fetchers adds nodes that know each other, and which leaves the model has.
func (p *pulling) fetchers(n int) (all []*node) {
	p.t.Helper()
	for range n {
		f := newNode(p.t, p.host(), p.t.TempDir(), p.r)
		var err error
		if f.m, err = f.s.AddManifest(p.raw, p.id, ""); err != nil {
			p.t.Fatal(err)
		}
		lists(p.t, p.made, f)
		p.r.add(f.h)
		all = append(all, f)
	}
	return all
}

// run has nodes fetch the model, each after a while of its own, and reports how
// often the origin sent it and how long the last node took.
func (p *pulling) run(all []*node, after func(i int) time.Duration, share func() float64) (times float64, took time.Duration) {
	p.t.Helper()
	var wg sync.WaitGroup
	begin := time.Now()
	for i, n := range all {
		wait, at := after(i), p.o.from(p.rate/8*share())
		wg.Go(func() {
			time.Sleep(wait)
			if err := n.x.Fetch(p.t.Context(), p.id, every(p.t, n.m), nil, at); err != nil {
				p.t.Error(err)
			}
		})
	}
	wg.Wait()
	took = time.Since(begin)
	for _, n := range all {
		if lacks := missing(p.t, n.m); lacks > 0 {
			p.t.Errorf("a node lacks %d bytes", lacks)
		}
		n.x.Close()
	}
	return float64(p.o.bytes()) / float64(p.o.size), took
}

// seedsVar is how many seeds TestSlowSwarm tries; a seed takes some seconds.
const seedsVar = "SHOAL_SWARM_SEEDS"

// Ten fetchers whose links have a tenth of a home's speed take each leaf from
// the origin about once: an owner that is slow stays the owner.
func TestSlowSwarm(t *testing.T) {
	t.Parallel()
	takesSeconds(t)
	ofRates(t)
	seeds, err := strconv.Atoi(cmp.Or(os.Getenv(seedsVar), "1"))
	if err != nil {
		t.Fatal(err)
	}
	path := writeModel(t, 6, 4<<20)
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 0))
		pullFrom(t, path, home.Rate/10, seed, func(t *testing.T, p *pulling) {
			times, took := p.run(p.fetchers(10), func(int) time.Duration {
				return time.Duration(rnd.Int64N(int64(time.Second)))
			}, func() float64 { return 0.5 + rnd.Float64() })
			t.Logf("seed %d: the origin sent the file %.2f times; the last was done after %s", seed, times, took.Round(time.Second))
			if times > 1.3 {
				t.Errorf("seed %d: the origin sent the file %.2f times", seed, times)
			}
		})
	}
}

// Whatever becomes of a member of the swarm, the others get what it was to bring,
// soon, and not all of them from the origin.
func TestLostOwner(t *testing.T) {
	t.Parallel()
	takesSeconds(t)
	path := writeModel(t, 32, 256<<10)
	hold := func(p *pulling, got func(s network.Stream, total int), answer func(s network.Stream, n uint32, raw []byte)) {
		for range 3 {
			total := p.made.m.LeafCount()
			none := make([]byte, (total+7)/8)
			p.r.add(rogue(p.t, p.host(), p.made, func(s network.Stream) {
				_ = protocol.WriteLeaves(s, &protocol.LeavesState{Total: uint32(total), Held: none, Wanted: bytes.Repeat([]byte{255}, len(none))})
				if got != nil {
					got(s, total)
				}
			}, answer))
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(p *pulling)
		most  time.Duration // for the others
	}{
		{"nothing", func(p *pulling) {}, 10 * time.Second},
		{"dies", func(p *pulling) {
			for _, n := range p.fetchers(2) {
				ctx, cancel := context.WithCancel(p.t.Context())
				at := p.o.from(p.rate / 8)
				time.AfterFunc(2500*time.Millisecond, func() { cancel(); n.h.Close() })
				go func() { _ = n.x.Fetch(ctx, p.id, every(p.t, n.m), nil, at) }()
			}
		}, 150 * time.Second},
		{"hangs", func(p *pulling) { hold(p, nil, nil) }, 150 * time.Second},
		{"says that it has what it has not", func(p *pulling) {
			hold(p, func(s network.Stream, total int) {
				for i := range total {
					time.Sleep(3 * time.Second)
					if protocol.WriteLeaves(s, &protocol.LeavesState{Got: []uint32{uint32(i)}}) != nil {
						return
					}
				}
			}, func(s network.Stream, n uint32, raw []byte) { head(s, n, 0) })
		}, 150 * time.Second},
		{"sends something else", func(p *pulling) {
			hold(p, func(s network.Stream, total int) {
				for i := range total {
					time.Sleep(time.Second)
					if protocol.WriteLeaves(s, &protocol.LeavesState{Got: []uint32{uint32(i)}}) != nil {
						return
					}
				}
			}, func(s network.Stream, n uint32, raw []byte) {
				raw[0] ^= 1
				head(s, n, uint32(len(raw)))
				_, _ = s.Write(raw)
			})
		}, 150 * time.Second},
		{"has no origin", func(p *pulling) {
			for _, n := range p.fetchers(2) {
				go func() { _ = n.x.Fetch(p.t.Context(), p.id, every(p.t, n.m), nil) }()
			}
		}, 150 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			pullFrom(t, path, home.Rate, 0, func(t *testing.T, p *pulling) {
				c.spoil(p)
				times, took := p.run(p.fetchers(4), func(int) time.Duration { return 0 }, func() float64 { return 1 })
				t.Logf("%.2f times the file, in %s", times, took.Round(time.Millisecond))
				if took > c.most || times > 2 {
					t.Errorf("the origin sent the file %.2f times; it took %s", times, took)
				}
				time.Sleep(3 * time.Second) // what was spoilt ends
			})
		})
	}
}
