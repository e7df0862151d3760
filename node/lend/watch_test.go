package lend

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// laptop is a machine whose state a test sets.
type laptop struct {
	mu            sync.Mutex
	busy, elapsed int // ticks of two cores
	begun         time.Time
	load          float64
	battery       bool
}

// set changes the load from now on.
func (l *laptop) set(load float64, battery bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pass()
	l.load, l.battery = load, battery
}

// pass lets the time that went by count.
func (l *laptop) pass() {
	ticks := int(time.Since(l.begun)/(10*time.Millisecond))*2 - l.elapsed
	l.elapsed += ticks
	l.busy += int(float64(ticks) * l.load)
}

func (l *laptop) Open(name string) (fs.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pass()
	status := "Charging"
	if l.battery {
		status = "Discharging"
	}
	return tree(map[string]string{
		"stat": cpu(l.busy, 0, 0, l.elapsed-l.busy, 0, 0, 0, 0), "10/stat": stat(10, "shoal", 1, 10),
		"BAT0/type": "Battery", "BAT0/status": status,
	}).Open(name)
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &laptop{begun: time.Now()}
		ctx, cancel := context.WithCancel(t.Context())
		var told []string
		var done sync.WaitGroup
		begun := time.Now()
		done.Go(func() {
			watch(ctx, Rules{PauseLoad: 0.4}, nil, 0, &Machine{Proc: l, Power: l, PID: 10}, func(lend bool, why string) {
				if !lend {
					why = why[:len("the machine")]
				}
				told = append(told, fmt.Sprintf("%s %v %s", time.Since(begun), lend, why))
			})
		})
		for _, s := range []struct {
			load    float64
			battery bool
			last    time.Duration
		}{
			{0.1, false, 61 * time.Second}, // so that no change falls on a reading
			{0.9, false, 10 * time.Second}, // a spike
			{0.1, false, 50 * time.Second},
			{0.9, false, time.Minute}, // from 2m
			{0.9, true, time.Minute},
			{0.1, true, 5 * time.Minute}, // battery from 3m15s
			{0.1, false, 5 * time.Minute},
		} {
			l.set(s.load, s.battery)
			time.Sleep(s.last)
		}
		cancel()
		done.Wait()
		want := []string{"0s true ", "2m15s false other progr", "3m15s false the machine", "11m0s true "}
		if !slices.Equal(told, want) {
			t.Errorf("told %q", told)
		}
	})
}

func TestWatchHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it begins at midnight UTC
		h, err := ParseHours(time.Now().Add(time.Hour).Format("15:04") + "-" + time.Now().Add(2*time.Hour).Format("15:04"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		begun := time.Now()
		var told []string
		watch(ctx, Rules{Hours: h}, nil, time.Minute, &Machine{}, func(lend bool, _ string) {
			told = append(told, fmt.Sprint(time.Since(begun), lend))
		})
		if want := []string{"0s false", "1h0m0s true", "2h0m0s false"}; !slices.Equal(told, want) {
			t.Errorf("told %q", told)
		}
	})
}

// TestWatchChanged: new rules count at once, and a load that was measured against an
// earlier limit is forgotten.
func TestWatchChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &laptop{begun: time.Now()}
		l.set(0.6, false)
		ctx, cancel := context.WithCancel(t.Context())
		rules := make(chan Rules, 1)
		var told []string
		var done sync.WaitGroup
		begun := time.Now()
		done.Go(func() {
			m := &Machine{Proc: l, Power: l, PID: 10}
			watch(ctx, Rules{PauseLoad: 0.4}, rules, 0, m, func(lend bool, _ string) {
				told = append(told, fmt.Sprintf("%s %v", time.Since(begun), lend))
			})
		})
		time.Sleep(61 * time.Second)
		rules <- Rules{OnBattery: true} // nothing pauses
		time.Sleep(time.Minute)
		h, err := ParseHours(time.Now().Add(time.Hour).Format("15:04") + "-" + time.Now().Add(2*time.Hour).Format("15:04"))
		if err != nil {
			t.Fatal(err)
		}
		rules <- Rules{Hours: h, OnBattery: true}
		synctest.Wait()
		cancel()
		done.Wait()
		if want := []string{"0s true", "15s false", "1m1s true", "2m1s false"}; !slices.Equal(told, want) {
			t.Errorf("told %q", told)
		}
	})
}

// TestWatchEnds: a context that has ended is told nothing.
func TestWatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	Watch(ctx, Rules{}, nil, 0, func(bool, string) { t.Error("told") })
}
