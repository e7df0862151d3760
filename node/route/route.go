package route

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// Candidate is a span that a peer serves, with what the peer claims and what is known
// of the peer.
type Candidate struct {
	Peer       string // peer ID; opaque here
	Span       protocol.Span
	Decode     time.Duration // per block, for one row
	Prefill    time.Duration // per block and row, in a chunk of 64 rows; 0: as Decode
	Embed      time.Duration // additional per step if the span begins the model
	Head       time.Duration // additional per step if the span ends it
	Queue      time.Duration // wait before a step is computed
	Load       time.Duration // wait before the first step, since its engine is not loaded; 0: it is
	KVFree     int           // KV cells
	MaxContext int           // longest session, tokens
	Kept       int           // tokens of the prompt whose KV the peer still has
	Unproven   bool          // no token has gone through it yet: for probes only
	Cached     int           // the same as far as the planning node knows, whether a route counts on it or not
	Early      bool          // it takes rows before all stages of a route have been opened
	Rollback   int           // rows of a session that it can take back at any time
	Back       int           // rows by which it can certainly be taken back without beginning at 0; 0: all
	Exact      bool          // a row computes the same in any company
	Machine    string        // whose cores it shares with candidates of the same one; "": with none but those of its peer
	Class      string        // what computes it; candidates of one class agree to the last bit; "": unknown

	// What the planning node itself knows of the peer; see Price.
	Trust       Trust
	Done        int           // sessions of this node that it completed
	Age         time.Duration // since it was first met
	SeenDecode  float64       // measured decode time divided by the claimed; 0: not measured
	SeenPrefill float64       // the same for prefill
	Marks       float64       // for failures: each adds its cost once more
	Shunned     bool          // used only if there is no other route
	Connected   bool          // it can be asked without dialling

	// Set by Price.
	New            bool          // a newcomer
	Claimed        time.Duration // the claimed Decode
	ClaimedPrefill time.Duration // the claimed Prefill
	weight         float64       // factor of its cost; 0: 1
}

// Links knows the distances between peers.
type Links interface {
	// OneWay returns half the round trip between two peers, and false if it is unknown.
	OneWay(a, b string) (time.Duration, bool)
}

// Request is what a route is for.
type Request struct {
	Client    string          // peer ID of the session's client
	Blocks    int             // of the model
	Span      protocol.Span   // to plan for; zero: all blocks
	Before    string          // peer before Span in the ring; "": Span begins the ring
	After     string          // peer after Span in the ring; "": Span ends the ring
	Prompt    int             // tokens
	MaxTokens int             // tokens of the answer, at most
	MaxStages int             // 0: protocol.MaxStages
	Exclude   map[string]bool // peers not to be used
	Forced    []Hop           // if not empty, the only route allowed
	Unproven  bool            // unproven candidates may be used
	Wait      bool            // return ErrOwnFull rather than use strangers; see Choose
	Cuts      *protocol.Cuts  // spans that can be computed; nil: all. Offers of others are not used
	Guessed   float64         // share of the tokens, 0 to 1, that guesses sent ahead are expected to bring
	Like      []Like          // what computed the blocks before: Choose prefers the same
}

// Like is the class of a stage that is to be replaced.
type Like struct {
	Span  protocol.Span
	Class string // "": unknown
}

// Hop is one stage of a route.
type Hop struct {
	Peer string
	Span protocol.Span
}

// Route is a planned route and its predicted speed.
type Route struct {
	Hops       []Hop // in the order of their spans
	Prediction Prediction
	Explores   bool // it uses a newcomer in order to get to know it
}

// Prediction is a route's predicted speed.
type Prediction struct {
	Step       time.Duration // once around the ring, which a token takes that no guess brings
	Token      time.Duration // between two tokens, on average; Step unless guesses are sent ahead
	TTFT       time.Duration // until the first token
	Compute    time.Duration // part of Step
	Network    time.Duration // part of Step
	Bottleneck int           // index of the stage that computes longest
}

// TokensPerSecond returns the rate of one session; 0 if Token is unknown.
func (p Prediction) TokensPerSecond() float64 {
	if p.Token <= 0 {
		return 0
	}
	return float64(time.Second) / float64(p.Token)
}

// String returns what the time is spent on: "network 52 %, stage 2 is the slowest".
// Here, as wherever people read, stages are counted from 1.
func (p Prediction) String() string {
	if p.Step <= 0 {
		return "nothing measured yet"
	}
	return fmt.Sprintf("network %d %%, stage %d is the slowest", 100*p.Network/p.Step, p.Bottleneck+1)
}

