package placement

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// Rules are the constants of placement. DefaultRules gives the reason for each.
type Rules struct {
	Copies   int           // copies of every block that are kept, however idle they are
	Hot      float64       // a span whose demand is this share of its capacity needs another server
	Goal     float64       // servers are added until the share is down to this
	Cool     float64       // a server may go if the others stay below this share
	Refused  float64       // share of opens refused that means that a server is full
	Gain     float64       // a move must be worth this many times what it leaves
	Slot     time.Duration // between two nodes that would do the same
	Pace     time.Duration // how long a wish to leave must last, and between two nodes that leave
	Settle   time.Duration // a span counts as relied on when it has been ready this long
	MinStay  time.Duration // a span is served at least this long
	Stay     time.Duration // how long a node is expected to serve what it fetches
	Patience time.Duration // a span that is not ready after this long is not waited for
	Fresh    time.Duration // a span counts as ready if it has answered this node within this time
	Known    time.Duration // a stranger met more recently is not relied on alone
}

// DefaultRules are for offers that reach everyone within ten seconds, and
// nodes that decide every ten seconds.
func DefaultRules() Rules {
	return Rules{
		// The loss of a node then costs a pause and not the model.
		Copies: 2,
		// Far apart, so that nothing flaps: with n servers at Hot another makes
		// it Hot*n/(n+1), and dropping that one again would give Hot, not Cool.
		Hot: 0.75, Goal: 0.6, Cool: 0.4,
		// An occasional refusal is chance, one in twenty is a lack of room.
		Refused: 0.05,
		// Petals moves for the same: its balance_quality of 0.75 is 1/1.33.
		Gain: 1.25,
		// The first one's offer must have arrived before the second one acts: ten
		// seconds until the first one decides, five until its offer is known.
		Slot: 15 * time.Second,
		// Load figures are means over a minute, so they show only afterwards what a
		// server that has left was carrying.
		Pace: 90 * time.Second,
		// Longer than an offer takes to reach all nodes that may act on it.
		Settle: 30 * time.Second,
		// Loading and measuring cost seconds, a download often a minute.
		MinStay: 2 * time.Minute,
		Stay:    20 * time.Minute, Patience: 15 * time.Minute,
		// Twice the time between two probes; and a day, since keys are free, but
		// keeping machines running for a day is not.
		Fresh: 10 * time.Minute, Known: 24 * time.Hour,
	}
}

// LoadTime is how long loading and measuring a span takes, not counting its download.
const LoadTime = 20 * time.Second

// UnknownDownload is the download rate assumed of a node that has fetched nothing
// yet, in bytes per second.
const UnknownDownload = 8 << 20

// ModelInfo is what a span of a model costs.
type ModelInfo struct {
	ID         string
	Name       string // for the log
	Blocks     int
	BlockBytes int64          // of one block, the largest
	EmbedBytes int64          // besides, of a span that begins the model
	HeadBytes  int64          // besides, of one that ends it
	KVBytes    int64          // of one token in one block
	KVTokens   int            // tokens that a stage must have room for
	Cuts       *protocol.Cuts // spans that this node can serve; nil: all
}

// Bytes is the memory that a span takes.
func (m *ModelInfo) Bytes(s protocol.Span) int64 {
	n := int64(s.Len()) * (m.BlockBytes + m.KVBytes*int64(m.KVTokens))
	if s.From == 0 {
		n += m.EmbedBytes
	}
	if s.To == m.Blocks {
		n += m.HeadBytes
	}
	return n
}

// room is how many blocks fit into memory, beginning at from and ending at most at end.
func (m *ModelInfo) room(memory int64, from, end int) int {
	n := end - from
	for n > 0 && m.Bytes(protocol.Span{From: from, To: from + n}) > memory {
		n--
	}
	return n
}

func (m *ModelInfo) name() string { return cmp.Or(m.Name, m.ID) }

