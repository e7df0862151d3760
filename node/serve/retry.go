package serve

import (
	"context"
	"errors"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/store"
)

const (
	leastRetry = 200 * time.Millisecond // whatever has changed
	firstRetry = 2 * time.Second
	mostRetry  = 10 * time.Minute
	mostDelay  = time.Hour // that an origin may ask for
	newsEvery  = time.Second
)

// persist tries to serve until ctx ends, in growing pauses: what cannot be had now, for
// want of a network, an origin, a peer, disk or memory, may be had later. It returns an
// error only if no waiting helps: what is asked for cannot be, or this program cannot
// start engines.
func (s *serving) persist(ctx context.Context, try func(context.Context) error) error {
	retry := backoff.Backoff{First: firstRetry, Most: mostRetry}
	said := ""
	for {
		before := s.holds()
		s.srv.mu.Lock()
		s.wants, s.wake = 0, nil
		s.srv.mu.Unlock()
		err := try(ctx)
		if ctx.Err() != nil || err == nil {
			return nil //nolint:nilerr // told to stop
		}
		if errors.Is(err, ErrSpec) || errors.Is(err, engine.ErrNoChild) {
			return err
		}
		if s.holds() > before { // it comes, if slowly
			retry.Reset()
		}
		s.fails(err)
		if err.Error() != said {
			said = err.Error()
			s.srv.cfg.Events(s.event(Event{Event: "waiting", Error: said}))
		}
		s.rest(ctx, max(retry.Next(), min(store.Delay(err), mostDelay)))
	}
}

// fails notes why nothing is served now.
func (s *serving) fails(err error) {
	s.set("waiting: " + err.Error())
	s.update(func() { s.trouble = err })
}

// event fills in what is known of the model.
func (s *serving) event(e Event) Event {
	s.srv.mu.Lock()
	t := s.target
	s.srv.mu.Unlock()
	if t.model == nil {
		e.Name = shownName(s.spec.Model)
		return e
	}
	return t.event(e)
}

// holds is how many bytes of the model are here.
func (s *serving) holds() int64 {
	s.srv.mu.Lock()
	m := s.target.model
	s.srv.mu.Unlock()
	if m == nil {
		return 0
	}
	return m.Held()
}

// rest pauses, but no longer than until something has changed for the better: Retry was
// called, or a peer offers what it did not.
func (s *serving) rest(ctx context.Context, pause time.Duration) {
	s.srv.mu.Lock()
	news := s.wake
	if news == nil {
		news = s.srv.news
	}
	s.srv.mu.Unlock()
	if backoff.Pause(ctx, leastRetry) != nil {
		return
	}
	end := time.NewTimer(pause)
	defer end.Stop()
	look := time.NewTicker(newsEvery)
	defer look.Stop()
	for seen := s.prospects(); ; {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-news:
			return
		case <-look.C:
			now := s.prospects()
			if now != seen && now != 0 {
				return
			}
			seen = now
		}
	}
}

// Retry has spans that could not be served be tried again now: a model has come, or
// memory is free.
func (s *Server) Retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retry()
}

// retry is Retry with mu held.
func (s *Server) retry() {
	close(s.news)
	s.news = make(chan struct{})
}

// prospects is another number when peers offer something else of the model; 0: nothing.
func (s *serving) prospects() uint64 {
	s.srv.mu.Lock()
	m := s.target.model
	s.srv.mu.Unlock()
	if m == nil {
		return s.srv.cfg.Survey.Prospects(cid.Undef, s.spec.Model)
	}
	return s.srv.cfg.Survey.Prospects(m.ID(), "")
}
