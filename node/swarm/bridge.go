package swarm

import (
	"cmp"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/allowance"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// The files of a bridge, in the swarm's folder: the prefix, the ID of its network, and one
// of these. A bridge whose key or revocation lists are damaged is not used.
const (
	bridgePrefix = "bridge-"
	bridgeAbout  = ".json"
	bridgeKey    = ".key"         // of the peer that this node is there
	bridgeLists  = ".revocations" // of the other swarm
	bridgeUsed   = ".used"        // what guests have used of this node today
	bridgeNumber = ".number"      // of the newest record, of a bridge that has ended
	bridgePeers  = ".peers"       // package network's
	bridgePort   = ".port"
	bridgeOuter  = ".relay-key" // which relays of the open network see
	bridgeRelays = ".relays"    // package outer's
)

const (
	maxBridges     = 16 // of a swarm
	maxPast        = 64 // records of two swarms that were replaced
	maxBridgeNodes = 8  // that are passed on and looked for
	maxBridgeLife  = 10 * 366 * 24 * time.Hour
)

// Errors of bridges.
var (
	ErrBridge     = errors.New("a bridge like that is not possible")
	ErrBridgeText = errors.New("this is no request for a bridge, and no code of one")
	ErrNoBridge   = errors.New("there is no such bridge")
	ErrBridgeRoot = errors.New("bridges are made and ended with the swarm's root key, which is not in this home")
	ErrForAnother = errors.New("this bridge is for another swarm than those whose root key is here")
)

// Bridge is a bridge between a swarm of this home and another, as one of both sides. It is
// safe for concurrent use.
type Bridge struct {
	s    *Swarm
	id   member.SwarmID // of its network
	key  crypto.PrivKey // of this node, there
	self peer.ID
	used *allowance.Book

	// guarded by s.mu
	record *member.BridgeRecord
	grant  *member.Grant   // on the guest's side; nil: this is the lender's
	name   string          // of the other swarm
	nodes  []bridgeNode    // of the lender, the best first
	past   []member.Serial // of the records before, which are revoked with this one
	other  member.Lists    // of the other swarm
	run    *bridgeRun      // nil: no host of this process is there
}

// bridgeNode is a node of the lender in the bridge's network.
type bridgeNode struct {
	peer.AddrInfo
	typed bool // it was in the code that the owner of this home has accepted
}

// ID returns the ID of the bridge's network, in hexadecimal.
func (b *Bridge) ID() string { return b.id.String() }

// Lends reports whether this node is on the lender's side.
func (b *Bridge) Lends() bool {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.grant == nil
}

// terms returns the record of now.
func (b *Bridge) terms() *member.BridgeRecord {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.record
}

func (b *Bridge) path(what string) string { return b.s.path(bridgePrefix + b.ID() + what) }

func (b *Bridge) file(what string) string { return bridgePrefix + b.ID() + what }

// PortFile is where the port of the bridge's host is kept.
func (b *Bridge) PortFile() string { return b.path(bridgePort) }

// open returns why the bridge is closed; nil: it is in force. It is called with s.mu held.
func (b *Bridge) open(now time.Time) error {
	if b.grant != nil {
		return b.grant.Check(now, b.other, b.s.lists)
	}
	if b.other.HasSerial(b.record.Serial()) {
		return member.ErrRevoked
	}
	return b.record.Check(now, b.s.lists)
}

// roles returns what this node may do in the bridge's network. It is called with s.mu held.
func (b *Bridge) roles() member.Roles {
	if b.grant == nil {
		return b.s.cert.Roles & (member.Serve | member.Relay)
	}
	return b.s.cert.Roles & b.record.Roles
}

// view is the bridge's view key. It is called with s.mu held.
func (b *Bridge) view() member.View {
	if b.grant != nil {
		return b.grant.View
	}
	return b.s.about.View.Bridge(b.record.Guest)
}

// Network fills in what makes a network this bridge's.
func (b *Bridge) Network(cfg network.Config) network.Config {
	s := b.s
	cfg.Outside = s.outside(cfg.Outside, b.file(bridgeOuter), b.file(bridgeRelays), b.heardRelays)
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg.Key, cfg.PeersFile, cfg.SwarmName = b.key, b.path(bridgePeers), b.name
	cfg.Swarm = &network.Swarm{Root: s.about.Root, View: b.view(), Certificate: s.cert, Lists: s.lists, Bridge: &network.Bridge{Record: b.record, Other: b.other, Member: s.key}}
	for _, n := range b.nodes {
		switch {
		case n.ID == b.self:
		case n.typed:
			cfg.Reached = append(cfg.Reached, n.AddrInfo)
		default:
			cfg.Claimed = append(cfg.Claimed, n.AddrInfo)
		}
	}
	return cfg
}

type bridgeJSON struct {
	Record []byte           `json:"record,omitempty"` // on the lender's side
	Grant  []byte           `json:"grant,omitempty"`  // on the guest's
	Name   string           `json:"name"`
	Nodes  []bridgeNodeJSON `json:"nodes,omitempty"`
	Past   []string         `json:"past,omitempty"` // serials, in hexadecimal
}

type bridgeNodeJSON struct {
	Peer  string   `json:"peer"`
	Addrs []string `json:"addrs"`
	Typed bool     `json:"typed,omitempty"`
}

// marshal returns what is kept of the bridge. It is called with s.mu held.
func (b *Bridge) marshal() []byte {
	v := bridgeJSON{Name: b.name}
	if b.grant != nil {
		v.Grant = b.grant.Marshal()
	} else {
		v.Record = b.record.Marshal()
	}
	for _, n := range b.nodes {
		m := bridgeNodeJSON{Peer: n.ID.String(), Typed: n.typed}
		for _, a := range n.Addrs {
			m.Addrs = append(m.Addrs, a.String())
		}
		v.Nodes = append(v.Nodes, m)
	}
	for _, p := range b.past {
		v.Past = append(v.Past, p.String())
	}
	raw, _ := json.MarshalIndent(v, "", "  ") // its parts can all be written
	return append(raw, '\n')
}

// parseBridge reads what marshal returns. It verifies no signature.
func parseBridge(raw []byte) (*Bridge, error) {
	var v bridgeJSON
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	b := &Bridge{name: swarmName(v.Name)}
	var err error
	if len(v.Grant) > 0 {
		if b.grant, err = member.ParseGrant(v.Grant); err == nil {
			b.record = b.grant.Record
		}
	} else {
		b.record, err = member.ParseBridge(v.Record)
	}
	if err != nil {
		return nil, err
	}
	b.id = b.record.Network()
	for _, n := range v.Nodes[:min(len(v.Nodes), maxBridgeNodes)] {
		id, err := peer.Decode(n.Peer)
		if err != nil {
			continue
		}
		info := peer.AddrInfo{ID: id}
		for _, s := range n.Addrs {
			if a, err := multiaddr.NewMultiaddr(s); err == nil {
				info.Addrs = append(info.Addrs, a)
			}
		}
		if info.Addrs = plainOnes(info.Addrs); len(info.Addrs) > 0 {
			b.nodes = append(b.nodes, bridgeNode{info, n.Typed})
		}
	}
	for _, p := range v.Past[:min(len(v.Past), maxPast)] {
		var serial member.Serial
		raw, err := hex.DecodeString(p)
		if err != nil || len(raw) != len(serial) {
			return nil, errors.New("the serial of an earlier record is damaged")
		}
		b.past = append(b.past, member.Serial(raw))
	}
	return b, nil
}

// loadBridges reads the bridges of the swarm. One that is damaged goes unused: without the
// other swarm's lists this node would let in whom it must not.
func (s *Swarm) loadBridges() {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		s.log.Warn("the bridges of a swarm cannot be read", "swarm", s.Name(), "error", err)
	}
	for _, e := range list {
		name, ok := strings.CutSuffix(e.Name(), bridgeAbout)
		if !ok || !strings.HasPrefix(name, bridgePrefix) || len(s.bridges) >= maxBridges {
			continue
		}
		b, err := s.loadBridge(s.path(e.Name()))
		if err == nil && name != bridgePrefix+b.ID() {
			err = member.ErrForeign
		}
		if err != nil {
			s.log.Warn("a bridge is damaged, and goes unused", "swarm", s.Name(), "file", e.Name(), "error", err)
			continue
		}
		s.bridges[b.id] = b
	}
}

