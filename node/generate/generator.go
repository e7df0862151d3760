package generate

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"go.opentelemetry.io/otel/trace"

	"github.com/shoalnet/shoal/node/metrics"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/standing"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
)

// Models finds models and turns text into tokens.
type Models interface {
	// Pick returns the model of a name; without a name the one that is served. warning
	// says which of several was taken, if the name is not clear.
	Pick(ctx context.Context, name string) (m *store.Model, warning string, err error)
	// Tools returns a model's tokenizer and template, and fetches them if need be.
	Tools(ctx context.Context, m *store.Model) (*Tools, error)
	// Encode tokenizes a text when there is memory for the work. The errors are the
	// context's, and api's BadInput.
	Encode(ctx context.Context, by *text.Tokenizer, t string, opt text.EncodeOptions) ([]int32, error)
}

// Tools are what makes tokens of a model's prompts and text of its answers. They are
// safe for concurrent use.
type Tools struct {
	*text.Tokenizer
	Template    *text.Template // nil: TemplateErr says why
	TemplateErr error
	Syntax      *answer.Syntax // of the template; nil without one
	Cuts        *protocol.Cuts // spans of the model that can be computed; nil: all
	Embeds      *Embeds        // what embeddings the model makes; nil: it generates text
	Recurrent   bool           // some blocks carry a state from position to position

	// Compile returns the machine of an answer's format. The errors are the context's,
	// and those of constrain.Compile.
	Compile func(ctx context.Context, format []*protocol.Piece) (*constrain.Machine, error)
}

// Survey knows the peers that serve a model.
type Survey interface {
	// Choose asks the peers of a model for their load and has pick choose a route over
	// them. The errors are pick's, and route.ErrNoServer if there is no peer to ask.
	Choose(ctx context.Context, q survey.Query, pick survey.Pick) (r *route.Route, where map[string]session.Hop, err error)
	// Trusted reports whether a peer is this node itself, or trusted by its operator.
	Trusted(peer.ID) bool
	// Fastest reports whether this node and those that it trusts are not preferred.
	Fastest() bool
	MachineName(peer.ID) string // of a trusted peer's machine or a fellow member's; "": not known
	// Ask asks a peer for its load. One that does not answer is left out of routes for
	// a while.
	Ask(peer.ID)
	// Ended notes that a session with a model has ended, the prefix of which its stages keep.
	// unsure: what peers keep of this model's sessions is not known any more.
	Ended(model cid.Cid, hops []session.Hop, prefix []uint64, unsure bool)
}

// Network opens streams to stages.
type Network interface {
	session.Dialer
	// Worked notes that a peer did what it was asked for.
	Worked(peer.ID)
	Own(peer.ID) bool // reports whether a peer is this node, in any network
	// SwarmName returns what a private swarm is called, or one that lends over a bridge; "": it
	// has no name.
	SwarmName(swarm string) string
}

// Recorder keeps what peers did, and says when it is a newcomer's turn. Its methods
// are those of standing.Book.
type Recorder interface {
	Mark(p peer.ID, f standing.Fault, why string)
	Answered(p peer.ID, what string)
	Ran(standing.Run)
	Due() bool
	Explore() bool
	Count()
}

// Metrics counts answers. Its methods are those of metrics.Metrics.
type Metrics interface {
	Begin()
	Token(gap time.Duration)
	Repaired(reason string, stall time.Duration, replayed int, failed bool)
	Answered(metrics.Answer)
}

// Config is what a generator is made of. All fields are needed, but for Use and the zero
// values of Codec and AutoWire.
type Config struct {
	Models   Models
	Survey   Survey
	Network  Network
	Recorder Recorder
	Metrics  Metrics
	Tracer   trace.Tracer
	Codec    protocol.TensorCodec // of activations between stages
	AutoWire bool                 // each link may choose another one for prompts
	NoAhead  bool                 // no answer has rows of guesses sent ahead
	Log      *slog.Logger

	// Use returns whom prompts with a model of these names may go to, in words, and the
	// rule that says so; a nil may, and nil itself, are for anybody.
	Use func(model []string) (may func(swarm string, p peer.ID) bool, whom, rule string)
}

// Generator answers prompts. It is safe for concurrent use.
type Generator struct {
	cfg    Config
	active atomic.Int64
	under  atomic.Int64 // requests that are planned or computed
	hits   hits
}

// New returns a generator. It starts nothing, and needs no closing.
func New(cfg Config) *Generator { return &Generator{cfg: cfg} }

// Active is the number of answers whose tokens are being computed.
func (g *Generator) Active() int { return int(g.active.Load()) }

// probePass is what a pass is taken to cost in a probe, which knows no prediction:
// several times this without progress, and a stage hangs.
const probePass = 250 * time.Millisecond

// probeText is how long a probe's embedding may take.
const probeText = 40 * probePass

// A probe has tokens computed until its stages know what a step costs them here, among
// the machine's other processes: probeTokens, or as many as come within probeTime.
const (
	probeTokens = 33
	probeTime   = 300 * time.Millisecond
)

// Probe has some tokens, or an embedding, computed along a route, and records that its
// stages answered. where has the offers of the route's peers. The errors are those of
// session.Run.
//
// A probe is patient: a stage that is slow because its machine is busy has not failed.
func (g *Generator) Probe(ctx context.Context, m *store.Model, r *route.Route, where map[string]session.Hop, prompt []int32) error {
	tools, err := g.cfg.Models.Tools(ctx, m)
	if err != nil {
		return err
	}
	if how := tools.Embeds; how != nil {
		err := session.Embed(ctx, g.cfg.Network, &session.EmbedRequest{
			Model: m.ID(), Route: hopsOf(r, where), Texts: [][]int32{prompt}, Width: how.Width, Unit: !how.Scores, Wait: probeText,
		}, func(int, [][]float32) error { return nil })
		if err == nil {
			g.recordAnswered(m.ID(), hopsOf(r, where))
		}
		return err
	}
	run, enough := context.WithCancel(ctx)
	defer enough()
	tokens := 0
	out, err := session.Run(run, g.cfg.Network, &session.Request{
		Model: m.ID(), Route: hopsOf(r, where), Prompt: prompt, Sampling: &protocol.Sampling{MaxTokens: probeTokens}, Prefill: probePass,
	}, func(*protocol.Token) error {
		if tokens++; tokens == 1 {
			time.AfterFunc(probeTime, enough)
		}
		return nil
	})
	if err != nil && (tokens == 0 || run.Err() == nil) {
		return err
	}
	g.recordAnswered(m.ID(), out.Route)
	return nil
}

// recordAnswered notes that the spans of a route computed a token.
func (g *Generator) recordAnswered(model cid.Cid, hops []session.Hop) {
	for _, h := range hops {
		g.cfg.Recorder.Answered(h.Peer, survey.SpanName(model, h.Span))
	}
}
