package member

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
)

func keyPeer(i int) peer.ID { return PublicKey(keyOf(i)).Peer() }

// What is accepted has one encoding, and checking it never panics.

func FuzzCertificate(f *testing.F) {
	f.Add(root.mustIssue(f, 3, Use).Marshal())
	f.Add(issuer(f, 2, Use|Invite).mustIssue(f, 3, Use).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCertificate(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Marshal(), b) {
			t.Error("two encodings")
		}
		_ = c.Check(root.Root, c.Peer(), now, Lists{})
	})
}

func FuzzRevocations(f *testing.F) {
	list, err := issuer(f, 2, Use|Invite).Revoke(Lists{}, nil, []Key{{1}, {2}}, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(list.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRevocations(b)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Marshal(), b) {
			t.Error("two encodings")
		}
		_ = r.Check(root.Root, now, Lists{ByIssuers: []*Revocations{list}})
		if r.supersedes(list) && list.supersedes(r) {
			t.Error("each replaces the other")
		}
	})
}

func FuzzLists(f *testing.F) {
	byRoot, err := root.Revoke(Lists{}, []Serial{{1}}, nil, now)
	if err != nil {
		f.Fatal(err)
	}
	var byIssuers []*Revocations
	for i := range 2 {
		r, err := issuer(f, i+2, Use|Invite).Revoke(Lists{}, nil, []Key{{2}}, now)
		if err != nil {
			f.Fatal(err)
		}
		byIssuers = append(byIssuers, r)
	}
	slices.SortFunc(byIssuers, func(a, b *Revocations) int { return compareKeys(a.Signer, b.Signer) })
	f.Add(Lists{}.Marshal())
	f.Add(Lists{ByRoot: byRoot, ByIssuers: byIssuers}.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLists(b)
		if err != nil {
			return
		}
		if !bytes.Equal(l.Marshal(), b) {
			t.Error("two encodings")
		}
		_, _, _ = Lists{ByRoot: byRoot}.Merge(l, root.Root, now)
	})
}

func FuzzBridge(f *testing.F) {
	f.Add(testBridge(f).Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseBridge(b)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Marshal(), b) {
			t.Error("two encodings")
		}
		_ = r.Check(now, Lists{})
	})
}

func FuzzTicket(f *testing.F) {
	f.Add(testTicket(f).String())
	f.Fuzz(func(t *testing.T, s string) {
		ticket, err := ParseTicket(s)
		if err != nil {
			return
		}
		if ticket.String() != strings.ToUpper(strings.Join(strings.Fields(s), "")) {
			t.Error("two encodings")
		}
	})
}

// The checksum keeps a fuzzer out, so this one is given a right one.
func FuzzTicketBody(f *testing.F) {
	s := testTicket(f).String()
	b, err := base32Upper.DecodeString(s[len(ticketPrefix):])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:len(b)-ticketSum])
	f.Fuzz(func(t *testing.T, b []byte) {
		s := ticketText(b)
		ticket, err := ParseTicket(s)
		if err != nil {
			return
		}
		if ticket.String() != s {
			t.Error("two encodings")
		}
	})
}

func FuzzMembership(f *testing.F) {
	f.Add(append(append([]byte{1}, issuer(f, 2, Use|Invite).mustIssue(f, 3, Use).Marshal()...), make([]byte, 129)...))
	f.Add(append(append(append([]byte{2}, make([]byte, 64)...), root.mustIssue(f, 3, Use).Marshal()...), make([]byte, 228)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMembership(b)
		if err != nil || len(b) != membershipSize {
			return
		}
		again := append([]byte{b[0]}, m.Vouch...)
		again = append(again, m.Certificate.Marshal()...)
		if !bytes.Equal(again, b[:len(again)]) {
			t.Error("two encodings")
		}
		_ = m.Check(root.Root, m.Certificate.Peer(), now, Lists{})
	})
}
