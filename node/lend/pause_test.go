package lend

import (
	"testing"
	"time"
)

func TestPause(t *testing.T) {
	zone := time.FixedZone("east", 3600)
	now := time.Date(2026, 12, 1, 9, 30, 0, 0, zone)
	for _, test := range []struct {
		text   string
		paused bool
		why    string
	}{
		{"", false, ""},
		{"off", false, ""},
		{" on ", true, "the owner has paused lending"},
		{"2026-12-01T09:00:00Z", true, "the owner has paused lending until 10:00"},
		{"2026-12-01T09:30:00+01:00", false, ""},
		{"2026-12-09T09:30:00+01:00", true, "the owner has paused lending until 2026-12-09 09:30"},
	} {
		p, err := ParsePause(test.text)
		if err != nil {
			t.Fatal(err)
		}
		lent, why := NewDecider(Rules{Pause: p}).Decide(now, Reading{Others: -1})
		if p.At(now) != test.paused || lent == test.paused || why != test.why {
			t.Errorf("%q: paused %v, lent %v: %s", test.text, p.At(now), lent, why)
		}
		if again, err := ParsePause(p.String()); err != nil || again.At(now) != test.paused || again.String() != p.String() {
			t.Errorf("%q is written as %q, and read as %+v, %v", test.text, p.String(), again, err)
		}
	}
	for _, bad := range []string{"1h", "yes", "2026-13-01T10:00", "on on"} {
		if p, err := ParsePause(bad); err == nil {
			t.Errorf("%q means %+v", bad, p)
		}
	}
	on, err := ParsePause("on")
	if err != nil || (Rules{Pause: on}).Equal(Rules{}) || !(Rules{Pause: on}).Equal(Rules{Pause: on}) {
		t.Error("a pause is no change of the rules")
	}
}
