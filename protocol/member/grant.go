package member

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"time"
	"unicode"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

const (
	acceptLabel     = "shoal-bridge-accept-1\n"
	bridgeHostLabel = "shoal-bridge-host-1\n"
	bridgeNetLabel  = "shoal-bridge-network-1\n"
	bridgeViewLabel = "shoal-bridge-view-1\n"
	askPrefix       = ticketPrefix + "ASK"  // no ticket begins like this: its version would be another
	lendPrefix      = ticketPrefix + "LEND" // nor like this
	maxLendEntries  = 4
	maxEntryAddrs   = 4
	maxBridgeText   = 64 << 10 // letters and spaces
	maxBridgeName   = 255      // bytes
)

// Network returns the ID of the network in which the members of both swarms meet. It
// is the same for all records of these two swarms.
func (b *BridgeRecord) Network() (id SwarmID) {
	sum := sha256.Sum256(append(append([]byte(bridgeNetLabel), b.Lender[:]...), b.Guest[:]...))
	copy(id[:], sum[:])
	return id
}

// Bridge returns the view key of the network of a bridge to a guest. The lender's
// members, who have v, compute it; the guest's are given it, and learn nothing of v.
func (v View) Bridge(guest Key) (out View) {
	copy(out[:], v.Derive(bridgeViewLabel+string(guest[:])))
	return out
}

// Grant is a bridge record that the guest's root key has accepted, as the guest's
// members pass it on. Without the acceptance any of them could have the others send
// their prompts to a swarm of its own making. Nothing changes a grant once it is
// signed or parsed, so it is safe for concurrent use.
type Grant struct {
	Record    *BridgeRecord
	View      View   // of the bridge's network
	Signature []byte // 64 bytes, by the guest's root key
}

// Accept signs a grant with the guest's root key. The error is ErrOther if the record is
// for another swarm, or that of BridgeRecord.Check.
func Accept(root ed25519.PrivateKey, record *BridgeRecord, view View, now time.Time) (*Grant, error) {
	g := &Grant{Record: record, View: view}
	g.Signature = sign(root, acceptLabel, g.body())
	if PublicKey(root) != record.Guest {
		return nil, ErrOther
	}
	return g, g.Check(now, Lists{}, Lists{})
}

// Check reports whether the grant is in force. lender and guest are the lists of both
// swarms known so far: either of them ends it. Errors are those of BridgeRecord.Check, and
// ErrForged if the guest's root key has not accepted it.
func (g *Grant) Check(at time.Time, lender, guest Lists) error {
	if !g.Record.Guest.verifies(acceptLabel, g.body(), g.Signature) {
		return ErrForged
	}
	if guest.HasSerial(g.Record.Serial()) {
		return ErrRevoked
	}
	return g.Record.Check(at, lender)
}

func (g *Grant) body() []byte { return append(g.View[:len(g.View):len(g.View)], g.Record.Marshal()...) }

// MaxGrant is the longest a grant can be, in bytes.
const MaxGrant = 64 + 32 + MaxBridge

// Marshal returns the grant's only encoding.
func (g *Grant) Marshal() []byte { return append(g.Signature[:64:64], g.body()...) }

// ParseGrant parses what Marshal returns. It verifies nothing: see Check. The error
// wraps ErrMalformed.
func ParseGrant(raw []byte) (*Grant, error) {
	if len(raw) < 64+32 || len(raw) > MaxGrant {
		return nil, malformed("a grant of %d bytes", len(raw))
	}
	g := &Grant{Signature: raw[:64:64]}
	copy(g.View[:], raw[64:])
	var err error
	g.Record, err = ParseBridge(raw[64+32:])
	return g, err
}

// BridgeHost returns a membership for the key with which a member is in the network of a
// bridge. The error is that of signing.
func (c *Certificate) BridgeHost(own crypto.PrivKey, network SwarmID, host peer.ID) (*Membership, error) {
	signature, err := own.Sign(bridgeHostBody(network, host))
	return &Membership{Certificate: c, Vouch: signature, Host: true}, err
}

func bridgeHostBody(network SwarmID, host peer.ID) []byte {
	return append(append([]byte(bridgeHostLabel), network[:]...), host...)
}

// CheckBridge is Check in the network of a bridge, where members have keys of their own,
// and helpers: root is that of the side whose certificate is shown. Errors are those of
// Check; a member's own key is ErrOther.
func (m *Membership) CheckBridge(network SwarmID, root Key, p peer.ID, at time.Time, revoked Lists) error {
	body := append([]byte(helperLabel), p...)
	if m.Host {
		body = bridgeHostBody(network, p)
	}
	if m.Vouch == nil || !ed25519.Verify(m.Certificate.Key[:], body, m.Vouch) {
		return ErrOther
	}
	return m.Certificate.Check(root, m.Certificate.Peer(), at, revoked)
}

// BridgeAsk is how a swarm asks another for a bridge: who it is. Whoever has the root key
// passes it on as text, over a channel that nobody can change.
type BridgeAsk struct {
	Guest Key
	Name  string // of the guest's swarm, for people; at most 255 bytes
}

