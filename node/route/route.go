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

// Candidate is a span that a peer serves.
type Candidate struct {
	Peer       string // opaque
	Span       protocol.Span
	Decode     time.Duration // one row through one block
	Prefill    time.Duration // the same per row in a chunk of 64
	Embed      time.Duration // besides, if the span begins the model
	Head       time.Duration // besides, if it ends it
	Queue      time.Duration // wait before a step is computed
	KVFree     int           // tokens
	MaxContext int           // tokens of a session
	Kept       int           // tokens of the prompt whose KV it still has
	Unproven   bool          // no token has gone through it yet: for probes only

	// What the planning node itself knows of the peer; see Price.
	Trust       Trust
	Done        int           // sessions of the node's that went over it
	Age         time.Duration // since it was first met
	SeenDecode  float64       // what a block took for what it was claimed to take; 0: not seen
	SeenPrefill float64
	Marks       float64 // against it: each adds its cost once more
	Shunned     bool    // used only where there is nobody else
	Connected   bool    // to ask it takes no dialling

	// Of Price.
	New            bool          // a newcomer
	Claimed        time.Duration // what Decode was
	ClaimedPrefill time.Duration
	weight         float64 // of its cost against others'; 0: 1
}

// Links tells distances.
type Links interface {
	// OneWay is half the round trip between two peers; false if unknown.
	OneWay(a, b string) (time.Duration, bool)
}

// Request is what a route is for.
type Request struct {
	Client    string
	Blocks    int
	Span      protocol.Span // of blocks; zero: all
	Before    string        // with a Span that is a part: its neighbours in the ring
	After     string
	Prompt    int // tokens
	MaxTokens int
	MaxStages int             // 0: any number
	Exclude   map[string]bool // peers not to be used
	Forced    []Hop           // if any: this route and no other
	Unproven  bool            // those will do, too
	Wait      bool            // for room at own and trusted peers, rather than go to strangers; see Choose
}

// Hop is one stage of a route.
type Hop struct {
	Peer string
	Span protocol.Span
}

// Route is a plan with what it is expected to give.
type Route struct {
	Hops       []Hop
	Prediction Prediction
	Explores   bool // it goes over a newcomer for the sake of knowing it
}

// Prediction of a route.
type Prediction struct {
	Step       time.Duration // between two tokens
	TTFT       time.Duration // until the first
	Compute    time.Duration // of Step
	Network    time.Duration // of Step
	Bottleneck int           // the stage that computes longest
}

// TokensPerSecond of one session.
func (p Prediction) TokensPerSecond() float64 {
	if p.Step <= 0 {
		return 0
	}
	return float64(time.Second) / float64(p.Step)
}

// String says where the time goes: "network 52 %, stage 2 is the slowest".
func (p Prediction) String() string {
	if p.Step <= 0 {
		return "nothing measured yet"
	}
	return fmt.Sprintf("network %d %%, stage %d is the slowest", 100*p.Network/p.Step, p.Bottleneck)
}

// UnknownOneWay is assumed between peers that nobody has measured.
const UnknownOneWay = 25 * time.Millisecond

// StageCost is what a stage adds to a step besides computing it: the frame is
// read, given to the engine's process, and sent on. Measured over loopback on
// two shared cores it is 0.13 to 0.37 ms, more with more stages.
const StageCost = 250 * time.Microsecond

// Chunk is the rows of a prefill chunk.
const Chunk = 64

// Why there is no route.
var (
	ErrNoRoom   = errors.New("no peer has room for a session of this length now")
	ErrNoJoin   = errors.New("the spans that are served do not join")
	ErrNoServer = errors.New("some blocks are served by nobody")
	ErrNotReady = errors.New("some blocks are served by nodes only that are not ready yet")
)

// Uncovered lists blocks that nobody serves. It wraps ErrNoServer.
type Uncovered struct{ Spans []protocol.Span }

func (e *Uncovered) Error() string {
	var parts []string
	for _, s := range e.Spans {
		parts = append(parts, s.String())
	}
	return "nobody serves blocks " + strings.Join(parts, ", ")
}

