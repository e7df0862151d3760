package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Swarms are the private swarms that a node is a member of. In all methods, swarm is a name
// or the beginning of an ID; "" is the only swarm, or the only one founded here. It is safe
// for concurrent use. Errors have the Kind NotFound if there is no such swarm or member,
// BadInput for what is not possible, and Refused or NoRoute as said below.
type Swarms interface {
	Swarms() []Swarm
	// NewSwarm founds a swarm.
	NewSwarm(NewSwarmRequest) (*Swarm, error)
	// JoinSwarm redeems a code. The Kind of the error is NoRoute if the inviter cannot be
	// reached, and Refused if it does not let this node in.
	JoinSwarm(ctx context.Context, code string) (*Swarm, error)
	// Invite makes a code. The Kind of the error is Refused if this node may not.
	Invite(ctx context.Context, swarm string, req InviteRequest) (*Invitation, error)
	Members(swarm string) ([]Member, error)
	// Revoke ends a membership. member is a machine's name, or the end or all of its peer
	// ID; or it is a code of this node's, which is withdrawn. The Kind of the error is Refused if this node may not.
	Revoke(swarm, member string) (*Revoked, error)
	// RenewSwarm renews the node's own certificate with the root key in a file, at an
	// absolute path.
	RenewSwarm(swarm, rootFile string) (*Swarm, error)
	// LeaveSwarm forgets a swarm. The Kind of the error is Refused if the swarm's root key
	// would be lost, unless force is set.
	LeaveSwarm(swarm string, force bool) (*Swarm, error)
	Bridges
}

// Swarm describes a private swarm that the node is a member of.
type Swarm struct {
	ID        string     `json:"id"` // hexadecimal
	Name      string     `json:"name"`
	Peer      string     `json:"peer"`                // this node's peer ID there
	Roles     []string   `json:"roles"`               // this node's: use, serve, relay, invite, bridge
	Founder   bool       `json:"founder"`             // the root key is in this home
	Expires   time.Time  `json:"expires"`             // this node's certificate, which is renewed before
	Running   bool       `json:"running"`             // a running node is in it
	Members   int        `json:"members"`             // known, this node included
	Connected int        `json:"connected"`           // of them, without this node
	Codes     int        `json:"codes"`               // that are out
	Revoked   bool       `json:"revoked,omitempty"`   // this node is no longer a member
	Listed    *time.Time `json:"listed,omitempty"`    // when the newest revocation list was signed
	Stale     bool       `json:"stale,omitempty"`     // that was too long ago to rely on it
	RootFile  string     `json:"root_file,omitempty"` // where the root key was written, if not into the home
	// Warning says what is wrong although the request was carried out.
	Warning string `json:"warning,omitempty"`
}

// NewSwarmRequest asks for a swarm.
type NewSwarmRequest struct {
	Name string `json:"name,omitempty"` // "": the machine's
	// RootFile is an absolute path for the root key, which must not exist; "": it is kept
	// in the home.
	RootFile string `json:"root_file,omitempty"`
}

// JoinSwarmRequest carries a code.
type JoinSwarmRequest struct {
	Code string `json:"code"`
}

// InviteRequest says what a code is good for.
type InviteRequest struct {
	Roles []string `json:"roles,omitempty"` // none: use and serve
	Uses  int      `json:"uses,omitempty"`  // 0: one
	For   float64  `json:"for_s,omitempty"` // seconds; 0: a day
}

// Invitation is a code, which is shown once.
type Invitation struct {
	Code    string    `json:"code"`
	Swarm   string    `json:"swarm"` // its name
	ID      string    `json:"id"`
	Roles   []string  `json:"roles"`
	Uses    int       `json:"uses"`
	Expires time.Time `json:"expires"`
	Addrs   []string  `json:"addrs"`   // where the code leads to
	Running bool      `json:"running"` // somebody answers there now
}

