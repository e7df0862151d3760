package store

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// listenOn serves at an address of this machine, and counts requests.
func listenOn(t *testing.T, host string, h http.HandlerFunc) (where string, asked *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skip(err)
	}
	asked = &atomic.Int64{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		h(w, r)
	}))
	_ = s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, asked
}

// A public source redirects to a port of this machine: no request is made
// there, even though a person named the source. A source that itself lies here
// may do so.
func TestOriginsStayOutside(t *testing.T) {
	inside, asked := listenOn(t, "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("secret")) })
	outside, _ := listenOn(t, "127.0.0.2", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, inside, http.StatusFound) })
	over := newWay(true)
	over.public = func(ip netip.Addr) bool { return ip == netip.MustParseAddr("127.0.0.2") }
	if _, err := openHTTP(t.Context(), outside, over); !errors.Is(err, ErrNear) || !errors.Is(err, ErrSource) {
		t.Errorf("redirected: %v", err)
	}
	if over.wasNear() || asked.Load() > 0 {
		t.Errorf("it was taken for near, or somebody asked (%d)", asked.Load())
	}
	if _, err := openHTTP(t.Context(), inside, newWay(false)); !errors.Is(err, ErrNear) || asked.Load() > 0 {
		t.Errorf("listed: %v, asked %d times", err, asked.Load())
	}
	over = newWay(true)
	if r, err := openHTTP(t.Context(), outside, over); err != nil || !over.wasNear() || asked.Load() != 1 {
		t.Errorf("named by a person: %v, asked %d times", err, asked.Load())
	} else {
		r.Close()
	}
}

// A store remembers of a source whether a person named it as a private one.
func TestOriginsRemembered(t *testing.T) {
	where, _ := listenOn(t, "127.0.0.1", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, tiny) })
	s := open(t, t.TempDir())
	if _, err := s.Add(t.Context(), where+"/m.gguf", AddOptions{Listed: true}); !errors.Is(err, ErrNear) {
		t.Errorf("of a catalogue: %v", err)
	}
	m, err := s.Add(t.Context(), where+"/m.gguf", AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Note("", false, where+"/other.gguf"); err != nil {
		t.Fatal(err)
	}
	for origin, want := range map[string]error{where + "/m.gguf": nil, where + "/other.gguf": ErrNear} {
		transport, redirect := m.Way(origin)
		resp, err := (&http.Client{Transport: transport, CheckRedirect: redirect}).Get(origin)
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", origin, err, want)
		}
		if err == nil {
			resp.Body.Close()
			transport.CloseIdleConnections()
		}
	}
}

func TestOriginsKeepTLS(t *testing.T) {
	plain, asked := listenOn(t, "127.0.0.1", func(http.ResponseWriter, *http.Request) {})
	s := httptest.NewTLSServer(http.RedirectHandler(plain, http.StatusFound))
	t.Cleanup(s.Close)
	cl := s.Client()
	cl.CheckRedirect = followable
	if resp, err := cl.Get(s.URL); err == nil || !strings.Contains(err.Error(), "from https to http") || asked.Load() > 0 {
		t.Errorf("%v, %v", resp, err)
	}
}

// A proxy resolves names itself; literal addresses are checked here.
func TestOriginsByProxy(t *testing.T) {
	w := newWay(false)
	w.proxies["127.0.0.1:3128"] = true
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := w.dial(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, ErrNear) {
		t.Errorf("dialled %v", err)
	}
	w.proxies[l.Addr().String()] = true
	c, err := w.dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := w.proxy(&http.Request{URL: &url.URL{Scheme: "http", Host: "models.example"}}); err != nil {
		t.Errorf("a name: %v", err)
	}
}

func TestPublicAddresses(t *testing.T) {
	for s, want := range map[string]bool{
		"1.1.1.1": true, "2606:4700::1111": true, "::ffff:1.1.1.1": true,
		"127.0.0.1": false, "::1": false, "0.0.0.0": false, "::": false, "10.1.2.3": false, "172.20.0.1": false, "192.168.1.1": false, "100.64.0.1": false,
		"169.254.169.254": false, "fe80::1%eth0": false, "fd00::1": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
		"::ffff:127.0.0.1": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "198.18.0.1": false,
	} {
		if got := isPublic(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
}
