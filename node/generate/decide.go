package generate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol"
)

// decision is the questions of one request under way.
type decision struct {
	generation
	ask     *api.DecideRequest
	asks    []session.Ask    // a question each
	lengths []int            // tokens of each prompt
	labels  map[string]int32 // tokens, by the end of the prompt with the label; -1: it is not one
	bytes   int              // that were tokenized
	out     api.DecideResult
	done    int   // questions that are answered
	old     error // of the last stage of an older version that could not answer; nil: none
}

// Decide reads the probabilities of labels where the answers to questions begin. The errors
// are the context's, and api's, whose kinds are BadInput, TooLong, UnknownModel, NoText,
// NoRoute and Refused; any other is a stage's failure after all attempts. A failed stage
// costs the questions that are not answered yet: others answer those.
func (g *Generator) Decide(ctx context.Context, req *api.DecideRequest) (out *api.DecideResult, err error) {
	ctx, trace := g.begin(ctx, "decisions", req.Trace)
	defer func() { trace.end(err) }()
	d := &decision{
		generation: generation{Generator: g, req: &api.GenerateRequest{Model: req.Model, Route: req.Route, MaxStages: req.MaxStages, Exact: req.Exact}, trace: trace},
		ask:        req, labels: map[string]int32{},
	}
	if err := d.read(ctx); err != nil {
		return nil, err
	}
	if !g.cfg.Survey.Fastest() {
		d.ownEnd = time.Now().Add(ownTime)
	}
	for d.done < len(d.asks) {
		before := d.done
		if err := d.run(ctx, d.attemptReadings); err != nil {
			return nil, err
		}
		if d.done == before {
			return nil, api.Errorf(api.Internal, "a session of readings brought nothing")
		}
	}
	d.out.Model, d.out.Name, d.out.Warning = d.model.ID().String(), d.model.Name(), d.warning
	return &d.out, nil
}

// read finds the model and makes tokens of the questions.
func (d *decision) read(ctx context.Context) (err error) {
	if d.model, d.warning, err = d.cfg.Models.Pick(ctx, d.req.Model); err != nil {
		return err
	}
	if d.tools, err = d.cfg.Models.Tools(ctx, d.model); err != nil {
		return err
	}
	switch {
	case d.tools.Embeds != nil:
		return &api.Error{Kind: api.NoText, Param: "model", Message: fmt.Sprintf("%s makes embeddings and generates no text, so there is no answer to read probabilities from: name a chat model", d.model.Name())}
	case d.tools.TemplateErr != nil:
		return badModel("%s: %s, so there is no place where an answer begins: name a chat model", d.model.Name(), d.tools.TemplateErr)
	}
	var before []int32
	now := time.Now()
	for i := range d.ask.Questions {
		q := &d.ask.Questions[i]
		prompt, ids, err := d.encodeQuestion(ctx, q, now)
		if err != nil {
			return inQuestion(q, err)
		}
		labels, err := d.labelIDs(ctx, prompt, ids, q.Labels)
		if err != nil {
			return inQuestion(q, err)
		}
		keep := 0
		for keep < min(len(before), len(ids)-1) && before[keep] == ids[keep] {
			keep++
		}
		before = ids
		d.asks = append(d.asks, session.Ask{Keep: keep, Tokens: slices.Clone(ids[keep:]), Labels: labels})
		d.lengths = append(d.lengths, len(ids))
		d.out.Reads = append(d.out.Reads, api.DecideRead{PromptTokens: len(ids), LabelIDs: labels})
		if d.ask.Prompts {
			d.out.Reads[i].PromptIDs = ids
		}
	}
	d.trace.encoded(d.model.Name(), d.out.Count())
	return nil
}

// mostDecided is how many bytes are tokenized for a request: each question with what it is
// about, from the beginning.
const mostDecided = 64 << 20

// inQuestion is an error of a question: it says which.
func inQuestion(q *api.DecideQuestion, err error) error {
	var e *api.Error
	if q.Name == "" || !errors.As(err, &e) {
		return err
	}
	return &api.Error{Kind: e.Kind, Param: e.Param, Message: fmt.Sprintf("question %q: %s", q.Name, e.Message), RetryAfter: e.RetryAfter, Err: err}
}

