package serve

import (
	"context"
	"time"

	"github.com/shoalnet/shoal/node/stage"
)

// unloadTime is how long Unload waits for sessions that have just ended.
const unloadTime = 2 * time.Second

// Keep implements api.Controller.
func (s *Server) Keep(model string, stays time.Duration) {
	for _, v := range s.ofModel(model) {
		v.update(func() {
			if v.asleep == 0 {
				v.kept = &stays
			}
		})
	}
}

// Unload implements api.Controller.
func (s *Server) Unload(ctx context.Context, model string) {
	s.Keep(model, 0)
	ctx, cancel := context.WithTimeout(ctx, unloadTime)
	defer cancel()
	for _, v := range s.ofModel(model) {
		v.until(ctx, func() bool { return v.stage == nil || v.asleep > 0 })
	}
}

// Load implements api.Controller.
func (s *Server) Load(ctx context.Context, model string) error {
	for _, v := range s.ofModel(model) {
		s.mu.Lock()
		st, asleep := v.stage, v.asleep > 0
		s.mu.Unlock()
		if asleep {
			st.Config().Waken()
		}
		v.until(ctx, func() bool { return v.stage != st || v.asleep == 0 })
	}
	return ctx.Err()
}

// ofModel returns the spans of a model.
func (s *Server) ofModel(model string) (list []*serving) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.spans {
		if v.called(model) {
			list = append(list, v)
		}
	}
	return list
}

// until waits until what is guarded by Server.mu is so, the span has ended, or ctx has.
func (s *serving) until(ctx context.Context, so func() bool) {
	for {
		s.srv.mu.Lock()
		done, changed := so(), s.changed
		s.srv.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-s.over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// stays returns for how long after its last use the engine stays loaded; negative: for
// ever. A request's wish comes before the operator's default until the engine is
// unloaded. Called with Server.mu held.
func (s *serving) stays() time.Duration {
	switch after := s.srv.limits().UnloadAfter; {
	case s.kept != nil:
		return *s.kept
	case after > 0:
		return after
	}
	return -1
}

// expires returns when the engine of a loaded span is unloaded if nobody uses it from now
// on; zero: never.
func (v *Span) expires(now time.Time, st stage.Status) time.Time {
	switch {
	case v.stays < 0 || v.Asleep > 0:
		return time.Time{}
	case st.Sessions > 0:
		return now.Add(v.stays)
	}
	return st.Used.Add(v.stays)
}
