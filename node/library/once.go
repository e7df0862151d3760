package library

import (
	"context"
	"slices"
	"sync"
)

// once makes values that are expensive, by key: once for all callers that want one,
// who may leave while it is made. It keeps those that were used last. No lock is held
// while one is made. It is safe for concurrent use; its zero value is ready.
type once[K comparable, V any] struct {
	mu     sync.Mutex
	kept   map[K]V
	used   []K // of kept, the last used last
	making map[K]*making[V]
	work   sync.WaitGroup
}

// making is a value on its way.
type making[V any] struct {
	done  chan struct{}
	stop  context.CancelFunc
	wait  int // callers that wait for it
	v     V
	err   error
	panic any // of the maker, for those that wait
}

// onceKept is how many values are kept.
const onceKept = 8

// get returns the value of a key. how makes it, with a context that ends when no
// caller waits any more.
func (o *once[K, V]) get(ctx context.Context, key K, how func(context.Context) (V, error)) (v V, err error) {
	o.mu.Lock()
	if v, ok := o.kept[key]; ok {
		o.use(key)
		o.mu.Unlock()
		return v, nil
	}
	m := o.making[key]
	if m == nil {
		m = o.begin(ctx, key, how)
	}
	m.wait++
	o.mu.Unlock()
	select {
	case <-m.done:
		if m.panic != nil {
			panic(m.panic)
		}
		return m.v, m.err
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if m.wait--; m.wait == 0 {
		m.stop()
		o.drop(key, m)
	}
	return v, ctx.Err()
}

// begin starts to make a value. Called with mu held.
func (o *once[K, V]) begin(ctx context.Context, key K, how func(context.Context) (V, error)) *making[V] {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	m := &making[V]{done: make(chan struct{}), stop: stop}
	if o.making == nil {
		o.making, o.kept = map[K]*making[V]{}, map[K]V{}
	}
	o.making[key] = m
	o.work.Go(func() {
		defer stop()
		defer close(m.done)
		defer func() {
			m.panic = recover()
			o.mu.Lock()
			defer o.mu.Unlock()
			o.drop(key, m)
			if m.panic == nil && m.err == nil {
				o.kept[key] = m.v
				o.use(key)
			}
		}()
		m.v, m.err = how(ctx)
	})
	return m
}

// drop forgets what is being made, unless that is another by now. Called with mu held.
func (o *once[K, V]) drop(key K, m *making[V]) {
	if o.making[key] == m {
		delete(o.making, key)
	}
}

// use puts a key last, and drops the first if there are too many. Called with mu held.
func (o *once[K, V]) use(key K) {
	o.used = append(slices.DeleteFunc(o.used, func(k K) bool { return k == key }), key)
	if len(o.used) > onceKept {
		delete(o.kept, o.used[0])
		o.used = o.used[1:]
	}
}

// wait waits for what is still being made. Nobody may ask for more.
func (o *once[K, V]) wait() { o.work.Wait() }
