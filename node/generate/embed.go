package generate

import (
	"context"
	"fmt"
	"math"
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

// Embeds says what embeddings a model makes.
type Embeds struct {
	Width    int    // numbers per embedding
	Scores   bool   // it scores texts by a query, and makes no embeddings
	Logit    bool   // its scores are logits: 0 is even odds
	Shortens bool   // the beginning of an embedding, normalized, is one as well
	Pair     string // how a reranker reads a query and a text: its template, with {query} and {document}; "": by its special tokens
}

// embedding is the embeddings of one request under way.
type embedding struct {
	generation
	ask   *api.EmbedRequest
	pairs bool      // the texts are computed together with the query
	frame pairFrame // of pairs in the words of a template
	texts [][]int32 // the query first, if an embedding model scores
	order []int     // the texts, the longest first
	most  int       // tokens of a text that the peers take; 0: not known yet
	out   api.EmbedResult
	got   [][]float32
	left  []int // texts, as in order, whose embeddings have not come
}

// Embed computes embeddings. The errors are the context's, and api's, whose kinds are
// BadInput, TooLong, UnknownModel, NoRoute and Refused; any other is a stage's failure
// after all attempts. A failed stage costs the texts that it has not embedded yet:
// others compute those.
func (g *Generator) Embed(ctx context.Context, req *api.EmbedRequest) (out *api.EmbedResult, err error) {
	if req.Query != nil {
		if out, ok, err := g.scoreByChat(ctx, req); ok {
			return out, err
		}
	}
	ctx, trace := g.begin(ctx, "embeddings", req.Trace)
	defer func() { trace.end(err) }()
	e := &embedding{generation: generation{Generator: g, req: &api.GenerateRequest{Model: req.Model}, trace: trace}, ask: req}
	if err := e.read(ctx); err != nil {
		return nil, err
	}
	if !g.cfg.Survey.Fastest() {
		e.ownEnd = time.Now().Add(ownTime)
	}
	e.got, e.left = make([][]float32, len(e.texts)), e.order
	for len(e.left) > 0 {
		before := len(e.left)
		if err := e.run(ctx, e.attemptTexts); err != nil {
			return nil, err
		}
		if len(e.left) == before {
			return nil, api.Errorf(api.Internal, "a session of texts brought nothing")
		}
	}
	return e.finish(), nil
}

// read finds the model and makes tokens of the texts.
func (e *embedding) read(ctx context.Context) (err error) {
	if e.model, e.out.Warning, err = e.cfg.Models.Pick(ctx, e.req.Model); err != nil {
		return err
	}
	if e.tools, err = e.cfg.Models.Tools(ctx, e.model); err != nil {
		return err
	}
	how := e.tools.Embeds
	switch {
	case how == nil:
		return badModel("%s does not support embeddings: it generates text; name an embedding model", e.model.Name())
	case how.Scores && e.ask.Query == nil:
		return badModel("%s does not support embeddings: it is a reranker, which scores texts by a query", e.model.Name())
	}
	if err := e.checkDimensions(how); err != nil {
		return err
	}
	e.pairs = how.Scores
	if e.pairs && how.Pair != "" {
		if e.frame, err = e.framePair(ctx, *e.ask.Query); err != nil {
			return err
		}
	}
	if e.ask.Query != nil && !e.pairs {
		ids, err := e.encodeText(ctx, api.EmbedText{Text: *e.ask.Query})
		if err != nil {
			return err
		}
		e.texts = append(e.texts, ids)
	}
	for i, t := range e.ask.Texts {
		var ids []int32
		if e.pairs {
			ids, err = e.encodePair(ctx, *e.ask.Query, t.Text)
		} else {
			ids, err = e.encodeText(ctx, t)
		}
		if err == nil && len(ids) == 0 {
			err = api.Errorf(api.BadInput, "text %d is empty", i)
		}
		if err != nil {
			return err
		}
		e.texts = append(e.texts, ids)
	}
	if err := e.fit(e.context()); err != nil {
		return err
	}
	tokens := 0
	for i, ids := range e.texts {
		e.order = append(e.order, i)
		tokens += len(ids)
	}
	e.trace.encoded(e.model.Name(), tokens)
	return nil
}

func badModel(format string, args ...any) error {
	return &api.Error{Kind: api.BadInput, Param: "model", Message: fmt.Sprintf(format, args...)}
}

// checkDimensions checks how many numbers of an embedding are wanted.
func (e *embedding) checkDimensions(how *Embeds) error {
	n := e.ask.Dimensions
	bad := func(format string, args ...any) error {
		return &api.Error{Kind: api.BadInput, Param: "dimensions", Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case n == 0 || n == how.Width || n > how.Width && e.ask.Cut: // a cut beyond the end cuts nothing
		return nil
	case n < 0 || n > how.Width:
		return bad("dimensions must lie between 1 and %d, the numbers of an embedding of %s, not be %d", how.Width, e.model.Name(), n)
	case !how.Shortens && !e.ask.Cut:
		return bad("%s does not support specifying dimensions: only all %d numbers together are an embedding of it", e.model.Name(), how.Width)
	}
	return nil
}

// encodeText makes tokens of a text, with the special ones that the model expects.
func (e *embedding) encodeText(ctx context.Context, t api.EmbedText) ([]int32, error) {
	if t.IDs == nil {
		return e.cfg.Models.Encode(ctx, e.tools.Tokenizer, t.Text, text.EncodeOptions{AddSpecial: true})
	}
	for _, id := range t.IDs {
		if id < 0 || int(id) >= e.tools.VocabSize() {
			return nil, api.Errorf(api.BadInput, "token %d is not in the vocabulary of %d", id, e.tools.VocabSize())
		}
	}
	return t.IDs, nil
}

// encodePair makes tokens of a query and a text as a reranker reads them.
func (e *embedding) encodePair(ctx context.Context, query, document string) ([]int32, error) {
	if pair := e.tools.Embeds.Pair; pair != "" {
		return e.encodeFilled(ctx, pair, query, document)
	}
	q, err := e.cfg.Models.Encode(ctx, e.tools.Tokenizer, query, text.EncodeOptions{})
	if err != nil {
		return nil, err
	}
	d, err := e.cfg.Models.Encode(ctx, e.tools.Tokenizer, document, text.EncodeOptions{})
	return e.tools.Pair(q, d), err
}

// encodeFilled makes tokens of a template, or a part of one.
func (e *embedding) encodeFilled(ctx context.Context, template, query, document string) ([]int32, error) {
	filled := strings.NewReplacer("{query}", query, "{document}", document).Replace(template)
	return e.cfg.Models.Encode(ctx, e.tools.Tokenizer, filled, text.EncodeOptions{ParseSpecial: true})
}

// pairFrame is what a template puts around a text: the query and the model's
// instructions, without which it gives no score.
type pairFrame struct {
	before int     // tokens before the text
	after  []int32 // tokens after it
}

// framePair returns what the model's template puts around each text of a query.
func (e *embedding) framePair(ctx context.Context, query string) (f pairFrame, err error) {
	before, after := e.tools.Embeds.Pair, ""
	if i := strings.LastIndex(before, documentMark); i >= 0 {
		before, after = before[:i], before[i+len(documentMark):]
	}
	ids, err := e.encodeFilled(ctx, before, query, "")
	if err == nil {
		f.before = len(ids)
		f.after, err = e.encodeFilled(ctx, after, query, "")
	}
	return f, err
}

// documentMark is where a reranker's template has the text.
const documentMark = "{document}"

// fit holds the texts to a number of tokens each: what is longer is cut, if the caller
// wants that, but for the special token at its end. Of a pair in a template it is the text
// that is cut, and not what comes after it.
func (e *embedding) fit(most int) error {
	first := len(e.texts) - len(e.ask.Texts) // after the query
	for i, ids := range e.texts {
		if len(ids) <= most {
			continue
		}
		if !e.ask.Truncate {
			what := fmt.Sprintf("text %d has %d tokens", i-first, len(ids))
			if i < first {
				what = fmt.Sprintf("the query has %d tokens", len(ids))
			}
			return tooLong(most, "%s", what)
		}
		cut := slices.Clone(ids[:most])
		if n := most - len(e.frame.after); e.pairs && e.tools.Embeds.Pair != "" {
			if n <= e.frame.before {
				return tooLong(most, "the query and the model's instructions have %d tokens", e.frame.before+len(e.frame.after))
			}
			copy(cut[n:], e.frame.after)
		} else if last := ids[len(ids)-1]; e.tools.IsControl(last) {
			cut[most-1] = last
		}
		e.texts[i] = cut
	}
	return nil
}

// attemptTexts plans a route and has texts computed along it.
func (e *embedding) attemptTexts(ctx context.Context, excluded map[string]bool) error {
	p := &planned{}
	begin := time.Now()
	err := e.seek(ctx, excluded, func(ctx context.Context) (err error) {
		p.Route, p.where, err = e.planTexts(ctx, excluded)
		return err
	})
	if err != nil {
		return err
	}
	if e.out.Planned += time.Since(begin); e.most > 0 {
		if err := e.fit(e.most); err != nil {
			return err
		}
	}
	return e.driveTexts(ctx, p)
}

// planTexts chooses a route for the texts that are left.
func (e *embedding) planTexts(ctx context.Context, excluded map[string]bool) (*route.Route, map[string]session.Hop, error) {
	man := e.model.Manifest()
	longest := 0
	for _, i := range e.left {
		longest = max(longest, len(e.texts[i]))
	}
	return e.choose(ctx, survey.Query{Span: man.All(), Excluded: excluded, Warm: e.calm(excluded)}, func(self string, list []route.Candidate, links survey.Distances) (*route.Route, error) {
		if takes := longestTaken(int(man.Blocks), list, excluded); takes > 0 && takes < longest { // no peer takes such a text: it is cut, or refused
			e.most = takes
		}
		if e.most > 0 {
			longest = min(longest, e.most)
		}
		return route.Choose(route.Request{
			Client: self, Blocks: int(man.Blocks), Exclude: excluded, Wait: time.Now().Before(e.ownEnd),
			Prompt: longest - 1, MaxTokens: 1, // a text's last row counts as its answer, for which it needs no further cell
		}, list, links, nil)
	})
}

// longestTaken is how many tokens a text may have on some route; 0: there is none.
func longestTaken(blocks int, list []route.Candidate, excluded map[string]bool) int {
	takes := math.MaxInt
	for b := range blocks {
		most := 0
		for _, c := range list {
			if c.Span.From <= b && b < c.Span.To && !excluded[c.Peer] {
				most = max(most, min(c.MaxContext, c.KVFree))
			}
		}
		takes = min(takes, most)
	}
	return takes
}

// hangTime is how long no embedding may come from a route before it is taken to hang,
// besides several times what was predicted for a text.
const hangTime = 30 * time.Second

// driveTexts has as many texts as a session takes computed along a route.
func (e *embedding) driveTexts(ctx context.Context, p *planned) error {
	e.active.Add(1)
	defer e.active.Add(-1)
	req := &session.EmbedRequest{
		Model: e.model.ID(), Route: e.hopsAsSaid(p), Width: e.tools.Embeds.Width, Unit: !e.tools.Embeds.Scores, Codec: e.cfg.Codec,
		Wait: hangTime + 16*p.Prediction.TTFT,
	}
	rows := 0
	for _, i := range e.left {
		if rows += len(e.texts[i]); rows > protocol.MaxEmbedRows || len(req.Texts) == protocol.MaxEmbedTexts {
			break
		}
		req.Texts = append(req.Texts, e.texts[i])
	}
	e.hops = req.Route
	e.out.Route, _ = e.routeWithCosts(req.Route)
	ctx, req.Trace = e.trace.beginSession(ctx, p.Route)
	begin := time.Now()
	mine := e.left
	err := session.Embed(ctx, e.cfg.Network, req, func(first int, list [][]float32) error {
		for k, v := range list {
			e.got[mine[first+k]] = v
		}
		e.left = mine[first+len(list):]
		return nil
	})
	e.trace.endSession(ctx, begin, &session.Outcome{}, err)
	if err == nil {
		e.recordAnswered(e.model.ID(), e.hops)
		for _, h := range e.hops {
			e.cfg.Network.Worked(h.Peer)
		}
	}
	return err
}

// finish makes the result of the embeddings.
func (e *embedding) finish() *api.EmbedResult {
	out, texts := &e.out, e.texts
	out.Model, out.Name = e.model.ID().String(), e.model.Name()
	if e.ask.Query != nil && !e.pairs { // the scores of an embedding model
		query := e.got[0]
		e.got, texts = e.got[1:], texts[1:]
		for i, v := range e.got {
			e.got[i] = []float32{dot(query, v)}
		}
	}
	for i, v := range e.got {
		out.Tokens = append(out.Tokens, len(texts[i]))
		if e.tools.Embeds.Logit && e.pairs {
			v[0] = float32(1 / (1 + math.Exp(-float64(v[0]))))
		}
		if n := e.ask.Dimensions; n > 0 && n < len(v) {
			v = shortened(v, n)
		}
		out.Embeddings = append(out.Embeddings, v)
	}
	return out
}

// dot is the cosine of two vectors of the length 1.
func dot(a, b []float32) float32 {
	var sum float64
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return float32(sum)
}

// shortened returns the first numbers of a vector, with the length 1.
func shortened(v []float32, n int) []float32 {
	length := math.Sqrt(float64(dot(v[:n], v[:n])))
	if length == 0 {
		return v[:n]
	}
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(float64(v[i]) / length)
	}
	return out
}
