package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An origin, and any server that it redirects to, could use this node to send
// requests in its place: to this machine's own ports and to networks that only
// this machine reaches. So an origin is read from public addresses only, unless
// a person named that origin and it lies elsewhere. What counts is the address
// that is dialled, whatever a name resolved to before.

// ErrNear is wrapped when an origin leads to this machine or to a private
// network.
var ErrNear = errors.New("it leads to an address of this machine or of a private network")

// way is how one origin is reached.
type way struct {
	given  bool                  // a person named the origin: it may lie in a private network
	public func(netip.Addr) bool // reports whether an address is a public one

	mu      sync.Mutex
	placed  bool            // the origin's own address is known: the first that was dialled
	near    bool            // that address is not public
	proxies map[string]bool // the operator's proxies, as host:port
}

func newWay(given bool) *way {
	return &way{given: given, public: isPublic, proxies: map[string]bool{}}
}

// Way returns how a remembered origin is reached: the transport for
// connections, and the check of redirects.
func (m *Model) Way(origin string) (*http.Transport, func(*http.Request, []*http.Request) error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return newWay(m.rec.isNear(origin) || ofEndpoint(origin)).transport(), followable
}

// ofEndpoint reports whether a URL is on the hub that the operator's
// environment names.
func ofEndpoint(where string) bool {
	return os.Getenv("HF_ENDPOINT") != "" && strings.HasPrefix(where, hfEndpoint()+"/")
}

// transport returns a transport for this way alone, since the way remembers
// where its origin lies.
func (w *way) transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy, t.DialContext = w.proxy, w.dial
	return t
}

// proxy returns the operator's proxy, from the environment. A proxy resolves
// names itself, so only for a literal address can be checked here where it
// leads.
func (w *way) proxy(r *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(r)
	if u == nil || err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(r.URL.Hostname()); err == nil {
		if err := w.allow(ip); err != nil {
			return nil, err
		}
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	if port == "" {
		port = "80"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.proxies[net.JoinHostPort(u.Hostname(), port)] = true
	return u, nil
}

func (w *way) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second}
	w.mu.Lock()
	proxy := w.proxies[addr]
	w.mu.Unlock()
	if !proxy {
		d.Control = func(_, addr string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return err
			}
			return w.allow(to.Addr())
		}
	}
	return d.DialContext(ctx, network, addr)
}

// allow returns an error for an address that must not be dialled.
func (w *way) allow(ip netip.Addr) error {
	public := w.public(ip)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.placed {
		w.placed, w.near = true, w.given && !public
	}
	if public || w.near {
		return nil
	}
	return ErrNear
}

// wasNear reports whether the origin turned out to lie in a private network.
func (w *way) wasNear() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.near
}

// followable refuses more than ten redirects, and a redirect from https to
// http.
func followable(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return permanent{errors.New("redirected ten times")}
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return permanent{fmt.Errorf("it redirects from https to %s", req.URL.Scheme)}
	}
	return nil
}

// special are networks that not everybody can reach, besides those that package
// netip knows, and those whose addresses are IPv4 addresses in another form.
var special = func() (out []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "2002::/16", "fec0::/10",
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}()

func isPublic(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if !ip.IsGlobalUnicast() || ip.IsPrivate() {
		return false
	}
	for _, p := range special {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}