// Member is a member of a swarm, as far as this node knows it.
type Member struct {
	Peer      string     `json:"peer"`
	Name      string     `json:"name,omitempty"` // of its machine
	Roles     []string   `json:"roles"`
	Expires   time.Time  `json:"expires"`        // its certificate
	Seen      *time.Time `json:"seen,omitempty"` // last connected
	Connected bool       `json:"connected"`
	Self      bool       `json:"self,omitempty"`
	Invited   bool       `json:"invited,omitempty"` // by this node
	Revoked   bool       `json:"revoked,omitempty"`
}

// Revoked is who is no longer a member, or which code lets nobody in any more.
type Revoked struct {
	Member Member   `json:"member,omitzero"`
	Also   []Member `json:"also"`           // those that it had let in
	Code   string   `json:"code,omitempty"` // the first letters of a code; "": a member was revoked
}

// RevokeRequest names a member, or a code of this node's.
type RevokeRequest struct {
	Member string `json:"member"`
}

// RenewRequest names a file with a swarm's root key.
type RenewRequest struct {
	RootFile string `json:"root_file"`
}

// LeaveRequest leaves a swarm.
type LeaveRequest struct {
	Force bool `json:"force,omitempty"` // even if the root key is lost
}

// swarmRoutes registers the endpoints for swarms. The page of the owner may see and invite;
// only programs with the token may found, join, revoke and leave.
func (s *server) swarmRoutes() {
	if s.Swarms == nil {
		return
	}
	for pattern, h := range map[string]handler{
		"GET /shoal/v1/swarms":                 s.byOwner(s.listSwarms),
		"POST /shoal/v1/swarms":                s.own(s.newSwarm),
		"POST /shoal/v1/swarms/join":           s.own(s.joinSwarm),
		"POST /shoal/v1/swarms/{swarm}/invite": s.byOwner(s.invite),
		"GET /shoal/v1/swarms/{swarm}/members": s.byOwner(s.members),
		"POST /shoal/v1/swarms/{swarm}/revoke": s.own(s.revoke),
		"POST /shoal/v1/swarms/{swarm}/renew":  s.own(s.renewSwarm),
		"POST /shoal/v1/swarms/{swarm}/leave":  s.own(s.leaveSwarm),

		"GET /shoal/v1/swarms/{swarm}/bridges":         s.byOwner(s.listBridges),
		"GET /shoal/v1/swarms/{swarm}/bridges/request": s.byOwner(s.askBridge),
		"POST /shoal/v1/swarms/{swarm}/bridges":        s.own(s.newBridge),
		"POST /shoal/v1/swarms/-/bridges/accept":       s.own(s.acceptBridge),
		"POST /shoal/v1/swarms/{swarm}/bridges/revoke": s.own(s.revokeBridge),
	} {
		s.mux.HandleFunc(pattern, s.serve(h))
	}
}

// anySwarm stands in a path for the only swarm.
const anySwarm = "-"

func swarmOf(r *http.Request) string {
	if name := r.PathValue("swarm"); name != anySwarm {
		return name
	}
	return ""
}

type swarmList struct {
	Swarms []Swarm `json:"swarms"`
}

type memberList struct {
	Members []Member `json:"members"`
}

// reply writes what a request returned, unless that is an error.
func reply[T any](w http.ResponseWriter, v T, err error) error {
	if err == nil {
		writeJSON(w, http.StatusOK, v)
	}
	return err
}

func (s *server) listSwarms(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, swarmList{noNull(s.Swarms.Swarms())}, nil)
}

func (s *server) newSwarm(w http.ResponseWriter, r *http.Request) error {
	var req NewSwarmRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	v, err := s.Swarms.NewSwarm(req)
	return reply(w, v, err)
}

func (s *server) joinSwarm(w http.ResponseWriter, r *http.Request) error {
	var req JoinSwarmRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Code == "" {
		return badParam("code", "is missing")
	}
	v, err := s.Swarms.JoinSwarm(r.Context(), req.Code)
	return reply(w, v, err)
}

