package stage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// wire is one end of a stream in this process.
type wire struct {
	net.Conn
	from peer.ID
}

func (w wire) Reset() error  { return w.Close() }
func (w wire) Peer() peer.ID { return w.from }

func (w wire) Relayed() bool           { return false }
func (w wire) Better() <-chan struct{} { return nil }
func (wire) Protocol() string          { return protocol.StageID }

func (wire) Swarm() string { return "" }

// dial opens a stream to a server as a peer.
func dial(t *testing.T, v *Server, as peer.ID) net.Conn {
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close() })
	go v.Serve(wire{server, as})
	return client
}

func framed(t *testing.T, f *protocol.Frame) []byte {
	t.Helper()
	b, err := protocol.AppendFrame(nil, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// opened is a stream of a session of 100 tokens that the stage has accepted.
func opened(t *testing.T, s *Stage, v *Server, as peer.ID) net.Conn {
	t.Helper()
	o := open(100, 1)
	o.Model = s.cfg.Model.Bytes()
	st := dial(t, v, as)
	if _, err := st.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Open{Open: o}})); err != nil {
		t.Fatal(err)
	}
	if f, _, err := protocol.ReadFrame(bufio.NewReader(st), 0); err != nil || f.GetOpened() == nil {
		t.Fatalf("%s is told %v, %v", as, f, err)
	}
	return st
}

// Frames that are announced and not sent take no more than their budget, for
// the time that a first frame has, and an honest peer opens its session
// meanwhile.
func TestHalfSentFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		v := NewServer(nil, nil)
		v.Add(s)
		const size = 100 << 10
		half := append(binary.AppendUvarint(nil, protocol.MaxFirst), make([]byte, size)...)
		for i := range 1000 { // 100 MB, of 100 peers
			st := dial(t, v, peer.ID(fmt.Sprint("peer ", i%100)))
			go func() { _, _ = st.Write(half) }()
		}
		synctest.Wait()
		v.held.mu.Lock()
		total, peers := v.held.total, len(v.held.peers)
		for p, n := range v.held.peers {
			if n > maxHeldPeer {
				t.Errorf("%s holds %d bytes", p, n)
			}
		}
		v.held.mu.Unlock()
		t.Logf("%d bytes are held for %d peers", total, peers)
		if total > maxHeld || total < maxHeld/2 {
			t.Errorf("%d bytes are held, where %d may be", total, maxHeld)
		}
		opened(t, s, v, "honest")
		time.Sleep(firstTime)
		synctest.Wait()
		v.held.mu.Lock()
		if v.held.total != 0 || len(v.held.peers) != 0 || v.held.order.Len() != 0 {
			t.Errorf("%d bytes are held after %s", v.held.total, firstTime)
		}
		v.held.mu.Unlock()
	})
}

// A first frame longer than any honest one is not read, and one peer's share
// is no other's.
func TestFirstFrameBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := NewServer(nil, func(p peer.ID) bool { return p == "trusted" })
		long := dial(t, v, "a")
		_, _ = long.Write(binary.AppendUvarint(nil, protocol.MaxFirst+1))
		if _, err := long.Read(make([]byte, 1)); err == nil {
			t.Error("a frame longer than a first one may be is waited for")
		}
		half := append(binary.AppendUvarint(nil, protocol.MaxFirst), make([]byte, 150<<10)...)
		for _, p := range []peer.ID{"a", "b", "trusted"} {
			for range 12 {
				st := dial(t, v, p)
				go func() { _, _ = st.Write(half) }()
			}
		}
		synctest.Wait()
		v.held.mu.Lock()
		a, b, own := v.held.peers["a"], v.held.peers["b"], v.held.peers["trusted"]
		v.held.mu.Unlock()
		if min(a, b) < maxHeldPeer/2 || max(a, b) > maxHeldPeer || own != 0 { // whose turn it is decides on the last stream
			t.Errorf("two peers hold %d and %d bytes, a trusted one %d", a, b, own)
		}
		time.Sleep(firstTime + lastWords)
	})
}

// A client that does not read makes nothing grow: of what is said again and
// again only the last waits.
func TestUnreadControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		v := NewServer(nil, nil)
		v.Add(s)
		st := opened(t, s, v, "a")
		const floods = 30_000
		for i := range uint64(floods) {
			b := append(framed(t, &protocol.Frame{Kind: &protocol.Frame_Halt{Halt: &protocol.Halt{Epoch: i + 1}}}), framed(t, &protocol.Frame{Kind: &protocol.Frame_Ping{Ping: &protocol.Ping{}}})...)
			if _, err := st.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		s.Drain(true)
		synctest.Wait()
		sess := s.all()[0]
		for range 2 {
			sess.trouble(sess.client, &protocol.Trouble{Code: protocol.Code_CODE_PEER_LOST, Successor: true})
		}
		sess.client.mu.Lock()
		n := len(sess.client.queue)
		sess.client.mu.Unlock()
		if n > 4 { // Pong, Halted, and that it leaves and has lost its successor
			t.Errorf("%d frames wait for a client that does not read", n)
		}
		r := bufio.NewReader(st)
		last := uint64(0)
		for last < floods {
			f, _, err := protocol.ReadFrame(r, 0)
			if err != nil {
				t.Fatal(errors.Join(errors.New("the last Halted did not come"), err))
			}
			if h := f.GetHalted(); h != nil {
				last = h.Epoch
			}
		}
	})
}

// What one session may have in flight is bounded by its own length, and an
// honest Open of the greatest size is taken.
func TestClientFrameBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		v := NewServer(nil, nil)
		v.Add(s)
		st := opened(t, s, v, "a")
		_, _ = st.Write(binary.AppendUvarint(nil, 64<<10))
		f, _, err := protocol.ReadFrame(bufio.NewReader(st), 0)
		if err != nil || f.GetFail().GetCode() != protocol.Code_CODE_BAD_REQUEST {
			t.Errorf("64 KiB in a session of 100 tokens: %v, %v", f, err)
		}
	})
}
