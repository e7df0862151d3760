package library

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A value that does not come keeps nobody waiting for another; it is made once for
// all who want it, and no longer when all have left.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o once[string, int]
		made := 0
		slow := func(ctx context.Context) (int, error) {
			made++
			select {
			case <-time.After(time.Minute):
				return 1, nil
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		get := func(patience time.Duration, key string, how func(context.Context) (int, error)) (int, error) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return o.get(ctx, key, how)
		}
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() { // half of them leave
				v, err := get(time.Duration(1+i%2)*45*time.Second, "slow", slow)
				if i%2 == 0 && !errors.Is(err, context.DeadlineExceeded) || i%2 == 1 && (v != 1 || err != nil) {
					t.Errorf("%d got %d, %v", i, v, err)
				}
			})
		}
		synctest.Wait()
		begin := time.Now()
		if v, err := get(time.Second, "other", func(context.Context) (int, error) { return 2, nil }); v != 2 || err != nil || time.Since(begin) > 0 {
			t.Errorf("another: %d, %v after %s", v, err, time.Since(begin))
		}
		wg.Wait()
		if made != 1 {
			t.Errorf("made %d times", made)
		}
		if _, err := get(time.Second, "left", slow); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		begin = time.Now()
		o.wait()
		if time.Since(begin) > 0 {
			t.Errorf("worked on for %s after all had left", time.Since(begin))
		}
		if v, err := get(time.Hour, "left", slow); v != 1 || err != nil || made != 3 {
			t.Errorf("asked again: %d, %v, made %d times", v, err, made)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a panic was lost")
				}
			}()
			_, _ = get(time.Second, "broken", func(context.Context) (int, error) { panic("a bug") })
		}()
		// Those that were used last stay.
		for i := range onceKept + 3 {
			_, _ = get(time.Second, fmt.Sprint(i), func(context.Context) (int, error) { return i, nil })
			_, _ = get(time.Second, "slow", slow)
		}
		if len(o.kept) != onceKept || len(o.used) != onceKept || made != 3 {
			t.Errorf("kept %v, %v, made %d times", o.kept, o.used, made)
		}
	})
}
