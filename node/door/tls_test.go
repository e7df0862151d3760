package door

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/node/home"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func keep(t *testing.T, dir string, names ...string) *keeper {
	t.Helper()
	k, err := newKeeper(TLS{On: true, Names: names}, home.Home(dir), &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestCertificateKept: the certificate outlives restarts, and is made anew with the same
// key for a new name, a new address, and before it ends.
func TestCertificateKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		first := keep(t, dir, "box.lan", "*", "no name")
		leaf := first.cert.Leaf
		for _, name := range []string{"localhost", "127.0.0.1", "::1", "192.0.2.1", "box.lan"} {
			if err := leaf.VerifyHostname(name); err != nil {
				t.Error(err)
			}
		}
		if slices.Contains(leaf.DNSNames, "*") || slices.Contains(leaf.DNSNames, "no name") || leaf.PublicKeyAlgorithm != x509.ECDSA || leaf.IsCA {
			t.Errorf("%v, %v, a CA: %v", leaf.DNSNames, leaf.PublicKeyAlgorithm, leaf.IsCA)
		}
		if info, err := os.Stat(filepath.Join(dir, "tls.pem")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		if keep(t, dir, "box.lan").fingerprint() != first.fingerprint() {
			t.Error("a restart makes another certificate")
		}
		key := func(k *keeper) []byte { return k.cert.Leaf.RawSubjectPublicKeyInfo }
		named := keep(t, dir, "other.lan")
		if named.fingerprint() == first.fingerprint() || named.cert.Leaf.VerifyHostname("other.lan") != nil || !bytes.Equal(key(named), key(first)) {
			t.Error("a new name is not taken in, or the key is another")
		}
		if err := named.ensure([]net.IP{net.IPv4(192, 0, 2, 9)}, time.Now()); err != nil || named.cert.Leaf.VerifyHostname("192.0.2.9") != nil || named.cert.Leaf.VerifyHostname("192.0.2.1") != nil {
			t.Errorf("a new address: %v, %v", err, named.cert.Leaf.IPAddresses)
		}
		before := named.fingerprint()
		hello := &tls.ClientHelloInfo{Conn: &local{addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9)}}}
		time.Sleep(certLife - renewAt - 2*time.Hour)
		if _, err := named.certificate(hello); err != nil || named.fingerprint() != before {
			t.Errorf("it is renewed too early: %v", err)
		}
		time.Sleep(3 * time.Hour)
		if _, err := named.certificate(hello); err != nil || named.fingerprint() == before || time.Until(named.cert.Leaf.NotAfter) < certLife-2*time.Hour {
			t.Errorf("it is not renewed: %v, ends %s", err, named.cert.Leaf.NotAfter)
		}
	})
}

// local is a connection of which only its address matters.
type local struct {
	net.Conn
	addr net.Addr
}

func (l *local) LocalAddr() net.Addr { return l.addr }

// TestCertificateDamaged: a file that is none is replaced.
func TestCertificateDamaged(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tls.pem"), []byte("-----BEGIN nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := keep(t, dir)
	if again := keep(t, dir); again.fingerprint() != k.fingerprint() {
		t.Error("what replaced it was not kept")
	}
}

// TestOwnCertificate: the operator's files are used, read again when they change, and
// the earlier ones kept while they are unusable.
func TestOwnCertificate(t *testing.T) {
	dir := t.TempDir()
	made := keep(t, t.TempDir(), "one.lan")
	raw, err := os.ReadFile(made.path)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "cert.pem")
	write := func(raw []byte, age time.Duration) {
		t.Helper()
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	write(raw, 3*time.Hour)
	conf := TLS{On: true, Cert: file, Key: file}
	k, err := newKeeper(conf, home.Home(dir), nil, quiet())
	if err != nil || k.fingerprint() != made.fingerprint() {
		t.Fatal(err)
	}
	write([]byte("half of it"), 2*time.Hour)
	if err := k.read(time.Now()); err == nil || k.fingerprint() != made.fingerprint() {
		t.Errorf("a damaged file: %v", err)
	}
	other := keep(t, t.TempDir(), "two.lan")
	if raw, err = os.ReadFile(other.path); err != nil {
		t.Fatal(err)
	}
	write(raw, time.Hour)
	if err := k.read(time.Now()); err != nil || k.fingerprint() != other.fingerprint() {
		t.Errorf("a new file: %v", err)
	}
	for _, conf := range []TLS{{On: true, Cert: file}, {On: true, Key: file}, {On: true, Cert: file + "x", Key: file}} {
		if _, err := newKeeper(conf, home.Home(dir), nil, quiet()); err == nil {
			t.Errorf("%+v is taken", conf)
		}
	}
}