// UnknownOneWay is the one-way latency assumed between peers that nobody has measured.
const UnknownOneWay = 25 * time.Millisecond

// StageCost is the overhead of a stage per step besides computing it: reading the
// frame, passing it to the engine's process and sending it on. Measured over loopback
// on two shared cores it is 0.13 to 0.37 ms, more with more stages.
const StageCost = 250 * time.Microsecond

// Chunk is the number of rows per prefill chunk.
const Chunk = 64

// Why there is no route.
var (
	ErrNoRoom   = errors.New("no peer has room for a session of this length now")
	ErrNoJoin   = errors.New("the spans that are served do not join")
	ErrNoServer = errors.New("some blocks are served by nobody")
	ErrNotReady = errors.New("some blocks are served by nodes only that are not ready yet")
)

// Uncovered is the error for blocks that nobody serves. It wraps ErrNoServer.
type Uncovered struct{ Spans []protocol.Span }

func (e *Uncovered) Error() string {
	var parts []string
	for _, s := range e.Spans {
		parts = append(parts, s.String())
	}
	return "nobody serves blocks " + strings.Join(parts, ", ")
}

func (e *Uncovered) Unwrap() error { return ErrNoServer }

// most bounds every time that a peer claims. A longer one is a mistake or a lie, and
// would overflow sums.
const most = time.Hour

func sane(d time.Duration) time.Duration { return max(0, min(d, most)) }

func (c *Candidate) decode(blocks int) time.Duration {
	d := sane(c.Decode)*time.Duration(c.Span.Len()) + sane(c.Queue) + StageCost
	if c.Span.From == 0 {
		d += sane(c.Embed)
	}
	if c.Span.To == blocks {
		d += sane(c.Head)
	}
	return min(d+sane(c.Load)/loadShare, most)
}

// loadShare is the number of tokens over which the wait for a load is spread where routes
// are compared: a copy that computes at once is taken unless it is much slower.
const loadShare = 128

// PromptRow returns the time that the candidate needs per row of a prompt, in chunks; 0:
// it is not known.
func (c *Candidate) PromptRow() time.Duration {
	per := c.Prefill
	if per == 0 {
		per = c.Decode
	}
	return sane(per) * time.Duration(c.Span.Len())
}

// prefill returns the time of a chunk of rows.
func (c *Candidate) prefill(rows int) time.Duration {
	return min(most, c.PromptRow()*time.Duration(max(1, rows))+sane(c.Queue)+StageCost)
}

// Step returns the time that the candidate adds to each token of a session, without
// the hop to the next stage. blocks is how many the model has.
func (c *Candidate) Step(blocks int) time.Duration { return c.decode(blocks) }

type planner struct {
	req    *Request
	links  Links
	use    []Candidate // sorted by span
	span   protocol.Span
	prefix bool // some candidate has kept some of the prompt
}

// typicalAnswer is the number of tokens over which the time of a prompt's prefill is
// spread, to compare routes that have kept different parts of the prompt.
const typicalAnswer = 128

// cost returns the cost of a stage per token: its decode step and, if some candidate
// has kept parts of the prompt, its share of computing the rest.
func (p *planner) cost(c *Candidate) time.Duration {
	d := c.decode(p.req.Blocks)
	if p.prefix {
		rest := c.prefill(max(0, p.req.Prompt-c.Kept))
		d += rest / time.Duration(max(1, min(p.req.MaxTokens, typicalAnswer)))
	}
	if c.weight > 0 {
		d = min(most, times(d, c.weight))
	}
	return d
}

// enter and leave return the latency of the ring's hops that are not between two
// stages of the plan.
func (p *planner) enter(first string) time.Duration {
	if p.req.Before == "" {
		return 0
	}
	return p.way(p.req.Before, first)
}

func (p *planner) leave(last, first string) time.Duration {
	if p.req.After == "" {
		return p.way(last, first)
	}
	return p.way(last, p.req.After)
}

func (p *planner) way(a, b string) time.Duration {
	if a == b {
		return 0
	}
	if d, ok := p.links.OneWay(a, b); ok {
		return sane(d)
	}
	return UnknownOneWay
}

