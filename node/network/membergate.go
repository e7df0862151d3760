package network

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/node/network/outer"
	"github.com/shoalnet/shoal/protocol/member"
)

const (
	settling   = 100 * time.Millisecond // libp2p adds a connection to its own tables within this time of accepting it
	checkEvery = time.Minute            // for expired certificates, at least: timers stand still while a machine sleeps
	unused     = time.Minute            // a membership that no connection uses is forgotten after this time
)

// roll is what a node of a private swarm knows of the others: the membership
// that each peer has shown, and its connections. It decides at each handshake
// who gets in, and closes connections of peers that are no longer members. It is
// safe for concurrent use.
//
// A peer is judged by the certificate that it showed last. So a member that has
// renewed its certificate keeps its older connections.
type roll struct {
	swarm Swarm
	key   crypto.PrivKey
	self  peer.ID
	log   *slog.Logger
	lines *rate.Limiter // of the log that strangers cause
	now   func() time.Time
	wake  chan struct{} // capacity 1: a certificate has come that ends sooner than all others

	sockets *quicreuse.ConnManager // of the host, once it is made

	mu     sync.Mutex
	lists  member.Lists
	other  member.Lists         // of the other swarm of a bridge
	record *member.BridgeRecord // nil: there is no bridge
	known  map[peer.ID]*shownMember
	next   time.Time // when the first certificate ends
	swept  time.Time
}

// shownMember is a peer that has shown a membership.
type shownMember struct {
	*member.Membership
	shown time.Time // last
	conns []acceptedConn
}

type acceptedConn struct {
	network.Conn
	at time.Time
}

func newRoll(cfg Config, lines *rate.Limiter) (*roll, error) {
	self, err := peer.IDFromPrivateKey(cfg.Key)
	if err != nil {
		return nil, err
	}
	m := &roll{
		swarm: *cfg.Swarm, key: cfg.Key, self: self, log: cfg.Log, lines: lines, now: time.Now, wake: make(chan struct{}, 1),
		lists: cfg.Swarm.Lists, known: map[peer.ID]*shownMember{},
	}
	if b := cfg.Swarm.Bridge; b != nil {
		m.key, m.record, m.other = b.Member, b.Record, b.Other
	}
	if err := m.standing(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMembership, err)
	}
	return m, nil
}

func (m *roll) standing() error { return m.terms().own(m.now()) }

func (m *roll) revoked() member.Lists { return m.terms().lists }

// terms returns what decides who gets in now.
func (m *roll) terms() terms {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.termsLocked()
}

// termsLocked is terms with mu held.
func (m *roll) termsLocked() terms { return terms{&m.swarm, m.self, m.lists, m.other, m.record} }

func (m *roll) certificate(p peer.ID) *member.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.known[p]; a != nil {
		return a.Certificate
	}
	return nil
}

// roles returns the roles of a peer. The keys with which a member's AutoNAT
// dials back have none.
func (m *roll) roles(p peer.ID) member.Roles {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.known[p]; a != nil && (a.Vouch == nil || a.Host) {
		return m.termsLocked().roles(a.Certificate)
	}
	return 0
}

var errStale = errors.New("this node's revocation list is too old to let anybody in")

// judge decides whether a peer gets in with a TLS certificate. enter notes its
// membership, and is for when the peer has proven that it has the certificate's key:
// until then it may show another's, and nothing of that must count.
func (m *roll) judge(p peer.ID, chain []*x509.Certificate) (enter func(), err error) {
	shown, err := m.examine(p, chain)
	if err != nil {
		if m.lines.Allow() {
			m.log.Info("a peer was refused: it is not a member of this swarm", "peer", p, "error", err)
		}
		return nil, err
	}
	return func() { m.enter(p, shown) }, nil
}

func (m *roll) examine(p peer.ID, chain []*x509.Certificate) (*member.Membership, error) {
	if len(chain) == 0 {
		return nil, member.ErrMissing
	}
	shown, err := m.swarm.View.Open(chain[0].SubjectKeyId)
	if err != nil {
		return nil, err
	}
	now := m.now()
	t := m.terms()
	if m.swarm.Strict && (t.lists.Stale(now) || t.other.Stale(now)) {
		return nil, errStale
	}
	// This node's own membership counts, too: a node that was revoked has no
	// business with the others.
	if err := t.own(now); err != nil {
		return nil, err
	}
	return shown, t.check(shown, p, now)
}

func (m *roll) enter(p peer.ID, shown *member.Membership) {
	now := m.now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweep(now)
	a := m.known[p]
	if a == nil {
		a = &shownMember{}
		m.known[p] = a
	}
	a.Membership, a.shown = shown, now
	if end := m.termsLocked().ends(shown.Certificate); m.next.IsZero() || end.Before(m.next) {
		m.next = end
		select {
		case m.wake <- struct{}{}:
		default:
		}
	}
}

