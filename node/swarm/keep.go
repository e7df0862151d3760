package swarm

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol/member"
)

// renewLeft is how long a certificate is still valid when it is renewed.
const renewLeft = member.Life - member.RenewAfter

// due reports whether a certificate is to be renewed. That of its issuer counts, too: both
// must be valid.
func due(c *member.Certificate, now time.Time) bool {
	return c.Due(now) || c.Expires().Sub(now) < renewLeft && c.Expires().Before(c.NotAfter)
}

// renewFor issues another certificate to a member whose own is due.
func (s *Swarm) renewFor(p peer.ID) (*member.Certificate, error) {
	now := s.book.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	issuer, err := s.issuer()
	if err != nil {
		return nil, err
	}
	m := s.members[p]
	switch {
	case m == nil:
		return nil, ErrNoMember
	case s.lists.Has(m.Certificate):
		return nil, member.ErrRevoked
	case !due(m.Certificate, now):
		return nil, fmt.Errorf("it is valid until %s", m.Certificate.Expires().Format(time.DateOnly))
	}
	c, err := issuer.Renew(m.Certificate, m.Certificate.Roles, now, member.Life)
	if err == nil && !c.Expires().After(m.Certificate.Expires()) {
		err = fmt.Errorf("this node's own certificate ends on %s", issuer.Certificate.NotAfter.Format(time.DateOnly))
	}
	return c, err
}

// renewed keeps the certificate that a member has issued to this node, if it renews this
// node's own.
func (s *Swarm) renewed(raw []byte) error {
	c, err := member.ParseCertificate(raw)
	if err != nil {
		return err
	}
	return s.keepCertificate(c)
}

// keepCertificate keeps this node's new certificate, unless it has another serial or lacks
// a role of the one before: another issuer may renew that one as it is. It counts from now
// on for what this node signs and tells; its connections show it once its host has entered
// the swarm again (reenter.go).
func (s *Swarm) keepCertificate(c *member.Certificate) error {
	s.mu.Lock()
	err := c.Check(s.about.Root, s.self, s.book.cfg.Now(), s.lists)
	if err == nil && (c.Serial != s.cert.Serial || !c.Roles.Has(s.cert.Roles)) {
		err = fmt.Errorf("it is no renewal: it has the serial %s and the roles %s, and this node's own has %s and %s", c.Serial, c.Roles, s.cert.Serial, s.cert.Roles)
	}
	newer := err == nil && c.Expires().After(s.cert.Expires())
	if newer {
		s.cert = c
	}
	s.mu.Unlock()
	if !newer {
		return err
	}
	s.log.Info("this node's certificate was renewed", "swarm", s.Name(), "until", c.Expires().Format(time.DateOnly))
	return s.save(certificateFile, func() []byte { return s.cert.Marshal() })
}

// RenewWith renews this node's certificate with the root key in a file, which it does not
// keep. Errors are those of reading the file, and of a key of another swarm.
func (s *Swarm) RenewWith(rootFile string) error {
	root, err := readRoot(rootFile, s.about.Root)
	switch {
	case err != nil:
		return err
	case root == nil:
		return fmt.Errorf("there is no root key at %s", rootFile)
	}
	return s.renewBy(root, s.book.cfg.Now())
}

func (s *Swarm) renewBy(root ed25519.PrivateKey, now time.Time) error {
	own := s.Certificate()
	c, err := member.Issuer{Root: s.about.Root, Key: root}.Renew(own, own.Roles, now, member.Life)
	if err != nil {
		return err
	}
	return s.keepCertificate(c)
}

// renewOwn renews this node's certificate once it is due, and reports whether the root key
// is here, without which it does nothing.
func (s *Swarm) renewOwn(now time.Time) (root bool) {
	if s.rootKey == nil {
		return false
	}
	if due(s.Certificate(), now) {
		if err := s.renewBy(s.rootKey, now); err != nil {
			s.log.Warn("this node's certificate cannot be renewed", "swarm", s.Name(), "error", err)
		}
	}
	return true
}

// renew gets this node another certificate once its own is due: it signs it if it has the
// root key, or asks the connected members, of whom those that may invite issue one.
func (r *running) renew(now time.Time) {
	s := r.s
	own := s.Certificate()
	if s.renewOwn(now) || !due(own, now) {
		return
	}
	for _, m := range s.Members() {
		if m.Connected && !m.Self && m.Roles.Has(member.Invite) {
			_, _ = r.tell(m.Peer, false, true) // another member may answer
			if !due(s.Certificate(), now) {
				return
			}
		}
	}
	if left := own.Expires().Sub(now); left < renewLeft/2 {
		s.log.Warn("this node's certificate is about to expire, and no member that could renew it is connected", "swarm", s.Name(), "until", own.Expires().Format(time.DateOnly))
	}
}

