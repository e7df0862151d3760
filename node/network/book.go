package network

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/files"
)

// acquaintance is a peer that is remembered across restarts.
type acquaintance struct {
	ID    string    `json:"id"`
	Addrs []string  `json:"addrs"` // addresses at which it has proven to be
	RTT   float64   `json:"rtt_ms"`
	Seen  time.Time `json:"seen"`
	Since time.Time `json:"since,omitzero"`  // when it was first met; zero in files of older versions
	Work  int       `json:"work,omitempty"`  // sessions and leaves it has delivered to this node
	Relay bool      `json:"relay,omitempty"` // it was a relay when it was last seen
	// Models that it served when it was last seen, by CID: whoever knows a member of
	// a model need not look for one.
	Models []string `json:"models,omitempty"`
}

const (
	maxRemembered = 64
	perGroup      = 4 // remembered peers per group of addresses
	maxBook       = 1 << 20
	maxModels     = 8 // per remembered peer
	longKnown     = 24 * time.Hour
)

// book is the list of remembered peers. Keys cost nothing, so a recent
// connection alone does not earn a place: half of the places go to the peers
// known for longest, the other half to those that did the most work, with at
// most perGroup peers per group of addresses.
type book struct {
	file string // "": not kept on disk
	log  *slog.Logger

	mu  sync.Mutex
	all map[peer.ID]acquaintance
}

func openBook(file string, log *slog.Logger) *book {
	b := &book{file: file, log: log, all: map[peer.ID]acquaintance{}}
	if file == "" {
		return b
	}
	raw, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return b
	}
	var list []acquaintance
	if err == nil {
		list, err = parseBook(raw)
	}
	if err != nil {
		log.Warn("the list of remembered peers is damaged; starting a new one", "file", file, "error", err)
	}
	for _, a := range list {
		if id, err := peer.Decode(a.ID); err == nil {
			b.all[id] = a
		}
	}
	return b
}

func readFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxBook {
		err = fmt.Errorf("it has %d bytes", info.Size())
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// parseBook reads a list of peers, including the formats of older versions.
// Parts of an entry that cannot be read are skipped.
func parseBook(raw []byte) (out []acquaintance, err error) {
	var list []acquaintance
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, err
	}
	for _, a := range list[:min(len(list), 4*maxRemembered)] {
		if _, err := peer.Decode(a.ID); err != nil {
			continue
		}
		a.Addrs = slices.DeleteFunc(a.Addrs, func(s string) bool {
			m, err := multiaddr.NewMultiaddr(s)
			if err != nil {
				return true
			}
			_, ok := spotOf(m)
			return !ok
		})
		a.Addrs = a.Addrs[:min(len(a.Addrs), maxAddrs)]
		a.Models = slices.DeleteFunc(a.Models, func(s string) bool { _, err := cid.Decode(s); return err != nil })
		a.Models = a.Models[:min(len(a.Models), maxModels)]
		if a.Since.IsZero() || a.Since.After(a.Seen) {
			a.Since = a.Seen
		}
		if a.Work = max(a.Work, 0); len(a.Addrs) > 0 {
			out = append(out, a)
		}
	}
	return out, nil
}

// met notes that a peer is connected, and the addresses at which it has proven
// to be.
func (b *book) met(p peer.ID, addrs []multiaddr.Multiaddr, rtt time.Duration) {
	if len(addrs) == 0 {
		return
	}
	now := time.Now().UTC()
	b.mu.Lock()
	defer b.mu.Unlock()
	a, known := b.all[p]
	if !known {
		a = acquaintance{ID: p.String(), Since: now}
	}
	a.Seen, a.RTT, a.Addrs = now, float64(rtt.Microseconds())/1000, nil
	for _, m := range addrs[:min(len(addrs), maxAddrs)] {
		a.Addrs = append(a.Addrs, m.String())
	}
	b.all[p] = a
	if len(b.all) > 4*maxRemembered {
		b.cut()
	}
}

// worked notes that a peer has done work for this node.
func (b *book) worked(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a, known := b.all[p]; known {
		a.Work++
		b.all[p] = a
	}
}

func (b *book) knows(p peer.ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, known := b.all[p]
	return known
}

