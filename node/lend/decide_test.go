package lend

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A transcript has a line for each stretch of readings: how many, 5 s apart;
// what others use, in percent, or ? for not known, and b on battery; and what
// is decided at every one of them: lend, or hours, battery, load.
var transcripts = []struct {
	name  string
	rules Rules
	hours string
	start string
	lines string
}{
	{name: "an idle machine", rules: Rules{PauseLoad: 0.4}, lines: `
		1  ?    lend
		99 0    lend`},
	{name: "sustained load pauses, and two minutes of quiet resume", rules: Rules{PauseLoad: 0.4}, lines: `
		1  ?    lend
		2  90   lend
		30 90   load
		23 10   load
		9  10   lend`},
	{name: "a spike is not load", rules: Rules{PauseLoad: 0.4}, lines: `
		1  ?    lend
		2  100  lend
		2  5    lend
		2  100  lend
		2  5    lend
		2  100  lend
		9  5    lend`},
	{name: "load with gaps is load", rules: Rules{PauseLoad: 0.4}, lines: `
		1  ?    lend
		2  100  lend
		1  5    lend
		1  100  lend
		1  100  load`},
	{name: "between the thresholds nothing changes, either way", rules: Rules{PauseLoad: 0.4}, lines: `
		1  ?    lend
		1  41   lend
		50 39   lend
		1  41   lend
		50 31   lend
		1  41   load
		99 31   load
		23 29   load
		1  29   lend`},
	{name: "hovering around the limit pauses once", rules: Rules{PauseLoad: 0.4}, lines: `
		1  ?    lend
		1  41   lend
		1  39   lend
		1  41   lend
		1  39   lend
		1  41   load
		1  39   load
		1  41   load
		1  39   load`},
	{name: "every disturbance begins the quiet anew", rules: Rules{PauseLoad: 0.4}, lines: `
		1  ?    lend
		2  90   lend
		1  90   load
		23 10   load
		1  35   load
		23 10   load
		1  10   lend`},
	{name: "what is not known changes nothing", rules: Rules{PauseLoad: 0.4}, lines: `
		1  ?    lend
		2  90   lend
		9  ?    lend
		1  90   load
		23 10   load
		99 ?    load
		1  10   lend`},
	{name: "off", rules: Rules{OnBattery: true}, lines: `
		1  ?    lend
		50 100b lend`},
	{name: "the owner's own times", rules: Rules{PauseLoad: 0.8, PauseAfter: 30 * time.Second, Resume: 10 * time.Second}, lines: `
		1  ?    lend
		9  79   lend
		5  80   lend
		1  80   load
		9  61   load
		1  59   load
		1  59   lend`},
	{name: "all cores", rules: Rules{PauseLoad: 1}, lines: `
		1  ?    lend
		9  99   lend
		2  100  lend
		1  100  load`},
	{name: "a node that starts on battery", rules: Rules{}, lines: `
		9  ?b   battery
		23 ?    battery
		1  ?    lend`},
	{name: "unplugged for a moment, and for longer", rules: Rules{PauseLoad: 0.4}, lines: `
		5  0    lend
		2  0b   lend
		5  0    lend
		2  0b   lend
		9  0b   battery
		23 0    battery
		1  0b   battery
		23 0    battery
		1  0    lend`},
	{name: "on battery by choice", rules: Rules{PauseLoad: 0.4, OnBattery: true}, lines: `
		5  0b   lend
		2  50b  lend
		1  50b  load`},
	{name: "several reasons", rules: Rules{PauseLoad: 0.4}, lines: `
		5  0    lend
		2  50b  lend
		1  50b  battery
		12 50   battery
		11 0    battery
		12 0    load
		1  0    lend`},
	{name: "hours begin and end on the minute", hours: "22:00-07:00", start: "mon 21:59", lines: `
		12   ?  hours
		6480 ?  lend
		9    ?  hours`},
	{name: "the hours begin while others work", rules: Rules{PauseLoad: 0.4}, hours: "22:00-07:00", start: "mon 21:59", lines: `
		12 80   hours
		12 80   load
		23 0    load
		1  0    lend`},
	{name: "the hours begin after others' work", rules: Rules{PauseLoad: 0.4}, hours: "22:00-07:00", start: "mon 21:56", lines: `
		24 80   hours
		24 0    hours
		9  0    lend`},
}

