package swarm

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Swarm is a private swarm that this node is a member of. It is safe for concurrent use.
type Swarm struct {
	book    *Book
	dir     string
	log     *slog.Logger
	key     crypto.PrivKey // of this node, there
	self    peer.ID
	about   about
	rootKey ed25519.PrivateKey // the founder's; nil: it is not here

	complaints *rate.Limiter // of refused attempts to join
	write      sync.Mutex    // held while a file is written, before mu
	doorWork   sync.Mutex    // held while the door opens or closes, before mu
	inviting   atomic.Int32  // codes that are being made: the door stays open for them
	holding    sync.Mutex    // held while a bridge is taken or forgotten, before write

	mu      sync.Mutex
	cert    *member.Certificate
	shown   *member.Certificate // by the connections of the newest network; nil: there was none
	lists   member.Lists
	members map[peer.ID]*known         // without this node
	tickets []*ticket                  // the oldest first
	bridges map[member.SwarmID]*Bridge // by the ID of their networks
	ended   map[member.SwarmID]*Bridge // that are over, with the newest record: others may have missed it
	run     *running                   // nil: no host of this process is in the swarm
	gone    bool                       // left
}

// ID returns the swarm's ID.
func (s *Swarm) ID() member.SwarmID { return s.about.Root.Swarm() }

// Name returns the swarm's name.
func (s *Swarm) Name() string { return s.about.Name }

// Self returns this node's peer ID in the swarm.
func (s *Swarm) Self() peer.ID { return s.self }

// Founder reports whether the swarm's root key is in this home.
func (s *Swarm) Founder() bool { return s.rootKey != nil }

// Certificate returns this node's newest certificate.
func (s *Swarm) Certificate() *member.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cert
}

// since returns since when this home has been in the swarm.
func (s *Swarm) since() time.Time {
	st, err := os.Stat(s.path(aboutFile))
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// Network fills in what makes a network this swarm's: its key, membership, remembered
// peers, and the members to look for. Of the bootstrap peers it leaves the members.
func (s *Swarm) Network(cfg network.Config) network.Config {
	cfg.Outside = s.outside(cfg.Outside, outerKeyFile, relaysFile, s.heardRelays)
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg.Key, cfg.PeersFile, s.shown = s.key, s.path(peersFile), s.cert
	cfg.Swarm = &network.Swarm{Root: s.about.Root, View: s.about.View, Certificate: s.cert, Lists: s.lists}
	s.lookFor(&cfg)
	cfg.Bootstrap = s.membersAt(cfg.Bootstrap)
	return cfg
}

// member reports whether this node may still be in the swarm.
func (s *Swarm) member() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cert.Check(s.about.Root, s.self, s.book.cfg.Now(), s.lists) == nil
}

// PortFile is where the port of the swarm's host is kept.
func (s *Swarm) PortFile() string { return s.path(portFile) }

func (s *Swarm) event(e Event) {
	e.Swarm = s.Name()
	s.book.cfg.Events(e)
}

// listBytes are the newest revocation lists, as they travel.
func (s *Swarm) listBytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists.Marshal()
}

// issuer signs for the swarm: with the root key if that is here, else as a member that may
// invite. It is called with s.mu held.
func (s *Swarm) issuer() (i member.Issuer, err error) {
	if s.rootKey != nil {
		return member.Issuer{Root: s.about.Root, Key: s.rootKey}, nil
	}
	return s.inviter()
}

// inviter signs for the swarm as a member that may invite. It is called with s.mu held.
func (s *Swarm) inviter() (i member.Issuer, err error) {
	if !s.cert.Roles.Has(member.Invite) {
		return i, fmt.Errorf("%w: its roles in the swarm are %s", ErrMayNot, s.cert.Roles)
	}
	raw, err := s.key.Raw()
	if err != nil {
		return i, err
	}
	return member.Issuer{Root: s.about.Root, Key: ed25519.PrivateKey(raw), Certificate: s.cert}, nil
}

// learn notes a member: its newest certificate, its name if it has told one, and its
// addresses if any are known; those that are not plain are left out.
func (s *Swarm) learn(c *member.Certificate, name string, addrs []multiaddr.Multiaddr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := c.Peer()
	if p == s.self {
		return
	}
	m := s.members[p]
	if m == nil {
		if len(s.members) >= maxMembers && !s.forgetOne() {
			return
		}
		m = &known{Certificate: c}
		s.members[p] = m
	}
	if c.NotAfter.After(m.Certificate.NotAfter) {
		m.Certificate = c
	}
	if name = protocol.MachineName(name); name != "" {
		m.Name = name
	}
	if addrs = plainOnes(addrs); len(addrs) > 0 {
		m.Addrs = addrs
	}
}

// forgetOne makes room for another member by forgetting one whose certificate has expired.
// It is called with s.mu held.
func (s *Swarm) forgetOne() bool {
	for p, m := range s.members {
		if !s.book.cfg.Now().Before(m.Certificate.Expires()) {
			delete(s.members, p)
			return true
		}
	}
	return false
}

func (s *Swarm) saveMembers() error {
	return s.save(membersFile, func() []byte { return marshalMembers(s.members) })
}

// machineName returns what a fellow member calls its machine; "": it is none, or has told
// nothing.
func (s *Swarm) machineName(p peer.ID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.members[p]; m != nil && !s.lists.Has(m.Certificate) {
		return m.Name
	}
	return ""
}

