package testnet

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Kinds of events. Nodes report the first seven; the testnet itself adds the others.
const (
	EventListening = "listening"
	EventFetching  = "fetching"
	EventServing   = "serving"
	EventEngine    = "engine"
	EventStopped   = "stopped"

	EventImport  = "import"  // the testnet begins to import Node's span of the model
	EventStarted = "started" // the process was started
	EventExited  = "exited"  // the process has ended: on request, or with Error
)

// Event is something that happened to a node, reported by the node or the testnet.
// Fields other than Node and Event are set where they apply.
type Event struct {
	Node string `json:"-"`

	Event     string   `json:"event"`
	Peer      string   `json:"peer,omitempty"`
	Addrs     []string `json:"addrs,omitempty"` // multiaddrs with /p2p/
	API       string   `json:"api,omitempty"`   // host:port
	Model     string   `json:"model,omitempty"` // CID
	Name      string   `json:"name,omitempty"`  // of the model
	From      int      `json:"from"`
	To        int      `json:"to"`
	EnginePID int      `json:"engine_pid,omitempty"`
	PID       int      `json:"pid,omitempty"` // in events of older nodes also the engine's
	Ready     bool     `json:"ready,omitempty"`
	Done      int64    `json:"done,omitempty"` // bytes fetched
	Total     int64    `json:"total,omitempty"`
	Error     string   `json:"error,omitempty"`
}

// maxEventLine bounds the length of a node's event.
const maxEventLine = 1 << 20

// readEvents calls each for every event until the stream ends. A line that is not an
// event is an error: the binary is not the expected program.
func readEvents(r io.Reader, each func(Event)) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxEventLine)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		e, err := parseEvent(lines.Bytes())
		if err != nil {
			return err
		}
		each(e)
	}
	return lines.Err()
}

func parseEvent(line []byte) (Event, error) {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, fmt.Errorf("not an event: %.200q (%w)", line, err)
	}
	if e.Event == "" {
		return Event{}, fmt.Errorf("an event without a kind: %.200q", line)
	}
	if e.Event == EventListening && (e.Peer == "" || len(e.Addrs) == 0) {
		return Event{}, errors.New("a listening event without peer or addresses")
	}
	if e.Event == EventServing && (e.From < 0 || e.To < e.From) {
		return Event{}, fmt.Errorf("a serving event with the span %d-%d", e.From, e.To)
	}
	if e.Event == EventEngine && e.EnginePID == 0 {
		e.EnginePID = e.PID
	}
	return e, nil
}
