package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/remedy"
)

// The API is for programs of this machine. Three kinds of web page must not
// reach it: one that points its own name at 127.0.0.1 (the Host header gives it
// away), one that posts here blindly (Origin, Sec-Fetch-Site and a content type
// that only asks leave with CORS), and one that a user does allow, by Origins.

// guard applies the checks that do not depend on the caller's identity: Host,
// Origin and Content-Type.
func (s *server) guard(w http.ResponseWriter, r *http.Request) error {
	if !s.hostAllowed(r) {
		return Errorf(Forbidden, "this API does not answer to that host name: use 127.0.0.1 or localhost, or allow the name with the node's setting api-host (for web pages * does not count)")
	}
	if err := s.origin(w, r); err != nil {
		return err
	}
	if r.Method == http.MethodPost {
		media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || media != "application/json" && !(media == "application/x-www-form-urlencoded" && plainProgram(r)) {
			return Errorf(BadMedia, "send JSON, with the header Content-Type: application/json")
		}
	}
	return nil
}

// plainProgram reports whether a request to Ollama's API is not a browser's: its
// documentation has curl send JSON with the content type of a form.
func plainProgram(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/") && !browser(r) }

// browser reports whether a request may come from one. Browsers send where a post
// comes from, even those that do not call themselves Mozilla.
func browser(r *http.Request) bool {
	h := r.Header
	return h.Get("Origin") != "" || h.Get("Referer") != "" || h.Get("Cookie") != "" || h.Get("Sec-Fetch-Site") != "" ||
		strings.Contains(h.Get("User-Agent"), "Mozilla")
}

// hostAllowed accepts hosts that are known here, and any host if the configuration
// says so. A browser must use a known host even then: the name of the page's own
// host may have been pointed here.
func (s *server) hostAllowed(r *http.Request) bool {
	return s.hostKnown(r) || slices.Contains(s.Hosts, "*") && (!browser(r) || slices.Contains(s.Origins, r.Header.Get("Origin")))
}

// hostKnown takes loopback's names, the address that was dialled (an address
// cannot be pointed elsewhere, as a name can), and those of the configuration.
func (s *server) hostKnown(r *http.Request) bool {
	host := hostname(r.Host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Unmap().IsLoopback() || ip.IsUnspecified() {
			return true
		}
		local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		if local != nil && local.AddrPort().Addr().Unmap() == ip.Unmap() {
			return true
		}
	}
	return slices.ContainsFunc(s.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// hostname is a Host header without its port, in lower case.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
}

// origin lets browsers in from this very address and from Origins, and answers
// the latter's CORS headers. Programs send none of these headers.
func (s *server) origin(w http.ResponseWriter, r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		switch r.Header.Get("Sec-Fetch-Site") {
		case "", "none", "same-origin":
			return nil
		}
		return Errorf(Forbidden, "web pages elsewhere may not use this API")
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
		return nil
	}
	if !slices.Contains(s.Origins, origin) {
		return Errorf(Forbidden, "web pages elsewhere may not use this API: allow their origin with the node's setting api-origin")
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Expose-Headers", "X-Shoal-Route, X-Shoal-Warning, X-Request-Id, Server-Timing, Retry-After")
	return nil
}

// open guards OpenAI's endpoints: with the key, if there is one. The token opens
// them too, as it is worth more.
func (s *server) open(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Method == http.MethodOptions && w.Header().Get("Access-Control-Allow-Origin") != "" {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
			w.Header().Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
			w.Header().Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		if s.Key != "" && !bearer(r, s.Key) && !bearer(r, s.Token) {
			return Errorf(Unauthorized, "the API key is missing or wrong: send it as Authorization: Bearer KEY")
		}
		return h(w, r)
	}
}

// own guards shoal's endpoints, which read and write files for the caller: no
// browser, no other machine, and only a user who can read the node's directory.
func (s *server) own(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" {
			return Errorf(Forbidden, "this endpoint is not for web pages")
		}
		if !fromHere(r) {
			return Errorf(Forbidden, "this endpoint is for programs on the node's own machine")
		}
		if !bearer(r, s.Token) {
			err := Errorf(Unauthorized, "this endpoint needs the token in the file api.token of the node's directory, as Authorization: Bearer TOKEN")
			return remedy.For(err, remedy.APIToken)
		}
		return h(w, r)
	}
}

// fromHere reports whether a request comes from this machine.
func fromHere(r *http.Request) bool {
	if _, socket := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr); socket {
		return true
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback()
}

// bearer compares in constant time; an empty secret opens nothing.
func bearer(r *http.Request, secret string) bool {
	scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	a, b := sha256.Sum256([]byte(strings.TrimSpace(got))), sha256.Sum256([]byte(secret))
	return secret != "" && strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}
