package lend

import (
	"fmt"
	"strings"
	"time"
)

// Pause is an owner's word that nothing is lent, whatever the other rules say. The zero
// value pauses nothing.
type Pause struct {
	on    bool
	until time.Time // zero with on: until the owner says otherwise
}

// ParsePause reads "on", a time until which to pause, as 2026-12-01T10:00 (local) or in
// RFC 3339's form, or "" or "off".
func ParsePause(s string) (Pause, error) {
	switch s = strings.TrimSpace(s); s {
	case "", "off":
		return Pause{}, nil
	case "on":
		return Pause{on: true}, nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(form, s, time.Local); err == nil {
			return Pause{on: true, until: t}, nil
		}
	}
	return Pause{}, fmt.Errorf("%q is neither on, off, nor a time such as 2026-12-01T10:00", s)
}

// At reports whether the pause holds at a time.
func (p Pause) At(now time.Time) bool { return p.on && (p.until.IsZero() || now.Before(p.until)) }

// String returns the pause as ParsePause reads it; "" for none.
func (p Pause) String() string {
	switch {
	case !p.on:
		return ""
	case p.until.IsZero():
		return "on"
	}
	return p.until.Format(time.RFC3339)
}

// why says that the pause holds, for people, in the time zone of now.
func (p Pause) why(now time.Time) string {
	switch until := p.until.In(now.Location()); {
	case p.until.IsZero():
		return "the owner has paused lending"
	case until.Sub(now) < 20*time.Hour:
		return "the owner has paused lending until " + until.Format("15:04")
	default:
		return "the owner has paused lending until " + until.Format("2006-01-02 15:04")
	}
}