// encodeQuestion makes the prompt of a question, up to where the answer begins.
func (d *decision) encodeQuestion(ctx context.Context, q *api.DecideQuestion, now time.Time) (string, []int32, error) {
	in := text.RenderInput{AddGenerationPrompt: true, Now: now, Extra: map[string]any{"enable_thinking": false, "thinking": false}}
	maps.Copy(in.Extra, d.ask.Variables)
	in.Messages = []text.Message{{Role: "user", Content: q.User}}
	if q.System != "" {
		instruct(&in, d.tools.Template.Traits(), q.System)
	}
	prompt, err := d.write(&in)
	if err != nil {
		return "", nil, api.Errorf(api.BadInput, "the chat template: %s", err)
	}
	prompt, ok := d.tools.Syntax.AnswerAt(prompt)
	if !ok {
		return "", nil, badModel("the chat template of %s begins every answer with reasoning, and leaves it open where the answer would be read", d.model.Name())
	}
	if err := d.weigh(prompt); err != nil {
		return "", nil, err
	}
	ids, err := d.tokenize(ctx, prompt, d.rendering(prompt))
	if most := d.context(); err == nil && len(ids) >= most {
		err = tooLong(most, "the question and what it is about have %d tokens", len(ids))
	}
	return prompt, ids, err
}

// ending is the end of a prompt that decides which tokens follow it.
type ending struct {
	text string
	ids  []int32
	opt  text.EncodeOptions
}

// endingOf returns what follows the last control token of a prompt, or if that does not
// stand for itself all of the prompt. What control tokens separate is tokenized separately.
func (d *decision) endingOf(ctx context.Context, prompt string, ids []int32) (ending, error) {
	for i := len(ids) - 1; i >= 0; i-- {
		if !d.tools.IsControl(ids[i]) {
			continue
		}
		mark := d.tools.Token(ids[i])
		at := strings.LastIndex(prompt, mark)
		if at < 0 {
			break
		}
		e := ending{prompt[at+len(mark):], ids[i+1:], text.EncodeOptions{ParseSpecial: true}}
		again, err := d.cfg.Models.Encode(ctx, d.tools.Tokenizer, e.text, e.opt)
		if err != nil || slices.Equal(again, e.ids) {
			return e, err
		}
		break
	}
	return ending{prompt, ids, d.rendering(prompt)}, nil
}

// labelIDs returns the tokens of labels: each must be one token of its own where the answer
// begins.
func (d *decision) labelIDs(ctx context.Context, prompt string, ids []int32, labels []string) ([]int32, error) {
	end, err := d.endingOf(ctx, prompt, ids)
	if err != nil {
		return nil, err
	}
	out := make([]int32, len(labels))
	for i, label := range labels {
		id, err := d.labelID(ctx, end, label)
		if err != nil {
			return nil, err
		}
		if id < 0 || slices.Contains(out[:i], id) {
			return nil, badModel("the label %q is not one distinct token where an answer of %s begins, so its probability cannot be read", label, d.model.Name())
		}
		out[i] = id
	}
	return out, nil
}

// labelID returns the token that a label adds to the end of a prompt; -1: it is not one.
func (d *decision) labelID(ctx context.Context, end ending, label string) (int32, error) {
	key := end.text + label
	if id, ok := d.labels[key]; ok {
		return id, nil
	}
	if err := d.weigh(key); err != nil {
		return 0, err
	}
	ids, err := d.cfg.Models.Encode(ctx, d.tools.Tokenizer, key, end.opt)
	if err != nil {
		return 0, err
	}
	id := int32(-1)
	if n := len(end.ids); len(ids) == n+1 && slices.Equal(ids[:n], end.ids) {
		id = ids[n]
	}
	d.labels[key] = id
	return id, nil
}

// weigh counts a text that is tokenized for the request.
func (d *decision) weigh(t string) error {
	if d.bytes += len(t); d.bytes > mostDecided {
		return api.Errorf(api.BadInput, "the questions, each with what it is about, have more than %d MiB together: ask them in parts", mostDecided>>20)
	}
	return nil
}

// attemptReadings plans a route and has questions answered along it.
func (d *decision) attemptReadings(ctx context.Context, excluded map[string]bool) error {
	p := &planned{}
	asks := d.left()
	err := d.seek(ctx, excluded, func(ctx context.Context) (err error) {
		p.Route, p.where, err = d.planReadings(ctx, asks, excluded)
		return err
	})
	if err != nil && d.old != nil && len(excluded) > 0 {
		return api.Errorf(api.NoRoute, "no route: %w; another node, or a newer version there, would help", d.old)
	}
	if err != nil {
		return err
	}
	return d.driveReadings(ctx, p, asks)
}

// left returns the questions that are not answered yet, as many as a session takes.
func (d *decision) left() (asks []session.Ask) {
	var all []int32
	rows := 0
	for i, a := range d.asks {
		all = append(all[:a.Keep], a.Tokens...)
		switch rows += len(a.Tokens); {
		case i < d.done:
			rows = 0
			continue
		case i == d.done:
			a.Keep, a.Tokens = 0, slices.Clone(all)
		case len(asks) == protocol.MaxReadings || rows > protocol.MaxReadRows:
			return asks
		}
		asks = append(asks, a)
	}
	return asks
}

