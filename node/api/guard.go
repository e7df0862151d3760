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

// The API is for programs on this machine. A web page may use it only if Origins lists
// its origin. It must not get around that by pointing its own name at 127.0.0.1, which
// the Host header reveals, nor by posting blindly, which Origin and Sec-Fetch-Site reveal
// and the required Content-Type prevents without a CORS preflight.

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
		if (err != nil || media != "application/json") && !anyMedia(r) {
			return Errorf(BadMedia, "send JSON, with the header Content-Type: application/json")
		}
	}
	return nil
}

// anyMedia reports whether a request to Ollama's API may call its JSON anything: Ollama
// never looks, and many of its clients say form (curl), plain text (fetch of a string) or
// nothing. That is safe for programs, and for pages that name an origin, which has been
// checked by then. Only a page that hides its origin could post blindly.
func anyMedia(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/api/") && (!browser(r) || r.Header.Get("Origin") != "")
}

// browser reports whether a request may come from a browser. All browsers send the
// origin of a post, even those that do not call themselves Mozilla.
func browser(r *http.Request) bool {
	h := r.Header
	return h.Get("Origin") != "" || h.Get("Referer") != "" || h.Get("Cookie") != "" || h.Get("Sec-Fetch-Site") != "" ||
		strings.Contains(h.Get("User-Agent"), "Mozilla")
}

// hostAllowed accepts known hosts, and any host if the configuration says so. A browser
// must use a known host even then: a page may have pointed its own host's name here.
func (s *server) hostAllowed(r *http.Request) bool {
	return s.hostKnown(r) || slices.Contains(s.Access().Hosts, "*") && (!browser(r) || anyMatches(s.Access().Origins, r.Header.Get("Origin")))
}

// hostKnown accepts loopback's names, the address that was dialled (which, unlike a
// name, nobody can point elsewhere), and the names in the configuration.
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
	return slices.ContainsFunc(s.Access().Hosts, func(h string) bool { return hostMatches(h, host) })
}

// hostname returns a Host header without its port, in lower case.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
}

// origin admits browsers from this same origin and from Origins, and sets CORS headers
// for the latter. Programs send no such headers.
func (s *server) origin(w http.ResponseWriter, r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		switch r.Header.Get("Sec-Fetch-Site") {
		case "", "none", "same-origin":
			return nil
		}
		return Errorf(Forbidden, "web pages from other sites may not use this API")
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
		return nil
	}
	if !anyMatches(s.Access().Origins, origin) {
		return Errorf(Forbidden, "web pages from other sites may not use this API: allow their origin with the node's setting api-origin")
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Expose-Headers", "X-Shoal-Route, X-Shoal-Swarm, X-Shoal-Warning, X-Request-Id, Request-Id, Server-Timing, Retry-After")
	return nil
}

// open guards OpenAI's endpoints with the keys, if there are any. The token, which permits
// more, also opens them, and so does a session of the owner's page.
func (s *server) open(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if r.Method == http.MethodOptions && w.Header().Get("Access-Control-Allow-Origin") != "" {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
			if r.Header.Get("Access-Control-Request-Private-Network") == "true" {
				w.Header().Set("Access-Control-Allow-Private-Network", "true")
			}
			w.Header().Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
			w.Header().Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		if err := s.enter(r); err != nil && !s.inSession(r) {
			return err
		}
		return h(w, r)
	}
}

// own guards shoal's endpoints, which read and write files for the caller: it admits no
// browser, no other machine, and only users who can read the node's directory.
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

// bearer reports whether a request carries the secret, as OpenAI's clients send it or as
// Anthropic's do. It compares in constant time; an empty secret never matches.
func bearer(r *http.Request, secret string) bool {
	want := sha256.Sum256([]byte(secret))
	for _, got := range secrets(r) {
		sum := sha256.Sum256([]byte(got))
		if secret != "" && subtle.ConstantTimeCompare(sum[:], want[:]) == 1 {
			return true
		}
	}
	return false
}

// secrets returns what a request carries as Authorization: Bearer and as X-Api-Key; ""
// where it has none.
func secrets(r *http.Request) [2]string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		token = ""
	}
	return [2]string{strings.TrimSpace(token), strings.TrimSpace(r.Header.Get("X-Api-Key"))}
}
