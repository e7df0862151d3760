package swarm

import (
	"errors"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol/member"
)

// ErrSelf means that a node would revoke itself.
var ErrSelf = errors.New("this node cannot revoke itself; it can leave the swarm")

// Revoke makes a peer a member no more: it signs the next revocation list, cuts the
// connections that this forbids, passes the list on, and ends the codes with which the
// peer has come. The peer may be one that this node has never met, by its whole peer ID.
// also are the members that fall with it, because it has let them in. Errors wrap ErrSelf,
// ErrNoMember, ErrAmbiguous and ErrMayNot, or are those of writing.
func (s *Swarm) Revoke(who string) (revoked Member, also []Member, err error) {
	m, err := s.Find(who)
	if p, e := peer.Decode(who); errors.Is(err, ErrNoMember) && e == nil {
		m, err = Member{Peer: p}, nil
	}
	if err != nil {
		return m, nil, err
	}
	if m.Self {
		return m, nil, ErrSelf
	}
	fell := map[peer.ID]bool{}
	for _, x := range s.Members() {
		fell[x.Peer] = x.Revoked
	}
	list, err := s.nextList(m)
	if err != nil {
		return m, nil, err
	}
	if err := s.install(listsOf(list)); err != nil {
		return m, nil, err
	}
	for _, x := range s.Members() {
		if was, known := fell[x.Peer]; x.Revoked && known && !was && x.Peer != m.Peer {
			also = append(also, x)
		}
	}
	m.Revoked = true
	return m, also, nil
}

// nextList signs the list that also revokes a peer.
func (s *Swarm) nextList(m Member) (*member.Revocations, error) {
	key, err := member.KeyOf(m.Peer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoMember, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	issuer, err := s.issuer()
	if err != nil {
		return nil, err
	}
	if k := s.members[m.Peer]; k != nil && issuer.Certificate != nil && k.Certificate.Issuer == s.about.Root && k.Certificate.Roles.Has(member.Invite) {
		return nil, fmt.Errorf("%w, nor remove, members with the role invite: that takes the swarm's root key, which is not in this home", ErrMayNot)
	}
	return issuer.Revoke(s.lists, nil, []member.Key{key}, s.book.cfg.Now())
}

// revoked reports whether a peer is a member no more. It is called with s.mu held.
func (s *Swarm) revoked(p peer.ID) bool {
	if m := s.members[p]; m != nil {
		return s.lists.Has(m.Certificate)
	}
	k, err := member.KeyOf(p)
	return err == nil && s.lists.HasKey(k)
}

// listsOf are lists with this one alone.
func listsOf(r *member.Revocations) member.Lists {
	if r.Chain == nil {
		return member.Lists{ByRoot: r}
	}
	return member.Lists{ByIssuers: []*member.Revocations{r}}
}

// install takes revocation lists in place of those that were known, as far as they
// supersede them: they are kept, enforced, and passed on, once; codes that led in who is
// revoked end. The error is that of a list that is not signed as member.Revocations says,
// or of writing.
func (s *Swarm) install(from member.Lists) error {
	now := s.book.cfg.Now()
	s.mu.Lock()
	before := s.lists
	lists, news, err := before.Merge(from, s.about.Root, now)
	s.lists = lists
	own := lists.Has(s.cert) && !before.Has(s.cert)
	codes := news && s.endCodes(now)
	run := s.run
	s.mu.Unlock()
	if !news {
		return err
	}
	if run != nil { // before all else: what is revoked ends now
		run.enforce(lists)
	}
	s.enforceBridges()
	if own {
		s.log.Warn("this node is no longer a member of the swarm", "swarm", s.Name())
		s.event(Event{Kind: "removed", Peer: s.self.String()})
	}
	err = errors.Join(err, s.save(listFile, func() []byte { return s.lists.Marshal() }))
	if run != nil {
		run.push()
	}
	if codes {
		err = errors.Join(err, s.saveTickets())
		s.poke()
	}
	return err
}

// refresh drops lists that have ended, and signs this node's own again once they are more
// than a day old, so that members can tell an old list from one that was withheld. The
// founder's has a list from the beginning. What is in a list that ends within a month is
// taken over into the one that this node signs as a member, so that nobody comes back
// because an inviter is gone.
func (s *Swarm) refresh(now time.Time) (err error) {
	var lists []*member.Revocations
	sign := func(i member.Issuer, keys []member.Key) {
		list, e := i.Revoke(s.lists, nil, keys, now)
		if e != nil && len(keys) > 0 { // too many: this node's own go first
			list, e = i.Revoke(s.lists, nil, nil, now)
		}
		if err = errors.Join(err, e); e == nil {
			lists = append(lists, list)
		}
	}
	due := func(own *member.Revocations) bool { return own != nil && now.Sub(own.Time) >= refreshTime }
	s.mu.Lock()
	s.lists = s.lists.At(s.about.Root, now)
	if own := s.lists.ByRoot; s.rootKey != nil && (own == nil || due(own)) {
		sign(member.Issuer{Root: s.about.Root, Key: s.rootKey}, nil)
	}
	if i, e := s.inviter(); e == nil && s.cert.Check(s.about.Root, s.self, now, s.lists) == nil {
		own := member.PublicKey(i.Key)
		if keys := s.lists.Ending(own, now, renewLeft); len(keys) > 0 || due(s.lists.Of(own)) {
			sign(i, keys)
		}
	}
	s.mu.Unlock()
	for _, list := range lists {
		err = errors.Join(err, s.install(listsOf(list)))
	}
	return err
}

// refreshTime is how often a node signs its revocation list again.
const refreshTime = 24 * time.Hour
