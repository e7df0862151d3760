package lend

import (
	"strings"
	"testing"
	"time"
)

// at is a moment of the week that begins on Sunday, 1 March 2026.
func at(t testing.TB, s string) time.Time {
	t.Helper()
	name, clock, _ := strings.Cut(s, " ")
	d, err := parseDay(name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseClock(clock)
	if err != nil {
		t.Fatal(err)
	}
	return time.Date(2026, 3, 1+d, 0, m, 0, 0, time.UTC)
}

func TestHours(t *testing.T) {
	for _, c := range []struct{ hours, in, out string }{
		{"", "sun 00:00, wed 12:34, sat 23:59", ""},
		{"22:00-07:00", "mon 22:00, tue 06:59, sat 23:00, sun 00:00", "mon 07:00, mon 21:59, sat 12:00"},
		{"9:00-17:30", "sun 09:00, wed 17:29", "sun 08:59, wed 17:30"},
		{"mon-fri 20:00-08:00, sat-sun", "mon 20:00, tue 07:59, sat 00:00, sat 13:00, sun 23:59, fri 22:00", "mon 00:00, mon 07:00, mon 12:00, fri 12:00"},
		{"mon-fri 20:00-08:00", "sat 07:59", "sun 22:00, sat 08:00, mon 07:00"}, // a night belongs to the day it begins on
		{"sat 20:00-08:00", "sat 20:00, sun 07:59", "sat 07:00, sun 08:00"},     // over the week's end
		{"fri-mon", "fri 00:00, sat 12:00, sun 12:00, mon 23:59", "tue 00:00, thu 23:59"},
		{"mon wed 12:00-13:00 18:00-24:00", "mon 12:30, wed 23:59", "tue 12:30, wed 13:00, thu 00:00"},
		{"mon, wed 20:00-21:00", "mon 03:00, wed 20:30", "tue 03:00, wed 03:00"},
		{"Monday-Tuesday 00:00-24:00", "mon 00:00, tue 23:59", "wed 00:00, sun 23:59"},
		{" SAT 22:00 – 23:00 ", "sat 22:00", "sat 23:00"},
		{"23:59-00:00", "mon 23:59", "tue 00:00"},
		{"wed-tue 1:00-2:00", "tue 01:00, wed 01:59", "wed 02:00"},
	} {
		h, err := ParseHours(c.hours)
		if err != nil {
			t.Errorf("%q: %v", c.hours, err)
			continue
		}
		for list, want := range map[string]bool{c.in: true, c.out: false} {
			for s := range strings.SplitSeq(list, ", ") {
				if s == "" || s == "tue 03:00, wed 03:00" {
					continue
				}
				if h.Contains(at(t, s)) != want {
					t.Errorf("%q: contains %s: %v", c.hours, s, !want)
				}
			}
		}
	}
}

// TestHoursLocal: the clock on the wall counts, also in the nights when it is
// set.
func TestHoursLocal(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	h, err := ParseHours("22:00-07:00")
	if err != nil {
		t.Fatal(err)
	}
	for _, day := range []time.Time{time.Date(2026, 3, 28, 22, 0, 0, 0, zone), time.Date(2026, 10, 24, 22, 0, 0, 0, zone)} {
		hours := 0
		for now := day; h.Contains(now); now = now.Add(time.Hour) {
			hours++
		}
		if want := map[time.Month]int{time.March: 8, time.October: 10}[day.Month()]; hours != want {
			t.Errorf("the night of %s has %d hours", day, hours)
		}
	}
}

func TestHoursErrors(t *testing.T) {
	for hours, want := range map[string]string{
		"22:00":                `"22:00" has no end`,
		"22:00-":               `"" is not a time of day`,
		"22-7":                 `"22" is not a time of day`,
		"22:00-7:0":            `"7:0" is not a time of day`,
		"22:60-07:00":          `"22:60" is not a time of day`,
		"25:00-07:00":          `"25:00" is not a time of day`,
		"22:00-24:01":          `"24:01" is not a time of day`,
		"22:00-+7:00":          `"+7:00" is not a time of day`,
		"24:00-07:00":          "begins at 24:00",
		"08:00-08:00":          "the whole day is 00:00-24:00",
		"mo-fr 20:00-08:00":    `"mo" is not a day`,
		"mon- 20:00-08:00":     `"" is not a day`,
		"20:00-08:00 mon":      `"mon": days come first`,
		"mon,,tue":             "nothing stands before or after a comma",
		"22:00-07:00,":         "nothing stands before or after a comma",
		"mon-fri-sun":          `"fri-sun" is not a day`,
		"22:00-07:00-09:00":    `"07:00-09:00" is not a time of day`,
		"always":               `"always" is not a day`,
		"mon 20:00-08:00 \x00": "days come first",
	} {
		_, err := ParseHours(hours)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "hours ") {
			t.Errorf("%q: %v", hours, err)
		}
	}
}

func FuzzParseHours(f *testing.F) {
	for _, s := range []string{"", "22:00-07:00", "mon-fri 20:00-08:00, sat-sun", "mon wed 12:00-13:00 18:00-24:00", "Sunday – monday 0:00-24:00", "24:00-00:00", ",", "-", ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHours(s)
		if err != nil {
			return
		}
		again, err := ParseHours(h.String())
		if err != nil {
			t.Fatalf("%q, written as %q: %v", s, h, err)
		}
		within := 0
		sunday := at(t, "sun 00:00")
		for m := range week {
			now := sunday.Add(time.Duration(m) * time.Minute)
			in := h.Contains(now)
			if in != again.Contains(now) {
				t.Fatalf("%q, written as %q: they differ at %s", s, h, now)
			}
			if in {
				within++
			}
		}
		if within == 0 {
			t.Fatalf("%q is never", s)
		}
	})
}
