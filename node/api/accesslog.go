package api

import (
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/remedy"
)

// accessLog writes a line per request: who asked which endpoint for which model, how
// much, and what became of it. It writes nothing that a request or an answer contained.
// It is safe for concurrent use.
type accessLog struct {
	*slog.Logger

	mu      sync.Mutex
	refused time.Time // when a refusal was last written
	unsaid  int       // refusals since
}

// refusalEvery is the minimum time between two lines about callers without a key: their
// number is up to them.
const refusalEvery = 10 * time.Second

func (l *accessLog) request(r *http.Request, v *visit, status int, err error, id string, took time.Duration) {
	kind := Kind("")
	if err != nil {
		kind = AsError(err).Kind
	}
	attrs := []any{"request", id, "method", r.Method, "endpoint", pattern(r), "status", status, "took", took.Round(time.Microsecond)}
	if kind != "" {
		attrs = append(attrs, "kind", kind)
	}
	if v.caller != nil {
		attrs = append(attrs, "key", v.caller.Name())
	}
	v.mu.Lock()
	if v.model != "" {
		attrs = append(attrs, "model", v.model, "prompt_tokens", v.prompt, "answer_tokens", v.answer)
	}
	v.mu.Unlock()
	level := slog.LevelInfo
	switch {
	case kind == Internal && remedy.Of(err) == nil: // what people can mend is no fault
		level = slog.LevelWarn
	case routine(r), kind == Unauthorized: // for the latter see refusal
		level = slog.LevelDebug
	}
	l.Log(r.Context(), level, "request", attrs...)
	if kind == Unauthorized {
		l.refusal(r)
	}
}

// pattern is the endpoint without its method. What is not served at all has none: its
// path is the caller's text.
func pattern(r *http.Request) string {
	if _, path, ok := strings.Cut(r.Pattern, " "); ok {
		return path
	}
	return r.Pattern
}

// routine reports whether a request is one of those that come again and again: a
// scrape, a probe, and what shoal's own commands and page ask to show it.
func routine(r *http.Request) bool {
	if r.Method != http.MethodGet {
		return false
	}
	p := pattern(r)
	return !strings.HasPrefix(p, "/v1/") && !strings.HasPrefix(p, "/api/")
}

// refusal warns of callers without a key, with how many there were since the last line.
func (l *accessLog) refusal(r *http.Request) {
	l.mu.Lock()
	now, more := time.Now(), l.unsaid
	if now.Sub(l.refused) < refusalEvery {
		l.unsaid++
		l.mu.Unlock()
		return
	}
	l.refused, l.unsaid = now, 0
	l.mu.Unlock()
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = "this machine" // a unix socket has no address
	}
	l.Warn("a caller without a valid key was refused", "from", from, "endpoint", pattern(r), "others_since_last", more)
}
