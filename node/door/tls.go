package door

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
)

// TLS is how the API's connections from other machines are encrypted. The zero value: not
// at all.
type TLS struct {
	On        bool
	Cert, Key string   // files, in PEM's form; "": a self-signed certificate that is kept in the home
	Names     []string // host names for the latter, besides this machine's own
}

const (
	certLife   = 397 * 24 * time.Hour // the longest that all browsers take
	renewAt    = 30 * 24 * time.Hour  // before the end
	maxNames   = 64                   // of a certificate, and as many addresses
	sniffTime  = 10 * time.Second     // for a connection's first byte
	lookEvery  = time.Minute          // whether the operator's files have changed
	handshake  = 0x16                 // the first byte of TLS
	backlogged = 16                   // connections that are ready to be accepted
)

// keeper holds a certificate, and replaces it in time. It is safe for concurrent use.
type keeper struct {
	conf TLS
	path string // of the self-signed one
	log  *slog.Logger

	mu      sync.Mutex
	cert    *tls.Certificate
	looked  time.Time // at the operator's files
	changed time.Time // when the newer of these was written
}

// newKeeper reads or makes a certificate for the addresses of a listener.
func newKeeper(conf TLS, dir home.Home, at net.Addr, log *slog.Logger) (*keeper, error) {
	k := &keeper{conf: conf, path: dir.TLS(), log: log}
	if (conf.Cert == "") != (conf.Key == "") {
		return nil, errors.New("a certificate needs its key, and a key its certificate: name both files")
	}
	if conf.Cert != "" {
		return k, k.read(time.Now())
	}
	return k, k.ensure(addressesOf(at), time.Now())
}

// certificate returns the certificate for a handshake.
func (k *keeper) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	var err error
	if k.conf.Cert != "" {
		if now.Sub(k.looked) >= lookEvery {
			err = k.read(now)
		}
	} else if ips := addressesOf(hello.Conn.LocalAddr()); !k.serves(ips, now) {
		err = k.ensure(ips, now)
	}
	if err != nil { // the earlier one is better than none
		k.log.Warn("the certificate of the API cannot be renewed", "error", err)
	}
	return k.cert, nil
}

// fingerprint returns the SHA-256 of the certificate, as browsers show it.
func (k *keeper) fingerprint() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Fingerprint(k.cert.Certificate[0])
}

// Fingerprint returns the SHA-256 of a certificate in DER's form, as browsers show it.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

// read reads the operator's files if they have changed.
func (k *keeper) read(now time.Time) error {
	k.looked = now
	var changed time.Time
	for _, path := range []string{k.conf.Cert, k.conf.Key} {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("the certificate of the API: %w", err)
		}
		if info.ModTime().After(changed) {
			changed = info.ModTime()
		}
	}
	if k.cert != nil && changed.Equal(k.changed) {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(k.conf.Cert, k.conf.Key)
	if err != nil {
		return fmt.Errorf("the certificate of the API in %s and %s: %w", k.conf.Cert, k.conf.Key, err)
	}
	k.cert, k.changed = &cert, changed
	return nil
}

// serves reports whether the self-signed certificate is for these addresses and all
// names, and will not end soon.
func (k *keeper) serves(ips []net.IP, now time.Time) bool {
	if k.cert == nil || k.cert.Leaf.NotAfter.Sub(now) < renewAt || now.Before(k.cert.Leaf.NotBefore) {
		return false
	}
	has := func(name string) bool { return k.cert.Leaf.VerifyHostname(name) == nil }
	return !slices.ContainsFunc(k.names(), func(n string) bool { return !has(n) }) &&
		!slices.ContainsFunc(ips, func(ip net.IP) bool { return !has(ip.String()) })
}

// names returns the host names of the self-signed certificate.
func (k *keeper) names() []string {
	list := []string{"localhost"}
	if host, err := os.Hostname(); err == nil {
		list = append(list, host)
		if !strings.Contains(host, ".") {
			list = append(list, host+".local")
		}
	}
	list = append(list, k.conf.Names...)
	list = slices.DeleteFunc(list, func(n string) bool { return !isName(n) })
	return list[:min(len(list), maxNames)]
}

// isName reports whether a certificate can be for a name.
func isName(s string) bool {
	return s != "" && len(s) < 254 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-')
	})
}

// ensure takes the certificate from the home if it serves, or else makes one, with the
// key of the earlier one and for the addresses of that, too.
func (k *keeper) ensure(ips []net.IP, now time.Time) error {
	cert, err := readOwn(k.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn("the certificate in the home is replaced", "error", err)
	}
	if err == nil {
		k.cert = cert
		if k.serves(ips, now) {
			return nil
		}
	}
	made, raw, err := makeOwn(cert, k.names(), ips, now)
	if err != nil {
		return fmt.Errorf("making a certificate for the API: %w", err)
	}
	k.cert = made
	if err := files.Replace(k.path, raw, 0o600); err != nil {
		return fmt.Errorf("keeping the certificate of the API: %w", err)
	}
	return nil
}