func (s *Swarm) loadBridge(path string) (*Bridge, error) {
	raw, err := readFile(path)
	if err != nil {
		return nil, err
	}
	b, err := parseBridge(raw)
	if err != nil {
		return nil, err
	}
	if b.mine(s) != nil {
		return nil, member.ErrForeign
	}
	b.s = s
	if b.other, err = readLists(b.path(bridgeLists), b.otherRoot()); err != nil {
		return nil, err
	}
	return b, b.prepare()
}

// mine returns an error unless the bridge is one of a swarm, on the side that it says.
func (b *Bridge) mine(s *Swarm) error {
	own := b.record.Lender
	if b.grant != nil {
		own = b.record.Guest
	}
	if own != s.about.Root {
		return member.ErrForeign
	}
	return nil
}

func (b *Bridge) otherRoot() member.Key {
	if b.grant != nil {
		return b.record.Lender
	}
	return b.record.Guest
}

// prepare loads or makes this node's key there, and what it has counted.
func (b *Bridge) prepare() error {
	var err error
	if b.key, err = network.LoadKey(b.path(bridgeKey)); err != nil {
		return err
	}
	if b.self, err = peer.IDFromPrivateKey(b.key); err != nil {
		return err
	}
	now := b.s.book.cfg.Now()
	var before allowance.Sum
	raw, err := readFile(b.path(bridgeUsed))
	if err == nil {
		before, err = allowance.ParseSum(raw, now)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.s.log.Warn("what guests have used of this node today is not known", "swarm", b.s.Name(), "error", err)
	}
	b.used = allowance.New(b.record.TokensPerDay, before)
	return nil
}

