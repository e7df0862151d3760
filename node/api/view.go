package api

import (
	"context"
	"net/http"
	"time"
)

// Viewer provides what the page shows of the node and its network.
type Viewer interface {
	// View returns what is known of the node and its network; without private, nothing
	// that only members of its private swarms may know: their names, peers and models.
	View(ctx context.Context, private bool) (*View, error)
}

// View is what the page shows besides answers. All of it is public in the network, or in
// the private swarm that it is of, which only the owner sees: it contains no secret, no
// address and no path of this machine.
type View struct {
	Peer     string        `json:"peer"`
	Version  string        `json:"version"`
	Uptime   time.Duration `json:"uptime_ns"`
	UptimeS  int64         `json:"uptime_s"` // the same, in seconds
	Light    bool          `json:"light,omitempty"`
	Networks []Network     `json:"networks"` // as in Status, without addresses
	Lending  Lending       `json:"lending"`
	Serving  []Serving     `json:"serving"`
	Given    uint64        `json:"bytes_given"`
	Taken    uint64        `json:"bytes_taken"`
	Warnings []string      `json:"warnings,omitempty"`
	Peers    []ViewPeer    `json:"peers"`
	Links    []ViewLink    `json:"links"`
	Models   []ViewModel   `json:"models"`
}

// Lending holds the operator's rules, and whether the node lends now.
type Lending struct {
	Open        bool     `json:"open"`
	Why         string   `json:"why,omitempty"`    // why it does not lend
	Paused      bool     `json:"paused,omitempty"` // by the owner's word
	Memory      int64    `json:"memory"`           // bytes
	Threads     int      `json:"threads"`          // 0: as many as make it faster
	Nice        int      `json:"nice"`
	Devices     []string `json:"devices,omitempty"` // empty: all that are found
	Hours       string   `json:"hours,omitempty"`   // "": always
	PauseLoad   float64  `json:"pause_load"`        // pause when other programs use this fraction of the cores; 0: never
	OnBattery   bool     `json:"on_battery"`
	Resume      float64  `json:"resume_s"` // seconds of quiet
	MaxSessions int      `json:"max_sessions"`
	Quota       int64    `json:"quota,omitempty"` // bytes; 0: no limit
}

// ViewPeer is a peer that is connected or whose offer is known.
type ViewPeer struct {
	Peer      string     `json:"peer"`
	Connected bool       `json:"connected"`
	Silent    bool       `json:"silent,omitempty"` // it has not answered recently
	Transport string     `json:"transport,omitempty"`
	Relayed   bool       `json:"relayed,omitempty"`
	Swarm     string     `json:"swarm,omitempty"`  // ID of the private swarm in which it is; "": the open network
	RTTMs     float64    `json:"rtt_ms,omitempty"` // 0: unknown
	Version   string     `json:"version,omitempty"`
	Device    string     `json:"device,omitempty"`
	Memory    uint64     `json:"memory,omitempty"` // bytes lent
	Threads   int        `json:"threads,omitempty"`
	Spans     []ViewSpan `json:"spans"`
}

// ViewSpan is a span that a peer offers or is about to offer.
type ViewSpan struct {
	Model      string  `json:"model"`
	From       int     `json:"from"`
	To         int     `json:"to"`
	Ready      bool    `json:"ready"`
	Loaded     bool    `json:"loaded"`
	Engine     string  `json:"engine,omitempty"` // what computes it, as in EngineChange; "": unknown
	Load       float64 `json:"load"`             // 0 to 1, of the last minute
	StepMs     float64 `json:"step_ms"`
	KVTokens   int     `json:"kv_tokens"`
	KVFree     int     `json:"kv_free"`
	Sessions   int     `json:"sessions"`
	TokensPerS float64 `json:"tokens_per_s"`
}

// ViewLink is a round-trip time that a node has measured.
type ViewLink struct {
	A     string  `json:"a"`
	B     string  `json:"b"`
	RTTMs float64 `json:"rtt_ms"`
}

// ViewModel is a model that is here or that peers serve or hold.
type ViewModel struct {
	ID           string       `json:"id"`
	Name         string       `json:"name"`
	Architecture string       `json:"architecture,omitempty"`
	Quantization string       `json:"quantization,omitempty"`
	Licence      string       `json:"licence,omitempty"`
	Parameters   int64        `json:"parameters,omitempty"`
	Context      int          `json:"context,omitempty"`
	Blocks       int          `json:"blocks,omitempty"` // 0: unknown yet
	Size         int64        `json:"size,omitempty"`
	Allocated    int64        `json:"allocated,omitempty"` // bytes on this disk
	Held         []string     `json:"held"`                // shards that are whole here, as spans and names
	Complete     bool         `json:"complete,omitempty"`
	Pinned       bool         `json:"pinned,omitempty"`
	Fetching     *Progress    `json:"fetching,omitempty"`
	Holders      []ViewHolder `json:"holders,omitempty"` // peers
}

// ViewHolder is a peer from which shards of a model can be fetched.
type ViewHolder struct {
	Peer   string `json:"peer"`
	Shards int    `json:"shards"`
}

// view answers GET /shoal/v1/view. Of private swarms only the owner hears, and programs
// with the token: a key is for answers, and other users of this machine need not even that.
func (s *server) view(w http.ResponseWriter, r *http.Request) error {
	v, err := s.Viewer.View(r.Context(), bearer(r, s.Token) || s.owner(r) != "")
	if err == nil {
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		writeJSON(w, http.StatusOK, v)
	}
	return err
}

// page guards what the page reads: the only one of shoal's endpoints that is open to
// browsers, as it changes nothing and reveals no secret. It admits only the node's own
// page, with the key if one is set. The browser vouches for that page: no script can set
// Sec-Fetch-Site, and the guard has checked that the host name is this machine's. Over
// plain HTTP, browsers send that header only to loopback; elsewhere a key is required.
func (s *server) page(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		site := r.Header.Get("Sec-Fetch-Site")
		if site != "" && site != "same-origin" || site == "" && r.Header.Get("Origin") != "" || w.Header().Get("Access-Control-Allow-Origin") != "" {
			return Errorf(Forbidden, "this endpoint is for the node's own page")
		}
		if bearer(r, s.Token) || s.holder(r) || s.inSession(r) {
			return h(w, r)
		}
		if s.keyed() {
			return Errorf(Unauthorized, "the API key is missing or wrong: send it as Authorization: Bearer KEY")
		}
		if !fromHere(r) || site == "" {
			return Errorf(Unauthorized, "this endpoint is for the node's own page; programs need the token in the file api.token of the node's directory, as Authorization: Bearer TOKEN")
		}
		return h(w, r)
	}
}