// Plan finds the fastest route. If there is none, its error is or wraps ErrNoRoom,
// ErrNoJoin, ErrNotReady or ErrNoServer (also as *Uncovered).
func Plan(req Request, candidates []Candidate, links Links) (*Route, error) {
	p := &planner{req: &req, links: links, span: req.Span}
	if p.span == (protocol.Span{}) {
		p.span = protocol.Span{From: 0, To: req.Blocks}
	}
	var spans, unproven []protocol.Span
	full := false
	for _, c := range candidates {
		if !c.Span.Valid(req.Blocks) || !p.span.Contains(c.Span) || req.Exclude[c.Peer] || !req.Cuts.Allows(c.Span) {
			continue
		}
		if c.Unproven && !req.Unproven {
			unproven = append(unproven, c.Span)
			continue
		}
		if n := req.Prompt + req.MaxTokens; n > c.KVFree || n > c.MaxContext {
			full = true
			continue
		}
		p.use = append(p.use, c)
		p.prefix = p.prefix || c.Kept > 0
		spans = append(spans, c.Span)
	}
	slices.SortStableFunc(p.use, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.Span.From, b.Span.From), cmp.Compare(a.Span.To, b.Span.To), cmp.Compare(a.Peer, b.Peer))
	})
	if len(req.Forced) > 0 {
		return p.forced()
	}
	if gaps := p.gaps(spans); len(gaps) > 0 {
		switch left := p.gaps(append(spans, unproven...)); {
		case full:
			return nil, fmt.Errorf("%w (blocks %s)", ErrNoRoom, gaps[0])
		case len(left) > 0:
			return nil, &Uncovered{left}
		}
		return nil, fmt.Errorf("%w (blocks %s)", ErrNotReady, gaps[0])
	}
	best := p.search()
	if best == nil {
		if req.MaxStages > 0 {
			return nil, fmt.Errorf("%w within %d stages", ErrNoJoin, req.MaxStages)
		}
		return nil, fmt.Errorf("%w: %s", ErrNoJoin, p.whereBroken())
	}
	return p.route(best), nil
}

// gaps returns the blocks of the wanted span that spans do not cover.
func (p *planner) gaps(spans []protocol.Span) []protocol.Span {
	outside := []protocol.Span{{From: 0, To: p.span.From}, {From: p.span.To, To: p.req.Blocks}}
	return protocol.Uncovered(p.req.Blocks, append(outside, spans...))
}

func (p *planner) forced() (*Route, error) {
	var path []int
	at := p.span.From
	for _, h := range p.req.Forced {
		i := slices.IndexFunc(p.use, func(c Candidate) bool { return c.Peer == h.Peer && c.Span == h.Span })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s does not serve blocks %s now, or has no room", ErrNoServer, h.Peer, h.Span)
		}
		if h.Span.From != at {
			return nil, fmt.Errorf("%w: the route asked for goes from block %d to block %d", ErrNoJoin, at, h.Span.From)
		}
		at = h.Span.To
		path = append(path, i)
	}
	if at != p.span.To {
		return nil, fmt.Errorf("%w: the route asked for ends at block %d of %d", ErrNoJoin, at, p.span.To)
	}
	return p.route(path), nil
}

// search returns the indices of the best ring, in order; nil if there is none.
func (p *planner) search() []int {
	limit := p.req.MaxStages
	if limit <= 0 || limit > protocol.MaxStages {
		limit = protocol.MaxStages
	}
	var best []int
	bestCost := time.Duration(-1)
	n := len(p.use)
	for first := 0; first < n && p.use[first].Span.From == p.span.From; first++ {
		// levels[s][i]: the least cost from first to i in s+1 stages, i's compute included.
		type state struct {
			cost time.Duration
			prev int
		}
		levels := [][]state{make([]state, n)}
		for i := range levels[0] {
			levels[0][i] = state{-1, -1}
		}
		levels[0][first].cost = p.enter(p.use[first].Peer) + p.cost(&p.use[first])
		for s := 0; ; s++ {
			cur := levels[s]
			alive := false
			next := make([]state, n)
			for i := range next {
				next[i] = state{-1, -1}
			}
			for i, st := range cur {
				if st.cost < 0 {
					continue
				}
				c := &p.use[i]
				if c.Span.To == p.span.To {
					total := st.cost + p.leave(c.Peer, p.use[first].Peer)
					if bestCost < 0 || total < bestCost {
						bestCost = total
						best = []int{i}
						for l, at := s, i; l > 0; l-- {
							at = levels[l][at].prev
							best = append(best, at)
						}
						slices.Reverse(best)
					}
					continue
				}
				j, _ := slices.BinarySearchFunc(p.use, c.Span.To, func(x Candidate, from int) int { return cmp.Compare(x.Span.From, from) })
				for ; j < n && p.use[j].Span.From == c.Span.To; j++ {
					cost := st.cost + p.way(c.Peer, p.use[j].Peer) + p.cost(&p.use[j])
					if next[j].cost < 0 || cost < next[j].cost {
						next[j] = state{cost, i}
						alive = true
					}
				}
			}
			if !alive || s+1 >= limit {
				break
			}
			levels = append(levels, next)
		}
	}
	return best
}