// hold takes a bridge in place of an older one of the same two swarms, or in addition.
// news reports whether anything has changed. The error is why it is not in force, or of
// writing.
func (s *Swarm) hold(fresh *Bridge) (b *Bridge, news bool, err error) {
	if err := fresh.mine(s); err != nil {
		return nil, false, err
	}
	fresh.id, fresh.s = fresh.record.Network(), s
	fresh.name = cmp.Or(fresh.name, fresh.otherRoot().Swarm().String()[:8])
	s.holding.Lock()
	defer s.holding.Unlock()
	now := s.book.cfg.Now()
	s.mu.Lock()
	b = s.bridges[fresh.id]
	if b != nil {
		fresh.other = b.other
	}
	err = fresh.open(now)
	full := b == nil && len(s.bridges) >= maxBridges
	s.mu.Unlock()
	switch {
	case err != nil:
		return nil, false, err
	case full:
		return nil, false, fmt.Errorf("%w: a swarm has at most %d", ErrBridge, maxBridges)
	}
	typed := slices.ContainsFunc(fresh.nodes, func(n bridgeNode) bool { return n.typed })
	if b == nil {
		b, news = fresh, true
		if b.other, err = readLists(b.path(bridgeLists), b.otherRoot()); err != nil { // of a bridge that has ended
			return nil, false, err
		}
		if err := b.revived(now); err != nil {
			return nil, false, err
		}
		if err := b.prepare(); err != nil {
			return nil, false, err
		}
		s.mu.Lock()
		s.bridges[b.id] = b
		s.mu.Unlock()
	} else {
		s.mu.Lock()
		news = b.takeOver(fresh)
		s.mu.Unlock()
	}
	if !news && !typed { // where members say that nodes are is said again, and not worth a write
		return b, news, nil
	}
	return b, news, s.save(b.file(bridgeAbout), b.marshal)
}

