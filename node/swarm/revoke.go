package swarm

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol/member"
)

// ErrSelf means that a node would revoke itself.
var ErrSelf = errors.New("this node cannot revoke itself; it can leave the swarm")

// Revoke makes a peer a member no more: it signs the next revocation list, cuts the
// connections that this forbids, and passes the list on. also are the members that fall
// with it, because it has let them in. Errors wrap ErrSelf, ErrNoMember, ErrAmbiguous and
// ErrMayNot, or are those of writing.
func (s *Swarm) Revoke(who string) (revoked Member, also []Member, err error) {
	m, err := s.Find(who)
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

// nextList signs the list that also revokes a member: all its certificates, and those that
// it has issued.
func (s *Swarm) nextList(m Member) (*member.Revocations, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	issuer, err := s.issuer()
	if err != nil {
		return nil, err
	}
	k := s.members[m.Peer]
	if k == nil {
		return nil, fmt.Errorf("%w with the peer ID %s", ErrNoMember, m.Peer)
	}
	var keys []member.Key
	if k.Certificate.Roles.Has(member.Invite) {
		keys = append(keys, k.Certificate.Key)
	}
	return issuer.Revoke(s.lists, k.Serials, keys, s.book.cfg.Now())
}

// listsOf is a list as one of the two kinds that there are.
func listsOf(r *member.Revocations) member.Lists {
	if r.Chain == nil {
		return member.Lists{ByRoot: r}
	}
	return member.Lists{ByIssuer: r}
}

// install takes revocation lists in place of those that were known, as far as they
// supersede them: they are kept, enforced, and passed on, once. The error is that of a list
// that is not signed as member.Revocations says, or of writing.
func (s *Swarm) install(from member.Lists) error {
	now := s.book.cfg.Now()
	s.mu.Lock()
	before := s.lists
	lists, news, err := before.Merge(from, s.about.Root, now)
	s.lists = lists
	own := lists.Has(s.cert) && !before.Has(s.cert)
	again := s.missing(before, lists)
	run := s.run
	s.mu.Unlock()
	if !news {
		return err
	}
	if run != nil { // before all else: what is revoked ends now
		run.enforce(lists)
	}
	if own {
		s.log.Warn("this node is no longer a member of the swarm", "swarm", s.Name())
		s.event(Event{Kind: "removed", Peer: s.self.String()})
	}
	err = errors.Join(err, s.save(listFile, func() []byte { return s.lists.Marshal() }))
	if run != nil {
		run.push()
	}
	if again != nil {
		err = errors.Join(err, s.install(listsOf(again)))
	}
	return err
}

// missing signs what this node had revoked once more, if another issuer signed a list at
// the same time that took the place of this node's own; nil: there is nothing to sign. It
// is called with s.mu held.
func (s *Swarm) missing(before, now member.Lists) *member.Revocations {
	old := before.ByIssuer
	if old == nil || now.ByIssuer == old || old.Signer != member.PublicKey(s.signer()) {
		return nil
	}
	lost := slices.DeleteFunc(slices.Clone(old.Serials), now.HasSerial)
	issuer, err := s.issuer()
	if err != nil || len(lost) == 0 {
		return nil
	}
	list, err := issuer.Revoke(now, lost, old.Issuers, s.book.cfg.Now())
	if err != nil {
		return nil
	}
	return list
}

// refresh signs the list again while this node has the root key and the list is more than
// a day old, so that members can tell an old list from one that was withheld.
func (s *Swarm) refresh(now time.Time) error {
	s.mu.Lock()
	if s.rootKey == nil || s.lists.ByRoot != nil && now.Sub(s.lists.ByRoot.Time) < refreshTime {
		s.mu.Unlock()
		return nil
	}
	list, err := member.Issuer{Root: s.about.Root, Key: s.rootKey}.Revoke(s.lists, nil, nil, now)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.install(listsOf(list))
}

// refreshTime is how often the founder's node signs the revocation list anew.
const refreshTime = 24 * time.Hour
