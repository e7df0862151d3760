package tune

import (
	"testing"
	"testing/synctest"
	"time"
)

// passes makes passes of one row for a time, of which each takes what cost says, and
// returns how many there were.
func passes(t *Threads, until time.Duration, cost func(threads int) time.Duration) (n int) {
	for begin := time.Now(); time.Since(begin) < until; n++ {
		t.Before(1)
		took := cost(t.Number())
		time.Sleep(took)
		t.After(1, took)
	}
	return n
}

// Where another program has a core, two threads take ten times as long. One is used then,
// and to try two now and then costs little.
func TestBusyCore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		threads := New(2, func(int) {})
		busy := func(n int) time.Duration {
			return map[int]time.Duration{1: 20 * time.Millisecond, 2: 200 * time.Millisecond}[n]
		}
		passes(threads, 5*time.Second, busy)
		if got, alone := passes(threads, time.Minute, busy), int(time.Minute/busy(1)); got < alone*9/10 {
			t.Errorf("%d passes in a minute, with one thread %d", got, alone)
		}
		idle := func(n int) time.Duration { return 20 * time.Millisecond / time.Duration(n) }
		passes(threads, 2*longest, idle)
		if n := threads.Number(); n != 2 {
			t.Errorf("%d threads where both cores are idle", n)
		}
		passes(threads, 5*time.Second, busy)
		if n := threads.Number(); n != 1 {
			t.Errorf("%d threads where a core is busy again", n)
		}
	})
}

// Where all cores are idle, trials of fewer threads cost next to nothing.
func TestIdleCores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		threads := New(2, func(int) {})
		idle := func(n int) time.Duration { return 20 * time.Millisecond / time.Duration(n) }
		if got, most := passes(threads, time.Minute, idle), int(time.Minute/idle(2)); got < most*995/1000 {
			t.Errorf("%d passes in a minute, without trials %d", got, most)
		}
	})
}

// Passes of many rows have all threads, whatever is best for single rows.
func TestManyRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := 4
		threads := New(4, func(n int) { set = n })
		passes(threads, 10*time.Second, func(int) time.Duration { return 10 * time.Millisecond })
		if set != 1 {
			t.Fatalf("%d threads for single rows where more do not help", set)
		}
		threads.Before(smallPass + 1)
		if set != 4 || threads.Number() != 4 {
			t.Errorf("%d threads for many rows, said to be %d", set, threads.Number())
		}
		threads.After(smallPass+1, time.Second)
		threads.Before(1)
		if set != 1 {
			t.Errorf("%d threads for a single row after many", set)
		}
	})
}

// One thread stays where another one helps little.
func TestFewThreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		threads := New(4, func(int) {})
		passes(threads, 10*time.Second, func(n int) time.Duration { return 10*time.Millisecond - time.Duration(n)*50*time.Microsecond })
		if n := threads.Number(); n != 1 {
			t.Errorf("%d threads", n)
		}
	})
}