// revived returns why a bridge that this node has forgotten, or never known, is not in
// force; nil: it is.
func (b *Bridge) revived(now time.Time) error {
	last, err := b.s.lastNumber(b.id)
	switch {
	case err != nil:
		return err
	case b.record.Number < last:
		return errReplaced
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.open(now)
}

// errReplaced is of a record that may lend more than the owner does now, or for longer.
var errReplaced = fmt.Errorf("%w: it was replaced by a record that has ended", member.ErrExpired)

// lastNumber is that of the newest record of a bridge that has ended; 0: there was none.
func (s *Swarm) lastNumber(network member.SwarmID) (uint64, error) {
	file := s.path(bridgePrefix + network.String() + bridgeNumber)
	raw, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	var last uint64
	if err == nil {
		last, err = strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	}
	if err != nil {
		return 0, fmt.Errorf("the number of a bridge's last record, in %s: %w", file, err)
	}
	return last, nil
}

// takeOver takes what is newer of another account of the same bridge; news is what others
// must be told. It is called with s.mu held.
func (b *Bridge) takeOver(fresh *Bridge) (news bool) {
	if fresh.record.Supersedes(b.record) {
		b.past = append(b.past, b.record.Serial())
		b.past = b.past[max(0, len(b.past)-maxPast):]
		b.record, b.grant, news = fresh.record, fresh.grant, true
		b.used.SetLimit(b.record.TokensPerDay)
	}
	for _, n := range fresh.nodes {
		b.addNode(n)
	}
	return news
}

// addNode notes where a node of the lender is. What the owner has typed is believed before
// what members say. It is called with s.mu held.
func (b *Bridge) addNode(n bridgeNode) {
	if n.Addrs = plainOnes(n.Addrs); len(n.Addrs) == 0 {
		return
	}
	at := slices.IndexFunc(b.nodes, func(o bridgeNode) bool { return o.ID == n.ID })
	switch {
	case at < 0 && n.typed:
		b.nodes = slices.Insert(b.nodes, 0, n)
		b.nodes = b.nodes[:min(len(b.nodes), maxBridgeNodes)]
	case at < 0 && len(b.nodes) < maxBridgeNodes:
		b.nodes = append(b.nodes, n)
	case at >= 0 && (n.typed || !b.nodes[at].typed):
		b.nodes[at] = n
	}
}

// BridgeTerms are what a bridge lends.
type BridgeTerms struct {
	Roles        member.Roles // of member.GuestRoles
	Models       []cid.Cid    // none: all
	TokensPerDay uint64       // of all guests together; 0: no limit
	Life         time.Duration
}

// BridgeAsk returns the text with which the swarm asks another for a bridge.
func (s *Swarm) BridgeAsk() string {
	return (&member.BridgeAsk{Guest: s.about.Root, Name: s.Name()}).String()
}

// signingRoot is the swarm's root key: from a file, or with "" the one in this home. Errors wrap
// ErrBridgeRoot and ErrRootFile.
func (s *Swarm) signingRoot(file string) (ed25519.PrivateKey, error) {
	if file == "" {
		if s.rootKey == nil {
			return nil, ErrBridgeRoot
		}
		return s.rootKey, nil
	}
	key, err := readRoot(file, s.about.Root)
	if err == nil && key == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRootFile, err)
	}
	return key, nil
}

// Lend lets the members of the swarm that asks use this one, and returns the bridge and its
// code, which the other swarm accepts. It replaces an earlier bridge to that swarm. Errors
// wrap ErrBridgeText, ErrBridge, ErrBridgeRoot and ErrRootFile, or are those of writing.
func (s *Swarm) Lend(ask string, terms BridgeTerms, rootFile string) (*Bridge, string, error) {
	a, err := member.ParseAsk(ask)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrBridgeText, err)
	}
	root, err := s.signingRoot(rootFile)
	if err != nil {
		return nil, "", err
	}
	now := s.book.cfg.Now()
	switch {
	case a.Guest == s.about.Root:
		return nil, "", fmt.Errorf("%w: the request is this swarm's own", ErrBridge)
	case terms.Life < time.Minute || terms.Life > maxBridgeLife:
		return nil, "", fmt.Errorf("%w: it is good for at least a minute, and at most ten years", ErrBridge)
	}
	r := member.BridgeRecord{Guest: a.Guest, Number: uint64(now.UnixMilli()), Roles: terms.Roles, NotBefore: now, NotAfter: now.Add(terms.Life), TokensPerDay: terms.TokensPerDay, Models: terms.Models}
	last, err := s.lastTo(a.Guest)
	if err != nil {
		return nil, "", err
	}
	r.Number = max(r.Number, last+1)
	record, err := member.SignBridge(root, r)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrBridge, err)
	}
	b, _, err := s.hold(&Bridge{record: record, name: swarmName(a.Name)})
	if err != nil {
		return nil, "", err
	}
	s.bridgeNews(b)
	s.book.tendNow()
	return b, b.code(), nil
}

// lastTo is the number of the newest record for another swarm; 0: there was none.
func (s *Swarm) lastTo(guest member.Key) (uint64, error) {
	id := (&member.BridgeRecord{Lender: s.about.Root, Guest: guest}).Network()
	s.mu.Lock()
	b := s.bridges[id]
	s.mu.Unlock()
	if b != nil {
		return b.terms().Number, nil
	}
	return s.lastNumber(id)
}

