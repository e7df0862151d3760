package stage

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// owner is rules that change, and that count tokens.
type owner struct {
	mu     sync.Mutex
	barred map[peer.ID]*protocol.Error
	left   int // rows that each session may have
	seats  int
}

func (o *owner) set(p peer.ID, e *protocol.Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.barred[p] = e
}

func (o *owner) Grant(c Client, _ Want) (Grant, *protocol.Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return Grant{Class: string(c.Peer), Share: 1}, o.barred[c.Peer]
}

func (o *owner) Seat(c Client, w Want, _ [16]byte) (Seat, Grant, *protocol.Error) {
	g, e := o.Grant(c, w)
	if e != nil {
		return nil, g, e
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seats++
	return &counted{of: o, left: o.left}, g, nil
}

type counted struct {
	of   *owner
	left int
	gone sync.Once
}

func (c *counted) Spend(rows int) *protocol.Error {
	if c.left -= rows; c.left <= 0 {
		return protocol.Errorf(protocol.Code_CODE_FORBIDDEN, "that was all")
	}
	return nil
}

func (c *counted) Leave() {
	c.gone.Do(func() { c.of.mu.Lock(); c.of.seats--; c.of.mu.Unlock() })
}

// A rule that changes while sessions run: those that it no longer allows are told to go,
// and end if they do not; others go on. A session that uses up its tokens ends with the
// reason. Every seat is given back.
func TestReview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := &owner{barred: map[peer.ID]*protocol.Error{}, left: 100}
		s, v := shared(t, func(c *Config) { c.Lending = rules })
		ctx, cancel := context.WithCancel(t.Context())
		open := func(p peer.ID, id uint16) *talk {
			k := begin(t, ctx, v, p, someOpen(s, 512, id))
			if f := <-k.frames; f.GetOpened() == nil {
				t.Fatalf("%s is refused: %v", p, f)
			}
			return k
		}
		ann, bob := open("ann", 1), open("bob", 2)
		no := protocol.Errorf(protocol.Code_CODE_FORBIDDEN, "nothing for you")
		rules.set("ann", no)
		if n := s.Review(); n != 1 || s.Review() != 0 {
			t.Errorf("%d sessions are barred", n)
		}
		if f := <-ann.frames; f.GetTrouble().GetCode() != protocol.Code_CODE_DRAINING {
			t.Errorf("she is told %v", f)
		}
		again := begin(t, ctx, v, "ann", someOpen(s, 512, 3))
		if f := <-again.frames; f.GetFail().GetMessage() != no.Message {
			t.Errorf("she opens another: %v", f)
		}
		rules.set("ann", nil)
		s.Review()
		s.EndUnwanted(protocol.Errorf(protocol.Code_CODE_DRAINING, "not this one"))
		if n := s.Status().Sessions; n != 2 {
			t.Errorf("%d sessions, where she may have hers again", n)
		}
		rules.set("ann", no)
		s.Review()
		s.EndUnwanted(protocol.Errorf(protocol.Code_CODE_DRAINING, "not this one"))
		for f := range ann.frames {
			if f.GetFail() != nil && f.GetFail().GetMessage() != no.Message {
				t.Errorf("it ends with %v", f)
			}
		}
		if n := s.Status().Sessions; n != 1 {
			t.Errorf("%d sessions go on", n)
		}
		bob.say(t, threeTokens)
		tokens, why := 0, ""
		for f := range bob.frames {
			if f.GetToken() != nil {
				tokens++
			}
			if f.GetFail() != nil {
				why = f.GetFail().GetMessage()
			}
		}
		if tokens < 90 || tokens > 98 || why != "that was all" {
			t.Errorf("of 100 tokens, of which 3 are the prompt's, %d come, then %q", tokens, why)
		}
		cancel()
		time.Sleep(10 * time.Second)
		rules.mu.Lock()
		defer rules.mu.Unlock()
		if rules.seats != 0 {
			t.Errorf("%d seats are left", rules.seats)
		}
		s.Close(errors.New("the test is over"))
	})
}
