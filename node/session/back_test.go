package session_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/session"
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

// Of the positions that stages have kept, a new session uses what all of them can go on
// from: none if one has more and cannot certainly be taken back so far.
func TestOpenedFloor(t *testing.T) {
	f := fleetOf(t, &pipeline{back: 40}, 6, 2, 2, 4)
	usual, other := f.route, slices.Clone(f.route)
	other[1].Peer = nodeID(4) // its replica
	long := someTokens(9, 300)
	middle := f.engines[1]
	for _, c := range []struct {
		route  []session.Hop
		prompt []int32
		cached int
	}{
		{usual, long, 0},
		{other, long[:100], 0}, // the first and the last stage had 320 positions, and have 128 afterwards
		{usual, long, 0},       // these have 96 in common with it, and the middle one 288, of which it can give up 40
		{usual, long, 288},
	} {
		want, err := newPipeline(t, 6, 2, 4).ask(t.Context(), c.prompt, 30)
		if err != nil {
			t.Fatal(err)
		}
		f.route = c.route
		got, out, err := f.ask(t.Context(), c.prompt, 30, nil)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%v\n%v\n%v", err, got, want)
		}
		if n := middle.refusals(); n > 0 || len(out.Recoveries) > 0 || out.Cached != c.cached {
			t.Errorf("of %d positions %d are used, want %d; the middle stage was to go back too far %d times; repairs: %+v", len(c.prompt), out.Cached, c.cached, n, out.Recoveries)
		}
		f.empty(t)
	}
}

// After a repair a stage that is too far ahead of the others begins again.
func TestHaltedFloor(t *testing.T) {
	prompt := someTokens(5, 400)
	want, err := newPipeline(t, 9, 3, 6).ask(t.Context(), prompt, 20)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		f := fleetOf(t, &pipeline{back: 40}, 9, 2, 3, 6)
		for i, e := range f.engines {
			e.slow(time.Duration(1+19*(i/2%2)) * time.Millisecond) // of stages 2 and 3; the prompt piles up before stage 2
		}
		var before int64
		go func() {
			time.Sleep(300 * time.Millisecond)
			if before = f.stages[0].Status().Rows; before != 400 || f.stages[2].Status().Rows > 200 {
				t.Errorf("the first stage has %d rows, the last one %d", before, f.stages[2].Status().Rows)
			}
			f.set(f.down, nodeID(1), true)
			f.stages[1].Close(errors.New("killed"))
		}()
		got, out, err := f.ask(t.Context(), prompt, 20, nil)
		if err != nil || !slices.Equal(got, want) || len(out.Recoveries) == 0 {
			t.Errorf("%v\n%v\n%v\n%+v", err, got, want, out.Recoveries)
		}
		for i, e := range f.engines {
			if n := e.refusals(); n > 0 {
				t.Errorf("stage %d was to go back too far %d times", i, n)
			}
		}
		if again := f.stages[0].Status().Rows - before; again < 400 {
			t.Errorf("the first stage has computed %d rows after the repair", again)
		}
		for _, s := range f.stages {
			s.Close(nil)
		}
		time.Sleep(time.Minute)
	})
}
