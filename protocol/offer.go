package protocol

import (
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	"github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"
)

// OfferDomain separates an offer's signature from all others by the same key.
const OfferDomain = "shoal-offer"

// MaxOfferLife is the longest an offer may be valid.
const MaxOfferLife = 15 * time.Minute

// clockSkew is how far two nodes' clocks may differ.
const clockSkew = 2 * time.Minute

// Why an offer is not to be used.
var (
	ErrOffer        = errors.New("offer refused")
	ErrOfferExpired = fmt.Errorf("%w: it has expired", ErrOffer)
	ErrOfferOld     = fmt.Errorf("%w: a newer one is known", ErrOffer)
)

// Offer is a verified offer together with the signed bytes that prove it. It is
// safe for concurrent use, as nothing changes it once the network has it.
type Offer struct {
	*OfferBody
	From     peer.ID // its signer
	Envelope []byte  // as OpenOffer reads it
	Swarm    string  // ID of the private swarm in which it was received, "": the open network; not part of the envelope
}

// Expires is the end of the offer's life.
func (o *Offer) Expires() time.Time { return time.UnixMilli(o.ExpiresUnixMs) }

// Addresses returns the addresses that the peer can be reached at; those that do
// not parse are left out.
func (o *Offer) Addresses() []multiaddr.Multiaddr {
	var out []multiaddr.Multiaddr
	for _, b := range o.Addrs {
		if a, err := multiaddr.NewMultiaddrBytes(b); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// SpansOf are the spans of a model that are served, fetched or loaded here, in the
// offer's order.
func (o *Offer) SpansOf(model cid.Cid) []*ServedSpan {
	var out []*ServedSpan
	for _, s := range o.Spans {
		if string(s.Model) == model.KeyString() {
			out = append(out, s)
		}
	}
	return out
}

// Held are the shards of a model that can be fetched here; nil if none.
func (o *Offer) Held(model cid.Cid) *HeldShards {
	for _, h := range o.Shards {
		if string(h.Model) == model.KeyString() {
			return h
		}
	}
	return nil
}

// Models are the models that the offer is about, each once: that it serves, holds
// or would take.
func (o *Offer) Models() []cid.Cid {
	var out []cid.Cid
	seen := map[string]bool{}
	add := func(raw []byte) {
		if m, err := cid.Cast(raw); err == nil && !seen[m.KeyString()] {
			seen[m.KeyString()] = true
			out = append(out, m)
		}
	}
	for _, s := range o.Spans {
		add(s.Model)
	}
	for _, h := range o.Shards {
		add(h.Model)
	}
	for _, m := range o.Takes {
		add(m)
	}
	return out
}

// NameOf is what the peer calls a model that it serves or holds; "" if nothing.
func (o *Offer) NameOf(model cid.Cid) string {
	for _, s := range o.SpansOf(model) {
		if s.Name != "" {
			return s.Name
		}
	}
	return o.Held(model).GetName()
}

// offerRecord is an offer as a libp2p record (RFC 0002, signed envelopes).
type offerRecord struct{ body *OfferBody }

func (r *offerRecord) Domain() string                 { return OfferDomain }
func (r *offerRecord) Codec() []byte                  { return []byte("/shoal/offer/1") }
func (r *offerRecord) MarshalRecord() ([]byte, error) { return proto.Marshal(r.body) }
func (r *offerRecord) UnmarshalRecord(b []byte) error {
	r.body = new(OfferBody)
	return proto.Unmarshal(b, r.body)
}

// SealOffer signs an offer. body.Peer is set to the key's own ID. An offer of more
// than MaxOffer bytes is an ErrOffer; other errors are the key's.
func SealOffer(body *OfferBody, key crypto.PrivKey) (*Offer, error) {
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	body.Peer = []byte(id)
	env, err := record.Seal(&offerRecord{body}, key)
	if err != nil {
		return nil, err
	}
	raw, err := env.Marshal()
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxOffer {
		return nil, fmt.Errorf("%w: %d bytes, where %d are allowed", ErrOffer, len(raw), MaxOffer)
	}
	return &Offer{OfferBody: body, From: id, Envelope: raw}, nil
}

// OpenOffer verifies an offer's bytes as of now: its signature, that it speaks
// for its signer alone, its life, and that its figures make sense. All errors
// wrap ErrOffer.
func OpenOffer(raw []byte, now time.Time) (*Offer, error) {
	b, signer, err := openEnvelope(raw)
	if err != nil {
		return nil, err
	}
	issued, expires := time.UnixMilli(b.IssuedUnixMs), time.UnixMilli(b.ExpiresUnixMs)
	switch {
	case b.ExpiresUnixMs <= b.IssuedUnixMs || expires.Sub(issued) > MaxOfferLife:
		return nil, fmt.Errorf("%w: a life from %s to %s", ErrOffer, issued, expires)
	case issued.After(now.Add(clockSkew)):
		return nil, fmt.Errorf("%w: issued in the future, at %s; is a clock wrong?", ErrOffer, issued)
	case !now.Before(expires):
		return nil, ErrOfferExpired
	}
	if len(b.Spans) > 64 || len(b.Shards) > 64 || len(b.Addrs) > 32 || len(b.Takes) > 64 || len(b.Version) > 64 {
		return nil, fmt.Errorf("%w: too many entries", ErrOffer)
	}
	for _, s := range b.Spans {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOffer, err)
		}
	}
	for _, h := range b.Shards {
		if _, err := cid.Cast(h.Model); err != nil {
			return nil, fmt.Errorf("%w: shards of no model: %w", ErrOffer, err)
		}
	}
	return &Offer{OfferBody: b, From: signer, Envelope: raw}, nil
}