func (s *server) invite(w http.ResponseWriter, r *http.Request) error {
	var req InviteRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	v, err := s.Swarms.Invite(r.Context(), swarmOf(r), req)
	return reply(w, v, err)
}

func (s *server) members(w http.ResponseWriter, r *http.Request) error {
	v, err := s.Swarms.Members(swarmOf(r))
	return reply(w, memberList{noNull(v)}, err)
}

func (s *server) revoke(w http.ResponseWriter, r *http.Request) error {
	var req RevokeRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Member == "" {
		return badParam("member", "is missing")
	}
	v, err := s.Swarms.Revoke(swarmOf(r), req.Member)
	return reply(w, v, err)
}

func (s *server) renewSwarm(w http.ResponseWriter, r *http.Request) error {
	var req RenewRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	v, err := s.Swarms.RenewSwarm(swarmOf(r), req.RootFile)
	return reply(w, v, err)
}

func (s *server) leaveSwarm(w http.ResponseWriter, r *http.Request) error {
	var req LeaveRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	v, err := s.Swarms.LeaveSwarm(swarmOf(r), req.Force)
	return reply(w, v, err)
}

func swarmPath(swarm, what string) string {
	if swarm == "" {
		swarm = anySwarm
	}
	return "/shoal/v1/swarms/" + url.PathEscape(swarm) + "/" + what
}

// Swarms returns the private swarms of the node. Errors: see Client.
func (c *Client) Swarms(ctx context.Context) ([]Swarm, error) {
	var l swarmList
	err := c.get(ctx, "/shoal/v1/swarms", &l)
	return l.Swarms, err
}

// NewSwarm has the node found a swarm. The Kind of the error is BadInput for a name or a
// file that cannot be used.
func (c *Client) NewSwarm(ctx context.Context, req NewSwarmRequest) (*Swarm, error) {
	var v Swarm
	return &v, c.post(ctx, "/shoal/v1/swarms", req, &v)
}

// JoinSwarm has the node redeem a code. Errors: see Swarms.
func (c *Client) JoinSwarm(ctx context.Context, code string) (*Swarm, error) {
	var v Swarm
	return &v, c.post(ctx, "/shoal/v1/swarms/join", JoinSwarmRequest{code}, &v)
}

// Invite has the node make a code. Errors: see Swarms.
func (c *Client) Invite(ctx context.Context, swarm string, req InviteRequest) (*Invitation, error) {
	var v Invitation
	return &v, c.post(ctx, swarmPath(swarm, "invite"), req, &v)
}

// Members returns the members of a swarm, the node first. Errors: see Swarms.
func (c *Client) Members(ctx context.Context, swarm string) ([]Member, error) {
	var l memberList
	err := c.get(ctx, swarmPath(swarm, "members"), &l)
	return l.Members, err
}

// Revoke ends a membership. Errors: see Swarms.
func (c *Client) Revoke(ctx context.Context, swarm, member string) (*Revoked, error) {
	var v Revoked
	return &v, c.post(ctx, swarmPath(swarm, "revoke"), RevokeRequest{member}, &v)
}

// RenewSwarm has the node renew its own certificate with a root key. Errors: see Swarms.
func (c *Client) RenewSwarm(ctx context.Context, swarm, rootFile string) (*Swarm, error) {
	var v Swarm
	return &v, c.post(ctx, swarmPath(swarm, "renew"), RenewRequest{rootFile}, &v)
}

// LeaveSwarm has the node leave a swarm. Errors: see Swarms.
func (c *Client) LeaveSwarm(ctx context.Context, swarm string, force bool) (*Swarm, error) {
	var v Swarm
	return &v, c.post(ctx, swarmPath(swarm, "leave"), LeaveRequest{force}, &v)
}
