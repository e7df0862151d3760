package library

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// Fetch brings what is missing of some shards, and nothing else, from peers and from
// the model's origins. progress may be nil. Errors wrap store.ErrFull where there is
// no room, and are api's NoRoute where no source has what is missing.
func (l *Library) Fetch(ctx context.Context, m *store.Model, shards []int, progress func(api.Progress)) error {
	if base, err := l.base(ctx, m); err != nil {
		return err
	} else if base != nil { // whose header is the adapter's, too
		if err := l.Fetch(ctx, base, base.Manifest().ShardsFor(protocol.Span{}), progress); err != nil {
			return err
		}
	}
	if m.Whole(shards) {
		return nil
	}
	if err := l.fetch(ctx, m, shards, shardWant{m, shards}, progress); err != nil {
		return err
	}
	if len(shards) > 1 { // a caller that wants the header alone wants no others
		l.learnNodes(ctx, m)
	}
	return nil
}

// fetch brings what a want of some shards of a model lacks. progress may be nil.
func (l *Library) fetch(ctx context.Context, m *store.Model, shards []int, want lackingWant, progress func(api.Progress)) error {
	done, err := l.store.Claim(m, shards)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", m.Name(), err)
	}
	defer done()
	total, begin := want.lacks(), time.Now()
	note, ended := l.fetches.begin(m.Name(), total)
	defer ended()
	l.cfg.Log.Info("a fetch has begun", "model", m.Name(), "bytes", total)
	defer func() {
		l.cfg.Log.Info("a fetch has ended", "model", m.Name(), "missing", want.lacks(), "took", time.Since(begin).Round(time.Millisecond))
	}()
	l.cfg.Changed() // a node that fetches has something to give before it is done
	err = l.cfg.Exchange.Fetch(ctx, m.ID(), want, func(p exchange.Progress) {
		l.download.note(p.Bytes, time.Since(begin))
		note(min(p.Bytes, total), p.Holders+p.Origins)
		if progress != nil {
			out := api.Progress{Done: min(p.Bytes, total), Total: total, Sources: p.Holders + p.Origins, Peers: p.Holders, Origins: p.Origins, Rate: p.Rate, Trouble: p.Trouble}
			if p.Rate > 0 {
				out.Left = float64(total-out.Done) / p.Rate
			}
			progress(out)
		}
	}, originsOf(m)...)
	switch {
	case errors.Is(err, exchange.ErrNotFound):
		return api.Errorf(api.NoRoute, "%s: %s", m.Name(), err)
	case errors.Is(err, store.ErrFull):
		return remedy.For(fmt.Errorf("fetching %s: %w; %s are still to come, and the next fetch goes on from here",
			m.Name(), err, store.SizeText(want.lacks())), remedy.FreeSpace)
	case err != nil:
		return fmt.Errorf("fetching %s: %w", m.Name(), err)
	}
	l.gained()
	return nil
}

// learnNodes fetches the lists of the leaves of a model's other shards, while there
// is a peer to ask; they have some bytes per MiB of the model.
func (l *Library) learnNodes(ctx context.Context, m *store.Model) {
	all := m.Shards()
	if lacking, err := m.NeedNodes(all); err != nil || len(lacking) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime/3)
	defer cancel()
	if err := l.cfg.Exchange.Fetch(ctx, m.ID(), nodeWant{shardWant{m, all}}, nil); err != nil {
		l.cfg.Log.Debug("the lists of a model's other leaves", "model", m.ID(), "error", err)
	}
}

// Download is the rate of the last download that was long enough to have one, in
// bytes per second; 0: there was none.
func (l *Library) Download() float64 { return l.download.get() }

// Fetches lists the fetches under way, by name of the model.
func (l *Library) Fetches() []api.Fetch { return l.fetches.list() }

// rateMeter is the rate of the last download that was long enough to have one.
type rateMeter struct {
	mu   sync.Mutex
	rate float64 // bytes per second
}

// note takes a download's state. A short download has no rate.
func (r *rateMeter) note(bytes int64, took time.Duration) {
	if bytes < 4<<20 || took < 100*time.Millisecond {
		return
	}
	r.mu.Lock()
	r.rate = float64(bytes) / took.Seconds()
	r.mu.Unlock()
}

func (r *rateMeter) get() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rate
}

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
