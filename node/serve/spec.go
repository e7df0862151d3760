package serve

import (
	"errors"
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/protocol"
)

// Spec names a model and the part of it to serve.
type Spec struct {
	Model string // a name, a CID, or something that can be imported
	Span  string // "FROM-TO", "all", or "auto"; "" means auto
}

// Event is one line of a node's life, as JSON for scripts.
type Event struct {
	Event     string   `json:"event"` // founded, listening, joined, unreached, member, refused, removed, stale, waiting, fetching, loaded, serving, lending, engine, leaving, stopped
	Peer      string   `json:"peer,omitempty"`
	Addrs     []string `json:"addrs,omitempty"`
	API       string   `json:"api,omitempty"`
	URLs      []string `json:"urls,omitempty"`            // of the page, with API
	TLS       string   `json:"tls_fingerprint,omitempty"` // of the API's certificate
	Socket    string   `json:"socket,omitempty"`
	Open      *bool    `json:"open,omitempty"`  // whether strangers may use the node; of listening
	Model     string   `json:"model,omitempty"` // its CID
	Name      string   `json:"name,omitempty"`
	Machine   string   `json:"machine,omitempty"` // what a member of a swarm calls its machine; Name is the swarm's then
	From      int      `json:"from"`              // first block of the span
	To        int      `json:"to"`                // the block after its last
	Blocks    int      `json:"blocks,omitempty"`  // of the whole model
	EnginePID int      `json:"engine_pid,omitempty"`
	Ready     bool     `json:"ready,omitempty"`
	Done      int64    `json:"done,omitempty"`        // bytes of a fetch
	Total     int64    `json:"total,omitempty"`       // bytes
	Peers     int      `json:"peers,omitempty"`       // that a fetch gets bytes from
	Origins   int      `json:"origins,omitempty"`     // likewise
	Rate      float64  `json:"bytes_per_s,omitempty"` // of a fetch
	Left      float64  `json:"seconds_left,omitempty"`
	Trouble   []string `json:"trouble,omitempty"` // sources that were dropped, and why
	Error     string   `json:"error,omitempty"`
}

// ErrSpec marks that a Spec asks for what cannot be served: a span that cannot be
// read, or that the model does not have.
var ErrSpec = errors.New("what to serve")

// specError is an error that is an ErrSpec without naming it in its text.
type specError struct{ error }

func (e specError) Unwrap() error        { return e.error }
func (e specError) Is(target error) bool { return target == ErrSpec }

// Parse returns the blocks that a spec names; auto reports that the node is to choose
// them. "all" is the span from 0 to -1. The error is an ErrSpec.
func (s Spec) Parse() (span protocol.Span, auto bool, err error) {
	switch strings.ToLower(s.Span) {
	case "", "auto":
		return span, true, nil
	case "all":
		return protocol.Span{From: 0, To: -1}, false, nil
	}
	if span, err = protocol.ParseSpan(s.Span); err != nil {
		err = specError{err}
	}
	return span, false, err
}

func badSpec(format string, args ...any) error { return specError{fmt.Errorf(format, args...)} }