// Member is one member of a swarm, as this node knows it.
type Member struct {
	Peer      peer.ID
	Name      string // of its machine; "": not known
	Roles     member.Roles
	Expires   time.Time // of its certificate
	Seen      time.Time // last connected; zero: never
	Connected bool
	Self      bool
	Revoked   bool
	Invited   bool // by this node
}

// Members returns the members that this node knows of, this node first.
func (s *Swarm) Members() []Member {
	run := s.attached()
	s.mu.Lock()
	own := member.PublicKey(s.signer())
	out := []Member{{Peer: s.self, Name: s.book.cfg.Machine, Roles: s.cert.Roles, Expires: s.cert.Expires(), Self: true, Connected: run != nil, Revoked: s.lists.Has(s.cert)}}
	for p, m := range s.members {
		out = append(out, Member{
			Peer: p, Name: m.Name, Roles: m.Certificate.Roles, Expires: m.Certificate.Expires(), Seen: m.Seen,
			Revoked: s.lists.Has(m.Certificate), Invited: m.Certificate.Issuer == own,
		})
	}
	s.mu.Unlock()
	slices.SortFunc(out[1:], func(a, b Member) int {
		if c := strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)); c != 0 {
			return c
		}
		return strings.Compare(string(a.Peer), string(b.Peer))
	})
	for i := range out {
		if run != nil && !out[i].Self {
			out[i].Connected = run.connected(out[i].Peer)
		}
	}
	return out
}

// signer is the key that this node signs certificates with, if it may. It is called with
// s.mu held.
func (s *Swarm) signer() ed25519.PrivateKey {
	if s.rootKey != nil {
		return s.rootKey
	}
	raw, err := s.key.Raw()
	if err != nil {
		return make(ed25519.PrivateKey, ed25519.PrivateKeySize)
	}
	return raw
}

// State is what a swarm is like now.
type State struct {
	Members   int // that are known and not revoked, with this node
	Connected int // of them, without this node
	Codes     int // that are out
	Running   bool
	Revoked   bool      // this node is no longer a member
	Stale     bool      // the revocation list is too old to rely on
	Listed    time.Time // when that list was signed; zero: there is none
}

// State returns what the swarm is like now.
func (s *Swarm) State() (st State) {
	now := s.book.cfg.Now()
	for _, m := range s.Members() {
		switch {
		case m.Self:
			st.Revoked, st.Running = m.Revoked, m.Connected
			st.Members++
		case !m.Revoked && now.Before(m.Expires):
			st.Members++
			if m.Connected {
				st.Connected++
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tickets {
		if t.out(now) {
			st.Codes++
		}
	}
	st.Stale = s.lists.Stale(now)
	st.Listed = s.lists.Newest()
	return st
}

// Find returns the member with a name, a peer ID, or a peer ID that ends so. The error
// wraps ErrNoMember or ErrAmbiguous and names who there is.
func (s *Swarm) Find(who string) (Member, error) {
	all := s.Members()
	found := slices.DeleteFunc(slices.Clone(all), func(m Member) bool { return m.Peer.String() != who })
	if len(found) == 0 {
		found = slices.DeleteFunc(slices.Clone(all), func(m Member) bool { return !strings.EqualFold(m.Name, who) || m.Revoked })
	}
	if tail := strings.TrimPrefix(who, "…"); len(found) == 0 && len(tail) >= 6 {
		found = slices.DeleteFunc(slices.Clone(all), func(m Member) bool { return !strings.HasSuffix(m.Peer.String(), tail) })
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return Member{}, fmt.Errorf("%w called %q in swarm %s", ErrNoMember, who, s.Name())
	}
	var ids []string
	for _, m := range found {
		ids = append(ids, m.Peer.String())
	}
	return Member{}, fmt.Errorf("%q: %w: %s; use the peer ID", who, ErrAmbiguous, strings.Join(ids, ", "))
}

// ErrNoMember means that no known member is named so.
var ErrNoMember = errors.New("there is no member")

// Invite makes a code with which others join. It opens the door for them if a host of this
// process is in the swarm; otherwise the door opens when one is. Errors wrap ErrMayNot and
// ErrInvite, or are those of listening and writing.
func (s *Swarm) Invite(ctx context.Context, terms Terms) (*member.Ticket, error) {
	if err := terms.check(); err != nil {
		return nil, err
	}
	now := s.book.cfg.Now()
	s.mu.Lock()
	issuer, err := s.issuer()
	revoked, roles := s.lists.Has(s.cert), s.cert.Roles
	s.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case revoked:
		return nil, ErrRemoved
	case issuer.Certificate != nil && terms.Roles.Has(member.Invite):
		return nil, fmt.Errorf("%w: the role invite is given with the swarm's root key, which is not in this home", ErrMayNot)
	case issuer.Certificate != nil && !roles.Has(terms.Roles):
		return nil, fmt.Errorf("%w with the roles %s: its own are %s", ErrMayNot, terms.Roles, roles)
	}
	s.inviting.Add(1)
	defer s.inviting.Add(-1)
	addrs, err := s.reachable(ctx)
	if err != nil {
		return nil, err
	}
	t, err := member.NewTicket(s.ID(), s.self, addrs, now.Add(terms.Life))
	if err != nil {
		return nil, err
	}
	err = s.addTicket(&ticket{Key: proofKey(t.Secret), Roles: terms.Roles, Uses: terms.Uses, Created: now.UTC().Truncate(time.Second), Expires: t.Expires.UTC()}, now)
	return t, err
}
