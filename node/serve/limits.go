package serve

import (
	"time"

	"github.com/shoalnet/shoal/node/lend"
)

// Limits are what an operator may change while spans are served. Threads and MaxSessions
// bound spans that are loaded from then on, except that a lower MaxSessions also bounds
// those that are served. Where spans have reserved more than Memory, the last ones are
// drained and loaded smaller, or wait. Lend and UnloadAfter count at once.
type Limits struct {
	Memory      int64 // bytes lent, weights and KV together
	Threads     int   // of each engine; 0: chosen by measuring
	MaxSessions int   // per span, at the same time
	Lend        lend.Rules
	UnloadAfter time.Duration // after how long without use an engine is unloaded; 0: never
}

// limits returns those in effect. The result is not to be changed.
func (s *Server) limits() *Limits { return s.live.Load() }

// Adjust replaces the limits.
func (s *Server) Adjust(l Limits) {
	old := s.live.Swap(&l)
	if l.Memory > old.Memory {
		s.mu.Lock()
		s.freed(nil)
		s.mu.Unlock()
	}
	s.yieldDrafts()
	for _, st := range s.cfg.Stages.Stages() {
		st.Limit(l.MaxSessions)
	}
	if old.Lend.Equal(l.Lend) {
		return
	}
	for { // the channel holds one; an older one that nobody has taken is dropped
		select {
		case s.rules <- l.Lend:
			return
		default:
		}
		select {
		case <-s.rules:
		default:
		}
	}
}
