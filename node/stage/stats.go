package stage

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// stats are a stage's counters since its start.
type stats struct {
	opened, closed, tokens, passes, rows, replayed atomic.Int64

	refused atomic.Int64

	mu     sync.Mutex
	load   Load
	opens  float64 // of late, refused ones included
	noRoom float64 // of those
	mark   struct {
		at                    time.Time
		rows, opened, refused int64
	}
	decode time.Duration // moving average of a pass of decodes only
	single time.Duration // of a pass of one row
	row    time.Duration // of what a further row of decode costs
	round  time.Duration // between two decodes of one session
	recent [16]mark      // tokens of the last seconds, for a rate
}

type mark struct {
	second int64
	rows   int64
}

// Status is a stage's load, now.
type Status struct {
	Sessions     int
	QueuedRows   int
	KVFree       int           // tokens that no session has taken or will probably need
	TokensPerS   float64       // decode rows of the last ten seconds
	DecodePass   time.Duration // moving average; 0: none yet
	Opened       int64
	Passes, Rows int64
	Replayed     int64 // bytes sent again for sessions that lost a stage
	KVKept       int   // tokens of ended sessions, which count as free
}

// Load is how full a stage is, from 0 to 1: the largest share of its time, of its
// KV and of its sessions. A single session that keeps the engine busy is no
// load: others would cost it nothing, so time counts as rows, at what a row
// costs in a full pass.
type Load struct {
	Minute, Ten float64 // means of about one and ten minutes
	Refused     float64 // share of the opens of about a minute that found no room
}

// Load tells how full the stage is.
func (s *Stage) Load() Load {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	return s.stats.load
}

// meter brings the load up to date.
func (s *Stage) meter(now time.Time) {
	s.mu.Lock()
	_, _, all := s.claims(now)
	share := max(float64(all.cells)/float64(s.cfg.KVTokens), float64(all.slots)/float64(s.cfg.MaxSeqs))
	s.mu.Unlock()
	t := &s.stats
	t.mu.Lock()
	defer t.mu.Unlock()
	rows, opened, refused := t.rows.Load(), t.opened.Load(), t.refused.Load()
	m := &t.mark
	if dt := now.Sub(m.at).Seconds(); !m.at.IsZero() && dt > 0 {
		share = max(share, float64(rows-m.rows)*s.cfg.Row.Seconds()/dt)
		minute, ten := 1-math.Exp(-dt/60), 1-math.Exp(-dt/600)
		t.load.Minute += (share - t.load.Minute) * minute
		t.load.Ten += (share - t.load.Ten) * ten
		t.noRoom = t.noRoom*(1-minute) + float64(refused-m.refused)
		t.opens = t.opens*(1-minute) + float64(opened-m.opened+refused-m.refused)
		t.load.Refused = 0
		if t.opens > 0.5 {
			t.load.Refused = t.noRoom / t.opens
		}
	}
	m.at, m.rows, m.opened, m.refused = now, rows, opened, refused
}

// pass records one pass.
func (t *stats) pass(rows, decodes int, took time.Duration, now time.Time) {
	t.passes.Add(1)
	t.rows.Add(int64(rows))
	t.mu.Lock()
	defer t.mu.Unlock()
	if decodes == rows {
		if t.decode == 0 {
			t.decode = took
		}
		t.decode += (took - t.decode) / 16
		if rows == 1 {
			if t.single == 0 {
				t.single = took
			}
			t.single += (took - t.single) / 16
		} else if t.single > 0 {
			t.row += (max(0, took-t.single)/time.Duration(rows-1) - t.row) / 16
		}
	}
	m := &t.recent[now.Unix()%int64(len(t.recent))]
	if m.second != now.Unix() {
		*m = mark{second: now.Unix()}
	}
	m.rows += int64(decodes)
}

// lap records the time between two decodes of one session.
func (t *stats) lap(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.round == 0 {
		t.round = d
	}
	t.round += (d - t.round) / 16
}

// costs are what a further row of decode costs, and how long a session's way
// round the ring is.
func (t *stats) costs() (row, round time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.row, t.round
}

func (t *stats) rate(now time.Time) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var n int64
	for _, m := range t.recent {
		if age := now.Unix() - m.second; age > 0 && age <= 10 {
			n += m.rows
		}
	}
	return float64(n) / 10
}

func (t *stats) decodePass() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.decode
}

// retryAfter guesses when a session will have ended: what a hundred more
// tokens take, within reason.
func (t *stats) retryAfter() time.Duration {
	return max(time.Second, min(30*time.Second, 100*t.decodePass()))
}

// Status tells the stage's load.
func (s *Stage) Status() Status {
	s.mu.Lock()
	_, _, all := s.claims(time.Now())
	st := Status{Sessions: len(s.sessions), KVFree: max(0, s.cfg.KVTokens-all.cells), KVKept: s.kvKept}
	for _, sess := range s.sessions {
		st.QueuedRows += sess.queuedRows()
	}
	s.mu.Unlock()
	st.TokensPerS = s.stats.rate(time.Now())
	st.DecodePass = s.stats.decodePass()
	st.Opened = s.stats.opened.Load()
	st.Replayed = s.stats.replayed.Load()
	st.Passes, st.Rows = s.stats.passes.Load(), s.stats.rows.Load()
	return st
}
