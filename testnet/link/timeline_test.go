package link

import (
	"runtime"
	"slices"
	"testing"
	"time"
)

type call func()

func (c call) fire() { c() }

func TestTimelineOrder(t *testing.T) {
	for name, alarm := range map[string]func() alarm{"own": newAlarm, "portable": func() alarm { return newGoAlarm() }} {
		t.Run(name, func(t *testing.T) {
			tl := &timeline{newAlarm: alarm}
			tl.hold()
			defer tl.release()
			base := time.Now()
			got := make(chan int, 16)
			early := make(chan time.Duration, 16)
			add := func(id int, after time.Duration) {
				at := base.Add(after)
				tl.at(at, call(func() {
					if d := time.Until(at); d > 0 {
						early <- d
					}
					got <- id
				}))
			}
			add(3, 30*time.Millisecond)
			add(1, 10*time.Millisecond)
			add(4, 30*time.Millisecond) // a tie goes by age
			add(2, 20*time.Millisecond)
			add(0, -time.Second)
			var ids []int
			for range 5 {
				ids = append(ids, <-got)
			}
			if !slices.Equal(ids, []int{0, 1, 2, 3, 4}) {
				t.Errorf("fired in order %v", ids)
			}
			if len(early) > 0 {
				t.Errorf("fired %v early", <-early)
			}
			// It wakes for an earlier event while it waits for a later one.
			done := make(chan struct{})
			tl.at(time.Now().Add(time.Hour), call(func() {}))
			tl.at(time.Now().Add(time.Millisecond), call(func() { close(done) }))
			<-done
		})
	}
}

func TestTimelineEnds(t *testing.T) {
	before := runtime.NumGoroutine()
	tl := new(timeline)
	for range 3 {
		tl.hold()
		tl.hold()
		tl.release()
		tl.release()
	}
	waitGoroutines(t, before)
}

// waitGoroutines waits until no more goroutines run than did before.
func waitGoroutines(t testing.TB, before int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; {
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkTimelineLateness is how late an event fires on an idle process.
func BenchmarkTimelineLateness(b *testing.B) {
	for name, alarm := range map[string]func() alarm{"own": newAlarm, "portable": func() alarm { return newGoAlarm() }} {
		b.Run(name, func(b *testing.B) {
			tl := &timeline{newAlarm: alarm}
			tl.hold()
			defer tl.release()
			late := make([]time.Duration, 0, b.N)
			done := make(chan time.Duration)
			for b.Loop() {
				at := time.Now().Add(20*time.Millisecond + time.Duration(len(late)%10)*100*time.Microsecond)
				tl.at(at, call(func() { done <- time.Since(at) }))
				late = append(late, <-done)
			}
			slices.Sort(late)
			b.ReportMetric(float64(late[len(late)/2].Microseconds()), "µs-late-median")
			b.ReportMetric(float64(late[len(late)*9/10].Microseconds()), "µs-late-p90")
		})
	}
}
