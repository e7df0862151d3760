package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/shoalnet/shoal/protocol"
)

// Missing is the error for shards that cannot be used because leaves of them
// are not held, or were found damaged.
type Missing struct {
	Shards []int // indexes in the manifest
	Leaves int   // leaves not held
	Bytes  int64 // bytes in those leaves
	man    *protocol.Manifest
}

func (e *Missing) Error() string {
	return fmt.Sprintf("%s in %d leaves are not held, of: %s; pull the model first", SizeText(e.Bytes), e.Leaves, strings.Join(e.Names(), ", "))
}

// Names returns the names of the shards, as ShardNames formats them.
func (e *Missing) Names() []string { return ShardNames(e.man, e.Shards) }

// ShardNames formats shards for people, in the model's order: header,
// embedding, "blocks 4-12" as spans are written, "block 15", output.
func ShardNames(man *protocol.Manifest, shards []int) (names []string) {
	var run protocol.Span
	flush := func() {
		switch {
		case run.Len() == 1:
			names = append(names, fmt.Sprintf("block %d", run.From))
		case run.Len() > 1:
			names = append(names, "blocks "+run.String())
		}
		run = protocol.Span{}
	}
	for _, i := range slices.Sorted(slices.Values(shards)) {
		s := &man.Shards[i]
		b := int(s.Block)
		switch {
		case s.Kind != protocol.ShardBlock:
			flush()
			names = append(names, s.Kind)
		case run.Len() > 0 && run.To == b:
			run.To++
		default:
			flush()
			run = protocol.Span{From: b, To: b + 1}
		}
	}
	flush()
	return names
}

// missing returns a *Missing if leaves of the shards are missing, else nil.
func (m *Model) missing(shards []int) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	miss := &Missing{man: m.man}
	for _, i := range shards {
		if s := &m.shards[i]; !s.whole() {
			miss.Shards = append(miss.Shards, i)
			miss.Leaves += len(s.held) - s.count
			miss.Bytes += m.man.Shards[i].Size - s.bytes
		}
	}
	if miss.Leaves > 0 {
		return miss
	}
	return nil
}

// verifiers is how many leaves are hashed at once. More would gain nothing
// where the disk is slower than two cores hash, and would take CPU time from
// the sessions where it is faster.
const verifiers = 2

// Verify reads and checks all held leaves of the given shards (nil: all), drops
// the damaged ones, and returns how many there were. If whole is set, the error
// is a *Missing when shards are then incomplete; other errors are those of the
// disk, and ctx's.
func (m *Model) Verify(ctx context.Context, shards []int, whole bool) (damaged int, err error) {
	return m.verify(ctx, shards, whole, func(int) {})
}

// VerifyAll is Verify of all shards. It calls checked after each leaf with its
// size in bytes. Damage is not an error, and is listed by Damaged; errors are
// those of the disk, and ctx's.
func (m *Model) VerifyAll(ctx context.Context, checked func(bytes int)) error {
	_, err := m.verify(ctx, nil, false, checked)
	return err
}

func (m *Model) verify(ctx context.Context, shards []int, whole bool, checked func(bytes int)) (damaged int, err error) {
	if shards == nil {
		shards = m.Shards()
	}
	if whole { // no reading is needed to see that
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
				mu.Lock()
				checked(m.shards[p.shard].size(p.leaf))
				mu.Unlock()
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
