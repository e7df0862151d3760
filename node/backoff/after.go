package backoff

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RetryAfter returns for how long a server's answer asks its clients to wait, by the
// header of that name: seconds, or a date; 0: it does not say.
func RetryAfter(h http.Header) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.Atoi(strings.TrimSpace(s)); err == nil && n >= 0 {
		return time.Duration(min(n, 1<<20)) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}