// keep looks after what changes with time: the door, this node's certificate, and the
// revocation list.
func (r *running) keep() {
	warned := time.Time{}
	for {
		now := r.s.book.cfg.Now()
		r.tend(now)
		r.renew(now)
		if r.outdated(now) {
			go r.s.book.reenter(r) // which ends this
		}
		if err := r.s.refresh(now); err != nil {
			r.s.log.Warn("the revocation list cannot be signed again", "swarm", r.s.Name(), "error", err)
		}
		r.s.book.tendSoon() // bridges begin and end with time
		if st := r.s.State(); st.Stale && now.Sub(warned) > refreshTime {
			warned = now
			r.s.log.Warn("the revocation list is old: members that were revoked since may still be let in", "swarm", r.s.Name(), "signed", st.Listed.Format(time.DateTime))
			r.s.event(Event{Kind: "stale", Error: fmt.Sprintf("the revocation list was signed on %s: members that were revoked since may still be let in, until a node that can sign it is back", st.Listed.Local().Format("2006-01-02 15:04"))})
		}
		select {
		case <-r.ctx.Done():
			return
		case <-r.wake:
		case <-time.After(keepTime):
		}
	}
}

// tend opens the door while somebody may come with a code, and closes it after.
func (r *running) tend(now time.Time) {
	s := r.s
	s.doorWork.Lock()
	defer s.doorWork.Unlock()
	open := s.inviting.Load() > 0 || s.answers(now)
	switch {
	case open && r.door == nil:
		if err := r.open(); err != nil {
			s.log.Warn("nobody can join: the listener for codes cannot be opened", "swarm", s.Name(), "error", err)
		}
	case !open && r.door != nil:
		r.door.close()
		r.door = nil
	}
}

// opened returns the open door. The error is of listening, or says that r was detached.
func (r *running) opened() (*door, error) {
	r.s.doorWork.Lock()
	defer r.s.doorWork.Unlock()
	if r.door == nil {
		if err := r.open(); err != nil {
			return nil, err
		}
	}
	return r.door, nil
}

// open opens the door, unless r was detached, after which nobody would close it. It is
// called with s.doorWork held.
func (r *running) open() (err error) {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	at, port := listenIPs(r.net.Host()), r.s.joinPort()
	if port != 0 {
		if r.door, err = r.s.openDoor(at, port, r.net.OutsideRelays()); err == nil {
			return nil
		}
		r.door = nil
		r.s.log.Warn("codes that were made before are of no use: another program has the port to which they lead", "swarm", r.s.Name(), "port", port, "error", err)
	}
	fresh, ferr := network.FreePort()
	if ferr != nil {
		return ferr
	}
	d, err := r.s.openDoor(at, fresh, r.net.OutsideRelays())
	if err != nil {
		return err
	}
	r.door = d
	if err := network.KeepPort(r.s.path(joinPortFile), fresh); err != nil {
		r.s.log.Warn("the port for those who join cannot be kept for the next start", "error", err)
	}
	return nil
}

// joinPort is the port that the door had last; 0: none yet.
func (s *Swarm) joinPort() int { return network.KeptPort(s.path(joinPortFile)) }

// reachable returns the addresses for a code. It opens the door if it can; without a host
// it says where the door will be.
func (s *Swarm) reachable(ctx context.Context) ([]multiaddr.Multiaddr, error) {
	if r := s.attached(); r != nil {
		d, err := r.opened()
		if err != nil {
			return nil, fmt.Errorf("the listener for those who join: %w", err)
		}
		return d.addrs(ctx), nil
	}
	port := s.joinPort()
	if port == 0 {
		var err error
		if port, err = network.FreePort(); err != nil {
			return nil, err
		}
		if err := network.KeepPort(s.path(joinPortFile), port); err != nil {
			return nil, err
		}
	}
	return ticketAddrs(ownAddrs(port)), nil
}

// saveNews writes the members down after news of them, several at a time.
func (r *running) saveNews() {
	save := func() {
		if err := r.s.saveMembers(); err != nil {
			r.s.log.Warn("the members of the swarm cannot be written down", "swarm", r.s.Name(), "error", err)
		}
	}
	for {
		select {
		case <-r.ctx.Done():
			select {
			case <-r.dirty:
				save()
			default:
			}
			return
		case <-r.dirty:
		}
		if backoff.Pause(r.ctx, saveTime) != nil {
			save()
			return
		}
		save()
	}
}
