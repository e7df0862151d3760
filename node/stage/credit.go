package stage

import (
	"bufio"
	"errors"
	"io"

	"github.com/shoalnet/shoal/protocol"
)

// Rows go to a successor as it has room for them, and its reader never stops: of
// all that one peer has sent on one connection and nobody has read, QUIC takes
// 768 KiB at first, so rows that wait in a stream would keep everybody's Pings
// and tokens waiting behind them.

const (
	linkBytes = 4 << 20  // of activations that wait at a stage, of one session; 100 ms away that is 40 MB/s
	allBytes  = 64 << 20 // of all sessions, as long as each has a chunk
)

// inflow counts the rows of a link with credits. Guarded by stage.mu.
type inflow struct {
	sess    *session
	back    *sender // to the predecessor
	arrived uint64  // rows that came
	gone    uint64  // of those, that wait no more
	granted uint64  // that may come in all
}

func withCredits(st Stream) bool { return st.Protocol() != protocol.StageID1 }

// window is how many rows of a link may wait. Called with mu held.
func (s *Stage) window() int {
	row := 4 * s.cfg.Width
	return max(protocol.MaxLinkRows, min(linkBytes/row, allBytes/row/max(1, len(s.sessions)), maxPending*protocol.MaxLinkRows))
}

// came counts rows that a link has brought.
func (s *Stage) came(in *inflow, rows int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.arrived += uint64(rows); in.arrived > in.granted {
		return errors.New("the predecessor sends more rows than it has credit for")
	}
	return nil
}

// left counts a step that waits no more, and lets others come in its place.
// Called with mu held.
func (s *Stage) left(st *step) {
	if in := st.link; in != nil {
		in.gone += uint64(st.rows)
		s.credit(in)
	}
}

// credit tells the predecessor how much may come, if that is much more than it
// knows. Called with mu held.
func (s *Stage) credit(in *inflow) {
	w := uint64(s.window())
	if in.gone+w < in.granted+w/4 {
		return
	}
	in.granted = in.gone + w
	in.sess.send(in.back, &protocol.Frame{Kind: &protocol.Frame_Credit{Credit: &protocol.Credit{Rows: in.granted}}}, nil, control)
}

// drop forgets the steps that wait. Called with stage.mu held.
func (sess *session) drop() {
	for _, st := range sess.pending {
		sess.stage.left(st)
	}
	sess.pending = nil
}

// readCredits reads what a successor says on its link, to its end.
func readCredits(st Stream, out *sender) {
	if !withCredits(st) {
		_, err := io.Copy(io.Discard, st)
		out.lost(errors.Join(err, io.EOF))
		return
	}
	r := bufio.NewReaderSize(st, 64)
	for {
		f, _, err := protocol.ReadFrameWithin(r, protocol.Limits{Header: 32})
		if err == nil && f.GetCredit() == nil {
			err = errors.New("a successor gives credit, and says nothing else")
		}
		if err != nil {
			out.lost(err)
			return
		}
		out.grant(f.GetCredit().Rows)
	}
}
