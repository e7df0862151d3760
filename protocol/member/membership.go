package member

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	helperLabel     = "shoal-helper-1\n"
	membershipLabel = "shoal-membership-1"
	membershipSize  = 1 + 64 + MaxCertificate + 65 // rounded up, so that a later version has room
	nonceSize       = 12
	tagSize         = 16
	// SealedSize is the length of every sealed membership, in bytes.
	SealedSize = nonceSize + membershipSize + tagSize
)

// View is the key by which a swarm's members read each other's memberships, and
// find each other on a LAN. Each member gets it with its certificate. Somebody
// who has it can tell who is a member, and nothing more.
type View [32]byte

// NewView returns a new key. The error is that of the system's random source.
func NewView() (v View, err error) {
	_, err = rand.Read(v[:])
	return v, err
}

// Derive returns 32 bytes that only members can compute, another value for each
// label.
func (v View) Derive(label string) []byte {
	mac := hmac.New(sha256.New, v[:])
	mac.Write([]byte(label))
	return mac.Sum(nil)
}

// Membership is what a node shows in the TLS handshake: its certificate, and if
// the handshake is by a helper key, the member's signature over that key's peer
// ID. libp2p dials back with such keys to find out whether a node can be
// reached.
type Membership struct {
	Certificate *Certificate
	Vouch       []byte // 64 bytes; nil: the handshake is by the member's own key
	Host        bool   // Vouch is for the key that the member has in the network of a bridge
}

// Vouch returns a membership for a helper key of the member. The error is that
// of signing.
func (c *Certificate) Vouch(own crypto.PrivKey, helper peer.ID) (*Membership, error) {
	signature, err := own.Sign(append([]byte(helperLabel), helper...))
	return &Membership{Certificate: c, Vouch: signature}, err
}

// Check reports whether the membership makes the peer of the handshake a member,
// or a member's helper. Errors are those of Certificate.Check, and ErrOther for
// a helper key that the member does not vouch for, or a key for the network of a bridge.
func (m *Membership) Check(root Key, p peer.ID, at time.Time, revoked Lists) error {
	if m.Host {
		return ErrOther
	}
	if m.Vouch == nil {
		return m.Certificate.Check(root, p, at, revoked)
	}
	if !m.Certificate.Key.verifies(helperLabel, []byte(p), m.Vouch) {
		return ErrOther
	}
	return m.Certificate.Check(root, m.Certificate.Peer(), at, revoked)
}

// Seal encrypts a membership for those who have the view key: SealedSize bytes
// that look random to others. The error is that of the system's random source.
func (v View) Seal(m *Membership) ([]byte, error) {
	plain := make([]byte, 0, membershipSize)
	switch {
	case m.Vouch == nil:
		plain = append(plain, 1)
	case m.Host:
		plain = append(append(plain, 3), m.Vouch...)
	default:
		plain = append(append(plain, 2), m.Vouch...)
	}
	plain = append(plain, m.Certificate.Marshal()...)
	plain = plain[:membershipSize]
	return v.Encrypt(membershipLabel, plain)
}

// Open decrypts a membership. It verifies nothing else: see Check. Errors are
// ErrMissing if there is none, ErrForeign if it was not sealed with this key, and
// ErrMalformed.
func (v View) Open(sealed []byte) (*Membership, error) {
	if len(sealed) != SealedSize {
		return nil, ErrMissing
	}
	plain, err := v.Decrypt(membershipLabel, sealed)
	if err != nil {
		return nil, err
	}
	return parseMembership(plain)
}

func parseMembership(plain []byte) (*Membership, error) {
	r := &reader{b: plain}
	m := &Membership{}
	switch r.u8() {
	case 1:
	case 2:
		m.Vouch = r.signature()
	case 3:
		m.Vouch, m.Host = r.signature(), true
	default:
		return nil, malformed("a membership of another version")
	}
	if m.Certificate = readCertificate(r); m.Certificate == nil {
		return nil, malformed("a membership without a certificate")
	}
	if len(r.b) > 0 && r.b[0] != 0 {
		if m.Certificate.Chain = readCertificate(r); m.Certificate.Chain == nil {
			return nil, malformed("a membership with an issuer of another version")
		}
	}
	for _, b := range r.b {
		r.bad = r.bad || b != 0
	}
	if r.bad {
		return nil, malformed("a membership")
	}
	return m, nil
}

// Encrypt seals bytes for the swarm's members, for the purpose that a label names.
// The result looks random to others and is 28 bytes longer. The error is that of
// the system's random source.
func (v View) Encrypt(label string, plain []byte) ([]byte, error) {
	nonce := make([]byte, nonceSize, nonceSize+len(plain)+tagSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return v.cipher(label).Seal(nonce, nonce, plain, nil), nil
}

// Decrypt returns what Encrypt has sealed. The error is ErrForeign if the bytes
// were sealed with another key or for another purpose, or have been changed.
func (v View) Decrypt(label string, sealed []byte) ([]byte, error) {
	if len(sealed) < nonceSize {
		return nil, ErrForeign
	}
	plain, err := v.cipher(label).Open(nil, sealed[:nonceSize], sealed[nonceSize:], nil)
	if err != nil {
		return nil, ErrForeign
	}
	return plain, nil
}

// cipher is AES-256-GCM under a key derived from v.
func (v View) cipher(label string) cipher.AEAD {
	block, err := aes.NewCipher(v.Derive(label))
	if err != nil {
		panic(err) // the length is right
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // the block size is right
	}
	return gcm
}
