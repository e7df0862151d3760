package api

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/remedy"
)

// The page may change the node if its owner sits in front of it. That is known in one of
// two ways. Either the request comes over loopback from a socket of the user who runs the
// node, which the kernel says and no program can forge; or it carries the secret of an
// owner's session. A session begins with a code that only the token opens, and that the
// owner carries to the browser in the fragment of a link, which no browser sends on.
//
// With an API key, others may use this machine's loopback too, such as a proxy that the
// owner runs for them, so the user behind the socket proves nothing then.

const (
	codeLife    = 10 * time.Minute
	maxCodes    = 8 // unused; the oldest is dropped
	maxSessions = 64
	ownerHeader = "X-Shoal-Owner"
)

// forOwner lists the endpoints for programs with the token that the owner's page may use,
// too, besides those that are given byOwner. The others read or write files at paths that
// the caller names, or are only for programs.
var forOwner = map[string]bool{
	"GET /shoal/v1/status":              true,
	"GET /shoal/v1/peers":               true,
	"GET /shoal/v1/catalog":             true,
	"POST /shoal/v1/models/pull":        true,
	"DELETE /shoal/v1/models/{name...}": true,
	"POST /shoal/v1/models/pin":         true,
}

// owners holds the codes and sessions of a node's owner. It is safe for concurrent use.
type owners struct {
	mu       sync.Mutex
	codes    []expiring // oldest first
	sessions []expiring // the least recently begun first
}

// expiring is the hash of a secret, so that none lies in memory longer than needed.
type expiring struct {
	sum   [sha256.Size]byte
	until time.Time // zero: for as long as the node runs
}

// code returns a new code, which opens one session within codeLife.
func (o *owners) code(now time.Time) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.codes = slices.DeleteFunc(o.codes, func(c expiring) bool { return now.After(c.until) })
	return remember(&o.codes, maxCodes, now.Add(codeLife))
}

// open takes a code, and returns the secret of a new session; "" if the code is unknown,
// used or too old.
func (o *owners) open(code string, now time.Time) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := find(o.codes, code)
	if i < 0 || now.After(o.codes[i].until) {
		return ""
	}
	o.codes = slices.Delete(o.codes, i, i+1)
	return remember(&o.sessions, maxSessions, time.Time{})
}

// has reports whether a secret is that of a session.
func (o *owners) has(secret string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return find(o.sessions, secret) >= 0
}

// close ends a session.
func (o *owners) close(secret string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := find(o.sessions, secret); i >= 0 {
		o.sessions = slices.Delete(o.sessions, i, i+1)
	}
}

// remember adds a new secret to a list of at most most entries, and returns it.
func remember(list *[]expiring, most int, until time.Time) string {
	b := make([]byte, 24)
	_, _ = rand.Read(b) // it never fails
	secret := hex.EncodeToString(b)
	if len(*list) >= most {
		*list = slices.Delete(*list, 0, 1)
	}
	*list = append(*list, expiring{sha256.Sum256([]byte(secret)), until})
	return secret
}

// find returns where a secret is in a list, or -1, in a time that depends on neither.
func find(list []expiring, secret string) int {
	at, sum := -1, sha256.Sum256([]byte(secret))
	for i := range list {
		if subtle.ConstantTimeCompare(list[i].sum[:], sum[:]) == 1 {
			at = i
		}
	}
	return at
}

// ownOrPage guards one of shoal's endpoints: all admit programs with the token, and those
// of forOwner also the owner's page.
func (s *server) ownOrPage(pattern string, h handler) handler {
	if forOwner[pattern] {
		return s.byOwner(h)
	}
	return s.own(h)
}

// ownerRoutes adds the endpoints by which a page becomes the owner's.
func (s *server) ownerRoutes() {
	s.mux.HandleFunc("POST /shoal/v1/owner/link", s.serve(s.own(s.ownerLink)))
	s.mux.HandleFunc("POST /shoal/v1/owner/session", s.serve(s.ownerOpen))
	s.mux.HandleFunc("DELETE /shoal/v1/owner/session", s.serve(s.ownerClose))
	s.mux.HandleFunc("GET /shoal/v1/owner", s.serve(s.page(s.ownerShow)))
	s.mux.HandleFunc("POST /shoal/v1/qr", s.serve(s.page(s.qr)))
}

// byOwner guards what a program with the token may do, and the page of the owner.
func (s *server) byOwner(h handler) handler {
	own := s.own(h)
	return func(w http.ResponseWriter, r *http.Request) error {
		if !fromPage(r) {
			return own(w, r)
		}
		if err := s.samePage(w, r); err != nil {
			return err
		}
		if s.owner(r) == "" {
			err := Errorf(Forbidden, "only the owner of this node may do this from the page")
			return remedy.For(err, remedy.OwnPage)
		}
		return h(w, r)
	}
}