// TestBothAtOnce: at one address TLS and, from this machine, plain HTTP are answered; who
// says nothing holds up nobody.
func TestBothAtOnce(t *testing.T) {
	dir := t.TempDir()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, map[bool]string{true: "secret", false: "plain"}[r.TLS != nil])
	})
	word, stop, err := Open(Config{Home: home.Home(dir), Address: "127.0.0.1:0", Handler: handler, Log: quiet(), TLS: TLS{On: true}}, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	silent, err := net.Dial("tcp", word.API)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var seen string
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		seen = Fingerprint(cs.PeerCertificates[0].Raw)
		return cs.PeerCertificates[0].VerifyHostname("127.0.0.1")
	}}}}
	for scheme, want := range map[string]string{"http": "plain", "https": "secret"} {
		resp, err := client.Get(scheme + "://" + word.API + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(body) != want {
			t.Errorf("%s: %q, %v", scheme, body, err)
		}
	}
	if seen != word.Fingerprint || len(strings.Split(seen, ":")) != 32 {
		t.Errorf("served %s, told %s", seen, word.Fingerprint)
	}
	if read, err := ReadWord(dir); err != nil || read.Fingerprint != seen || !slices.Equal(read.URLs, []string{"http://" + word.API + "/"}) {
		t.Errorf("%+v, %v", read, err)
	}
}

// TestOnlyTLS: others than this machine's programs must come over TLS.
func TestOnlyTLS(t *testing.T) {
	h := onlyTLS(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for _, test := range []struct {
		from, method, path string
		tls                bool
		status             int
	}{
		{"192.0.2.7:9", "GET", "/", true, 204},
		{"127.0.0.1:9", "POST", "/v1/chat/completions", false, 204},
		{"[::ffff:127.0.0.1]:9", "GET", "/", false, 204},
		{"192.0.2.7:9", "GET", "/", false, 307},
		{"192.0.2.7:9", "GET", "/v1/models", false, 403},
		{"192.0.2.7:9", "POST", "/", false, 403},
		{"@", "GET", "/", false, 307},
	} {
		r, err := http.NewRequest(test.method, "http://192.0.2.1:11500"+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = test.from
		if test.tls {
			r.TLS = &tls.ConnectionState{}
		}
		w := &answer{header: http.Header{}}
		h.ServeHTTP(w, r)
		if w.status != test.status || (w.status == 307) != (w.header.Get("Location") == "https://192.0.2.1:11500/") {
			t.Errorf("%+v: %d, %q", test, w.status, w.header.Get("Location"))
		}
	}
}

type answer struct {
	header http.Header
	status int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(b []byte) (int, error) { return len(b), nil }
func (a *answer) WriteHeader(status int)      { a.status = status }

func TestPages(t *testing.T) {
	if list := pages("127.0.0.1:1", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, true); !slices.Equal(list, []string{"http://127.0.0.1:1/"}) {
		t.Error(list)
	}
	if list := pages("192.0.2.1:1", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, true); !slices.Equal(list, []string{"https://192.0.2.1:1/"}) {
		t.Error(list)
	}
	if list := pages("[2001:db8::1]:1", &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1}, false); !slices.Equal(list, []string{"http://[2001:db8::1]:1/"}) {
		t.Error(list)
	}
}

// TestDisconnect: that a client has gone is noticed while it is answered, encrypted or
// not.
func TestDisconnect(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun, gone := make(chan struct{}), make(chan struct{})
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		begun <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})}
	go func() { _ = srv.Serve(split(l, keep(t, t.TempDir()))) }()
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, scheme := range []string{"http", "https"} {
		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+l.Addr().String(), strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			resp, err := client.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			ended <- err
		}()
		<-begun
		leave()
		<-gone // or the test never ends
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}