// planReadings chooses a route for questions.
func (d *decision) planReadings(ctx context.Context, asks []session.Ask, excluded map[string]bool) (*route.Route, map[string]session.Hop, error) {
	man := d.model.Manifest()
	if !d.ask.Alone {
		d.prefix = session.SharedPrefix(asks)
	}
	longest := slices.Max(d.lengths[d.done:][:len(asks)])
	return d.choose(ctx, survey.Query{Span: man.All(), Excluded: excluded, Anybody: len(d.req.Route) > 0, Warm: d.calm(excluded)}, func(self string, list []route.Candidate, links survey.Distances) (*route.Route, error) {
		return route.Choose(route.Request{
			Client: self, Blocks: int(man.Blocks), Exclude: excluded, Wait: time.Now().Before(d.ownEnd), Cuts: d.tools.Cuts,
			MaxStages: d.req.MaxStages, Forced: d.forced(self),
			Prompt: longest - 1, MaxTokens: 1, // a prompt's last row counts as its answer, for which it needs no further cell
		}, list, links, nil)
	})
}

// driveReadings has questions answered along a route.
func (d *decision) driveReadings(ctx context.Context, p *planned, asks []session.Ask) error {
	d.active.Add(1)
	defer d.active.Add(-1)
	req := &session.ReadRequest{
		Model: d.model.ID(), Route: d.hopsAsSaid(p), Asks: asks, Vocab: int(d.model.Manifest().Vocab), Codec: d.cfg.Codec,
		Alone: d.ask.Alone, Wait: hangTime + 16*p.Prediction.TTFT,
	}
	if d.cfg.AutoWire {
		req.SlowestRow = d.costs.slowestRow(req.Route)
	}
	d.hops = req.Route
	d.out.Route, _ = d.routeWithCosts(req.Route)
	ctx, req.Trace = d.trace.beginSession(ctx, p.Route)
	begin, before := time.Now(), d.done
	cached, err := session.Read(ctx, d.cfg.Network, req, d.take)
	if errors.Is(err, session.ErrNoReadings) {
		if err = d.readByTop(ctx, req, err); errors.Is(err, session.ErrNoReadings) {
			d.old = err
		}
	}
	d.trace.endSession(ctx, begin, &session.Outcome{}, err)
	d.ended(d.hops, d.hops, len(asks[0].Tokens), cached, d.prefix, err)
	if d.done > before {
		d.out.Cached += cached
	}
	if err == nil {
		d.recordAnswered(d.model.ID(), d.hops)
		for _, h := range d.hops {
			d.cfg.Network.Worked(h.Peer)
		}
	}
	return err
}

// take takes the reading of the next question.
func (d *decision) take(_ int, r session.Reading) error {
	to := &d.out.Reads[d.done]
	for _, p := range r.Logprobs {
		to.Logprobs = append(to.Logprobs, float64(p))
	}
	to.TopIsLabel = slices.Contains(to.LabelIDs, r.Top)
	d.done++
	return nil
}

// mostTop is how many alternatives a stage reports of a token.
const mostTop = 64

// readByTop has questions answered by stages of which one is of an older version: each by
// an answer of one token, whose alternatives have the labels if those are probable. why is
// the error if they are not: what is not reported would have to be guessed.
func (d *decision) readByTop(ctx context.Context, req *session.ReadRequest, why error) error {
	if req.Alone { // such a session would leave its rows to others
		return why
	}
	var all []int32
	for i, a := range req.Asks {
		all = append(all[:a.Keep], a.Tokens...)
		var got *protocol.Token
		_, err := session.Run(ctx, d.cfg.Network, &session.Request{
			Model: req.Model, Route: req.Route, Prompt: slices.Clone(all), Vocab: req.Vocab, Codec: req.Codec, Trace: req.Trace,
			Sampling: &protocol.Sampling{MaxTokens: 1, Logprobs: true, TopLogprobs: mostTop},
		}, func(t *protocol.Token) error { got = t; return nil })
		if err != nil {
			return err
		}
		r := session.Reading{Top: got.GetId(), Logprobs: make([]float32, len(a.Labels))}
		for k, id := range a.Labels {
			at := slices.IndexFunc(got.GetTop(), func(t *protocol.TopToken) bool { return t.Id == id })
			if at < 0 {
				return why
			}
			if r.Logprobs[k] = got.Top[at].Logprob; !(r.Logprobs[k] <= 0) {
				last := len(req.Route) - 1
				return &session.StageError{Index: last, Hop: req.Route[last], Err: fmt.Errorf("%w: a log probability that is none", protocol.ErrFrame)}
			}
		}
		if err := d.take(i, r); err != nil {
			return err
		}
	}
	return nil
}