// openEnvelope verifies an offer's signature, and that it speaks for its signer
// alone, and nothing else of it.
func openEnvelope(raw []byte) (*OfferBody, peer.ID, error) {
	if len(raw) > MaxOffer {
		return nil, "", fmt.Errorf("%w: %d bytes, where %d are allowed", ErrOffer, len(raw), MaxOffer)
	}
	var rec offerRecord
	env, err := record.ConsumeTypedEnvelope(raw, &rec)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrOffer, err)
	}
	signer, err := peer.IDFromPublicKey(env.PublicKey)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrOffer, err)
	}
	if string(rec.body.Peer) != string(signer) {
		return nil, "", fmt.Errorf("%w: signed by %s for another peer", ErrOffer, signer)
	}
	return rec.body, signer, nil
}

// OfferIssued returns an offer's signer, and when it was signed by the signer's
// clock, even if OpenOffer refuses the offer: it is how two nodes learn that their
// clocks differ. All errors wrap ErrOffer.
func OfferIssued(raw []byte) (peer.ID, time.Time, error) {
	b, signer, err := openEnvelope(raw)
	if err != nil {
		return "", time.Time{}, err
	}
	return signer, time.UnixMilli(b.IssuedUnixMs), nil
}

// Supersedes reports whether o replaces old, which may be nil: it is the same
// peer's, with a higher sequence number.
func (o *Offer) Supersedes(old *Offer) bool {
	return old == nil || o.From == old.From && o.Seq > old.Seq
}

func (s *ServedSpan) check() error {
	if _, err := cid.Cast(s.Model); err != nil {
		return fmt.Errorf("a span of no model: %w", err)
	}
	if s.Blocks > 1<<16 || !(Span{int(s.From), int(s.To)}).Valid(int(s.Blocks)) {
		return fmt.Errorf("an impossible span %d-%d of %d blocks", s.From, s.To, s.Blocks)
	}
	if s.Width > 1<<20 || len(s.Name) > 256 || len(s.Pooling) > 16 {
		return errors.New("an impossible model")
	}
	return s.Engine.check()
}

// Span is the span as one.
func (s *ServedSpan) Span() Span { return Span{int(s.From), int(s.To)} }

// ModelID is the model's identity; OpenOffer has seen that it parses.
func (s *ServedSpan) ModelID() cid.Cid { c, _ := cid.Cast(s.Model); return c }

// ModelID is the model's identity; OpenOffer has seen that it parses.
func (h *HeldShards) ModelID() cid.Cid { c, _ := cid.Cast(h.Model); return c }

// Bits says of each of n shards whether it is held.
func (h *HeldShards) Bits(n int) []bool {
	out := make([]bool, n)
	for i := range out {
		out[i] = i/8 < len(h.GetBitmap()) && h.Bitmap[i/8]>>(i%8)&1 == 1
	}
	return out
}