// Served is a span that a peer serves or is about to serve, as its offer claims.
type Served struct {
	Model  string
	Span   protocol.Span
	Ready  bool // a probe went through it, and through others to the model's end
	Loaded bool // it waits for nothing but that probe; neither: it is being fetched or loaded
	Auto   bool // the node's own choice, which it may leave; else its operator's
	Asleep bool // loaded again when it is used

	// Since is when it became ready, or loaded, or began to be fetched, by the
	// reader's clock and as far as the reader itself has seen it.
	Since time.Time

	// First and last time that it answered the reader; zero: never. A span that does
	// not answer is not ready, whatever its offer claims.
	First, Answered time.Time

	// Row is the time of one row through one block in a full pass; 0 if not measured.
	Row time.Duration

	// Load is how busy the server was, 0 to 1, over the last minute; LoadLong over the
	// last ten.
	Load, LoadLong float64

	// Refused is the share of opens in the last minute that found no room.
	Refused float64
}

// Peer is another node as its offer shows it.
type Peer struct {
	ID      string
	Expires time.Time         // of the offer
	Lent    int64             // bytes of memory for one span of the node's own choice; 0: none
	Takes   []string          // models that the span may be of; none: any
	Held    map[string][]bool // by model: blocks on disk
	Serves  []Served

	// What the reader itself knows of the peer.
	Trusted bool      // the reader's operator trusts it, so its claims are believed
	Met     time.Time // for the first time
	Group   string    // of addresses; one owner may have many addresses of a group
}

// Self is the node that decides.
type Self struct {
	ID       string
	Lent     int64             // bytes of memory for the span of its own choice
	Speed    float64           // bytes of blocks per second that a row passes through, in a full pass; 0 if not measured
	Download float64           // bytes per second; 0 if not measured
	Held     map[string][]bool // by model: blocks on disk
	Serving  *Served           // the span of its own choice, or none
	Last     Decision          // what Decide returned the last time
}

// Action is what a node does about the span of its own choice.
type Action int

// The actions.
const (
	Stay  Action = iota // as it is
	Serve               // the span named; whatever is served now is left
	Leave               // what is served now
)

func (a Action) String() string { return [...]string{"stay", "serve", "leave"}[a] }

// Decision is what a node should do.
type Decision struct {
	Action Action
	Model  string
	Span   protocol.Span
	Due    time.Time // when to do it, if Decide still returns it then
	Reason string    // for the log
}

// Decide returns what a node should do about the span of its own choice. Each node
// runs it about itself, over the offers that it knows. Peers may include the node's
// own offer and offers that have expired; models are those that its operator allows.
// See the package's documentation for the rules.
func (r Rules) Decide(now time.Time, self Self, peers []Peer, models []ModelInfo) Decision {
	v := r.observe(now, self, peers, models)
	d := Decision{}
	if self.Serving == nil {
		d = v.join()
	} else {
		d = v.review()
	}
	last := self.Last
	if d.Action != Stay && last.Action == d.Action && last.Model == d.Model && last.Span == d.Span && last.Due.Before(d.Due) {
		d.Due = last.Due // waiting already
	}
	return d
}

func stay(format string, args ...any) Decision { return Decision{Reason: fmt.Sprintf(format, args...)} }

// join decides for a node that serves nothing: it takes the most urgent need for
// which it is among the first to go, else waits for its turn at the most urgent one.
func (v *view) join() Decision {
	if v.self.Lent <= 0 {
		return stay("no memory is lent to a span of its own choice")
	}
	var waiting *Decision
	for _, list := range [][]option{v.gaps(true), v.hot(false), v.hot(true), v.spares(false), v.spares(true), v.gaps(false)} {
		for _, o := range v.best(list) {
			wait, first := v.turn(o)
			d := Decision{Serve, o.p.ID, o.span, v.now.Add(wait), o.reason}
			if first {
				return d
			}
			if waiting == nil {
				waiting = &d
			}
		}
	}
	if waiting != nil {
		return *waiting
	}
	return stay("nothing that fits into the memory lent needs another server")
}

