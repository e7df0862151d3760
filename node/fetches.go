package node

import (
	"slices"
	"strings"
	"sync"

	"github.com/shoalnet/shoal/node/api"
)

// fetchBoard lists the fetches under way.
type fetchBoard struct {
	mu   sync.Mutex
	next int
	now  map[int]api.Fetch
}

func (b *fetchBoard) begin(name string, total int64) (note func(done int64, sources int), end func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.now == nil {
		b.now = map[int]api.Fetch{}
	}
	id := b.next
	b.next++
	b.now[id] = api.Fetch{Name: name, Total: total}
	return func(done int64, sources int) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.now[id] = api.Fetch{Name: name, Done: done, Total: total, Sources: sources}
		}, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.now, id)
		}
}

func (b *fetchBoard) list() []api.Fetch {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := []api.Fetch{}
	for _, f := range b.now {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b api.Fetch) int { return strings.Compare(a.Name, b.Name) })
	return out
}
