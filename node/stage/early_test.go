package stage

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Rows go ahead of a successor's answer only where it has answered as many links of the same
// client before as have gone ahead without one: nobody can have a stage send more to a third
// party than that has agreed to.
func TestEarlyRowsNeedConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		of := func(client string, own bool) *session {
			return &session{stage: s, peer: peer.ID(client), grant: Grant{Own: own}}
		}
		may := func(client, next string) bool {
			n := s.earlyRows(of(client, false), peer.ID(next), time.Now())
			if n < 0 || n > 1000 {
				t.Errorf("%d rows", n)
			}
			return n > 0
		}
		if may("a", "x") {
			t.Error("a successor that has answered nothing")
		}
		s.answered(of("a", false), "x", false, 1000)
		if may("b", "x") || may("a", "y") {
			t.Error("another client's, or to another successor")
		}
		if !may("a", "x") {
			t.Error("after an answer")
		}
		if may("a", "x") {
			t.Error("while another link is not answered")
		}
		s.answered(of("a", false), "x", true, 1000)
		for i := range 2 {
			if !may("a", "x") {
				t.Errorf("link %d of two", i)
			}
		}
		for range 100 {
			s.answered(of("a", false), "x", false, 1000)
		}
		for i := range mostPermits + 1 {
			if got := may("a", "x"); got != (i < mostPermits) {
				t.Errorf("link %d at once: %v", i, got)
			}
		}
		s.answered(of("a", false), "x", false, 1000)
		time.Sleep(permitsFor + time.Second)
		if may("a", "x") {
			t.Error("long after an answer")
		}
		for i := range 2 * mostConsents {
			s.answered(of(fmt.Sprint(i), false), "x", false, 1000)
		}
		if n := len(s.consents); n > mostConsents {
			t.Errorf("%d are remembered", n)
		}
		if s.earlyRows(of("self", true), "z", time.Now()) == 0 {
			t.Error("the node's own")
		}
	})
}

// What comes early is bounded in bytes, however wide a row is.
func TestEarlyRowsAreBounded(t *testing.T) {
	s := newStage(t)
	sess := &session{stage: s, grant: Grant{Own: true}}
	for _, granted := range []uint64{0, 100, 1 << 40} {
		if granted > 0 {
			s.answered(sess, "x", true, granted)
		}
		for _, width := range []int{1, 8, 576, 4096, 16384, 1 << 20} {
			s.cfg.Width = width
			n := s.earlyRows(sess, "x", time.Now())
			if n < 1 || n > max(protocol.MaxLinkRows, int(granted)) || n > 1 && n*4*width > earlyBytes {
				t.Errorf("%d rows of %d numbers after a credit of %d", n, width, granted)
			}
		}
	}
}

// A session of readings begins again as often as an honest client needs, and a step too
// early takes nothing.
func TestEarlyReadingsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		o := open(100, 1)
		o.Readings, o.Early, o.Sampling = 1, true, &protocol.Sampling{Readings: []*protocol.Labels{{Ids: []int32{1}}}}
		sess, _, refused := s.admit(o, sink{"a"})
		if refused != nil {
			t.Fatal(refused)
		}
		if _, err := sess.queue(&step{epoch: 1, base: 32, rows: 1}); err != nil || sess.epoch != 0 || sess.length != 0 {
			t.Errorf("too early: %v, epoch %d, %d rows", err, sess.epoch, sess.length)
		}
		for epoch := range uint64(4) {
			_, err := sess.queue(&step{epoch: epoch, rows: 1})
			if over := epoch > mostReadEpochs; (err != nil) != over {
				t.Errorf("epoch %d: %v", epoch, err)
			}
		}
		o = open(100, 2)
		sess, _, refused = s.admit(o, sink{"a"})
		if refused != nil {
			t.Fatal(refused)
		}
		if _, err := sess.queue(&step{epoch: 1, base: 32, rows: 1}); err == nil {
			t.Error("a client that has not said that it is early")
		}
	})
}
