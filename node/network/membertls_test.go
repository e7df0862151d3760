package network

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"net"
	"testing"
	"time"

	xrate "golang.org/x/time/rate"

	"github.com/shoalnet/shoal/protocol/member"
)

// Whoever has seen a member's TLS certificate can show it, but cannot sign with its key.
// Nothing is noted of the member then, whichever end shows it.
func TestACopiedTLSCertificateCountsForNothing(t *testing.T) {
	t.Parallel()
	s := newTestSwarm(t)
	node := func() (*roll, *secure) {
		key := newKey(t)
		m, err := newRoll(Config{Key: key, Log: slog.New(slog.DiscardHandler), Swarm: s.of(s.certify(t, key, member.Use, time.Hour))}, xrate.NewLimiter(10, 10))
		if err != nil {
			t.Fatal(err)
		}
		sec, err := m.newSecure("", key, nil)
		if err != nil {
			t.Fatal(err)
		}
		return m, sec.(*secure)
	}
	victim, shown := node()
	conf, _ := shown.identity.ConfigForPeer("")
	right := conf.Certificates[0]
	_, wrong, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cert tls.Certificate
		in   bool
	}{
		"copied":      {tls.Certificate{Certificate: right.Certificate, PrivateKey: wrong}, false},
		"the owner's": {right, true},
	} {
		for _, inbound := range []bool{true, false} {
			m, sec := node()
			here, there := net.Pipe()
			theirs := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"libp2p"}, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.cert}, ClientAuth: tls.RequireAnyClientCert} //nolint:gosec // as libp2p's own
			go func() {
				conn := tls.Client(there, theirs)
				if !inbound {
					conn = tls.Server(there, theirs)
				}
				_ = conn.HandshakeContext(t.Context())
				_, _ = conn.Read(make([]byte, 1)) // the other end's last words
				_ = there.Close()
			}()
			var err error
			if inbound {
				_, err = sec.SecureInbound(t.Context(), here, "")
			} else {
				_, err = sec.SecureOutbound(t.Context(), here, victim.self)
			}
			if (err == nil) != c.in || (m.certificate(victim.self) != nil) != c.in {
				t.Errorf("%s, inbound %v: %v; noted: %v", name, inbound, err, m.certificate(victim.self) != nil)
			}
			_ = here.Close()
		}
	}
}