// String returns the text: letters and digits only.
func (a *BridgeAsk) String() string {
	b := append([]byte{1}, a.Guest[:]...)
	return sumText(askPrefix, appendField(b, []byte(a.Name[:min(len(a.Name), maxBridgeName)])))
}

// ParseAsk parses what String returns, in upper or lower case, with spaces and line
// breaks anywhere. The error wraps ErrMalformed and does not contain the text.
func ParseAsk(s string) (*BridgeAsk, error) {
	r, err := readText(askPrefix, s)
	if err != nil {
		return nil, err
	}
	a := &BridgeAsk{Guest: r.key(), Name: string(r.field())}
	if r.bad || len(r.b) > 0 {
		return nil, malformed("it asks for no bridge")
	}
	return a, nil
}

// BridgeOffer is the lender's answer to an ask: the record, and what the guest's members
// need to find the lender's nodes. It is no secret like a ticket's: only members of the
// guest can use it. But who has it can tell who meets in the bridge's network.
type BridgeOffer struct {
	Record  *BridgeRecord
	View    View
	Name    string           // of the lender's swarm, for people; at most 255 bytes
	Entries []*peer.AddrInfo // nodes of the lender in the bridge's network: at most four, each with at most four addresses
}

// String returns the text: letters and digits only. Entries that do not fit are left out.
func (o *BridgeOffer) String() string {
	record := o.Record.Marshal()
	b := binary.BigEndian.AppendUint16([]byte{1}, uint16(len(record)))
	b = append(append(b, record...), o.View[:]...)
	b = appendField(b, []byte(o.Name[:min(len(o.Name), maxBridgeName)]))
	for _, e := range o.Entries[:min(len(o.Entries), maxLendEntries)] {
		var addrs [][]byte
		for _, a := range e.Addrs {
			if raw := a.Bytes(); len(raw) > 0 && len(raw) < 256 && len(addrs) < maxEntryAddrs {
				addrs = append(addrs, raw)
			}
		}
		b = append(appendField(b, []byte(e.ID)), byte(len(addrs)))
		for _, raw := range addrs {
			b = appendField(b, raw)
		}
	}
	return sumText(lendPrefix, b)
}

// ParseOffer parses what String returns, as ParseAsk does. It verifies nothing. The error
// wraps ErrMalformed and does not contain the text.
func ParseOffer(s string) (*BridgeOffer, error) {
	r, err := readText(lendPrefix, s)
	if err != nil {
		return nil, err
	}
	o := &BridgeOffer{}
	record, err := ParseBridge(r.take(int(r.u16())))
	if err != nil {
		return nil, err
	}
	o.Record = record
	copy(o.View[:], r.take(len(o.View)))
	o.Name = string(r.field())
	for len(r.b) > 0 && !r.bad && len(o.Entries) < maxLendEntries {
		e, err := readEntry(r)
		if err != nil {
			return nil, err
		}
		o.Entries = append(o.Entries, e)
	}
	if r.bad || len(r.b) > 0 {
		return nil, malformed("it offers no bridge")
	}
	return o, nil
}

func readEntry(r *reader) (*peer.AddrInfo, error) {
	id, err := peer.IDFromBytes(r.field())
	if err != nil {
		return nil, malformed("a node without an ID")
	}
	e := &peer.AddrInfo{ID: id}
	n := r.u8()
	if n > maxEntryAddrs {
		return nil, malformed("a node with %d addresses", n)
	}
	for range n {
		raw := r.field()
		a, err := multiaddr.NewMultiaddrBytes(raw)
		if err != nil || string(a.Bytes()) != string(raw) {
			return nil, malformed("an address that cannot be parsed")
		}
		e.Addrs = append(e.Addrs, a)
	}
	return e, nil
}

// sumText writes bytes, which begin with their version, as text with a checksum.
func sumText(prefix string, b []byte) string {
	sum := sha256.Sum256(append([]byte(prefix), b...))
	return prefix + base32Upper.EncodeToString(append(b, sum[:ticketSum]...))
}

// readText reads what sumText has written. The checksum only catches mistakes.
func readText(prefix, s string) (*reader, error) {
	damaged := malformed("a letter is wrong or missing; copy all of it, from %s on", prefix)
	if len(s) > maxBridgeText || strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII && !unicode.IsSpace(r) }) {
		return nil, damaged
	}
	s = strings.ToUpper(strings.Join(strings.Fields(s), ""))
	letters, ok := strings.CutPrefix(s, prefix)
	b, err := base32Upper.DecodeString(letters)
	if !ok || err != nil || len(b) <= ticketSum || base32Upper.EncodeToString(b) != letters {
		return nil, damaged
	}
	b, sum := b[:len(b)-ticketSum], b[len(b)-ticketSum:]
	if want := sha256.Sum256(append([]byte(prefix), b...)); string(want[:ticketSum]) != string(sum) {
		return nil, damaged
	}
	r := &reader{b: b}
	if r.u8() != 1 {
		return nil, malformed("it is of another version of shoal")
	}
	return r, nil
}