// whereBroken names the block at which covering spans fail to join.
func (p *planner) whereBroken() string {
	reach := map[int]bool{p.span.From: true}
	far := p.span.From
	for _, c := range p.use { // sorted by From
		if reach[c.Span.From] {
			reach[c.Span.To] = true
			far = max(far, c.Span.To)
		}
	}
	return fmt.Sprintf("no served span begins at block %d", far)
}

func (p *planner) route(path []int) *Route {
	r := &Route{}
	pr := &r.Prediction
	kept := p.req.Prompt - 1 // tokens of the prompt that all stages have
	for _, at := range path {
		kept = min(kept, p.use[at].Kept)
	}
	prompt := max(1, p.req.Prompt-max(0, kept))
	rows, chunks := min(Chunk, prompt), (prompt+Chunk-1)/Chunk
	var slowest, far, load time.Duration
	early := true
	rowsOf, chunksOf := map[string]time.Duration{}, map[string]time.Duration{} // by machine
	for i, at := range path {
		c := &p.use[at]
		r.Hops = append(r.Hops, Hop{c.Peer, c.Span})
		d := c.decode(p.req.Blocks)
		pr.Compute += d
		if d > slowest {
			slowest, pr.Bottleneck = d, i
		}
		next := p.use[path[(i+1)%len(path)]].Peer
		pr.Network += p.way(c.Peer, next)
		chunk := c.prefill(rows)
		rowsOf[c.machine()] += d
		chunksOf[c.machine()] += chunk
		pr.TTFT += chunk
		if i+1 < len(path) {
			pr.TTFT += p.way(c.Peer, next)
		} else {
			pr.TTFT += p.way(c.Peer, p.req.Client)
		}
		load = max(load, sane(c.Load)) // all load at once
		far = max(far, p.way(p.req.Client, c.Peer))
		early = early && c.Early
	}
	if early { // nobody waits until all are open
		far = 0
	}
	pr.Step = pr.Compute + pr.Network
	pr.Token = pr.Step
	if len(path) > 1 { // else there is no way in which guesses could travel
		pr.Token = p.req.ahead(pr.Step, longest(rowsOf))
	}
	pr.TTFT += load + time.Duration(chunks-1)*longest(chunksOf) + 2*far + p.way(p.req.Client, p.use[path[0]].Peer)
	return r
}

// machine names the machine whose cores the candidate's stage shares.
func (c *Candidate) machine() string {
	if c.Machine != "" {
		return "machine " + c.Machine
	}
	return c.Peer
}

// longest returns the time after which the slowest machine can take the next row, or
// chunk. What stages of one machine compute for one session does not overlap: each may
// take all of its cores.
func longest(of map[string]time.Duration) (most time.Duration) {
	for _, d := range of {
		most = max(most, d)
	}
	return most
}

// ahead returns the mean time between two tokens, if a trip around the ring takes so long
// and a row the slowest machine: a guess that is right saves the trip.
func (r *Request) ahead(trip, row time.Duration) time.Duration {
	share := max(0, min(1, r.Guessed))
	if !(share > 0) {
		return trip
	}
	return times(trip, 1-share) + times(min(row, trip), share)
}

// Compare returns a sentence on what a route costs compared with the best one with
// fewer stages; "" if that is not faster, or there is none.
func Compare(r *Route, req Request, candidates []Candidate, links Links) string {
	if len(r.Hops) < 2 {
		return ""
	}
	req.Forced, req.MaxStages = nil, len(r.Hops)-1
	other, err := Plan(req, candidates, links)
	if err != nil || other.Prediction.Token >= r.Prediction.Token || other.Prediction.Token == 0 {
		return ""
	}
	return fmt.Sprintf("this split gives %.1f tokens/s where %d stages would give %.1f",
		r.Prediction.TokensPerSecond(), len(other.Hops), other.Prediction.TokensPerSecond())
}

func times(d time.Duration, x float64) time.Duration { return time.Duration(float64(d) * x) }
