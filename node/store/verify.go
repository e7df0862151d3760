package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/shoalnet/shoal/protocol"
)

// Missing says which shards cannot be used because leaves of them are not
// held, or were found damaged.
type Missing struct {
	Shards []int
	Leaves int
	man    *protocol.Manifest
}

func (e *Missing) Error() string {
	var names []string
	for _, i := range e.Shards {
		s := &e.man.Shards[i]
		names = append(names, shardKey{s.Kind, s.Block}.String())
		if len(names) == 8 && len(e.Shards) > 8 {
			names = append(names, fmt.Sprintf("and %d more", len(e.Shards)-8))
			break
		}
	}
	return fmt.Sprintf("%d leaves are not held, of: %s; pull the model first", e.Leaves, strings.Join(names, ", "))
}

// missing is what shards lack; nil if they are whole.
func (m *Model) missing(shards []int) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	miss := &Missing{man: m.man}
	for _, i := range shards {
		if s := &m.shards[i]; !s.whole() {
			miss.Shards = append(miss.Shards, i)
			miss.Leaves += len(s.held) - s.count
		}
	}
	if miss.Leaves > 0 {
		return miss
	}
	return nil
}

// verifiers hash at once. More would gain nothing where the disk is slower
// than two cores hash, and take from the sessions where it is not.
const verifiers = 2

// Verify reads and checks all held leaves of the given shards (nil: all). It
// drops those that are damaged and reports how many; what is then not whole
// comes back as a *Missing if whole is asked for.
func (m *Model) Verify(ctx context.Context, shards []int, whole bool) (damaged int, err error) {
	if shards == nil {
		shards = m.every()
	}
	if whole { // no need to read anything to see that
		if err := m.missing(shards); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	places := make(chan place)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range verifiers {
		wg.Go(func() {
			buf := make([]byte, protocol.LeafSize)
			for p := range places {
				_, ok, err := m.readLeaf(p, buf)
				switch {
				case errors.Is(err, errDropped):
				case err != nil:
					cancel(err)
				case !ok:
					mu.Lock()
					damaged++
					mu.Unlock()
				}
			}
		})
	}
	for _, i := range shards {
		m.mu.RLock()
		var held []place
		for n, h := range m.shards[i].held {
			if h {
				held = append(held, place{i, n})
			}
		}
		m.mu.RUnlock()
		for _, p := range held {
			if ctx.Err() == nil {
				places <- p
			}
		}
	}
	close(places)
	wg.Wait()
	if ctx.Err() != nil {
		return damaged, context.Cause(ctx)
	}
	if whole {
		err = m.missing(shards)
	}
	return damaged, err
}