// review decides for a node that serves a span already.
func (v *view) review() Decision {
	s, p := v.self.Serving, v.own
	switch {
	case p == nil || !s.Span.Valid(p.Blocks):
		return stay("what it serves is not among the models allowed")
	case !s.Ready:
		return stay("blocks %s of %s are not ready yet", s.Span, p.name())
	case v.now.Sub(s.Since) < v.Settle:
		return stay("blocks %s of %s have only just become ready", s.Span, p.name())
	}
	may := !p.keeps(v.self.ID) && v.safe()
	if d, ok := v.repair(may); ok {
		return d
	}
	switch {
	case v.now.Sub(s.Since) < v.MinStay:
		return stay("blocks %s of %s have not been served for %s yet", s.Span, p.name(), v.MinStay)
	case !may:
		return stay("blocks %s of %s rely on this node", s.Span, p.name())
	}
	if d, ok := v.move(); ok {
		return d
	}
	return v.drop()
}

// repair moves to where blocks are missing. A node that may not leave its model still
// changes its span within it if fewer blocks are missing then: spans that do not join,
// such as 0-16 and 14-30, serve nobody.
func (v *view) repair(may bool) (Decision, bool) {
	list := slices.DeleteFunc(v.gaps(true), func(o option) bool {
		return o.p != v.own && !may || o.p == v.own && o.left >= length(o.p.missing)
	})
	list = v.best(list)
	if len(list) == 0 {
		return Decision{}, false
	}
	o := list[0]
	wait := v.moveTurn(o, v.Slot)
	if !may {
		wait = v.repairTurn()
	}
	return Decision{Serve, o.p.ID, o.span, v.now.Add(wait), o.reason}, true
}

// move goes to a hot span, if that is clearly worth more than the present one.
func (v *view) move() (Decision, bool) {
	s, here := v.self.Serving, 0.0
	if v.own.joined(s.Span) {
		if need(v.own.demand1m, v.own.base, s.Span) > v.Goal {
			return Decision{}, false
		}
		here = v.own.gain(s.Span, v.own.rate(s.Row, s.Span.Len()))
	}
	for _, o := range v.best(v.hot(false)) {
		if o.worth > v.Gain*here {
			return Decision{Serve, o.p.ID, o.span, v.now.Add(v.moveTurn(o, v.Pace)), o.reason}, true
		}
	}
	return Decision{}, false
}

// drop leaves a span that the others can serve well without this node.
func (v *view) drop() Decision {
	s, p := v.self.Serving, v.own
	copies, busy := p.others(&server{Served: *s, speed: p.rate(s.Row, s.Span.Len())})
	switch {
	case copies < v.Copies || busy > v.Cool:
		return stay("blocks %s of %s are served", s.Span, p.name())
	case !v.leads(copies):
		return stay("blocks %s of %s are idle, but other servers leave first", s.Span, p.name())
	}
	return Decision{Leave, p.ID, s.Span, v.now.Add(v.Pace),
		fmt.Sprintf("blocks %s of %s are idle: %d others serve them and would be %.0f %% busy", s.Span, p.name(), copies, 100*busy)}
}

// best returns the options that are at least nearly as good as the best one, in
// descending order. Spans that it cannot serve, and those that it already serves by its
// operator's choice, are left out.
func (v *view) best(list []option) []option {
	list = slices.DeleteFunc(list, func(o option) bool {
		return !o.p.Cuts.Allows(o.span) || slices.ContainsFunc(v.peers, func(q Peer) bool { return q.ID == v.self.ID && q.serves(o) })
	})
	slices.SortFunc(list, func(a, b option) int {
		return cmp.Or(cmp.Compare(b.worth, a.worth), cmp.Compare(a.order, b.order))
	})
	n := 0
	for n < len(list) && list[n].worth >= 0.8*list[0].worth {
		n++
	}
	return list[:n]
}
