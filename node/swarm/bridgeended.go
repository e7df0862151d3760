package swarm

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// maxEnded is how many bridges that are over are told of. Their numbers are kept for good.
const maxEnded = 64

// over reports whether an error of Bridge.open says that the bridge has ended for good. The
// signature of this swarm's own root key is checked before, so nobody else can make one such.
func over(err error) bool {
	return errors.Is(err, member.ErrRevoked) || errors.Is(err, member.ErrExpired)
}

// overtake takes a record that is over for what it says of those before it: they are over,
// too. b is the bridge in force; nil: there is none. It reports whether b has ended so.
func (s *Swarm) overtake(b, fresh *Bridge) (ended bool, err error) {
	if b == nil {
		return false, s.noteEnd(fresh)
	}
	s.mu.Lock()
	ended = b.takeOver(fresh)
	s.mu.Unlock()
	if !ended {
		return false, nil
	}
	return true, s.save(b.file(bridgeAbout), b.marshal)
}

// noteEnd remembers a record that is over, of a bridge that this node does not have, unless
// a newer one is known.
func (s *Swarm) noteEnd(fresh *Bridge) error {
	last, err := s.lastNumber(fresh.id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	known := s.ended[fresh.id] != nil
	full := !known && len(s.ended) >= maxEnded
	s.mu.Unlock()
	if full || fresh.record.Number < last || known && fresh.record.Number == last {
		return nil
	}
	s.write.Lock()
	defer s.write.Unlock()
	return fresh.remember()
}

// remember writes down which records the end of a bridge has overtaken, and its newest one,
// to show it to members that have missed it. It is called with s.write held.
func (b *Bridge) remember() error {
	s := b.s
	s.mu.Lock()
	e := &Bridge{s: s, id: b.id, record: b.record, grant: b.grant, name: b.name, past: slices.Clone(b.past)}
	gone, full := s.gone, s.ended[b.id] == nil && len(s.ended) >= maxEnded
	s.mu.Unlock()
	if gone {
		return nil
	}
	if err := files.Replace(b.path(bridgeNumber), strconv.AppendUint(nil, e.record.Number, 10), 0o600); err != nil || full {
		return err
	}
	s.mu.Lock()
	s.ended[b.id] = e
	s.mu.Unlock()
	return files.Replace(b.path(bridgeEnded), e.marshal(), 0o600)
}

// loadEnded reads the bridges that are over. They can do without: what they overtook is in
// files of its own.
func (s *Swarm) loadEnded(e fs.DirEntry) {
	name, ok := strings.CutSuffix(e.Name(), bridgeEnded)
	if !ok || !strings.HasPrefix(name, bridgePrefix) || len(s.ended) >= maxEnded {
		return
	}
	var b *Bridge
	raw, err := readFile(s.path(e.Name()))
	if err == nil {
		b, err = parseBridge(raw)
	}
	if err == nil && (name != bridgePrefix+b.ID() || b.mine(s) != nil) {
		err = member.ErrForeign
	}
	if err != nil {
		s.log.Warn("the record of a bridge that has ended is damaged: members that have missed it are not told", "swarm", s.Name(), "file", e.Name(), "error", err)
		return
	}
	b.s = s
	s.ended[b.id] = b
}

// follow takes what is known of the records before a bridge that begins again: they are
// revoked with it. It is called with s.mu held.
func (b *Bridge) follow(e *Bridge) {
	if e == nil {
		return
	}
	b.past = slices.Clone(e.past)
	if e.record.Number != b.record.Number {
		b.past = append(b.past, e.record.Serial())
	}
	b.past = b.past[max(0, len(b.past)-maxPast):]
}

// endsFor returns bridges that are over, for a fellow member: at most most, others each time.
func (s *Swarm) endsFor(most int) (out []*protocol.SwarmBridge) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*Bridge
	for id, e := range s.ended {
		if s.bridges[id] == nil {
			list = append(list, e)
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, e := range list[:max(0, min(len(list), most))] {
		out = append(out, e.told(nil))
	}
	return out
}

// told is the bridge as a fellow member is told of it. It is called with s.mu held.
func (b *Bridge) told(nodes []bridgeNode) *protocol.SwarmBridge {
	v := &protocol.SwarmBridge{Name: b.name}
	if b.grant != nil {
		v.Grant = b.grant.Marshal()
	} else {
		v.Record = b.record.Marshal()
	}
	for _, n := range nodes[:min(len(nodes), maxBridgeNodes)] {
		w := &protocol.BridgeNode{Peer: []byte(n.ID)}
		for _, a := range n.Addrs {
			w.Addrs = append(w.Addrs, a.Bytes())
		}
		v.Nodes = append(v.Nodes, w)
	}
	return v
}

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
	if err := b.remember(); err != nil { // it ends again at the next start
		s.log.Warn("a bridge that has ended cannot be forgotten", "swarm", s.Name(), "error", err)
		return
	}
	// The other swarm's lists, and what was used today, count if there is another bridge.
	for _, what := range []string{bridgeAbout, bridgeKey, bridgePeers, bridgePort, bridgeOuter, bridgeRelays} {
		if err := os.Remove(b.path(what)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("a file of a bridge that has ended cannot be removed", "file", b.file(what), "error", err)
		}
	}
	_ = files.SyncDir(s.dir)
}
