package swarm

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/allowance"
	"github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/protocol/member"
)

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
		s.loadEnded(e)
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

// hold takes a bridge in place of an older one of the same two swarms, or in addition. One
// that is over takes the place of an older one, too, which then is over. news reports whether
// b has another record. The error is why the bridge is not in force, or of writing.
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
	case over(err):
		ended, e := s.overtake(b, fresh)
		return b, ended, cmp.Or(e, err)
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
		s.mu.Lock()
		b.follow(s.ended[b.id])
		s.mu.Unlock()
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
