package api

import (
	"context"
	"net/http"
	"time"

	"github.com/ipfs/go-cid"
)

// Bridges are the bridges of a node's swarms, over which the members of one swarm use
// another. Names and errors are as in Swarms. The Kind of the error is Refused where the
// root key is needed and is not in this home.
type Bridges interface {
	// Bridges returns the bridges of a swarm; "": of all.
	Bridges(swarm string) ([]Bridge, error)
	// AskBridge returns the text with which a swarm asks another to lend.
	AskBridge(swarm string) (*BridgeRequest, error)
	// NewBridge lends a swarm to the one that asks.
	NewBridge(swarm string, req NewBridgeRequest) (*Bridge, error)
	// AcceptBridge has the swarm that a code is for use the lender.
	AcceptBridge(AcceptBridgeRequest) (*Bridge, error)
	// RevokeBridge ends a bridge, on either side.
	RevokeBridge(swarm string, req RevokeBridgeRequest) (*Bridge, error)
}

// Bridge lets the members of one swarm, the guests, use another, the lender.
type Bridge struct {
	ID           string    `json:"id"`       // of its network, hexadecimal
	Swarm        string    `json:"swarm"`    // name of the swarm of this home
	SwarmID      string    `json:"swarm_id"` // hexadecimal
	Other        string    `json:"other"`    // name of the other swarm
	OtherID      string    `json:"other_id"`
	Lends        bool      `json:"lends"`                    // Swarm is the lender
	Roles        []string  `json:"roles"`                    // that guests can have: use, serve, relay
	Models       []string  `json:"models"`                   // their CIDs; none: all
	TokensPerDay uint64    `json:"tokens_per_day,omitempty"` // of all guests together; 0: no limit
	UsedToday    float64   `json:"used_today"`               // tokens since 00:00 UTC, as far as this node knows
	From         time.Time `json:"from"`
	Until        time.Time `json:"until"`
	Running      bool      `json:"running"`   // this node is in the bridge's network
	Connected    int       `json:"connected"` // peers there
	// Closed says why the bridge is not in force; "": it is.
	Closed string `json:"closed,omitempty"`
	// Code is what the guest's side accepts, in the answer to NewBridgeRequest.
	Code string `json:"code,omitempty"`
}

// BridgeRequest is how a swarm asks another for a bridge.
type BridgeRequest struct {
	Request string `json:"request"`
	Swarm   string `json:"swarm"` // name of the swarm that asks
	ID      string `json:"id"`
}

// NewBridgeRequest lends a swarm. RootFile is a file with the swarm's root key, at an
// absolute path; "": it is in the home.
type NewBridgeRequest struct {
	To           string   `json:"to"`              // the other swarm's request
	Models       []string `json:"models"`          // names or CIDs, or all
	Roles        []string `json:"roles,omitempty"` // none: use
	TokensPerDay uint64   `json:"tokens_per_day,omitempty"`
	For          float64  `json:"for_s,omitempty"` // seconds; 0: 90 days
	RootFile     string   `json:"root_file,omitempty"`
}

// AcceptBridgeRequest carries the code of a bridge.
type AcceptBridgeRequest struct {
	Code     string `json:"code"`
	RootFile string `json:"root_file,omitempty"`
}

// RevokeBridgeRequest names a bridge by the other swarm's name, or by the beginning of its ID
// or the bridge's.
type RevokeBridgeRequest struct {
	Bridge   string `json:"bridge"`
	RootFile string `json:"root_file,omitempty"`
}

// AllModels stands for all models of a swarm.
const AllModels = "all"

type bridgeList struct {
	Bridges []Bridge `json:"bridges"`
}

func (s *server) listBridges(w http.ResponseWriter, r *http.Request) error {
	v, err := s.Swarms.Bridges(swarmOf(r))
	return reply(w, bridgeList{noNull(v)}, err)
}

func (s *server) askBridge(w http.ResponseWriter, r *http.Request) error {
	v, err := s.Swarms.AskBridge(swarmOf(r))
	return reply(w, v, err)
}

func (s *server) newBridge(w http.ResponseWriter, r *http.Request) error {
	var req NewBridgeRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.To == "" {
		return badParam("to", "is missing")
	}
	for i, name := range req.Models {
		if _, err := cid.Decode(name); err == nil || name == AllModels {
			continue
		}
		m, err := s.Library.Show(r.Context(), name)
		if err != nil {
			return err
		}
		req.Models[i] = m.ID
	}
	v, err := s.Swarms.NewBridge(swarmOf(r), req)
	return reply(w, v, err)
}

func (s *server) acceptBridge(w http.ResponseWriter, r *http.Request) error {
	var req AcceptBridgeRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Code == "" {
		return badParam("code", "is missing")
	}
	v, err := s.Swarms.AcceptBridge(req)
	return reply(w, v, err)
}

func (s *server) revokeBridge(w http.ResponseWriter, r *http.Request) error {
	var req RevokeBridgeRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Bridge == "" {
		return badParam("bridge", "is missing")
	}
	v, err := s.Swarms.RevokeBridge(swarmOf(r), req)
	return reply(w, v, err)
}

// Bridges returns the bridges of a swarm; "": of all. Errors: see Bridges.
func (c *Client) Bridges(ctx context.Context, swarm string) ([]Bridge, error) {
	var l bridgeList
	err := c.get(ctx, swarmPath(swarm, "bridges"), &l)
	return l.Bridges, err
}

// AskBridge returns the text with which a swarm asks another to lend. Errors: see Bridges.
func (c *Client) AskBridge(ctx context.Context, swarm string) (*BridgeRequest, error) {
	var v BridgeRequest
	return &v, c.get(ctx, swarmPath(swarm, "bridges/request"), &v)
}

// NewBridge has the node lend a swarm. Errors: see Bridges.
func (c *Client) NewBridge(ctx context.Context, swarm string, req NewBridgeRequest) (*Bridge, error) {
	var v Bridge
	return &v, c.post(ctx, swarmPath(swarm, "bridges"), req, &v)
}

// AcceptBridge has the node's swarm use another. Errors: see Bridges.
func (c *Client) AcceptBridge(ctx context.Context, req AcceptBridgeRequest) (*Bridge, error) {
	var v Bridge
	return &v, c.post(ctx, swarmPath("", "bridges/accept"), req, &v)
}

// RevokeBridge ends a bridge. Errors: see Bridges.
func (c *Client) RevokeBridge(ctx context.Context, swarm string, req RevokeBridgeRequest) (*Bridge, error) {
	var v Bridge
	return &v, c.post(ctx, swarmPath(swarm, "bridges/revoke"), req, &v)
}
