package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
)

const (
	// defaultTemperature is used when the caller names none.
	defaultTemperature = 0.7
	// longest is the most tokens of an answer whose caller names no limit: KV
	// is reserved for all of them.
	longest = 4096
	// How long a prompt waits for room where all who could serve it are full.
	roomTime       = 3 * time.Second
	firstRoomPause = 100 * time.Millisecond

	// attempts at a route before the first token.
	attempts = 4
	// penaltyWindow is how many of the prompt's last tokens the repetition
	// penalty sees, llama.cpp's default.
	penaltyWindow = 64
)

// textTools are a model's tokenizer and chat template.
type textTools struct {
	*text.Tokenizer
	template    *text.Template
	templateErr error
	syntax      *answer.Syntax // of the template
	machines    machines       // for answers of a given format
}

// tools gives a model's tokenizer and template, fetching its header first if need
// be. Who waits for one model's keeps nobody from another's.
func (n *Node) tools(ctx context.Context, m *store.Model) (*textTools, error) {
	return n.texts.get(ctx, m.ID(), func(ctx context.Context) (*textTools, error) {
		if err := n.fetchShards(ctx, m, m.Manifest().ShardsFor(protocol.Span{}), nil); err != nil {
			return nil, err
		}
		h, err := m.Header()
		if err != nil {
			return nil, err
		}
		t := &textTools{}
		if t.Tokenizer, err = text.New(h); err != nil {
			return nil, api.Errorf(api.BadInput, "%s: %s", m.Name(), err)
		}
		if t.template, t.templateErr = text.NewTemplate(h); t.templateErr == nil {
			t.syntax = answer.Detect(t.template.Source())
		}
		return t, nil
	})
}

