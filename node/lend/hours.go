package lend

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Hours are times of the week by the clock on the wall. The zero value is
// always.
type Hours struct {
	text  string
	spans []weekSpan
}

// weekSpan begins at a minute of the week, which starts on Sunday; it may run
// over the week's end.
type weekSpan struct{ start, length int }

const (
	day  = 24 * 60 // minutes
	week = 7 * day
)

// Contains tells whether t, in its own time zone, is within the hours.
func (h Hours) Contains(t time.Time) bool {
	now := int(t.Weekday())*day + t.Hour()*60 + t.Minute()
	return len(h.spans) == 0 || slices.ContainsFunc(h.spans, func(s weekSpan) bool {
		return (now-s.start+week)%week < s.length
	})
}

// Next returns when the hours begin that follow on t, to the minute; false: they contain
// t, or never begin.
func (h Hours) Next(t time.Time) (time.Time, bool) {
	if h.Contains(t) {
		return t, false
	}
	at := t.Truncate(time.Minute)
	for range week {
		if at = at.Add(time.Minute); h.Contains(at) {
			return at, true
		}
	}
	return t, false
}

// String gives the hours as they were written.
func (h Hours) String() string { return h.text }

// ParseHours reads times of day, each with the days on which it begins, as in
//
//	22:00-07:00
//	mon-fri 20:00-08:00, sat-sun
//	mon wed fri 12:00-13:00 18:00-24:00
//
// Without days a time is that of every day, and a day without times is all of
// it. 20:00-08:00 ends on the next day. Commas separate entries, so days that
// share their times are not separated by commas.
func ParseHours(s string) (Hours, error) {
	h := Hours{text: strings.TrimSpace(s)}
	if h.text == "" {
		return Hours{}, nil
	}
	// As people write it, and as text programs improve it.
	plain := strings.NewReplacer(" – ", "-", "–", "-", " - ", "-").Replace(strings.ToLower(h.text))
	for entry := range strings.SplitSeq(plain, ",") {
		spans, err := parseEntry(strings.Fields(entry))
		if err != nil {
			return Hours{}, fmt.Errorf("hours %q: %w", h.text, err)
		}
		h.spans = append(h.spans, spans...)
	}
	return h, nil
}

// parseEntry reads days, then times; either may be left out.
func parseEntry(words []string) ([]weekSpan, error) {
	if len(words) == 0 {
		return nil, errors.New("nothing stands before or after a comma")
	}
	var days []int
	for len(words) > 0 && !startsWithDigit(words[0]) {
		more, err := parseDays(words[0])
		if err != nil {
			return nil, err
		}
		days, words = append(days, more...), words[1:]
	}
	if len(days) == 0 {
		days = []int{0, 1, 2, 3, 4, 5, 6}
	}
	times := []weekSpan{{0, day}}
	if len(words) > 0 {
		times = nil
	}
	for _, w := range words {
		t, err := parseTimes(w)
		if err != nil {
			return nil, err
		}
		times = append(times, t)
	}
	var spans []weekSpan
	for _, d := range days {
		for _, t := range times {
			spans = append(spans, weekSpan{d*day + t.start, t.length})
		}
	}
	return spans, nil
}

func startsWithDigit(s string) bool { return s[0] >= '0' && s[0] <= '9' }

// parseDays reads sat, or fri-mon.
func parseDays(s string) ([]int, error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	first, err := parseDay(from)
	if err != nil {
		return nil, err
	}
	last, err := parseDay(to)
	if err != nil {
		return nil, err
	}
	days := []int{first}
	for d := first; d != last; {
		d = (d + 1) % 7
		days = append(days, d)
	}
	return days, nil
}

func parseDay(s string) (int, error) {
	for d := time.Sunday; d <= time.Saturday; d++ {
		if name := strings.ToLower(d.String()); s == name || s == name[:3] {
			return int(d), nil
		}
	}
	return 0, fmt.Errorf("%q is not a day: sun, mon, tue, wed, thu, fri and sat are, and times like 22:00-07:00", s)
}

// parseTimes reads 22:00-07:00; the start counts from midnight.
func parseTimes(s string) (weekSpan, error) {
	if !startsWithDigit(s) {
		return weekSpan{}, fmt.Errorf("%q: days come first, then times like 22:00-07:00", s)
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		return weekSpan{}, fmt.Errorf("%q has no end: write it like 22:00-07:00", s)
	}
	start, err := parseClock(from)
	if err != nil {
		return weekSpan{}, err
	}
	end, err := parseClock(to)
	if err != nil {
		return weekSpan{}, err
	}
	switch {
	case start == day:
		return weekSpan{}, fmt.Errorf("%q begins at 24:00: a day begins at 00:00", s)
	case start == end:
		return weekSpan{}, fmt.Errorf("%q ends when it begins: the whole day is 00:00-24:00", s)
	}
	length := (end - start + day) % day
	if length == 0 { // from 00:00 to 24:00
		length = day
	}
	return weekSpan{start, length}, nil
}

// parseClock reads 7:00, 07:00 or 24:00 as minutes from midnight.
func parseClock(s string) (int, error) {
	hour, minute, ok := strings.Cut(s, ":")
	h, herr := parseDigits(hour, 1)
	m, merr := parseDigits(minute, 2)
	if !ok || herr != nil || merr != nil || m > 59 || h*60+m > day {
		return 0, fmt.Errorf("%q is not a time of day: write it like 07:30, 00:00 to 24:00", s)
	}
	return h*60 + m, nil
}

// parseDigits reads least to two digits, and no sign.
func parseDigits(s string, least int) (int, error) {
	if len(s) < least || len(s) > 2 {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(s, 10, 8)
	return int(n), err
}
