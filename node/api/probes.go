package api

import (
	"net/http"
)

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"` // why not, a sentence each
}

// Probes answers /healthz, which is 200 while the process lives, and /readyz, which is
// 200 once the node answers for all that it is to serve, and else 503 with a Readiness.
// They need no key, and contain no secrets. unready may be nil: always ready.
func Probes(unready func() []string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, struct {
			Alive bool `json:"alive"`
		}{true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := Readiness{Ready: true}
		if unready != nil {
			r.Reasons = unready()
			r.Ready = len(r.Reasons) == 0
		}
		status := http.StatusOK
		if !r.Ready {
			status = http.StatusServiceUnavailable
			w.Header().Set("Retry-After", "5")
		}
		writeJSON(w, status, r)
	})
	return mux
}

// probes registers the probes at the API's own address.
func (s *server) probes() {
	p := Probes(s.Unready)
	for _, path := range []string{"/healthz", "/readyz"} {
		s.mux.HandleFunc("GET "+path, s.serve(func(w http.ResponseWriter, r *http.Request) error {
			p.ServeHTTP(w, r)
			return nil
		}))
	}
}
