package swarm

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol/member"
)

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
