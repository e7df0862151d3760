package api

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// mostTogether is how many answers of one request are generated at once. A request may
// ask for more; together they would take each other's KV, and keep everybody else's away.
const mostTogether = 16

// told is an event of a generation, or its end.
type told struct {
	choice int
	event  Event
	ended  bool
	err    error
}

// batch is the generations of one request: at most as many at once as there was room
// for.
//
//	waiting -> running -> ended
//	   ^         |
//	   +---------+  refused for want of room before anything came, beside others
type batch struct {
	start   func(i int)
	waiting []int
	running int
	most    int
	single  []bool // begun while no other was allowed beside it
	begun   []bool // something came
	done    []bool // a Done came
}

// more starts generations as long as there is room.
func (b *batch) more() {
	for b.running < b.most && len(b.waiting) > 0 {
		i := b.waiting[0]
		b.waiting = b.waiting[1:]
		b.running++
		b.single[i] = b.most == 1
		b.start(i)
	}
}

// ended takes in the end of a generation, and returns the error that ends the request.
func (b *batch) ended(t told) error {
	b.running--
	switch {
	case t.err == nil && !b.done[t.choice]:
		return Errorf(Internal, "the answer ended without saying why")
	case t.err == nil:
	case AsError(t.err).Kind == Refused && !b.begun[t.choice] && !b.single[t.choice]:
		b.most = max(1, b.running) // there was no room for one more, beside others that may have ended since
		b.waiting = append([]int{t.choice}, b.waiting...)
		if b.running > 0 {
			return nil // until another ends
		}
	default:
		return t.err
	}
	b.more()
	return nil
}

// follow runs the generations of a request and passes their events on. It calls idle
// after each quietTime without an event.
func (s *server) follow(r *http.Request, reqs []*GenerateRequest, take func(i int, e Event) error, idle func() error) error {
	client := r.Context()
	ctx, cancel := context.WithCancel(client)
	events := make(chan told, 2*min(len(reqs), mostTogether))
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
	}()
	b := &batch{most: mostTogether, single: make([]bool, len(reqs)), begun: make([]bool, len(reqs)), done: make([]bool, len(reqs))}
	for i, req := range reqs {
		req.Trace = r.Header.Get(traceHeader)
		b.waiting = append(b.waiting, i)
	}
	b.start = func(i int) {
		wg.Go(func() {
			send := func(t told) error {
				select {
				case events <- t:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			err := s.generate(ctx, reqs[i], func(e Event) error { return send(told{choice: i, event: e}) })
			_ = send(told{choice: i, ended: true, err: err})
		})
	}
	b.more()
	quiet := time.NewTicker(quietTime)
	defer quiet.Stop()
	for b.running > 0 {
		select {
		case <-client.Done():
			return client.Err()
		case <-quiet.C:
			if err := idle(); err != nil {
				return err
			}
		case t := <-events:
			if t.ended {
				if err := b.ended(t); err != nil {
					return err
				}
				continue
			}
			b.begun[t.choice] = true
			b.done[t.choice] = b.done[t.choice] || t.event.Done != nil
			if err := take(t.choice, t.event); err != nil {
				return err
			}
		}
	}
	return nil
}
