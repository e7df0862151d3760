package network

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// tlsLife is the life of TLS certificates, as in libp2p. A member's own
// certificate, sealed inside, is what ends.
const tlsLife = 100 * 365 * 24 * time.Hour

// options are the transports and the security of a private swarm's host. They
// also apply to the hosts that libp2p makes for AutoNAT, with keys of their own.
func (m *roll) options() libp2p.Option {
	return libp2p.ChainOptions(
		libp2p.Transport(func(key crypto.PrivKey, cm *quicreuse.ConnManager, psk pnet.PSK, gater connmgr.ConnectionGater, rm network.ResourceManager) (transport.Transport, error) {
			template, err := m.template(key)
			if err != nil {
				return nil, err
			}
			if id, err := peer.IDFromPrivateKey(key); err == nil && id == m.self {
				m.sockets = cm
			}
			return libp2pquic.NewTransport(key, cm, psk, gater, rm, libp2pquic.WithTLSIdentityOption(libp2ptls.WithCertTemplate(template)))
		}),
		libp2p.Security(protocol.SwarmTLSID, m.newSecure),
	)
}

// template returns what a TLS certificate for a key is made from. Each needs a
// new one, because libp2p appends to it.
func (m *roll) template(key crypto.PrivKey) (*x509.Certificate, error) {
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	shown := &member.Membership{Certificate: m.swarm.Certificate}
	switch {
	case id != m.self:
		shown, err = m.swarm.Certificate.Vouch(m.key, id)
	case m.swarm.Bridge != nil:
		shown, err = m.swarm.Certificate.BridgeHost(m.key, m.swarm.ID(), id)
	}
	if err != nil {
		return nil, err
	}
	sealed, err := m.swarm.View.Seal(shown)
	if err != nil {
		return nil, err
	}
	var numbers [2]*big.Int // as in libp2p's own certificates
	for i := range numbers {
		if numbers[i], err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: numbers[0], Subject: pkix.Name{SerialNumber: numbers[1].String()},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(tlsLife), SubjectKeyId: sealed,
	}, nil
}

// secure is the security of TCP and relayed connections: libp2p's TLS with the
// check of the membership inside the handshake, so that a refused client gets an
// alert. It has a protocol ID of its own, so an ordinary libp2p node gets no
// further than the negotiation.
type secure struct {
	judge    func(peer.ID, []*x509.Certificate) (enter func(), err error)
	local    peer.ID
	identity *libp2ptls.Identity
	muxers   []string
}

func (m *roll) newSecure(_ libprotocol.ID, key crypto.PrivKey, muxers []upgrader.StreamMuxer) (sec.SecureTransport, error) {
	local, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	template, err := m.template(key)
	if err != nil {
		return nil, err
	}
	s := &secure{judge: m.judge, local: local}
	for _, x := range muxers {
		s.muxers = append(s.muxers, string(x.ID))
	}
	s.identity, err = libp2ptls.NewIdentity(key, libp2ptls.WithCertTemplate(template))
	return s, err
}

// ID implements sec.SecureTransport.
func (s *secure) ID() libprotocol.ID { return protocol.SwarmTLSID }

// SecureInbound implements sec.SecureTransport. Errors are those of TLS and of
// the membership.
func (s *secure) SecureInbound(ctx context.Context, c net.Conn, p peer.ID) (sec.SecureConn, error) {
	return s.handshake(ctx, c, p, tls.Server)
}

// SecureOutbound implements sec.SecureTransport. It returns before the server has
// judged this node; a refusal is the error of the first read. Other errors are
// those of SecureInbound.
func (s *secure) SecureOutbound(ctx context.Context, c net.Conn, p peer.ID) (sec.SecureConn, error) {
	return s.handshake(ctx, c, p, tls.Client)
}

func (s *secure) handshake(ctx context.Context, c net.Conn, p peer.ID, role func(net.Conn, *tls.Config) *tls.Conn) (sec.SecureConn, error) {
	out := &secureConn{local: s.local}
	var enter func()
	conf, keys := s.identity.ConfigForPeer(p)
	conf.NextProtos = append(append([]string(nil), s.muxers...), conf.NextProtos...)
	conf.VerifyConnection = func(state tls.ConnectionState) (err error) {
		if out.key = <-keys; out.key == nil { // libp2p has verified the certificate before
			return member.ErrMissing
		}
		if out.remote, err = peer.IDFromPublicKey(out.key); err != nil {
			return err
		}
		enter, err = s.judge(out.remote, state.PeerCertificates)
		return err
	}
	out.Conn = role(c, conf)
	if err := out.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	enter() // only now has the peer signed with the certificate's key
	return out, nil
}

// secureConn is a connection with a member.
type secureConn struct {
	*tls.Conn
	local, remote peer.ID
	key           crypto.PubKey
}

func (c *secureConn) LocalPeer() peer.ID             { return c.local }
func (c *secureConn) RemotePeer() peer.ID            { return c.remote }
func (c *secureConn) RemotePublicKey() crypto.PubKey { return c.key }

// ConnState says which multiplexer TLS has negotiated, which saves a round trip.
func (c *secureConn) ConnState() network.ConnectionState {
	muxer := c.ConnectionState().NegotiatedProtocol
	if muxer == "libp2p" { // it means none
		muxer = ""
	}
	return network.ConnectionState{StreamMultiplexer: libprotocol.ID(muxer), UsedEarlyMuxerNegotiation: muxer != ""}
}