// code is what the guest accepts.
func (b *Bridge) code() string {
	s := b.s
	own := b.whereAmI()
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &member.BridgeOffer{Record: b.record, View: b.view(), Name: s.Name()}
	if len(own.Addrs) > 0 {
		o.Entries = append(o.Entries, &own)
	}
	for _, n := range b.nodes {
		if n.ID != own.ID {
			o.Entries = append(o.Entries, &n.AddrInfo)
		}
	}
	return o.String()
}

// whereAmI returns where this node is in the bridge's network, or will be at its next
// start.
func (b *Bridge) whereAmI() peer.AddrInfo {
	if r := b.attached(); r != nil {
		h := r.net.Host()
		return peer.AddrInfo{ID: b.self, Addrs: ticketAddrs(plainOnes(h.Addrs()))}
	}
	port := network.KeptPort(b.PortFile())
	if port == 0 {
		var err error
		if port, err = network.FreePort(); err != nil || network.KeepPort(b.PortFile(), port) != nil {
			return peer.AddrInfo{ID: b.self}
		}
	}
	return peer.AddrInfo{ID: b.self, Addrs: ticketAddrs(ownAddrs(port))}
}

// AcceptBridge takes the code of a bridge for the swarm of this home that it is for: its
// members use the lender's swarm from then on. Errors are those of Lend, and ErrForAnother.
func (b *Book) AcceptBridge(code, rootFile string) (*Bridge, error) {
	o, err := member.ParseOffer(code)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBridgeText, err)
	}
	for _, s := range b.Swarms() {
		if s.about.Root == o.Record.Guest {
			return s.accept(o, rootFile)
		}
	}
	return nil, ErrForAnother
}

func (s *Swarm) accept(o *member.BridgeOffer, rootFile string) (*Bridge, error) {
	root, err := s.signingRoot(rootFile)
	if err != nil {
		return nil, err
	}
	grant, err := member.Accept(root, o.Record, o.View, s.book.cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: the record: %w", ErrBridge, err)
	}
	fresh := &Bridge{record: grant.Record, grant: grant, name: swarmName(o.Name)}
	for _, e := range slices.Backward(o.Entries) {
		fresh.addNode(bridgeNode{*e, true})
	}
	b, _, err := s.hold(fresh)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBridge, err)
	case b.terms().Number > o.Record.Number:
		return nil, fmt.Errorf("%w: a newer code of the same swarm has been accepted before", ErrBridge)
	}
	s.bridgeNews(b)
	s.book.tendNow()
	return b, nil
}

// EndBridge revokes a bridge, on either side: connections over it are closed everywhere.
// who is the other swarm's name or the beginning of its ID, or of the bridge's. Errors wrap
// ErrNoBridge, ErrAmbiguous, ErrBridgeRoot and ErrRootFile, or are those of writing.
func (s *Swarm) EndBridge(who, rootFile string) (BridgeInfo, error) {
	var found []*Bridge
	for _, b := range s.Bridges() {
		if b.called(who) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		err := ErrNoBridge
		if len(found) > 1 {
			err = ErrAmbiguous
		}
		return BridgeInfo{}, fmt.Errorf("%q: %w in swarm %s", who, err, s.Name())
	}
	b := found[0]
	root, err := s.signingRoot(rootFile)
	if err != nil {
		return BridgeInfo{}, err
	}
	issuer := member.Issuer{Root: s.about.Root, Key: root}
	s.mu.Lock()
	list, err := issuer.Revoke(s.lists, append(slices.Clone(b.past), b.record.Serial()), nil, s.book.cfg.Now())
	s.mu.Unlock()
	if err != nil {
		return BridgeInfo{}, err
	}
	info := b.Info()
	if err := s.install(listsOf(list)); err != nil {
		return info, err
	}
	info.Running, info.Why = false, member.ErrRevoked
	return info, nil
}

// called reports whether a person may mean the bridge.
func (b *Bridge) called(who string) bool {
	i, id := b.Info(), strings.ToLower(who)
	return strings.EqualFold(i.Name, who) || len(id) >= 4 && (strings.HasPrefix(i.ID, id) || strings.HasPrefix(i.Other.String(), id))
}

// Bridges returns the bridges of the swarm, sorted by name.
func (s *Swarm) Bridges() []*Bridge {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Bridge
	for _, b := range s.bridges {
		out = append(out, b)
	}
	slices.SortFunc(out, func(x, y *Bridge) int { return cmp.Or(cmp.Compare(x.name, y.name), strings.Compare(x.ID(), y.ID())) })
	return out
}

