package member

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const (
	ticketPrefix = "SHOAL"
	ticketSum    = 4
	// MaxTicketAddrs is how many addresses a ticket can have.
	MaxTicketAddrs = 3
	maxTicket      = 1 + 16 + 16 + 4 + 256*(1+MaxTicketAddrs) + ticketSum // bytes
	maxTicketText  = 4096                                                 // letters and spaces
)

var base32Upper = base32.StdEncoding.WithPadding(base32.NoPadding)

// Secret is what makes a ticket worth something. It is never sent: see Proof.
type Secret [16]byte

// Ticket invites whoever has it into a swarm: it says where the inviter listens
// and contains a secret that the inviter accepts until Expires, for as many
// uses as it counts. It is not signed; its checksum only catches mistakes.
type Ticket struct {
	Swarm   SwarmID
	Secret  Secret
	Expires time.Time // in whole minutes
	Inviter peer.ID
	Addrs   []multiaddr.Multiaddr // at most three, each at most 255 bytes, without the inviter's peer ID
}

// NewTicket makes a ticket with a new secret. Expires is rounded up to a whole
// minute. Addresses beyond three, and those that do not fit, are left out, so
// the best come first.
func NewTicket(swarm SwarmID, inviter peer.ID, addrs []multiaddr.Multiaddr, expires time.Time) (*Ticket, error) {
	t := &Ticket{Swarm: swarm, Inviter: inviter, Expires: expires.Add(time.Minute - time.Nanosecond).Truncate(time.Minute)}
	for _, a := range addrs {
		if n := len(a.Bytes()); n > 0 && n < 256 && len(t.Addrs) < MaxTicketAddrs {
			t.Addrs = append(t.Addrs, a)
		}
	}
	_, err := rand.Read(t.Secret[:])
	return t, err
}

// String returns the ticket as a person passes it on: letters and digits only,
// 241 of them with a direct and a relayed address. It contains the secret, so it
// must not be logged: see Short.
func (t *Ticket) String() string {
	b := append([]byte{1}, t.Swarm[:]...)
	b = append(b, t.Secret[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(0, t.Expires.Unix()/60), 1<<32-1)))
	b = appendField(b, []byte(t.Inviter))
	for _, a := range t.Addrs {
		b = appendField(b, a.Bytes())
	}
	return ticketText(b)
}

// ticketText appends the checksum and writes the bytes as text.
func ticketText(b []byte) string {
	sum := sha256.Sum256(b)
	return ticketPrefix + base32Upper.EncodeToString(append(b, sum[:ticketSum]...))
}

// Short returns the first eight letters, for logs. They are the same for all
// tickets of a swarm and contain nothing of the secret.
func (t *Ticket) Short() string { return t.String()[:8] }

// Expired reports whether the ticket is no longer accepted.
func (t *Ticket) Expired(now time.Time) bool { return !now.Before(t.Expires) }

// ParseTicket parses what String returns, in upper or lower case, with spaces
// and line breaks anywhere. The error wraps ErrMalformed. It does not contain
// the text.
func ParseTicket(s string) (*Ticket, error) {
	damaged := malformed("a letter of the code is wrong or missing; copy all of it, from SHOAL on")
	if len(s) > maxTicketText || strings.ContainsFunc(s, func(r rune) bool { return r > 0x7f && strings.TrimSpace(string(r)) != "" }) {
		return nil, damaged
	}
	s = strings.ToUpper(strings.Join(strings.Fields(s), ""))
	letters, ok := strings.CutPrefix(s, ticketPrefix)
	b, err := base32Upper.DecodeString(letters)
	if !ok || err != nil || len(b) < ticketSum || len(b) > maxTicket || base32Upper.EncodeToString(b) != letters {
		return nil, damaged
	}
	b, sum := b[:len(b)-ticketSum], b[len(b)-ticketSum:]
	if want := sha256.Sum256(b); !bytes.Equal(want[:ticketSum], sum) {
		return nil, damaged
	}
	r := &reader{b: b}
	if r.u8() != 1 {
		return nil, malformed("the code is of another version of shoal")
	}
	t := &Ticket{Swarm: r.swarm()}
	copy(t.Secret[:], r.take(len(t.Secret)))
	t.Expires = time.Unix(60*int64(r.u32()), 0)
	t.Inviter, err = peer.IDFromBytes(r.field())
	for err == nil && len(r.b) > 0 && !r.bad && len(t.Addrs) < MaxTicketAddrs {
		var a multiaddr.Multiaddr
		raw := r.field()
		if a, err = multiaddr.NewMultiaddrBytes(raw); err == nil && !bytes.Equal(a.Bytes(), raw) {
			err = ErrMalformed
		}
		t.Addrs = append(t.Addrs, a)
	}
	if err != nil || r.bad || len(r.b) > 0 {
		return nil, malformed("the code names no peer, or addresses that cannot be parsed")
	}
	return t, nil
}

// Proof returns the 32 bytes by which a peer that joins shows that it knows a
// ticket's secret: an HMAC over the swarm and both peer IDs. Another peer, or
// another inviter, can do nothing with it.
func (s Secret) Proof(swarm SwarmID, joiner, inviter peer.ID) []byte {
	mac := hmac.New(sha256.New, s[:])
	b := append([]byte("shoal-join-1\n"), swarm[:]...)
	mac.Write(appendField(appendField(b, []byte(joiner)), []byte(inviter)))
	return mac.Sum(nil)
}

// Proves reports whether a proof is the joiner's, in constant time. Both peer
// IDs must be those that the connection has proven.
func (s Secret) Proves(proof []byte, swarm SwarmID, joiner, inviter peer.ID) bool {
	return hmac.Equal(proof, s.Proof(swarm, joiner, inviter))
}
