package api

import (
	"net/http"
	"net/http/pprof"
)

// profiles registers the profiles of package net/http/pprof for callers with the node's
// token: profiles show stacks, the command line and what the node holds in memory, and
// taking one slows the node down.
func (s *server) profiles() {
	for pattern, h := range map[string]http.HandlerFunc{
		"GET /debug/pprof/":        pprof.Index, // and by name: heap, goroutine, mutex, ...
		"GET /debug/pprof/cmdline": pprof.Cmdline,
		"GET /debug/pprof/profile": pprof.Profile,
		"GET /debug/pprof/symbol":  pprof.Symbol,
		"GET /debug/pprof/trace":   pprof.Trace,
	} {
		s.mux.HandleFunc(pattern, s.serve(s.own(func(w http.ResponseWriter, r *http.Request) error {
			h(w, r)
			return nil
		})))
	}
}
