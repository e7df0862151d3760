package stage

import (
	"bufio"
	"testing"
	"testing/synctest"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
)

// TestRestrict: who may not use this node gets the reason for its Open, and others
// get their session. A Link of the same peer is not refused for that: it waits for
// its session.
func TestRestrict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		v := NewServer(nil, nil)
		v.Add(s)
		v.Restrict(func(st Stream, model cid.Cid) *protocol.Error {
			if !model.Equals(s.cfg.Model) {
				t.Errorf("it is asked about %s", model)
			}
			if st.Peer() == "a" {
				return nil
			}
			return protocol.Errorf(protocol.Code_CODE_FORBIDDEN, "not you")
		})
		opened(t, s, v, "a")
		o := open(100, 1)
		o.Model = s.cfg.Model.Bytes()
		st := dial(t, v, "b")
		if _, err := st.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Open{Open: o}})); err != nil {
			t.Fatal(err)
		}
		f, _, err := protocol.ReadFrame(bufio.NewReader(st), 0)
		if err != nil || f.GetFail().GetCode() != protocol.Code_CODE_FORBIDDEN || f.GetFail().GetMessage() != "not you" {
			t.Errorf("it is told %v, %v", f, err)
		}
		if len(s.all()) != 1 {
			t.Errorf("%d sessions", len(s.all()))
		}
		link := dial(t, v, "b")
		if _, err := link.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: make([]byte, 16)}}})); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _, _, _ = protocol.ReadFrame(bufio.NewReader(link), 0); close(ended) }()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("the link is refused at once")
		default:
		}
		<-ended // after the time that a Link waits
	})
}
