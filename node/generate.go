package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
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

// textCache keeps the tools of the models in use; they are large.
type textCache struct {
	mu sync.Mutex
	of map[cid.Cid]*textTools
}

// tools gives a model's tokenizer, fetching its header first if need be.
func (n *Node) tools(ctx context.Context, m *store.Model) (*textTools, error) {
	n.texts.mu.Lock()
	defer n.texts.mu.Unlock()
	if t := n.texts.of[m.ID()]; t != nil {
		return t, nil
	}
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
	if n.texts.of == nil || len(n.texts.of) >= 8 {
		n.texts.of = map[cid.Cid]*textTools{}
	}
	n.texts.of[m.ID()] = t
	return t, nil
}

// pickModel gives the model that a caller means; without a name the only one
// that is served.
func (n *Node) pickModel(ctx context.Context, name string) (*store.Model, error) {
	if name != "" {
		return n.findKnown(ctx, name)
	}
	wait, cancel := context.WithTimeout(ctx, lookTime/3)
	defer cancel()
	for {
		// Who has just joined asks everybody; later what is known will do, or one
		// that has gone would keep every answer waiting.
		served := servedBy(n.net.Known(cid.Undef))
		if len(served) == 0 {
			served = servedBy(n.net.Offers(ctx, cid.Undef, nil))
		} else {
			n.net.Offers(ctx, cid.Undef, func([]*protocol.Offer) bool { return true })
		}
		if len(served) == 1 {
			for id := range served {
				return n.findModel(ctx, id.String(), nil)
			}
		}
		if len(served) > 1 {
			var names []string
			for id, name := range served {
				if name == "" {
					name = id.String()
				}
				names = append(names, name)
			}
			slices.Sort(names)
			return nil, &api.Error{Kind: api.BadInput, Param: "model", Message: "several models are served; name one of " + strings.Join(names, ", ")}
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

// servedBy lists the models of which something is served, with their names.
func servedBy(offers []*protocol.Offer) map[cid.Cid]string {
	served := map[cid.Cid]string{}
	for _, o := range offers {
		for _, s := range o.Spans {
			served[s.ModelID()] = s.Name
		}
	}
	return served
}

// generation is one answer on its way.
type generation struct {
	n     *Node
	req   *api.GenerateRequest
	emit  func(api.Event) error
	model *store.Model
	tools *textTools
	ids   []int32 // of the prompt
	limit int     // tokens of the answer
	seed  uint64
	costs costs

	ownEnd time.Time // till then it waits for room at this node rather than go to strangers

	format []*protocol.Piece // what the answer must be; nil: anything
	rule   *constrain.Run    // checks that it is
	drawn  []int32           // the answer so far, if it is checked
	hops   []session.Hop     // of the route now

	prefix    []uint64              // hashes of the prompt's beginnings
	newReader func() *answer.Reader // of the answer to a chat; nil: all of it is text
	decoder   *text.Decoder
	reader    *answer.Reader
	stops     *text.Stops
	stopped   bool
	calls     int // of functions
	count     int
	watch     *watch
}

// errStopped ends a session whose answer has met a stop sequence.
var errStopped = errors.New("a stop sequence was met")

// Generate answers a prompt along the fastest route.
func (n *Node) Generate(ctx context.Context, req *api.GenerateRequest, emit func(api.Event) error) (err error) {
	ctx, watch := n.observe(ctx, req)
	defer func() { watch.end(err) }()
	m, err := n.pickModel(ctx, req.Model)
	if err != nil {
		return err
	}
	g := &generation{n: n, req: req, emit: emit, model: m, seed: rand.Uint64(), watch: watch}
	if req.Sampling.Seed != nil {
		g.seed = *req.Sampling.Seed
	}
	if g.tools, err = n.tools(ctx, m); err != nil {
		return err
	}
	if err := g.encode(); err != nil {
		return err
	}
	if err := g.follow(); err != nil {
		return err
	}
	watch.encoded(modelLabel(m.Name()), len(g.ids))
	g.prefix = protocol.AppendPrefix(nil, g.ids)
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

// encode makes tokens of the request and counts the room for an answer.
func (g *generation) encode() error {
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
	var err error
	if g.ids, err = g.tools.Encode(prompt, opt); err != nil {
		return api.Errorf(api.BadInput, "%s", err)
	}
	return g.room()
}

// room counts what the answer may take.
func (g *generation) room() error {
	if len(g.ids) == 0 {
		return api.Errorf(api.BadInput, "the prompt is empty")
	}
	most := int(g.model.Manifest().Context)
	if most == 0 {
		most = 1 << 30
	}
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
	req := &session.Request{Model: g.model.ID(), Prompt: g.ids, Sampling: s, Codec: codec, Route: hopsOf(r, where),
		Step: r.Prediction.Step, Prefill: r.Prediction.TTFT, Replan: g.replan, Second: g.second}
	if len(g.req.Route) > 0 { // that one and no other
		req.Replan, req.Second = nil, nil
	}
	start := &api.Start{
		Model: g.model.ID().String(), Name: g.model.Name(), PromptTokens: g.ids, Note: note,
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
	d := &api.Done{FinishReason: "stop", Tokens: out.Tokens, TokensPerS: out.Rate(), TTFTMs: ms(out.TTFT), Note: p.String(), Kept: out.Kept}
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
