package swarm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// ticket is a code that is out, or was until lately. The code itself is not kept: only
// those who were given it have it.
type ticket struct {
	Key     member.Secret // of proofs: a hash of the code's secret
	Roles   member.Roles
	Uses    int // in all
	By      []peer.ID
	Created time.Time
	Expires time.Time
	Spent   time.Time // of the last use; zero: it has uses left
}

type ticketJSON struct {
	Key     string    `json:"sha256"` // in hexadecimal, the first half
	Roles   string    `json:"roles"`
	Uses    int       `json:"uses"`
	By      []string  `json:"by,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Spent   time.Time `json:"spent,omitzero"`
}

const (
	maxUses   = 1000 // of one code
	maxTicket = 30 * 24 * time.Hour
	// spentTime is for how long those who come too late are told so. Later, nobody
	// listens.
	spentTime = 10 * time.Minute
)

// proofKey returns what proofs of a code's secret are made with. It stands in the
// inviter's home, from which the code cannot be made.
func proofKey(s member.Secret) (k member.Secret) {
	sum := sha256.Sum256(append([]byte("shoal-ticket-1\n"), s[:]...))
	copy(k[:], sum[:])
	return k
}

// out reports whether the code lets somebody in.
func (t *ticket) out(now time.Time) bool { return t.Spent.IsZero() && now.Before(t.Expires) }

// heard reports whether whoever shows the code is still answered.
func (t *ticket) heard(now time.Time) bool {
	end := t.Expires
	if !t.Spent.IsZero() {
		end = t.Spent
	}
	return now.Before(end.Add(spentTime))
}

func marshalTickets(all []*ticket) []byte {
	list := []ticketJSON{}
	for _, t := range all {
		v := ticketJSON{hex.EncodeToString(t.Key[:]), t.Roles.String(), t.Uses, nil, t.Created, t.Expires, t.Spent}
		for _, p := range t.By {
			v.By = append(v.By, p.String())
		}
		list = append(list, v)
	}
	raw, _ := json.MarshalIndent(list, "", "  ") // its parts can all be written
	return append(raw, '\n')
}

func parseTickets(raw []byte) ([]*ticket, error) {
	var list []ticketJSON
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	var all []*ticket
	for _, v := range list {
		t := &ticket{Uses: v.Uses, Created: v.Created, Expires: v.Expires, Spent: v.Spent}
		key, err := hex.DecodeString(v.Key)
		if err != nil || len(key) != len(t.Key) {
			return nil, errors.New("the hash of a code is damaged")
		}
		copy(t.Key[:], key)
		if t.Roles, err = member.ParseRoles(v.Roles); err != nil {
			return nil, err
		}
		for _, s := range v.By {
			p, err := peer.Decode(s)
			if err != nil {
				return nil, err
			}
			t.By = append(t.By, p)
		}
		if t.Uses < 1 || t.Uses > maxUses || len(t.By) > t.Uses || len(all) >= maxTickets {
			return nil, errors.New("a code has too many uses, or there are too many")
		}
		if len(t.By) == t.Uses && t.Spent.IsZero() {
			t.Spent = t.Expires
		}
		all = append(all, t)
	}
	return all, nil
}

// Errors of making and withdrawing a code.
var (
	ErrMayNot = errors.New("this node may not invite")
	ErrInvite = errors.New("an invitation like that is not possible")
	// ErrNotOurs is of withdrawing a code.
	ErrNotOurs = errors.New("this node knows no such code: it was made by another node, or has ended long ago")
)

// Terms are what a code is good for.
type Terms struct {
	Roles member.Roles
	Uses  int
	Life  time.Duration
}

func (t Terms) check() error {
	switch {
	case t.Uses < 1 || t.Uses > maxUses:
		return fmt.Errorf("%w: a code has from 1 to %d uses", ErrInvite, maxUses)
	case t.Life < time.Minute || t.Life > maxTicket:
		return fmt.Errorf("%w: a code is good for at least a minute, and at most %d days", ErrInvite, int(maxTicket.Hours()/24))
	case t.Roles == 0:
		return fmt.Errorf("%w: name at least one role", ErrInvite)
	}
	return nil
}

// end takes what is left of a code: nobody is let in with it any more, nor again. It
// reports whether anything was.
func (t *ticket) end(now time.Time) bool {
	if !now.Before(t.Expires) {
		return false
	}
	t.Expires = now.UTC().Truncate(time.Second)
	return true
}

// endCodes ends the codes with which somebody has come who is revoked now, and who could
// come back with them under another key. It is called with s.mu held.
func (s *Swarm) endCodes(now time.Time) (ended bool) {
	for _, t := range s.tickets {
		if slices.ContainsFunc(t.By, s.revoked) && t.end(now) {
			ended = true
		}
	}
	return ended
}

// Withdraw ends a code of this node's. Errors are ErrNotOurs for one that it has not made,
// or no longer knows, and those of writing.
func (s *Swarm) Withdraw(code *member.Ticket) error {
	now, key := s.book.cfg.Now(), proofKey(code.Secret)
	s.mu.Lock()
	i := slices.IndexFunc(s.tickets, func(t *ticket) bool { return t.Key == key })
	if i >= 0 {
		s.tickets[i].end(now)
	}
	s.mu.Unlock()
	if i < 0 {
		return ErrNotOurs
	}
	err := s.saveTickets()
	s.poke()
	return err
}

// addTicket notes a code. It drops codes that nobody is answered for any more.
func (s *Swarm) addTicket(t *ticket, now time.Time) error {
	s.mu.Lock()
	s.tickets = slices.DeleteFunc(s.tickets, func(t *ticket) bool { return !t.heard(now) })
	if len(s.tickets) >= maxTickets {
		s.mu.Unlock()
		return fmt.Errorf("%w: %d codes are out already, wait until some are used or expire", ErrInvite, maxTickets)
	}
	s.tickets = append(s.tickets, t)
	s.mu.Unlock()
	return s.saveTickets()
}

func (s *Swarm) saveTickets() error {
	return s.save(ticketsFile, func() []byte { return marshalTickets(s.tickets) })
}

// claim finds the code that a proof is made with and counts a use of it by a peer. A peer
// that has used it before, and lost the answer, is let in again without another use. undo
// takes the use back.
func (s *Swarm) claim(joiner peer.ID, proof []byte, now time.Time) (t *ticket, undo func(), refusal protocol.JoinRefusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.tickets { // all of them, so that the time tells nothing
		if v.Key.Proves(proof, s.about.Root.Swarm(), joiner, s.self) {
			t = v
		}
	}
	undo = func() {}
	switch {
	case t == nil:
		return nil, undo, protocol.JoinRefusal_JOIN_REFUSAL_UNKNOWN
	case slices.Contains(t.By, joiner) && now.Before(t.Expires):
		return t, undo, protocol.JoinRefusal_JOIN_REFUSAL_NONE
	case !t.Spent.IsZero():
		return t, undo, protocol.JoinRefusal_JOIN_REFUSAL_SPENT
	case !now.Before(t.Expires):
		return t, undo, protocol.JoinRefusal_JOIN_REFUSAL_EXPIRED
	}
	t.By = append(t.By, joiner)
	if len(t.By) >= t.Uses {
		t.Spent = now
	}
	return t, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		t.By, t.Spent = slices.DeleteFunc(t.By, func(p peer.ID) bool { return p == joiner }), time.Time{}
	}, protocol.JoinRefusal_JOIN_REFUSAL_NONE
}

// answers reports whether somebody may come with a code that is worth an answer.
func (s *Swarm) answers(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.tickets, func(t *ticket) bool { return t.heard(now) })
}