// pickModel gives the model that a caller means; without a name the only one
// that is served.
func (n *Node) pickModel(ctx context.Context, name string, warn func(string)) (*store.Model, error) {
	if name != "" {
		return n.find(ctx, name, wanted{warn: warn})
	}
	wait, cancel := context.WithTimeout(ctx, lookTime/3)
	defer cancel()
	for {
		// Who has just joined asks everybody; later what is known will do, or one
		// that has gone would keep every answer waiting.
		served := servedOf(n.heard(n.net.Known(cid.Undef)))
		if len(served) == 0 {
			served = servedOf(n.heard(n.net.Offers(ctx, cid.Undef, nil)))
		} else {
			n.net.Offers(ctx, cid.Undef, func([]*protocol.Offer) bool { return true })
		}
		switch {
		case len(served) == 1:
			return n.find(ctx, served[0].id.String(), wanted{})
		case len(served) > 1 && served[0].leads(served[1]):
			warn(fmt.Sprintf("%d models are served, and none was named: this is %s, which %s", len(served), served[0].id, served[0].why()))
			return n.find(ctx, served[0].id.String(), wanted{})
		case len(served) > 1:
			return nil, &api.Error{Kind: api.BadInput, Param: "model", Message: "several models are served; name one of " + listOf(served, (*claim).name)}
		}
		select {
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, api.Errorf(api.NoRoute, "nobody who can be reached serves a model; start a node with `shoal node --model NAME`, or name one with --bootstrap")
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// servedOf are the claims of models that are served: by peers that are there, if
// by any.
func servedOf(all []*claim) (out []*claim) {
	for _, c := range all {
		if c.whole || c.served && c.own {
			out = append(out, c)
		}
	}
	if len(out) > 0 {
		return out
	}
	return slices.DeleteFunc(all, func(c *claim) bool { return !c.served })
}

// leads says that a claim is likelier to be meant than another for more than its
// place in the order.
func (c *claim) leads(other *claim) bool {
	return c.own && !other.own || c.own == other.own && c.groups > other.groups
}

// prompt is what a request comes to before any token is drawn. The choices of a
// request share one.
type prompt struct {
	model  *store.Model
	tools  *textTools
	ids    []int32
	prefix []uint64 // hashes of its beginnings
	limit  int      // tokens of an answer

	warning   string                // of the model's name
	format    []*protocol.Piece     // what an answer must be; nil: anything
	machine   *constrain.Machine    // by which that is checked
	newReader func() *answer.Reader // of the answer to a chat; nil: all of it is text
}

// generation is one answer on its way.
type generation struct {
	prompt
	n     *Node
	req   *api.GenerateRequest
	emit  func(api.Event) error
	seed  uint64
	costs costs

	ownEnd time.Time // till then it waits for room at this node rather than go to strangers

	rule  *constrain.Run // checks that the answer has its format
	drawn []int32        // the answer so far, if it is checked
	hops  []session.Hop  // of the route now

	decoder *text.Decoder
	reader  *answer.Reader
	stops   *text.Stops
	stopped bool
	calls   int // of functions
	count   int
	watch   *watch
}

// errStopped ends a session whose answer has met a stop sequence.
var errStopped = errors.New("a stop sequence was met")

// Generate answers a prompt along the fastest route.
func (n *Node) Generate(ctx context.Context, req *api.GenerateRequest, emit func(api.Event) error) (err error) {
	ctx, watch := n.observe(ctx, req)
	defer func() { watch.end(err) }()
	read, err := req.Shared.Do(func() (any, error) {
		g := &generation{n: n, req: req}
		err := g.prepare(ctx)
		return g.prompt, err
	})
	if err != nil {
		return err
	}
	g := &generation{prompt: read.(prompt), n: n, req: req, emit: emit, seed: rand.Uint64(), watch: watch}
	if req.Sampling.Seed != nil {
		g.seed = *req.Sampling.Seed
	}
	if g.machine != nil {
		g.rule = g.machine.Start(g.tools.EOG())
	}
	watch.encoded(modelLabel(g.model.Name()), len(g.ids))
	if !n.cfg.Fastest {
		g.ownEnd = time.Now().Add(ownTime)
	}
	excluded := map[string]bool{}
	var full error // a refusal for want of room
	end, pause := time.Now().Add(roomTime), firstRoomPause
	for try := 1; ; try++ {
		err := g.attempt(ctx, excluded)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			return nil
		}
		n.blame(err)
		if g.count > 0 { // the caller has seen something
			return explain(err)
		}
		var where *session.StageError
		at := errors.As(err, &where)
		if isFull(err) {
			full = err
		}
		// Before the first token another route may do; but one's own machine is
		// waited for a while.
		own := full != nil && at && n.trusted(where.Hop.Peer) && time.Now().Before(g.ownEnd)
		if try < attempts && len(req.Route) == 0 && at && another(err) && !own {
			n.cfg.Log.Info("a stage refused or was lost; trying another route", "error", err)
			excluded[where.Hop.Peer.String()] = true
			continue
		}
		if full == nil {
			return explain(err)
		}
		// Without those that are full there is no route, and sessions end all
		// the time.
		if time.Now().After(end) {
			return explain(full)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		clear(excluded)
		full, try, pause = nil, 0, 2*pause
	}
}

// isFull says that a stage had no room for the session.
func isFull(err error) bool {
	var e *protocol.Error
	return errors.As(err, &e) && e.Code == protocol.Code_CODE_BUSY
}

// another says that a route without the peer might do better.
func another(err error) bool {
	var e *protocol.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case protocol.Code_CODE_BAD_REQUEST, protocol.Code_CODE_TOO_LONG:
		return false
	}
	return true
}

// explain gives a failure the kind that tells the caller what to do.
func explain(err error) error {
	var e *protocol.Error
	var a *api.Error
	switch {
	case errors.As(err, &a):
		return a
	case errors.Is(err, route.ErrNoRoom):
		return &api.Error{Kind: api.Refused, Message: err.Error(), RetryAfter: 5 * time.Second}
	case errors.Is(err, route.ErrNoServer), errors.Is(err, route.ErrNoJoin), errors.Is(err, route.ErrNotReady):
		return api.Errorf(api.NoRoute, "no route: %s", err)
	case errors.As(err, &e):
		switch e.Code {
		case protocol.Code_CODE_BUSY, protocol.Code_CODE_DRAINING, protocol.Code_CODE_FORBIDDEN:
			return &api.Error{Kind: api.Refused, Message: err.Error(), RetryAfter: e.RetryAfter}
		case protocol.Code_CODE_TOO_LONG:
			return api.Errorf(api.TooLong, "%s", err)
		case protocol.Code_CODE_NOT_SERVING:
			return api.Errorf(api.NoRoute, "%s", err)
		}
	}
	return err
}

// prepare makes the prompt of the request.
func (g *generation) prepare(ctx context.Context) (err error) {
	if g.model, err = g.n.pickModel(ctx, g.req.Model, func(s string) { g.warning = s }); err != nil {
		return err
	}
	if g.tools, err = g.n.tools(ctx, g.model); err != nil {
		return err
	}
	if err := g.encode(ctx); err != nil {
		return err
	}
	g.prefix = protocol.AppendPrefix(nil, g.ids)
	return g.follow(ctx)
}

// encode makes tokens of the request and counts the room for an answer. What is
// too long for any tokens to hold it is not looked at.
func (g *generation) encode(ctx context.Context) error {
	if g.req.Raw {
		g.shape("", nil)
	}
	if g.req.Raw && g.req.PromptIDs != nil {
		g.ids = g.req.PromptIDs
		for _, id := range g.ids {
			if id < 0 || int(id) >= g.tools.VocabSize() {
				return api.Errorf(api.BadInput, "token %d is not in the vocabulary of %d", id, g.tools.VocabSize())
			}
		}
		return g.room()
	}
	prompt, opt := g.req.Prompt, text.EncodeOptions{AddSpecial: true, ParseSpecial: true}
	if !g.req.Raw {
		if g.tools.templateErr != nil {
			return api.Errorf(api.BadInput, "%s: %s; send a raw prompt instead", g.model.Name(), g.tools.templateErr)
		}
		var err error
		if prompt, err = g.render(); err != nil {
			return fmt.Errorf("%s: %w", g.model.Name(), err)
		}
		// Templates write the beginning of the sequence themselves.
		if bos, ok := g.tools.BOS(); ok && strings.HasPrefix(prompt, g.tools.Token(bos)) {
			opt.AddSpecial = false
		}
	}
	if most, holds := g.context(), g.tools.Longest(); len(prompt)/holds > most {
		return api.Errorf(api.TooLong, "the prompt has %d KiB, and the %d tokens of %s hold %d KiB at most; shorten it", len(prompt)>>10, most, g.model.Name(), most*holds>>10)
	}
	var err error
	if g.ids, err = g.n.encode(ctx, g.tools.Tokenizer, prompt, opt); err != nil {
		return err
	}
	return g.room()
}

// encodeRoom is how much text is tokenized at once, in bytes: that takes some
// hundred times as much memory. A longer one goes alone.
const encodeRoom = 2 << 20

// encode makes tokens of a text when there is room for the work.
func (n *Node) encode(ctx context.Context, by *text.Tokenizer, t string, opt text.EncodeOptions) ([]int32, error) {
	weight := int64(min(len(t), encodeRoom))
	if err := n.encoding.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	defer n.encoding.Release(weight)
	ids, err := by.Encode(ctx, t, opt)
	if err != nil && ctx.Err() == nil {
		err = api.Errorf(api.BadInput, "%s", err)
	}
	return ids, err
}

// context is how many tokens the model takes.
func (g *generation) context() int {
	if most := int(g.model.Manifest().Context); most > 0 {
		return most
	}
	return 1 << 30
}

// room counts what the answer may take.
func (g *generation) room() error {
	if len(g.ids) == 0 {
		return api.Errorf(api.BadInput, "the prompt is empty")
	}
	most := g.context()
	if len(g.ids) >= most {
		return api.Errorf(api.TooLong, "the prompt has %d tokens, and %s takes %d with the answer; shorten it", len(g.ids), g.model.Name(), most)
	}
	g.limit = g.req.MaxTokens
	if g.limit <= 0 {
		g.limit = longest
	}
	g.limit = min(g.limit, most-len(g.ids))
	return nil
}

func (g *generation) drive(ctx context.Context, r *route.Route, where map[string]session.Hop, note string, limit int) error {
	// Bulk stands back; but not while a route is looked for: it may be what the
	// route waits for.
	g.n.asking.Add(1)
	defer g.n.asking.Add(-1)
	p := g.req.Sampling
	s := &protocol.Sampling{
		Temperature: defaultTemperature, TopK: uint32(p.TopK), TopP: float32(p.TopP), MinP: float32(p.MinP),
		RepeatPenalty: float32(p.RepeatPenalty), PresencePenalty: float32(p.PresencePenalty), FrequencyPenalty: float32(p.FrequencyPenalty),
		Seed: g.seed, Logprobs: p.Logprobs, TopLogprobs: uint32(p.TopLogprobs), MaxTokens: uint32(limit), StopIds: g.tools.EOG(), Format: g.format,
	}
	if p.Temperature != nil {
		s.Temperature = float32(*p.Temperature)
	}
	if s.RepeatPenalty != 0 && s.RepeatPenalty != 1 {
		s.History = g.ids[max(0, len(g.ids)-penaltyWindow):]
	}
	codec, err := codecOf(g.n.cfg.Wire)
	if err != nil {
		return err
	}
	req := &session.Request{Model: g.model.ID(), Prompt: g.ids, Vocab: int(g.model.Manifest().Vocab), Sampling: s, Codec: codec, Route: hopsOf(r, where),
		Step: r.Prediction.Step, Prefill: r.Prediction.TTFT, Replan: g.replan, Second: g.second}
	if len(g.req.Route) > 0 { // that one and no other
		req.Replan, req.Second = nil, nil
	}
	start := &api.Start{
		Model: g.model.ID().String(), Name: g.model.Name(), PromptTokens: g.ids, Note: note, Warning: g.warning,
		PredictedRate: r.Prediction.TokensPerSecond(), PredictedTTFTMs: ms(r.Prediction.TTFT),
	}
	start.Route, start.Costs = g.way(req.Route)
	g.hops, g.drawn = req.Route, nil
	req.Repair = func(rec session.Recovery, way []session.Hop) error {
		if len(way) > 0 {
			g.hops = way
		}
		if g.count > 0 {
			return g.repair(rec, way)
		}
		if len(way) > 0 { // nobody has been told of a route yet
			start.Route, start.Costs = g.way(way)
		}
		return nil
	}
	g.listen()
	ctx, req.Trace = g.watch.session(ctx, r)
	begin := time.Now()
	out, err := session.Run(ctx, sessionDialer{streams{g.n.net}}, req, func(t *protocol.Token) error {
		if err := g.broken(t.Id); err != nil {
			return err
		}
		if g.count == 0 {
			if err := g.emit(api.Event{Start: start}); err != nil {
				return err
			}
		}
		return g.token(t)
	})
	g.watch.sessionOver(ctx, begin, out, err)
	for _, rec := range out.Recoveries {
		g.n.repaired(rec)
	}
	if g.count > 0 && (err == nil || errors.Is(err, errStopped)) {
		g.credit(out)
	}
	if err != nil && !errors.Is(err, errStopped) {
		if g.count > 0 {
			return fmt.Errorf("the answer broke off after %d tokens: %w", g.count, err)
		}
		return err
	}
	for _, h := range g.hops {
		g.n.net.Worked(h.Peer)
	}
	return g.done(out, r.Prediction)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// token passes a token on, with the text that is whole by now.
func (g *generation) token(t *protocol.Token) error {
	g.count++
	g.watch.token()
	ev := &api.Token{Index: int(t.Index), ID: t.Id, Logprob: float64(t.Logprob)}
	if g.req.Sampling.Logprobs {
		ev.Bytes = g.tools.Bytes(t.Id)
	}
	for _, a := range t.Top {
		ev.Top = append(ev.Top, api.Top{ID: a.Id, Logprob: float64(a.Logprob), Text: g.tools.Token(a.Id), Bytes: g.tools.Bytes(a.Id)})
	}
	if t.Finish != protocol.Finish_FINISH_STOP {
		ev.Text, ev.Reasoning, ev.Calls = g.read(g.decoder.Push(t.Id), false)
	}
	if err := g.emit(api.Event{Token: ev}); err != nil {
		return err
	}
	if g.stopped {
		return errStopped
	}
	return nil
}

func (g *generation) done(out *session.Outcome, p route.Prediction) error {
	d := &api.Done{FinishReason: "stop", Tokens: out.Tokens, TokensPerS: out.Rate(), TTFTMs: ms(out.TTFT), Note: p.String(), Kept: out.Cached}
	for _, r := range out.Recoveries {
		d.Recoveries = append(d.Recoveries, apiRecovery(r))
	}
	if len(d.Recoveries) > 0 {
		d.Route = g.route(out.Route)
	}
	if !g.stopped {
		// What was held back cannot grow into a mark or a stop sequence any more.
		d.Text, d.Reasoning, d.Calls = g.read(g.decoder.Flush(), true)
		if !g.stopped {
			d.Text += g.stops.Flush()
			if out.Finish == protocol.Finish_FINISH_LENGTH {
				d.FinishReason = "length"
			}
		}
	}
	if g.calls > 0 && d.FinishReason == "stop" {
		d.FinishReason = "tool_calls"
	}
	g.watch.finish(d.FinishReason)
	return g.emit(api.Event{Done: d})
}

func apiHops(hops []session.Hop) (out []api.Hop) {
	for _, h := range hops {
		out = append(out, api.Hop{Peer: h.Peer.String(), From: h.Span.From, To: h.Span.To})
	}
	return out
}
