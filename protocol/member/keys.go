package member

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Key is the public half of an Ed25519 key: of a swarm's root, an issuer or a
// member. A member's is the one in its peer ID.
type Key [ed25519.PublicKeySize]byte

// KeyOf returns the key in a peer ID. The error says that the peer has a key of
// another kind.
func KeyOf(p peer.ID) (k Key, err error) {
	public, err := p.ExtractPublicKey()
	if err != nil || public.Type() != crypto.Ed25519 {
		return k, fmt.Errorf("peer %s has no Ed25519 key", p)
	}
	raw, err := public.Raw()
	copy(k[:], raw)
	return k, err
}

// PublicKey returns the public half of a private key.
func PublicKey(private ed25519.PrivateKey) (k Key) {
	copy(k[:], private[len(private)-len(k):])
	return k
}

// Peer returns the ID of the peer with this key.
func (k Key) Peer() peer.ID {
	public, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		panic(err) // the length is right
	}
	id, err := peer.IDFromPublicKey(public)
	if err != nil {
		panic(err) // an Ed25519 key can be encoded
	}
	return id
}

// String returns the key in hexadecimal.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

func (k Key) verifies(label string, body, signature []byte) bool {
	return ed25519.Verify(k[:], append([]byte(label), body...), signature)
}

func sign(private ed25519.PrivateKey, label string, body []byte) []byte {
	return ed25519.Sign(private, append([]byte(label), body...))
}

// SwarmID identifies a swarm: the first half of the SHA-256 of its root key.
type SwarmID [16]byte

// Swarm returns the ID of the swarm with this root key.
func (k Key) Swarm() (id SwarmID) {
	sum := sha256.Sum256(k[:])
	copy(id[:], sum[:])
	return id
}

// String returns the ID in hexadecimal: 32 letters.
func (id SwarmID) String() string { return hex.EncodeToString(id[:]) }

// ParseSwarmID parses what String returns. The error wraps ErrMalformed.
func ParseSwarmID(s string) (id SwarmID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || hex.EncodeToString(b) != s {
		return id, malformed("a swarm's ID has %d hexadecimal digits", 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

// Serial identifies a certificate and its renewals, or a bridge record.
type Serial [8]byte

// String returns the serial in hexadecimal: 16 letters.
func (s Serial) String() string { return hex.EncodeToString(s[:]) }

func compareSerials(a, b Serial) int { return bytes.Compare(a[:], b[:]) }
func compareKeys(a, b Key) int       { return bytes.Compare(a[:], b[:]) }