// BridgeInfo is what a bridge is like now.
type BridgeInfo struct {
	ID        string         // of its network
	Name      string         // of the other swarm
	Other     member.SwarmID // the other swarm
	Lends     bool           // this swarm is the lender
	Record    *member.BridgeRecord
	Used      float64 // tokens of today that are known
	Running   bool    // this node is in the bridge's network
	Connected int     // peers there
	Why       error   // why it is closed; nil: it is in force
}

// Info returns what the bridge is like now.
func (b *Bridge) Info() BridgeInfo {
	now := b.s.book.cfg.Now()
	b.s.mu.Lock()
	i := BridgeInfo{
		ID: b.ID(), Name: b.name, Other: b.otherRoot().Swarm(), Lends: b.grant == nil, Record: b.record, Running: b.run != nil, Why: b.open(now),
	}
	run := b.run
	b.s.mu.Unlock()
	i.Used = b.used.Used(now)
	if run != nil {
		i.Connected = len(run.net.Host().Network().Peers())
	}
	return i
}

// forgetBridge drops a bridge that is over, and its files. It is called without s.mu.
func (s *Swarm) forgetBridge(b *Bridge) {
	s.holding.Lock()
	defer s.holding.Unlock()
	s.mu.Lock()
	gone := s.bridges[b.id] == b && b.run == nil
	if gone {
		delete(s.bridges, b.id)
	}
	s.mu.Unlock()
	if !gone {
		return
	}
	s.write.Lock()
	defer s.write.Unlock()
	if err := b.keepNumber(); err != nil { // it ends again at the next start
		s.log.Warn("a bridge that has ended cannot be forgotten", "swarm", s.Name(), "error", err)
		return
	}
	// The other swarm's lists, and what was used today, count if there is another bridge.
	for _, what := range []string{bridgeAbout, bridgeKey, bridgePeers, bridgePort, bridgeOuter, bridgeRelays} {
		if err := os.Remove(b.path(what)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("a file of a bridge that has ended cannot be removed", "file", filepath.Base(b.path(what)), "error", err)
		}
	}
	_ = files.SyncDir(s.dir)
}

// keepNumber writes down which records an end of the bridge has overtaken. It is called with
// s.write held.
func (b *Bridge) keepNumber() error {
	b.s.mu.Lock()
	number, gone := b.record.Number, b.s.gone
	b.s.mu.Unlock()
	if gone {
		return nil
	}
	return files.Replace(b.path(bridgeNumber), strconv.AppendUint(nil, number, 10), 0o600)
}

// Spend counts rows that were computed for a guest through some of a model's blocks, in the
// network with an ID. It returns why the guest may use no more; nil: it may, or is no guest.
func (b *Book) Spend(network string, rows, blocks, of int) *protocol.Error {
	br := b.lending(network)
	if br == nil {
		return nil
	}
	now := b.cfg.Now()
	left := br.used.Spend(allowance.Of(rows, blocks, of), now)
	if r := br.attached(); r != nil {
		signal(r.spent)
	}
	return br.exhausted(left, now)
}

// Exhausted returns why guests may open no sessions in the network with an ID; nil: they
// may, or it is not that of a bridge on which this node lends.
func (b *Book) Exhausted(network string) *protocol.Error {
	br := b.lending(network)
	if br == nil {
		return nil
	}
	now := b.cfg.Now()
	return br.exhausted(br.used.Left(now), now)
}

func (b *Bridge) exhausted(left bool, now time.Time) *protocol.Error {
	if left {
		return nil
	}
	return protocol.Errorf(protocol.Code_CODE_FORBIDDEN, "the guests of this swarm have used the %d tokens that it lends them a day; there are more from %s on",
		b.terms().TokensPerDay, allowance.Until(allowance.Day(now)).Format("2006-01-02 15:04 MST"))
}

// lending returns the bridge with a network's ID on which this node lends; nil: there is none,
// or no book.
func (b *Book) lending(network string) *Bridge {
	if b == nil || network == "" {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if br := b.running[network]; br != nil && br.lends {
		return br.Bridge
	}
	return nil
}

// logger is of what concerns the bridge.
func (b *Bridge) logger() *slog.Logger {
	return b.s.log.With("swarm", b.s.Name(), "bridge", b.ID()[:8])
}
