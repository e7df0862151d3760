package api

import (
	"context"
	"net/http"
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
