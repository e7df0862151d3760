package member

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
)

const (
	bridgeLabel     = "shoal-bridge-1\n"
	maxBridgeModels = 64
	// MaxBridge is the longest a bridge record can be, in bytes.
	MaxBridge = 1 + 32 + 32 + 8 + 2 + 4 + 4 + 8 + 1 + 256*maxBridgeModels + 64
	// GuestRoles are the roles that a bridge record can give.
	GuestRoles = Use | Serve | Relay
)

// BridgeRecord lets the members of one swarm, the guests, use another. The root
// key of the swarm that lends signs it. It can be revoked by Serial. Nothing
// changes a record once it is signed or parsed, so it is safe for concurrent
// use.
type BridgeRecord struct {
	Lender       Key    // root of the swarm that lends
	Guest        Key    // root of the swarm whose members may use it
	Number       uint64 // grows with each record of these two swarms
	Roles        Roles  // the most a guest can have; of GuestRoles
	NotBefore    time.Time
	NotAfter     time.Time // exclusive
	TokensPerDay uint64    // of all guests together; 0: no limit
	Models       []cid.Cid // manifests of the models, ascending, at most 64; none: all models
	Signature    []byte    // 64 bytes
}

// SignBridge signs a record with the lender's root key, whose public half is
// filled in. Times are cut to seconds; models are sorted. The error is that of
// Check.
func SignBridge(root ed25519.PrivateKey, b BridgeRecord) (*BridgeRecord, error) {
	b.Lender = PublicKey(root)
	b.NotBefore, b.NotAfter = b.NotBefore.Truncate(time.Second), b.NotAfter.Truncate(time.Second)
	b.Models = slices.Clone(b.Models)
	slices.SortFunc(b.Models, compareModels)
	b.Models = slices.Compact(b.Models)
	if len(b.Models) > maxBridgeModels || slices.ContainsFunc(b.Models, func(m cid.Cid) bool { return m.ByteLen() > 255 }) {
		return nil, malformed("a bridge record names at most %d models", maxBridgeModels)
	}
	b.Signature = sign(root, bridgeLabel, b.body())
	return &b, b.Check(b.NotBefore, Lists{})
}

func compareModels(a, b cid.Cid) int { return strings.Compare(a.KeyString(), b.KeyString()) }

// Serial is what a revocation list of the lender names to revoke the record.
func (b *BridgeRecord) Serial() (s Serial) {
	id := append(append([]byte(bridgeLabel), b.Lender[:]...), b.Guest[:]...)
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(id, b.Number))
	copy(s[:], sum[:])
	return s
}

// Allows reports whether guests may use a model.
func (b *BridgeRecord) Allows(model cid.Cid) bool {
	return len(b.Models) == 0 || slices.Contains(b.Models, model)
}

// Supersedes reports whether the record replaces another of the same two swarms,
// or nil.
func (b *BridgeRecord) Supersedes(old *BridgeRecord) bool {
	return old == nil || b.Lender == old.Lender && b.Guest == old.Guest && b.Number > old.Number
}

// Check reports whether the record is in force. revoked are the lender's
// lists known so far. Errors are ErrForged, ErrRevoked, ErrExpired, ErrEarly,
// and ErrRoles for roles that no guest can have.
func (b *BridgeRecord) Check(at time.Time, revoked Lists) error {
	switch {
	case !b.Lender.verifies(bridgeLabel, b.body(), b.Signature):
		return ErrForged
	case revoked.HasSerial(b.Serial()):
		return ErrRevoked
	case !at.Before(b.NotAfter):
		return ErrExpired
	case at.Before(b.NotBefore.Add(-clockSkew)):
		return ErrEarly
	case b.Roles == 0 || !GuestRoles.Has(b.Roles) || b.Lender == b.Guest:
		return ErrRoles
	}
	return nil
}

func (b *BridgeRecord) body() []byte {
	out := append([]byte{1}, b.Lender[:]...)
	out = append(out, b.Guest[:]...)
	out = binary.BigEndian.AppendUint64(out, b.Number)
	out = binary.BigEndian.AppendUint16(out, uint16(b.Roles))
	out = appendTime(appendTime(out, b.NotBefore), b.NotAfter)
	out = binary.BigEndian.AppendUint64(out, b.TokensPerDay)
	out = append(out, byte(len(b.Models)))
	for _, m := range b.Models {
		out = appendField(out, m.Bytes())
	}
	return out
}

// Marshal returns the record's only encoding: 156 bytes and 37 for each model.
func (b *BridgeRecord) Marshal() []byte { return append(b.body(), b.Signature...) }

// ParseBridge parses what Marshal returns. It verifies nothing: see Check. The
// error wraps ErrMalformed.
func ParseBridge(raw []byte) (*BridgeRecord, error) {
	if len(raw) > MaxBridge {
		return nil, malformed("a bridge record of %d bytes", len(raw))
	}
	r := &reader{b: raw}
	version := r.u8()
	b := &BridgeRecord{
		Lender: r.key(), Guest: r.key(), Number: r.u64(), Roles: Roles(r.u16()),
		NotBefore: r.moment(), NotAfter: r.moment(), TokensPerDay: r.u64(),
	}
	models := r.u8()
	for i := 0; i < models && !r.bad; i++ {
		field := r.field()
		m, err := cid.Cast(field)
		if err != nil || m.KeyString() != string(field) {
			return nil, malformed("a bridge record with a model that is no CID")
		}
		b.Models = append(b.Models, m)
	}
	b.Signature = r.signature()
	if version != 1 || r.bad || len(r.b) > 0 || models > maxBridgeModels || !ascending(b.Models, compareModels) {
		return nil, malformed("a bridge record")
	}
	return b, nil
}
