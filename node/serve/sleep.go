package serve

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/stage"
)

// sleepEvery is how often a span is looked at that may be unloaded.
const sleepEvery = 250 * time.Millisecond

// errSmaller ends an engine that takes more than its share of the memory lent, which has
// become less. It is loaded again, smaller.
var errSmaller = errors.New("less memory is lent")

// errAsleep is what a call of an engine that is not there ends with; the stage makes none.
var errAsleep = fmt.Errorf("%w: it was unloaded", engine.ErrLost)

// sleeper is the engine of a stage: one that may be closed while nobody uses it, and
// loaded again. It is safe for concurrent use.
type sleeper struct {
	lost chan struct{} // closed when an engine was lost, or could not be loaded again
	wake chan struct{} // capacity 1: it is to be loaded again

	mu    sync.Mutex
	now   engine.Engine // nil: none
	why   error         // of lost
	over  chan struct{} // of the load under way or asked for; nil: none
	since time.Time     // when that was asked for
	took  time.Duration // of the last load
}

func newSleeper(e engine.Engine, took time.Duration) *sleeper {
	z := &sleeper{lost: make(chan struct{}), wake: make(chan struct{}, 1), took: took}
	z.put(e)
	return z
}

// put makes e the engine.
func (z *sleeper) put(e engine.Engine) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.now = e
	if c, ok := e.(*engine.Child); ok {
		go func() {
			<-c.Done()
			if z.get() == e {
				z.fail(c.Err())
			}
		}()
	}
}

func (z *sleeper) get() engine.Engine {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.now
}

// close closes the engine, if there is one.
func (z *sleeper) close() {
	z.mu.Lock()
	e := z.now
	z.now = nil
	z.mu.Unlock()
	if e != nil {
		_ = e.Close()
	}
}

// fail notes that there will be no engine any more.
func (z *sleeper) fail(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.why == nil {
		z.why = err
		close(z.lost)
	}
	z.loaded()
}

// err is why lost is closed.
func (z *sleeper) err() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.why
}

// waken implements stage.Config.Waken.
func (z *sleeper) waken() (over <-chan struct{}, left time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.over == nil {
		z.over, z.since = make(chan struct{}), time.Now()
		select {
		case z.wake <- struct{}{}:
		default:
		}
	}
	return z.over, z.took - time.Since(z.since)
}

// loaded ends a load. Called with mu held.
func (z *sleeper) loaded() {
	if z.over != nil {
		close(z.over)
		z.over = nil
	}
}

// Run implements stage.Engine.
func (z *sleeper) Run(ctx context.Context, b *engine.Batch) (*engine.Result, error) {
	if e := z.get(); e != nil {
		return e.Run(ctx, b)
	}
	return nil, errAsleep
}

// Remove implements stage.Engine. What is not there holds nothing.
func (z *sleeper) Remove(seq int, from int32) error {
	if e := z.get(); e != nil {
		return e.Remove(seq, from)
	}
	return nil
}

// CopyPrefix implements stage.Engine.
func (z *sleeper) CopyPrefix(src, dst int, n int32) error {
	if e := z.get(); e != nil {
		return e.CopyPrefix(src, dst, n)
	}
	return errAsleep
}

// followUse unloads the engine of a stage when it has not been used for as long as the
// operator says, and loads it again when it is, until ctx ends or that fails.
func (s *serving) followUse(ctx context.Context, t target, st *stage.Stage, z *sleeper, cfg engine.Config) {
	tick := time.NewTicker(sleepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-z.wake:
			if err := s.reload(ctx, t, st, z, cfg); err != nil {
				z.fail(err)
				return
			}
		case <-tick.C:
			if s.tooLarge() {
				z.fail(errSmaller)
				return
			}
			if after, may := s.mayUnload(); may && st.Sleep(after) {
				s.unload(z, after)
			}
		}
	}
}

// unload closes an engine that is to be loaded on demand.
func (s *serving) unload(z *sleeper, after time.Duration) {
	z.close()
	s.claim(0)
	s.update(func() { s.pid, s.asleep, s.kept = 0, max(z.took, 1), nil })
	why := fmt.Sprintf("nobody has used it for %s", after)
	if after == 0 {
		why = "a request asked for that"
	}
	s.set("unloaded: " + why + "; it is loaded again when it is used")
	s.srv.Offer()
}

// reload loads an engine again as it was.
func (s *serving) reload(ctx context.Context, t target, st *stage.Stage, z *sleeper, cfg engine.Config) error {
	s.set("loading: somebody has asked for it")
	e, err := s.start(ctx, t, &cfg)
	if err != nil {
		return err
	}
	s.claim(int64(e.Info().Host))
	z.put(e)
	pid := 0
	if c, ok := e.(*engine.Child); ok {
		pid = c.Pid()
	}
	s.update(func() { s.pid, s.asleep = pid, 0 })
	st.Wake()
	z.mu.Lock()
	z.took = s.took
	z.loaded()
	z.mu.Unlock()
	s.set("serving")
	s.srv.Offer()
	return nil
}

// mayUnload reports whether the engine is to be unloaded, and after how long without use.
// Until a probe has come through it is not: the span keeps asking for itself.
func (s *serving) mayUnload() (after time.Duration, may bool) {
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	after = s.stays()
	return after, s.ready && after >= 0
}

// tooLarge reports that a span is among those for which less memory is lent now than they
// have reserved: the first ones keep what they have.
func (s *serving) tooLarge() bool {
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	left := s.srv.limits().Memory
	for _, v := range s.srv.spans {
		left -= v.reserved
		if v == s {
			return left < 0
		}
	}
	return false
}
