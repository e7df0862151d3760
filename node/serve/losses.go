package serve

import (
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/api"
)

// losses are the times at which an engine was lost. Guarded by Server.mu.
type losses struct {
	at   []time.Time
	last error
}

const (
	lossesOf  = 10 * time.Minute // how far back losses count
	maxLosses = 100              // remembered
)

func (l *losses) add(now time.Time, err error) {
	l.last = err
	if l.at = append(l.at, now); len(l.at) > maxLosses {
		l.at = l.at[1:]
	}
}

// report counts the losses that still count. Its name and span are empty.
func (l *losses) report(now time.Time) (out api.Losses) {
	for _, t := range l.at {
		if now.Sub(t) < lossesOf {
			out.Count++
		}
	}
	if out.Count > 0 {
		out.Last = l.last.Error()
		out.Killed = killed(l.last)
	}
	return out
}

// killed reports that an engine was lost because the system or somebody ended it.
func killed(err error) bool { return strings.Contains(err.Error(), "signal: killed") }