// sweep forgets closed connections, and peers that have none. Called with mu
// held.
func (m *roll) sweep(now time.Time) {
	if now.Sub(m.swept) < time.Second {
		return
	}
	m.swept = now
	for p, a := range m.known {
		open := a.conns[:0]
		for _, c := range a.conns {
			if !c.IsClosed() {
				open = append(open, c)
			}
		}
		clear(a.conns[len(open):])
		if a.conns = open; len(open) == 0 && now.Sub(a.shown) > unused {
			delete(m.known, p)
		}
	}
}

// track notes a connection, unless its peer is no longer a member.
func (m *roll) track(c network.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.known[c.RemotePeer()]
	if a == nil || m.termsLocked().check(a.Membership, c.RemotePeer(), m.now()) != nil {
		return false
	}
	a.conns = append(a.conns, acceptedConn{c, m.now()})
	return true
}

func (m *roll) install(l member.Lists) (news bool, err error) {
	return m.merge(&m.lists, l, m.swarm.Root)
}

// merge puts newer lists of root's swarm in force; into is lists or other.
func (m *roll) merge(into *member.Lists, l member.Lists, root member.Key) (news bool, err error) {
	m.mu.Lock()
	*into, news, err = into.Merge(l, root, m.now())
	m.mu.Unlock()
	if news {
		m.cut()
	}
	return news, err
}

// cut closes the connections of peers that are no longer members, or all if this
// node is none.
func (m *roll) cut() {
	own := m.standing()
	now := m.now()
	var ended, fresh []network.Conn
	gone := map[peer.ID]error{}
	m.mu.Lock()
	m.next = time.Time{}
	t := m.termsLocked()
	for p, a := range m.known {
		err := t.check(a.Membership, p, now)
		if err == nil && own == nil {
			if end := t.ends(a.Certificate); m.next.IsZero() || end.Before(m.next) {
				m.next = end
			}
			continue
		}
		gone[p] = errors.Join(own, err)
		delete(m.known, p)
		for _, c := range a.conns {
			if now.Sub(c.at) < settling {
				fresh = append(fresh, c.Conn)
			} else {
				ended = append(ended, c.Conn)
			}
		}
	}
	m.mu.Unlock()
	for p, err := range gone {
		m.log.Info("a peer is cut off: it or this node is no longer a member of the swarm", "peer", p, "error", err)
	}
	closeConns(ended)
	if len(fresh) > 0 {
		time.AfterFunc(settling, func() { closeConns(fresh) })
	}
}

// closeConns closes connections in the background, each on its own: on TCP, closing
// waits for as long as ten seconds for a peer that reads nothing.
func closeConns(conns []network.Conn) {
	for _, c := range conns {
		go func() { _ = c.CloseWithError(network.ConnGated) }()
	}
}

// expire closes connections as certificates end, until done is closed.
func (m *roll) expire(done <-chan struct{}) {
	for {
		m.mu.Lock()
		wait := checkEvery
		if now := m.now(); !m.next.IsZero() {
			wait = min(wait, max(m.next.Sub(now), 0))
		}
		m.mu.Unlock()
		select {
		case <-done:
			return
		case <-m.wake:
		case <-time.After(wait):
			m.cut()
		}
	}
}

// memberGate is the gate of a private swarm: which addresses are dialled (gate),
// and who gets in (roll).
type memberGate struct {
	*gate
	roll *roll
}

// InterceptAddrDial dials through no relay that is known to lack the role.
func (g memberGate) InterceptAddrDial(p peer.ID, a multiaddr.Multiaddr) bool {
	relay := relayOf(a)
	if relay != "" && g.roll.certificate(relay) != nil && !g.roll.roles(relay).Has(member.Relay) {
		return false
	}
	return g.gate.InterceptAddrDial(p, a)
}

// InterceptSecured judges QUIC connections, of which it gets the transport's own.
// Those over TCP and relays have been judged in their handshake, by secure.
func (g memberGate) InterceptSecured(_ network.Direction, p peer.ID, c network.ConnMultiaddrs) bool {
	if relay := relayOf(c.RemoteMultiaddr()); relay != "" && !outer.Is(c.RemoteMultiaddr()) && !g.roll.roles(relay).Has(member.Relay) {
		return false
	}
	var q *quic.Conn
	if a, ok := c.(interface{ As(any) bool }); ok && a.As(&q) {
		enter, err := g.roll.judge(p, q.ConnectionState().TLS.PeerCertificates)
		if err == nil {
			enter() // the handshake is over
		}
		return err == nil
	}
	return g.roll.certificate(p) != nil
}

func (g memberGate) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	if !g.roll.track(c) {
		return false, 0
	}
	return g.gate.InterceptUpgraded(c)
}

// relayOf returns the relay of an address over one, or "".
func relayOf(a multiaddr.Multiaddr) (relay peer.ID) {
	for _, c := range a {
		switch c.Protocol().Code {
		case multiaddr.P_P2P:
			relay = peer.ID(c.RawValue())
		case multiaddr.P_CIRCUIT:
			return relay
		}
	}
	return ""
}
