package natsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet/nat"
)

// The times that a pair may take, with 80 ms through a relay and 40 ms directly.
const (
	answerWithin = 3 * time.Second // of the client's start
	directWithin = 800 * time.Millisecond
	hardWithin   = 3 * time.Second // where the side with a port per remote was dialled
	neverWithin  = 20 * time.Second
)

var raced bool // the race detector is on

// TestPairs: a host behind each kind of NAT comes to one behind each other kind, as soon
// as it has started, and gets an answer; where holes can be punched, it has a direct path
// soon after the first connection.
func TestPairs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, a := range nat.Kinds() {
		for _, b := range nat.Kinds() {
			if raced && a.Name != b.Name { // handshakes are slow then, and the others run the same code
				continue
			}
			t.Run(a.Name+"-"+b.Name, func(t *testing.T) {
				t.Parallel()
				o := pair(t, a, b)
				t.Log(o)
				if o.answered == 0 || o.answered > answerWithin {
					t.Errorf("no answer in time: %v", o.why)
				}
				within := directWithin
				if b.Name == nat.Symmetric.Name {
					within = hardWithin
				}
				if nat.Punchable(a, b) && (o.direct == 0 || o.direct-o.joined > within) {
					t.Error("no direct path in time")
				}
				if !nat.Punchable(a, b) && o.direct != 0 {
					t.Error("a direct path that cannot be")
				}
			})
		}
	}
}

// outcome is when things happened, since the client's start; 0: never.
type outcome struct {
	joined   time.Duration // the first connection
	direct   time.Duration // one without a relay
	answered time.Duration
	why      error // there was no answer at last
}

func (o outcome) String() string {
	return fmt.Sprintf("joined after %v, answered after %v, direct after %v", o.joined, o.answered, o.direct)
}

func pair(t *testing.T, asks, serves nat.Kind) (o outcome) {
	synctest.Test(t, func(t *testing.T) {
		internet := New()
		var boot []*Host
		var nodes []*network.Network
		for i := range 3 { // in different networks, so that they may vouch for what they see
			h := addHost(t, internet, fmt.Sprintf("5.%d.0.1", i))
			nodes = append(nodes, start(t, h, true, boot))
			boot = append(boot, h)
		}
		b := start(t, addHost(t, behind(internet, serves, "6.2.0.1"), "10.2.0.2"), false, boot)
		body := &protocol.OfferBody{Spans: []*protocol.ServedSpan{{Model: model.Bytes(), To: 30, Blocks: 30, Width: 8}}}
		if err := b.SetOffer(body); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		a := start(t, addHost(t, behind(internet, asks, "6.1.0.1"), "10.1.0.2"), false, boot)
		o = reach(t.Context(), a, b.Self())
		for _, n := range append(nodes, b, a) {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(time.Minute)
	})
	return o
}

var model = protocol.ModelKey(cid.Undef)

func start(t *testing.T, h *Host, public bool, boot []*Host) *network.Network {
	t.Helper()
	cfg := network.Config{Key: h.Key, ListenAddrs: []string{h.Addr.String()}, Options: h.Options(), Public: public, Version: "test"}
	for _, b := range boot {
		cfg.Bootstrap = append(cfg.Bootstrap, b.Full())
	}
	n, err := network.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Handle(protocol.StageID, echo)
	return n
}

func echo(s *network.Stream) {
	_, _ = io.Copy(s, s)
	_ = s.Close()
}

// reach has a find b by the model that it serves and ask it, again and again, and
// watches their connections.
func reach(ctx context.Context, a *network.Network, b peer.ID) (o outcome) {
	began := time.Now()
	answered := make(chan outcome)
	go func() {
		var o outcome
		for o.answered == 0 && time.Since(began) < neverWithin {
			if o.why = ask(ctx, a, b); o.why == nil {
				o.answered = time.Since(began)
			} else {
				time.Sleep(50 * time.Millisecond)
			}
		}
		answered <- o
	}()
	for time.Since(began) < neverWithin && o.direct == 0 {
		time.Sleep(5 * time.Millisecond)
		if o.joined == 0 && len(a.Host().Network().ConnsToPeer(b)) > 0 {
			o.joined = time.Since(began)
		}
		if a.Direct(b) {
			o.direct = time.Since(began)
		}
	}
	got := <-answered
	o.answered, o.why = got.answered, got.why
	return o
}

// ask sends a frame to the node that serves the model, as a session does, and awaits it
// back.
func ask(ctx context.Context, a *network.Network, b peer.ID) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	offers := a.Offers(ctx, model, func(o []*protocol.Offer) bool { return len(o) > 0 })
	if len(offers) == 0 {
		return errors.New("nobody offers the model")
	}
	s, err := a.Open(ctx, b, offers[0].Envelope, protocol.StageID)
	if err != nil {
		return err
	}
	defer s.Close()
	_ = s.SetDeadline(time.Now().Add(5 * time.Second))
	frame := bytes.Repeat([]byte("frame"), 3000)
	if _, err := s.Write(frame); err != nil {
		return err
	}
	back := make([]byte, len(frame))
	if _, err := io.ReadFull(s, back); err != nil {
		return err
	}
	if !bytes.Equal(frame, back) {
		return errors.New("another frame came back")
	}
	return nil
}
