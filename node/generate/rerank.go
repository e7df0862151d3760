package generate

import (
	"context"
	"math"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/text"
)

// scoreByChat scores texts by a query with a chat model: a text's score is the probability
// of "yes" against "no" where the model answers whether it fits. It returns false if the
// model is no chat model.
func (g *Generator) scoreByChat(ctx context.Context, req *api.EmbedRequest) (out *api.EmbedResult, ok bool, err error) {
	m, _, err := g.cfg.Models.Pick(ctx, req.Model)
	if err != nil {
		return nil, true, err
	}
	tools, err := g.cfg.Models.Tools(ctx, m)
	if err != nil || tools.Embeds != nil {
		return nil, err != nil, err
	}
	most := int(m.Manifest().Context)
	if most <= 0 {
		most = math.MaxInt
	}
	query, err := g.cfg.Models.Encode(ctx, tools.Tokenizer, *req.Query, text.EncodeOptions{})
	if err != nil {
		return nil, true, err
	}
	room := most - len(query) - questionRoom
	if room <= 0 {
		return nil, true, tooLong(most, "the query has %d tokens", len(query))
	}
	ask := &api.DecideRequest{Model: req.Model, Trace: req.Trace}
	for _, t := range req.Texts {
		document := t.Text
		if req.Truncate && len(document) > room { // else it has no more tokens than that
			ids, err := g.cfg.Models.Encode(ctx, tools.Tokenizer, document, text.EncodeOptions{})
			if err != nil {
				return nil, true, err
			}
			document = tools.Decode(ids[:min(len(ids), room)], false)
		}
		ask.Questions = append(ask.Questions, api.DecideQuestion{
			User:   "Query: " + *req.Query + "\n\nDocument: " + document + "\n\nDoes the document answer the query?\nAnswer with yes or no only.",
			Labels: []string{"yes", "no"},
		})
	}
	read, err := g.Decide(ctx, ask)
	if err != nil {
		return nil, true, err
	}
	out = &api.EmbedResult{Model: read.Model, Name: read.Name, Route: read.Route, Warning: read.Warning}
	for _, r := range read.Reads {
		yes := 1 / (1 + math.Exp(r.Logprobs[1]-r.Logprobs[0]))
		out.Embeddings = append(out.Embeddings, []float32{float32(yes)})
		out.Tokens = append(out.Tokens, r.PromptTokens)
	}
	return out, true, nil
}

// questionRoom is how many tokens the question around a query and a text may have.
const questionRoom = 128
