package network

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	listedMost  = 2 * crowded // provider records that this node keeps per key
	listedGroup = 8           // of those, per group of addresses
	listedAll   = 1 << 15     // records that are counted
	longestKey  = 80          // bytes; the DHT takes no longer one
)

// shelf counts the provider records that this node keeps for others, by key. Who
// finds crowded others listed does not announce itself (see listing), so if keys
// were all it took, a single machine could fill a list and hide all other
// providers: records are counted per group of the addresses that they came from.
// The DHT's own store has no bound per key, and its answers would grow to 4 MiB.
// A shelf is safe for concurrent use.
type shelf struct {
	mu    sync.Mutex
	keys  map[string]map[peer.ID]filed
	count int
}

type filed struct {
	group string
	until time.Time
}

// admit reports whether a record of a peer may be kept under a key, and counts it.
func (s *shelf) admit(key string, p peer.ID, group string, now time.Time) bool {
	if len(key) > longestKey {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.keys[key]
	if _, again := of[p]; !again {
		total, same := 0, 0
		for q, f := range of {
			switch {
			case !now.Before(f.until):
				s.drop(key, q)
			case f.group == group:
				same++
				fallthrough
			default:
				total++
			}
		}
		if total >= listedMost || same >= listedGroup {
			return false
		}
		s.makeRoom(now)
		if of = s.keys[key]; of == nil {
			if s.keys == nil {
				s.keys = map[string]map[peer.ID]filed{}
			}
			of = map[peer.ID]filed{}
			s.keys[key] = of
		}
		s.count++
	}
	of[p] = filed{group, now.Add(providerAge)}
	return true
}

// makeRoom forgets what has expired if too much is counted, and then keys at
// random, whose records are counted from zero again. Called with mu held.
func (s *shelf) makeRoom(now time.Time) {
	if s.count < listedAll {
		return
	}
	for key, of := range s.keys {
		for p, f := range of {
			if !now.Before(f.until) {
				s.drop(key, p)
			}
		}
	}
	for key, of := range s.keys {
		if s.count < listedAll*3/4 {
			return
		}
		s.count -= len(of)
		delete(s.keys, key)
	}
}

// drop forgets a record. Called with mu held.
func (s *shelf) drop(key string, p peer.ID) {
	delete(s.keys[key], p)
	s.count--
	if len(s.keys[key]) == 0 {
		delete(s.keys, key)
	}
}