// readOwn reads a self-signed certificate and its key from one file.
func readOwn(path string) (*tls.Certificate, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(raw, raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if _, ok := cert.PrivateKey.(*ecdsa.PrivateKey); !ok {
		return nil, fmt.Errorf("%s: its key is of another kind", path)
	}
	return &cert, nil
}

// makeOwn makes a self-signed certificate, and the file to keep it in.
func makeOwn(old *tls.Certificate, names []string, ips []net.IP, now time.Time) (*tls.Certificate, []byte, error) {
	var key crypto.Signer
	if old != nil {
		key = old.PrivateKey.(crypto.Signer)
		for _, ip := range old.Leaf.IPAddresses {
			if !slices.ContainsFunc(ips, ip.Equal) && len(ips) < maxNames {
				ips = append(ips, ip)
			}
		}
	} else {
		made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		key = made
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "shoal"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certLife - time.Hour), // clocks differ
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		DNSNames: names, IPAddresses: ips,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	var file bytes.Buffer
	_ = pem.Encode(&file, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a buffer takes all
	_ = pem.Encode(&file, &pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	cert, err := tls.X509KeyPair(file.Bytes(), file.Bytes())
	return &cert, file.Bytes(), err
}

// addressesOf returns the addresses of this machine that a listener or a connection has:
// loopback's, and its own or, if that is unspecified, those of all interfaces.
func addressesOf(at net.Addr) []net.IP {
	list := []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	add := func(ip net.IP) {
		if ip != nil && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsMulticast() && len(list) < maxNames {
			list = append(list, ip)
		}
	}
	tcp, ok := at.(*net.TCPAddr)
	if !ok {
		return list
	}
	if !tcp.IP.IsUnspecified() {
		add(tcp.IP)
		return list
	}
	addrs, _ := net.InterfaceAddrs() // without them the certificate is for loopback until somebody comes
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			add(n.IP)
		}
	}
	return list
}

// encrypt has a listener take TLS, too, if that is on, and cfg.Handler demand it of others.
func encrypt(cfg *Config, word *Word, l net.Listener) (net.Listener, error) {
	if !cfg.TLS.On {
		return l, nil
	}
	k, err := newKeeper(cfg.TLS, cfg.Home, l.Addr(), cfg.Log)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	word.Fingerprint = k.fingerprint()
	cfg.Handler = onlyTLS(cfg.Handler)
	return split(l, k), nil
}

// pages returns the addresses of the page: api's on this machine, and one for each address
// at which others reach the listener.
func pages(api string, at net.Addr, encrypted bool) []string {
	scheme := "http://"
	if encrypted {
		scheme = "https://"
	}
	var list []string
	if a, err := netip.ParseAddrPort(api); err == nil && a.Addr().IsLoopback() {
		list = append(list, "http://"+api+"/")
	}
	_, port, err := net.SplitHostPort(at.String())
	if err != nil {
		return list
	}
	for _, ip := range addressesOf(at) {
		if !ip.IsLoopback() {
			list = append(list, scheme+net.JoinHostPort(ip.String(), port)+"/")
		}
	}
	return list
}

// both is a listener that takes TLS and plain connections at one address, and tells them
// apart by their first byte: programs of this machine go on as before, while others have
// to encrypt (see onlyTLS).
type both struct {
	net.Listener
	conf  *tls.Config
	ready chan net.Conn
	ended chan struct{}
	err   error // of the listener; set before ended is closed
}

// split returns the listener, which serves k's certificate.
func split(l net.Listener, k *keeper) net.Listener {
	b := &both{
		Listener: l, ready: make(chan net.Conn, backlogged), ended: make(chan struct{}),
		conf: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: k.certificate, NextProtos: []string{"http/1.1"}},
	}
	go b.run()
	return b
}

func (b *both) run() {
	defer close(b.ended)
	for {
		c, err := b.Listener.Accept()
		var slow interface{ Temporary() bool }
		switch {
		case err == nil:
			go b.sniff(c)
		case errors.As(err, &slow) && slow.Temporary(): // such as too many open files
			time.Sleep(100 * time.Millisecond)
		default:
			b.err = err
			return
		}
	}
}

// sniff waits for a connection's first byte and passes it on as what it is.
func (b *both) sniff(c net.Conn) {
	first := make([]byte, 1)
	_ = c.SetReadDeadline(time.Now().Add(sniffTime))
	if _, err := c.Read(first); err != nil {
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	var whole net.Conn = &begun{Conn: c, first: first}
	if first[0] == handshake {
		whole = tls.Server(whole, b.conf)
	}
	select {
	case b.ready <- whole:
	case <-b.ended:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (b *both) Accept() (net.Conn, error) {
	select {
	case c := <-b.ready:
		return c, nil
	case <-b.ended:
		return nil, b.err
	}
}

// begun is a connection whose first byte has been read.
type begun struct {
	net.Conn
	first []byte
}

func (c *begun) Read(p []byte) (int, error) {
	if len(c.first) > 0 && len(p) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// onlyTLS sends browsers of other machines that come without TLS to the address with it,
// and refuses their programs, which would have sent a key in the clear.
func onlyTLS(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		_, socket := r.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr)
		switch {
		case r.TLS != nil, socket, err == nil && from.Addr().Unmap().IsLoopback():
			h.ServeHTTP(w, r)
		case r.Method == http.MethodGet && r.URL.Path == "/" && !strings.ContainsAny(r.Host, "/\\@"):
			http.Redirect(w, r, "https://"+r.Host+"/", http.StatusTemporaryRedirect)
		default:
			http.Error(w, "this node answers other machines only over TLS: write https:// instead of http://", http.StatusForbidden)
		}
	})
}
