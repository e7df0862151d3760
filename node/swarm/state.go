package swarm

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// The files of a swarm's folder. Each is replaced as a whole.
const (
	keyFile         = "key"         // of the peer that this node is there
	aboutFile       = "swarm.json"  // what never changes
	rootFile        = "root"        // the root key's seed, in hexadecimal; the founder's alone
	certificateFile = "certificate" // this node's own
	listFile        = "revocations"
	membersFile     = "members.json"
	ticketsFile     = "tickets.json"
	peersFile       = "peers.json" // package network's
	portFile        = "port"       // of the swarm's host
	joinPortFile    = "join-port"  // of the join listener
	outerKeyFile    = "relay-key"  // which relays of the open network see
	relaysFile      = "relays.json"
	joinRelaysFile  = "join-relays.json"
)

const (
	maxFile    = 32 << 20 // bytes of a file: maxMembers fit
	maxMembers = 4096     // that are remembered
	maxAddrs   = 8        // of one of them
	maxTickets = 64       // that are out, or were not long ago
	maxName    = protocol.MaxMachineName
)

// about is what never changes of a swarm.
type about struct {
	Name string     `json:"name"`
	Root member.Key `json:"-"`
	View member.View
}

type aboutJSON struct {
	Name string `json:"name"`
	Root string `json:"root"`     // public key, in hexadecimal
	View string `json:"view_key"` // in hexadecimal
}

func (a about) marshal() []byte {
	raw, _ := json.MarshalIndent(aboutJSON{a.Name, a.Root.String(), hex.EncodeToString(a.View[:])}, "", "  ") // strings can be written
	return append(raw, '\n')
}

func parseAbout(raw []byte) (a about, err error) {
	var v aboutJSON
	if err := json.Unmarshal(raw, &v); err != nil {
		return a, err
	}
	root, err := hex.DecodeString(v.Root)
	if err != nil || len(root) != len(a.Root) {
		return a, errors.New("the root key is damaged")
	}
	view, err := hex.DecodeString(v.View)
	if err != nil || len(view) != len(a.View) {
		return a, errors.New("the view key is damaged")
	}
	copy(a.Root[:], root)
	copy(a.View[:], view)
	if a.Name = swarmName(v.Name); a.Name == "" {
		a.Name = a.Root.Swarm().String()[:8]
	}
	return a, nil
}

// swarmName returns a swarm's name as it may be shown. It changes nothing of its own
// results.
func swarmName(s string) string { return protocol.MachineName(s) }

// known is a member that this node has heard of.
type known struct {
	Certificate *member.Certificate   // the newest
	Name        string                // of its machine; "": it has told none
	Addrs       []multiaddr.Multiaddr // plain ones, that it or another claims
	Reached     []multiaddr.Multiaddr // direct ones, where it was reached; the newest first
	Seen        time.Time             // last connected; zero: never
}

type knownJSON struct {
	Certificate []byte    `json:"certificate"`
	Name        string    `json:"name,omitempty"`
	Addrs       []string  `json:"addrs,omitempty"`
	Reached     []string  `json:"reached,omitempty"`
	Seen        time.Time `json:"seen,omitzero"`
}

func marshalMembers(all map[peer.ID]*known) []byte {
	list := []knownJSON{}
	for _, m := range all {
		v := knownJSON{Certificate: m.Certificate.Marshal(), Name: m.Name, Seen: m.Seen}
		for _, a := range m.Addrs {
			v.Addrs = append(v.Addrs, a.String())
		}
		for _, a := range m.Reached {
			v.Reached = append(v.Reached, a.String())
		}
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b knownJSON) int { return slices.Compare(a.Certificate, b.Certificate) })
	raw, _ := json.MarshalIndent(list, "", "  ") // its parts can all be written
	return append(raw, '\n')
}

// parseMembers reads the members that were known. Entries that are damaged are left out:
// members are met again.
func parseMembers(raw []byte, root member.Key) (map[peer.ID]*known, error) {
	var list []knownJSON
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	all := map[peer.ID]*known{}
	for _, v := range list[:min(len(list), maxMembers)] {
		c, err := member.ParseCertificate(v.Certificate)
		if err != nil || c.Check(root, c.Peer(), c.NotBefore, member.Lists{}) != nil && c.Check(root, c.Peer(), c.Expires().Add(-time.Second), member.Lists{}) != nil {
			continue
		}
		m := &known{Certificate: c, Name: protocol.MachineName(v.Name), Seen: v.Seen}
		for _, s := range v.Addrs[:min(len(v.Addrs), maxAddrs)] {
			if a, err := multiaddr.NewMultiaddr(s); err == nil && plain(a) {
				m.Addrs = append(m.Addrs, a)
			}
		}
		for _, s := range slices.Backward(v.Reached[:min(len(v.Reached), maxReached)]) {
			if a, err := multiaddr.NewMultiaddr(s); err == nil {
				m.reach(a)
			}
		}
		all[c.Peer()] = m
	}
	return all, nil
}

