package api

import (
	"context"
	"net/http"
	"time"
)

// Health is what `shoal doctor` and `shoal top` need to know about a node and its
// surroundings beyond its Status.
type Health struct {
	Reach      string      `json:"reach"` // how peers elsewhere reach this node: public, private, local (it listens only on loopback), unknown
	Port       int         `json:"port"`  // UDP and TCP
	Alone      bool        `json:"alone"` // there is nowhere to look for peers: no bootstrap peer, none remembered, no mDNS
	Unreached  []Unreached `json:"unreached"`
	ClockOffMs int64       `json:"clock_off_ms"` // how far, at least, this clock is ahead of the peers'; negative: behind
	ClockPeers int         `json:"clock_peers"`  // number of peers it was compared with
	Strangers  []Peer      `json:"strangers"`    // connected peers that speak another version of the protocol
	Paused     string      `json:"paused,omitempty"`
	Coverage   []Coverage  `json:"coverage"`
	Engines    []Losses    `json:"engines"`
	Fetches    []Fetch     `json:"fetches"`
	QuotaUsed  int64       `json:"quota_used"` // bytes of unpinned shards
	Quota      int64       `json:"quota"`      // bytes; 0: no limit

	Reachability *Reachability `json:"reachability,omitempty"` // nil: it listens on loopback alone
	Lookups      *Lookups      `json:"lookups,omitempty"`      // in the DHT since the start
}

// Lookups is how searches in the DHT for the peers of a model went, and the dials of these
// searches and of those with which the node announces itself.
type Lookups struct {
	Found   uint64  `json:"found"`         // searches that found a peer
	Failed  uint64  `json:"failed"`        // searches that found none
	FirstMs float64 `json:"first_peer_ms"` // mean time until the first
	Hops    float64 `json:"hops"`          // mean number of answers that led to each other
	Dials   uint64  `json:"dials"`         // of peers that were not connected
	Dead    uint64  `json:"dead"`          // those that could not be reached
}

// Reachability is how peers elsewhere reach this node, and it them.
type Reachability struct {
	Verdict     string            `json:"verdict"`                // unknown, claimed (something says so that may be wrong), proven (strangers have connected)
	Claims      []string          `json:"claims"`                 // what speaks for it: user (the operator vouches for it), autonat, mapping, address
	Strangers   int               `json:"strangers"`              // networks from which peers connected, in the last ten minutes, that this node had sent nothing to
	ProvenUntil *time.Time        `json:"proven_until,omitempty"` // unless others connect
	NAT         map[string]NAT    `json:"nat"`                    // by transport: udp4, tcp4, udp6, tcp6
	Mapped      []string          `json:"mapped"`                 // addresses that the router forwards to this node
	UDP         string            `json:"udp"`                    // open, blocked, unknown
	IPv6        bool              `json:"ipv6"`                   // a peer elsewhere is connected over IPv6
	Relays      []Relay           `json:"relays"`                 // where this node can be reached
	RelayFor    bool              `json:"relay_for_others"`
	Direct      int               `json:"direct"`  // connected peers
	Relayed     int               `json:"relayed"` // connected peers
	Punches     map[string]uint64 `json:"punches"` // attempts at a direct path, by outcome: dialed, punched, failed, error
}

// NAT is what peers see of this node over one transport.
type NAT struct {
	Mapping   string `json:"mapping"`           // none, same (one port for all peers), symmetric (another port for each peer), unknown
	Outside   string `json:"outside,omitempty"` // IP:port, as most recently seen
	Observers int    `json:"observers"`         // networks whose peers said so
}

// Relay is a relay at which this node can be reached.
type Relay struct {
	Peer  string  `json:"peer"`
	RTTMs float64 `json:"rtt_ms"`
}

// Unreached is a known peer that did not answer when it was last dialled.
type Unreached struct {
	Peer      string   `json:"peer"`
	Addrs     []string `json:"addrs"`
	Why       string   `json:"why"`
	Bootstrap bool     `json:"bootstrap"` // named by the operator, not remembered
}

// Coverage reports which blocks of a model nobody serves.
type Coverage struct {
	Model   string   `json:"model"`
	Name    string   `json:"name"`
	Blocks  int      `json:"blocks"`
	Nodes   int      `json:"nodes"`   // nodes that serve some of it
	Missing []string `json:"missing"` // as FROM-TO
	Coming  []string `json:"coming"`  // those of Missing that a node is about to serve
}

// Losses counts how often a span's engine was lost.
type Losses struct {
	Name   string `json:"name"`
	From   int    `json:"from"`
	To     int    `json:"to"`
	Count  int    `json:"count"` // in the last ten minutes
	Last   string `json:"last"`
	Killed bool   `json:"killed"` // last lost by SIGKILL, which the kernel sends when memory is short
}

// Fetch is a running fetch of shards from peers.
type Fetch struct {
	Name    string `json:"name"`
	Done    int64  `json:"done"` // bytes
	Total   int64  `json:"total"`
	Sources int    `json:"sources"`
}

func (s *server) health(w http.ResponseWriter, r *http.Request) error {
	h, err := s.Observer.Health(r.Context())
	if err == nil {
		writeJSON(w, http.StatusOK, h)
	}
	return err
}

// Health returns the node's Health. Errors: see Client.
func (c *Client) Health(ctx context.Context) (*Health, error) {
	var h Health
	return &h, c.get(ctx, "/shoal/v1/health", &h)
}