// works returns the work of each peer that has done any or has been known for a
// day.
func (b *book) works() map[peer.ID]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[peer.ID]int{}
	for p, a := range b.all {
		if work := min(a.Work, mostWork); work > 0 || a.Seen.Sub(a.Since) > longKnown {
			out[p] = max(work, 1)
		}
	}
	return out
}

// cut forgets all peers but those worth remembering. Called with mu held.
func (b *book) cut() {
	list := worth(b.list())
	clear(b.all)
	for _, a := range list {
		if id, err := peer.Decode(a.ID); err == nil {
			b.all[id] = a
		}
	}
}

func (b *book) list() (out []acquaintance) {
	for _, a := range b.all {
		out = append(out, a)
	}
	return out
}

// worth orders peers by how much they are worth remembering, alternating
// between the one known for longest and the one that did the most work and was
// seen last.
func worth(all []acquaintance) (out []acquaintance) {
	byAge, byWork := slices.Clone(all), slices.Clone(all)
	slices.SortFunc(byAge, func(a, b acquaintance) int { return a.Since.Compare(b.Since) })
	slices.SortFunc(byWork, func(a, b acquaintance) int {
		if a.Work != b.Work {
			return b.Work - a.Work
		}
		return b.Seen.Compare(a.Seen)
	})
	taken, groups := map[string]bool{}, map[string]int{}
	take := func(list []acquaintance) []acquaintance {
		for i, a := range list {
			if g := a.group(); !taken[a.ID] && (g == "" || groups[g] < perGroup) {
				taken[a.ID] = true
				groups[g]++
				out = append(out, a)
				return list[i+1:]
			}
		}
		return nil
	}
	for len(out) < maxRemembered && (len(byAge) > 0 || len(byWork) > 0) {
		byAge = take(byAge)
		if len(out) < maxRemembered {
			byWork = take(byWork)
		}
	}
	return out
}

// group returns the group of the first address that has one, or "".
func (a acquaintance) group() string {
	for _, s := range a.Addrs {
		if m, err := multiaddr.NewMultiaddr(s); err == nil {
			if g, ok := GroupOf(m); ok {
				return g
			}
		}
	}
	return ""
}

// infos returns the addresses at which the remembered peers can be dialled.
func (b *book) infos() (out []peer.AddrInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, a := range b.all {
		out = append(out, a.info(id))
	}
	return out
}

// relays returns the remembered peers that were relays, the nearest first.
func (b *book) relays() (out []peer.AddrInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, a := range b.all {
		if a.Relay {
			out = append(out, a.info(id))
		}
	}
	slices.SortFunc(out, func(x, y peer.AddrInfo) int { return cmp.Compare(b.all[x.ID].RTT, b.all[y.ID].RTT) })
	return out
}

// relaying notes whether a remembered peer is a relay.
func (b *book) relaying(p peer.ID, is bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a, known := b.all[p]; known {
		a.Relay = is
		b.all[p] = a
	}
}

// serve notes which models a remembered peer serves.
func (b *book) serve(p peer.ID, models []cid.Cid) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a, known := b.all[p]; known {
		a.Models = nil
		for _, m := range models[:min(len(models), maxModels)] {
			a.Models = append(a.Models, m.String())
		}
		b.all[p] = a
	}
}

// serving returns the remembered peers that served a model, those seen last first
// and at most most of them.
func (b *book) serving(model cid.Cid, most int) (out []peer.AddrInfo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, a := range b.all {
		if slices.Contains(a.Models, model.String()) {
			out = append(out, a.info(id))
		}
	}
	slices.SortFunc(out, func(x, y peer.AddrInfo) int { return b.all[y.ID].Seen.Compare(b.all[x.ID].Seen) })
	return out[:min(len(out), most)]
}

func (a acquaintance) info(id peer.ID) peer.AddrInfo {
	info := peer.AddrInfo{ID: id}
	for _, s := range a.Addrs {
		if m, err := multiaddr.NewMultiaddr(s); err == nil {
			info.Addrs = append(info.Addrs, m)
		}
	}
	return info
}

// save replaces the file with the current list.
func (b *book) save() error {
	if b.file == "" {
		return nil
	}
	b.mu.Lock()
	list := worth(b.list())
	b.mu.Unlock()
	raw, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return err
	}
	return files.Replace(b.file, raw, 0o600)
}