// readFile reads a file of bounded size.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("it has more than %d MiB", maxFile>>20)
	}
	return os.ReadFile(path)
}

// load reads the folder of a swarm. A damaged file of keys, certificate or revocation
// list is an error, since without it the node would be someone else, or would let in whom
// it must not; members and codes that are lost are found or made again.
func (b *Book) load(dir string) (*Swarm, error) {
	s := &Swarm{book: b, dir: dir, log: b.cfg.Log, members: map[peer.ID]*known{}, bridges: map[member.SwarmID]*Bridge{}, ended: map[member.SwarmID]*Bridge{}, complaints: rate.NewLimiter(rate.Every(10*time.Second), 5)}
	var raw []byte
	var err error
	need := func(name string, parse func() error) {
		if err != nil {
			return
		}
		if raw, err = readFile(s.path(name)); err == nil {
			err = parse()
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", s.path(name), err)
		}
	}
	need(keyFile, func() (err error) {
		if s.key, err = crypto.UnmarshalPrivateKey(raw); err == nil {
			s.self, err = peer.IDFromPrivateKey(s.key)
		}
		return err
	})
	need(aboutFile, func() (err error) { s.about, err = parseAbout(raw); return err })
	need(certificateFile, func() (err error) {
		if s.cert, err = member.ParseCertificate(raw); err == nil && s.cert.Peer() != s.self {
			err = member.ErrOther
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if id := s.about.Root.Swarm(); filepath.Base(dir) != id.String() || s.cert.Swarm != id {
		return nil, fmt.Errorf("%s: %w", dir, member.ErrForeign)
	}
	if s.lists, err = readLists(s.path(listFile), s.about.Root); err != nil {
		return nil, err
	}
	if s.rootKey, err = readRoot(s.path(rootFile), s.about.Root); err != nil {
		return nil, err
	}
	s.soft(membersFile, func(raw []byte) (err error) {
		all, err := parseMembers(raw, s.about.Root)
		if err == nil {
			s.members = all
		}
		return err
	})
	s.soft(ticketsFile, func(raw []byte) (err error) {
		s.tickets, err = parseTickets(raw)
		return err
	})
	s.loadBridges()
	return s, nil
}

// soft reads a file that the swarm can do without.
func (s *Swarm) soft(name string, parse func([]byte) error) {
	raw, err := readFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = parse(raw)
	}
	if err != nil {
		s.log.Warn("a file of a swarm is damaged, and goes unused", "file", s.path(name), "error", err)
	}
}

// readLists reads the newest revocation lists. The newest was signed in the past: this
// machine's clock may have been set back since.
func readLists(path string, root member.Key) (lists member.Lists, err error) {
	raw, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return lists, nil
	}
	var kept member.Lists
	if err == nil {
		kept, err = member.ParseLists(raw)
	}
	if err == nil {
		lists, _, err = lists.Merge(kept, root, kept.Newest())
	}
	if err != nil {
		return lists, fmt.Errorf("the revocation lists %s: %w", path, err)
	}
	return lists, nil
}

// readRoot reads the root key from a file; nil if there is none.
func readRoot(path string, root member.Key) (ed25519.PrivateKey, error) {
	raw, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var key ed25519.PrivateKey
	if err == nil {
		key, err = parseRoot(raw)
	}
	if err == nil && member.PublicKey(key) != root {
		err = errors.New("it is the key of another swarm")
	}
	if err != nil {
		return nil, fmt.Errorf("the root key %s: %w", path, err)
	}
	return key, nil
}

func parseRoot(raw []byte) (ed25519.PrivateKey, error) {
	seed, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("a root key has %d hexadecimal digits", 2*ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func marshalRoot(key ed25519.PrivateKey) []byte {
	return []byte(hex.EncodeToString(key.Seed()) + "\n")
}

func (s *Swarm) path(name string) string { return filepath.Join(s.dir, name) }

// save replaces a file of the swarm with what marshal returns of the newest state. It is
// called without s.mu.
func (s *Swarm) save(name string, marshal func() []byte) error {
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	raw, gone := marshal(), s.gone
	s.mu.Unlock()
	if gone {
		return errGone
	}
	return files.Replace(s.path(name), raw, 0o600)
}

var errGone = errors.New("this node has left the swarm")
