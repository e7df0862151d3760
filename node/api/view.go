package api

import (
	"context"
	"net/http"
	"time"
)

// Viewer shows the node and its network to whoever looks at the page.
type Viewer interface {
	View(ctx context.Context) (*View, error)
}

// View is what the page shows besides answers. Peers are told all of it by the
// network anyway, or may be: it has no secret, no address and no path of this
// machine.
type View struct {
	Peer     string        `json:"peer"`
	Version  string        `json:"version"`
	Uptime   time.Duration `json:"uptime_ns"`
	Light    bool          `json:"light,omitempty"`
	Lending  Lending       `json:"lending"`
	Serving  []Serving     `json:"serving"`
	Given    uint64        `json:"bytes_given"`
	Taken    uint64        `json:"bytes_taken"`
	Warnings []string      `json:"warnings,omitempty"`
	Peers    []ViewPeer    `json:"peers"`
	Links    []ViewLink    `json:"links"`
	Models   []ViewModel   `json:"models"`
}

// Lending is the operator's rules, and whether they let the node lend now.
type Lending struct {
	Open        bool     `json:"open"`
	Why         string   `json:"why,omitempty"` // if it is not
	Memory      int64    `json:"memory"`        // bytes
	Threads     int      `json:"threads"`       // 0: as many as help
	Nice        int      `json:"nice"`
	Devices     []string `json:"devices,omitempty"` // none: all found
	Hours       string   `json:"hours,omitempty"`   // "": always
	PauseLoad   float64  `json:"pause_load"`        // part of the machine's cores in others' use; 0: never
	OnBattery   bool     `json:"on_battery"`
	Resume      float64  `json:"resume_s"` // seconds of quiet
	MaxSessions int      `json:"max_sessions"`
	Quota       int64    `json:"quota,omitempty"` // bytes; 0: no limit
}

// ViewPeer is a peer that is connected, or whose offer is known.
type ViewPeer struct {
	Peer      string     `json:"peer"`
	Connected bool       `json:"connected"`
	Silent    bool       `json:"silent,omitempty"` // it has not answered recently
	Transport string     `json:"transport,omitempty"`
	Relayed   bool       `json:"relayed,omitempty"`
	RTTMs     float64    `json:"rtt_ms,omitempty"` // 0: unknown
	Version   string     `json:"version,omitempty"`
	Device    string     `json:"device,omitempty"`
	Memory    uint64     `json:"memory,omitempty"` // bytes lent
	Threads   int        `json:"threads,omitempty"`
	Spans     []ViewSpan `json:"spans"`
}

// ViewSpan is a span that a peer offers, or is about to.
type ViewSpan struct {
	Model      string  `json:"model"`
	From       int     `json:"from"`
	To         int     `json:"to"`
	Ready      bool    `json:"ready"`
	Loaded     bool    `json:"loaded"`
	Load       float64 `json:"load"` // 0 to 1, of the last minute
	StepMs     float64 `json:"step_ms"`
	KVTokens   int     `json:"kv_tokens"`
	KVFree     int     `json:"kv_free"`
	Sessions   int     `json:"sessions"`
	TokensPerS float64 `json:"tokens_per_s"`
}

// ViewLink is a round trip that somebody has measured.
type ViewLink struct {
	A     string  `json:"a"`
	B     string  `json:"b"`
	RTTMs float64 `json:"rtt_ms"`
}

// ViewModel is a model that is here, or that peers serve or hold.
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

// view answers GET /shoal/v1/view.
func (s *server) view(w http.ResponseWriter, r *http.Request) error {
	v, err := s.Viewer.View(r.Context())
	if err == nil {
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		writeJSON(w, http.StatusOK, v)
	}
	return err
}

// page guards what the page reads. It is the one of shoal's endpoints that a
// browser may have, for it changes nothing and tells no secret: but only the
// node's own page, which the browser vouches for (no script can set
// Sec-Fetch-Site, and the guard has seen that the host's name is this
// machine's), with the key if there is one. Over plain HTTP browsers say where a
// request comes from on loopback only; from elsewhere it takes the key.
func (s *server) page(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		site := r.Header.Get("Sec-Fetch-Site")
		if site != "" && site != "same-origin" || site == "" && r.Header.Get("Origin") != "" || w.Header().Get("Access-Control-Allow-Origin") != "" {
			return Errorf(Forbidden, "this endpoint is for the node's own page")
		}
		if bearer(r, s.Token) || bearer(r, s.Key) {
			return h(w, r)
		}
		if s.Key != "" {
			return Errorf(Unauthorized, "the API key is missing or wrong: send it as Authorization: Bearer KEY")
		}
		if !fromHere(r) || site == "" {
			return Errorf(Unauthorized, "this endpoint is for the node's own page; programs need the token in the file api.token of the node's directory, as Authorization: Bearer TOKEN")
		}
		return h(w, r)
	}
}
