package stage

import (
	"bufio"
	"errors"
	"io"

	"github.com/shoalnet/shoal/protocol"
)

// A successor grants credit for as many rows as it can queue, so its reader never
// stops. QUIC at first allows 768 KiB of unread data per connection, so rows left
// unread in one stream would block the Pings and tokens of all others.

const (
	linkBytes = 4 << 20  // bytes of activations queued per session; 40 MB/s at a round trip of 100 ms
	allBytes  = 64 << 20 // the same for all sessions together; each may queue at least one chunk
)

// inflow counts the rows of a link with credit. Guarded by stage.mu.
type inflow struct {
	sess    *session
	back    *sender // to the predecessor
	arrived uint64  // rows received
	gone    uint64  // rows received and no longer queued
	granted uint64  // total rows that the predecessor may send
	base    uint64  // of arrived, those that came before the present stream
}

func withCredits(st Stream) bool { return st.Protocol() != protocol.StageID1 }

// window returns how many rows of a link may be queued. Called with mu held.
func (s *Stage) window() int {
	row := 4 * s.cfg.Width
	return max(protocol.MaxLinkRows, min(linkBytes/row, allBytes/row/max(1, len(s.sessions)), maxPending*protocol.MaxLinkRows))
}

// window returns how many rows may be queued. Called with mu held.
func (in *inflow) window() uint64 {
	w := uint64(in.sess.stage.window())
	if in.sess.embeds() { // a text must come whole before its rows go, and a quarter of the window may not be granted yet
		w = max(w, 4*(uint64(in.sess.open.Embed)+protocol.MaxLinkRows)/3+1)
	}
	return w
}

// full reports whether there is no room for rows that a link may carry ahead of its
// credit. Called with mu held.
func (in *inflow) full() bool { return in.arrived+moveAhead > in.gone+in.window() }

// came counts rows received on a link. It returns an error if they exceed the credit.
func (s *Stage) came(in *inflow, rows int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.arrived += uint64(rows); in.arrived > in.granted {
		return errors.New("the predecessor sends more rows than it has credit for")
	}
	return nil
}

// left counts a step that is no longer queued, and grants credit for others. Called
// with mu held.
func (s *Stage) left(st *step) {
	if in := st.link; in != nil {
		in.gone += uint64(st.rows)
		s.credit(in)
	}
}

// credit sends the predecessor its new credit, if that is at least a quarter of a
// window more than it has. Called with mu held.
func (s *Stage) credit(in *inflow) {
	w := in.window()
	if in.gone+w < in.granted+w/4 {
		return
	}
	in.granted = in.gone + w
	in.sess.send(in.back, &protocol.Frame{Kind: &protocol.Frame_Credit{Credit: &protocol.Credit{Rows: in.granted - in.base}}}, nil, control)
}

// drop discards the queued steps. Called with stage.mu held.
func (sess *session) drop() {
	for _, st := range sess.pending {
		sess.stage.left(st)
	}
	if sess.text != nil {
		sess.stage.left(sess.text)
	}
	sess.pending, sess.text = nil, nil
}

// readCredits reads the successor's credits on its link until the link ends. It calls
// answered with the first.
func readCredits(st Stream, r *bufio.Reader, out *sender, answered func(credit uint64)) {
	if !withCredits(st) {
		_, err := io.Copy(io.Discard, r)
		out.lost(errors.Join(err, io.EOF))
		return
	}
	for {
		f, _, err := protocol.ReadFrameWithin(r, protocol.Limits{Header: 32})
		if err == nil && f.GetCredit() == nil {
			err = errors.New("unexpected frame from the successor")
		}
		if err != nil {
			out.lost(err)
			return
		}
		if answered != nil {
			answered(f.GetCredit().Rows)
			answered = nil
		}
		out.grant(f.GetCredit().Rows)
	}
}