// fromPage reports whether a request comes from a page. Browsers omit Sec-Fetch-Site on
// insecure origins and Origin on a GET, but the page sends its session's secret.
func fromPage(r *http.Request) bool {
	return r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "" || r.Header.Get(ownerHeader) != ""
}

// samePage returns an error unless a browser's request comes from the node's own page.
// That the host's name is this machine's has been checked before.
func (s *server) samePage(w http.ResponseWriter, r *http.Request) error {
	site := r.Header.Get("Sec-Fetch-Site")
	if site != "" && site != "same-origin" || w.Header().Get("Access-Control-Allow-Origin") != "" {
		return Errorf(Forbidden, "this endpoint is for the node's own page")
	}
	return nil
}

// owner returns how a request from the page is known to be the owner's: "session",
// "user", or "" if it is not.
func (s *server) owner(r *http.Request) string {
	if s.inSession(r) {
		return "session"
	}
	if !s.keyed() && r.Header.Get("Sec-Fetch-Site") == "same-origin" && direct(r) && ownSocket(r) {
		return "user"
	}
	return ""
}

// keyed reports whether callers need a key.
func (s *server) keyed() bool {
	if s.Keys == nil {
		return s.Access().Key != ""
	}
	return s.Keys.Any()
}

// holder reports whether a request carries a key. It does not count as a use of the key:
// the page asks every second.
func (s *server) holder(r *http.Request) bool {
	if s.Keys == nil {
		return bearer(r, s.Access().Key)
	}
	given := secrets(r)
	return slices.ContainsFunc(given[:], func(secret string) bool { return secret != "" && s.Keys.Caller(secret) != nil })
}

// inSession reports whether a request carries a session's secret over a connection on
// which nobody can have read it.
func (s *server) inSession(r *http.Request) bool {
	secret := r.Header.Get(ownerHeader)
	return secret != "" && private(r) && s.owners.has(secret)
}

// private reports whether nobody can read along: TLS, or no network in between.
func private(r *http.Request) bool { return r.TLS != nil || fromHere(r) }

// direct reports whether a request was sent to loopback by name, and no proxy says that it
// passes it on for somebody else.
func direct(r *http.Request) bool {
	for _, name := range []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	host := hostname(r.Host)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// ownSocket reports whether the other end of a request's connection is a socket of this
// machine that belongs to the user who runs the node.
func ownSocket(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || local == nil || !from.Addr().Unmap().IsLoopback() {
		return false
	}
	return sameUser(from, local.AddrPort())
}

// ownerState is what the page is told of its rights.
type ownerState struct {
	Owner   bool `json:"owner"`
	Session bool `json:"session,omitempty"` // it owes them to a session
	Private bool `json:"private"`           // nobody can read along on this connection
}

// ownerLink answers POST /shoal/v1/owner/link, for programs with the token.
func (s *server) ownerLink(w http.ResponseWriter, r *http.Request) error {
	if _, err := readBody(w, r); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, OwnerCode{Code: s.owners.code(time.Now()), Expires: codeLife.Seconds()})
	return nil
}

// ownerOpen answers POST /shoal/v1/owner/session: it exchanges a code for a session.
func (s *server) ownerOpen(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Code string `json:"code"`
	}
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if err := s.samePage(w, r); err != nil {
		return err
	}
	if !private(r) {
		return Errorf(Forbidden, "over plain HTTP anyone on the way could take over this node: use TLS, or open the page on the node's own machine")
	}
	secret := s.owners.open(req.Code, time.Now())
	if secret == "" {
		err := Errorf(Forbidden, "this link was used before, or is older than %d minutes: ask for a new one", int(codeLife.Minutes()))
		return remedy.For(err, remedy.OwnPage)
	}
	writeJSON(w, http.StatusOK, struct {
		Session string `json:"session"`
	}{secret})
	return nil
}

// ownerClose answers DELETE /shoal/v1/owner/session: it ends the caller's session.
func (s *server) ownerClose(w http.ResponseWriter, r *http.Request) error {
	if err := s.samePage(w, r); err != nil {
		return err
	}
	s.owners.close(r.Header.Get(ownerHeader))
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// ownerShow answers GET /shoal/v1/owner: whether the page may change the node.
func (s *server) ownerShow(w http.ResponseWriter, r *http.Request) error {
	how := s.owner(r)
	writeJSON(w, http.StatusOK, ownerState{Owner: how != "", Session: how == "session", Private: private(r)})
	return nil
}
