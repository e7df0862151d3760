package session_test

import (
	"context"
	"slices"
	"testing"
	"time"
)

// Stages that can be taken back only so many positions are resumed where they can, or
// compute again; one that does not say so, and fails, is replaced. The answer is the
// undisturbed one.
func TestFailoverBack(t *testing.T) {
	prompt := someTokens(5, 400)
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), prompt, 60)
	if err != nil {
		t.Fatal(err)
	}
	for name, silent := range map[string]bool{"known": false, "unknown": true} {
		for i := range 3 {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := fleetOf(t, &pipeline{back: 40, silent: silent}, 9, 2, 3, 6)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				// The prompt piles up before the last stage, so that the others are far ahead.
				for j, e := range f.engines {
					e.slow(time.Duration(1+j%3*3) * time.Millisecond)
				}
				go func() {
					for f.stages[2].Status().Rows == 0 {
						time.Sleep(time.Millisecond)
					}
					f.engines[i].breakNow()
					f.set(f.down, nodeID(i), true)
				}()
				got, out, err := f.ask(ctx, prompt, 60, nil)
				if err != nil || !slices.Equal(got, want) {
					t.Fatalf("stage %d: %v\n%v\n%v", i, err, got, want)
				}
				refused := 0
				for _, e := range f.engines {
					refused += e.refusals()
				}
				if len(out.Recoveries) == 0 || refused > 0 && !silent {
					t.Errorf("stage %d: %d repairs, and %d times a stage was to go back too far", i, len(out.Recoveries), refused)
				}
				for _, r := range out.Recoveries {
					t.Logf("stage %d: %s: stall %s, %d positions again", i, r.Why, r.Stall, r.Replayed)
				}
			})
		}
	}
}

// A prompt that parts early from one before, of which a stage has more and a stage has
// nothing, is answered as without.
func TestPrefixBack(t *testing.T) {
	for name, silent := range map[string]bool{"known": false, "unknown": true} {
		t.Run(name, func(t *testing.T) {
			f := fleetOf(t, &pipeline{back: 40, silent: silent}, 6, 1, 2, 4)
			longer := someTokens(9, 300)
			parted := append(slices.Clone(longer[:100]), someTokens(10, 80)...)
			for _, prompt := range [][]int32{longer, parted, longer, append(slices.Clone(longer), parted...)} {
				want, err := newPipeline(t, 6, 2, 4).ask(t.Context(), prompt, 30)
				if err != nil {
					t.Fatal(err)
				}
				got, _, err := f.ask(t.Context(), prompt, 30, nil)
				if err != nil || !slices.Equal(got, want) {
					t.Fatalf("%v\n%v\n%v", err, got, want)
				}
				f.empty(t)
			}
		})
	}
}