func (e *Uncovered) Unwrap() error { return ErrNoServer }

// most is the longest time that a figure of a peer may claim. A longer one is a
// mistake or a lie, and would overflow sums.
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
	return min(d, most)
}

// prefill is a chunk of rows.
func (c *Candidate) prefill(rows int) time.Duration {
	per := c.Prefill
	if per == 0 {
		per = c.Decode
	}
	return min(most, sane(per)*time.Duration(c.Span.Len()*max(1, rows))+sane(c.Queue)+StageCost)
}

// Step is what the candidate adds to each token of a session, without the way
// to the next.
func (c *Candidate) Step(blocks int) time.Duration { return c.decode(blocks) }

type planner struct {
	req    *Request
	links  Links
	use    []Candidate // sorted by span
	span   protocol.Span
	prefix bool // somebody has kept some of the prompt
}

// typicalAnswer is how many tokens the time of computing a prompt is spread
// over where routes are compared that have kept different parts of it.
const typicalAnswer = 128

// cost is what a stage adds to a token: its decode step and, if parts of the
// prompt have been kept, its share of computing the rest.
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

// enter and leave are the ring's hops that do not lie between two stages of
// the plan.
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

// Plan finds the fastest route. Its errors say why there is none.
func Plan(req Request, candidates []Candidate, links Links) (*Route, error) {
	p := &planner{req: &req, links: links, span: req.Span}
	if p.span == (protocol.Span{}) {
		p.span = protocol.Span{From: 0, To: req.Blocks}
	}
	var spans, unproven []protocol.Span
	full := false
	for _, c := range candidates {
		if !c.Span.Valid(req.Blocks) || !p.span.Contains(c.Span) || req.Exclude[c.Peer] {
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

// gaps are the blocks of the span wanted that no span covers.
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

// search gives the indices of the best ring. With a limit on stages the state
// counts them.
func (p *planner) search() []int {
	limit := p.req.MaxStages
	if limit <= 0 || limit > protocol.MaxStages {
		limit = protocol.MaxStages
	}
	var best []int
	bestCost := time.Duration(-1)
	n := len(p.use)
	for first := 0; first < n && p.use[first].Span.From == p.span.From; first++ {
		// cost[s][i]: the least from first to i in s+1 stages, i's compute included.
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

// whereBroken names the blocks at which covering spans fail to join.
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
	kept := p.req.Prompt - 1 // what all stages have of the prompt
	for _, at := range path {
		kept = min(kept, p.use[at].Kept)
	}
	prompt := max(1, p.req.Prompt-max(0, kept))
	rows, chunks := min(Chunk, prompt), (prompt+Chunk-1)/Chunk
	var slowest, slowestChunk, far time.Duration
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
		pr.TTFT += chunk
		if i+1 < len(path) {
			pr.TTFT += p.way(c.Peer, next)
		} else {
			pr.TTFT += p.way(c.Peer, p.req.Client)
		}
		slowestChunk = max(slowestChunk, chunk)
		far = max(far, p.way(p.req.Client, c.Peer))
	}
	pr.Step = pr.Compute + pr.Network
	pr.TTFT += time.Duration(chunks-1)*slowestChunk + 2*far + p.way(p.req.Client, p.use[path[0]].Peer)
	return r
}

// Compare says what a route costs against the best one with fewer stages; ""
// if it costs nothing, or there is no other.
func Compare(r *Route, req Request, candidates []Candidate, links Links) string {
	if len(r.Hops) < 2 {
		return ""
	}
	req.Forced, req.MaxStages = nil, len(r.Hops)-1
	other, err := Plan(req, candidates, links)
	if err != nil || other.Prediction.Step >= r.Prediction.Step || other.Prediction.Step == 0 {
		return ""
	}
	return fmt.Sprintf("this split gives %.1f tokens/s where %d stages would give %.1f",
		r.Prediction.TokensPerSecond(), len(other.Hops), other.Prediction.TokensPerSecond())
}

func times(d time.Duration, x float64) time.Duration { return time.Duration(float64(d) * x) }