func TestTranscripts(t *testing.T) {
	for _, c := range transcripts {
		t.Run(c.name, func(t *testing.T) {
			var err error
			if c.rules.Hours, err = ParseHours(c.hours); err != nil {
				t.Fatal(err)
			}
			now := at(t, "sun 00:00")
			if c.start != "" {
				now = at(t, c.start)
			}
			d := NewDecider(c.rules)
			for line := range strings.Lines(strings.TrimSpace(c.lines)) {
				var n int
				var seen, want string
				if _, err := fmt.Sscan(line, &n, &seen, &want); err != nil {
					t.Fatal(line, err)
				}
				for i := range n {
					lend, why := d.Decide(now, reading(t, seen))
					if got := short(lend, why); got != want {
						t.Fatalf("%s: reading %d of %q: %s (%q), not %s", now.Format("15:04:05"), i+1, strings.TrimSpace(line), got, why, want)
					}
					now = now.Add(DefaultInterval)
				}
			}
		})
	}
}

func reading(t *testing.T, s string) (r Reading) {
	t.Helper()
	load, battery := strings.CutSuffix(s, "b")
	if load == "?" {
		return Reading{Others: -1, Battery: battery}
	}
	n, err := strconv.Atoi(load)
	if err != nil {
		t.Fatal(err)
	}
	return Reading{Others: float64(n) / 100, Battery: battery}
}

func short(lend bool, why string) string {
	switch {
	case lend && why == "":
		return "lend"
	case !lend && strings.HasPrefix(why, "outside the hours lent (22:00-07:00)"):
		return "hours"
	case !lend && strings.HasPrefix(why, "the machine runs on battery"):
		return "battery"
	case !lend && strings.HasPrefix(why, "other programs use "):
		return "load"
	}
	return fmt.Sprintf("lend=%v", lend)
}

func TestReasons(t *testing.T) {
	now := at(t, "mon 12:00")
	d := NewDecider(Rules{PauseLoad: 0.4, PauseAfter: time.Second, Resume: time.Minute})
	d.Decide(now, Reading{})
	_, why := d.Decide(now.Add(time.Second), Reading{Others: 0.7})
	if why != "other programs use 40 % of the machine's cores or more; lent again after 1m0s below 30 %" {
		t.Error(why)
	}
	if _, why = NewDecider(Rules{}).Decide(now, Reading{Battery: true}); why != "the machine runs on battery; lent again after 2m0s on mains" {
		t.Error(why)
	}
}

// TestClock: one that is set back or forth, as without a monotonic reading.
func TestClock(t *testing.T) {
	now := at(t, "mon 12:00")
	d := NewDecider(Rules{PauseLoad: 0.4})
	d.Decide(now, Reading{})
	if lend, _ := d.Decide(now.Add(-time.Hour), Reading{Others: 1}); !lend {
		t.Error("an hour back is load")
	}
	if lend, _ := d.Decide(now.Add(-time.Hour+14*time.Second), Reading{Others: 1}); !lend {
		t.Error("too early")
	}
	if lend, _ := d.Decide(now.Add(-time.Hour+15*time.Second), Reading{Others: 1}); lend {
		t.Error("no pause")
	}
}

// FuzzDecide: whatever is read, lending is not given up without a cause that
// lasted, nor taken up without quiet.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{0, 200, 200, 200, 0, 0, 0}, 0.4)
	f.Fuzz(func(t *testing.T, loads []byte, limit float64) {
		r := Rules{PauseLoad: limit, Resume: 20 * time.Second}
		if r.Check() != nil {
			return
		}
		d := NewDecider(r)
		now := at(t, "mon 12:00")
		lent, busy, quiet := true, 0, 0
		for _, b := range loads {
			v := float64(b)/127 - 0.5 // below 0 is not known
			lend, why := d.Decide(now, Reading{Others: v})
			if lend != (why == "") {
				t.Fatal(lend, why)
			}
			if v >= limit {
				busy++
			}
			if v >= limit*quietPart {
				quiet = 0
			} else if v >= 0 {
				quiet++
			}
			if lent && !lend && (busy < 3 || limit == 0) {
				t.Fatalf("paused after %d busy readings", busy)
			}
			if !lent && lend && quiet < 4 {
				t.Fatalf("resumed after %d quiet readings", quiet)
			}
			if lent != lend {
				lent, busy = lend, 0
			}
			now = now.Add(DefaultInterval)
		}
	})
}
