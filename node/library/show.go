package library

import (
	"context"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// List describes the models here, and those of peers that Listed has. It does not fail.
func (l *Library) List(ctx context.Context) ([]api.Model, error) {
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	claims := l.cfg.Survey.Claims(ask, true)
	whole := map[string]bool{}
	for _, c := range claims {
		whole[c.ID.String()] = c.Whole
	}
	out := []api.Model{}
	for _, m := range l.store.Models() {
		d := Describe(m)
		d.Served = whole[d.ID]
		out = append(out, d)
	}
	for _, c := range l.Listed(claims) {
		out = append(out, l.DescribeClaim(c))
	}
	return out, nil
}

// DescribeClaim describes a model that peers serve, with what the catalogue knows of it.
func (l *Library) DescribeClaim(c *survey.Claim) api.Model {
	m := api.Model{ID: c.ID.String(), Blocks: c.Blocks, Width: c.Width, Remote: true, Served: c.Whole, Held: []string{}}
	if len(c.Names) > 0 {
		m.Name = c.Names[0]
	}
	for _, name := range c.Names {
		if e := l.names.Find(name); e != nil && l.names.meaning(e).Equals(c.ID) {
			m.Name, m.Architecture, m.Quantization, m.Licence, m.Size = e.Name, e.Architecture, e.Quantization, e.Licence, e.Size
			break
		}
	}
	return m
}

// How long Show waits for peers: to find a model, and for its header.
const (
	showTime   = 5 * time.Second
	headerTime = 5 * time.Second
)

// Show describes one model, here or at peers, with the facts of its header, which is
// fetched if it is not here. What cannot be had in time is left out. The error is api's
// UnknownModel, or BadInput if the name means several models.
func (l *Library) Show(ctx context.Context, name string) (*api.Model, error) {
	m, err := l.local(l.resolver.untagged(name))
	if err != nil && api.AsError(err).Kind == api.UnknownModel {
		var d *api.Model
		if m, d, err = l.showRemote(ctx, name, err); d != nil {
			return d, nil
		}
	}
	if err != nil {
		return nil, err
	}
	d := Describe(m)
	l.addFacts(ctx, m, &d)
	return &d, nil
}

// showRemote finds a model that is not here: it becomes one of the store if its manifest
// comes in time, else it is described as peers do. otherwise is the error that there is
// none here.
func (l *Library) showRemote(ctx context.Context, name string, otherwise error) (*store.Model, *api.Model, error) {
	look, cancel := context.WithTimeout(ctx, showTime)
	defer cancel()
	r, err := l.resolver.resolve(look, name, Want{})
	switch {
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case err == nil && r.place == here:
		return r.model, nil, nil
	case err == nil && r.place == atPeers:
		m, err := l.obtain(ctx, name, r, Want{})
		return m, nil, err
	case err != nil && api.AsError(err).Kind == api.BadInput:
		return nil, nil, err
	}
	for _, c := range l.cfg.Survey.Claims(ctx, false) {
		if c.Served && protocol.MatchModel(name, c.ID, c.Names) >= protocol.MatchTagged {
			d := l.DescribeClaim(c)
			return nil, &d, nil
		}
	}
	if err == nil && r.why != nil {
		otherwise = r.why
	}
	return nil, nil, otherwise
}

// addFacts adds what only a model's header says.
func (l *Library) addFacts(ctx context.Context, m *store.Model, d *api.Model) {
	h, err := m.Header()
	if err != nil {
		wait, cancel := context.WithTimeout(ctx, headerTime)
		defer cancel()
		if l.Fetch(wait, m, m.Manifest().ShardsFor(protocol.Span{}), nil) != nil {
			return
		}
		if h, err = m.Header(); err != nil {
			return
		}
	}
	d.Facts, d.Warnings, d.Cuts = factsOf(h), text.Doubts(h), l.cuts(h)
	if l.cfg.Ability != nil {
		if a := l.cfg.Ability(h); a != "" {
			d.Abilities = append(d.Abilities, a)
			return
		}
	}
	t, err := text.NewTemplate(h)
	if err != nil {
		return
	}
	d.Template = t.Source()
	if t.Traits().Tools {
		d.Abilities = append(d.Abilities, "tools")
	}
	if answer.Thinks(t.Source()) {
		d.Abilities = append(d.Abilities, "thinking")
	}
}

// Limits of the facts of a header, which its author wrote.
const (
	maxFacts    = 512
	maxFactText = 4 << 10 // bytes
)

// factsOf returns a header's entries that are single values: not the vocabulary, nor the
// template.
func factsOf(h *gguf.Header) map[string]any {
	facts := map[string]any{}
	for _, kv := range h.KVs {
		switch v := kv.Value.(type) {
		case string:
			if len(v) <= maxFactText && !strings.HasPrefix(kv.Key, "tokenizer.chat_template") {
				facts[kv.Key] = v
			}
		case bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64:
			facts[kv.Key] = v
		case float32:
			addFinite(facts, kv.Key, float64(v))
		case float64:
			addFinite(facts, kv.Key, v)
		}
		if len(facts) == maxFacts {
			break
		}
	}
	return facts
}

// addFinite adds a number that JSON can express.
func addFinite(facts map[string]any, key string, v float64) {
	if v-v == 0 {
		facts[key] = v
	}
}
