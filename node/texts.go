package node

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/generate"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
)

// answerModels are this node's models as answers need them.
type answerModels struct{ *Node }

// Pick implements generate.Models.
func (n answerModels) Pick(ctx context.Context, name string) (m *store.Model, warning string, err error) {
	m, err = n.pickModel(ctx, name, func(s string) { warning = s })
	return m, warning, err
}

// Tools implements generate.Models.
func (n answerModels) Tools(ctx context.Context, m *store.Model) (*generate.Tools, error) {
	t, err := n.tools(ctx, m)
	if err != nil {
		return nil, err
	}
	return &generate.Tools{Tokenizer: t.Tokenizer, Template: t.template, TemplateErr: t.templateErr, Syntax: t.syntax,
		Compile: func(ctx context.Context, format []*protocol.Piece) (*constrain.Machine, error) {
			return t.machines.compile(ctx, t.Tokenizer, format)
		}}, nil
}

// Encode implements generate.Models.
func (n answerModels) Encode(ctx context.Context, by *text.Tokenizer, t string, opt text.EncodeOptions) ([]int32, error) {
	return n.encode(ctx, by, t, opt)
}

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
		served := survey.ServedOf(n.survey.Claims(ctx, false))
		if len(served) == 0 {
			served = survey.ServedOf(n.survey.Claims(ctx, true))
		} else {
			n.net.Offers(ctx, cid.Undef, func([]*protocol.Offer) bool { return true })
		}
		switch {
		case len(served) == 1:
			return n.find(ctx, served[0].ID.String(), wanted{})
		case len(served) > 1 && served[0].Leads(served[1]):
			warn(fmt.Sprintf("%d models are served, and none was named: this is %s, which %s", len(served), served[0].ID, served[0].Why()))
			return n.find(ctx, served[0].ID.String(), wanted{})
		case len(served) > 1:
			return nil, &api.Error{Kind: api.BadInput, Param: "model", Message: "several models are served; name one of " + survey.ListOf(served, (*survey.Claim).Name)}
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

// machines keeps the formats in use of one vocabulary; one takes some megabytes.
type machines struct {
	of    once[[sha256.Size]byte, *constrain.Machine]
	mu    sync.Mutex // held while one is compiled: they come from strangers
	vocab *constrain.Vocab
}

func (m *machines) compile(ctx context.Context, t *text.Tokenizer, format []*protocol.Piece) (*constrain.Machine, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(&protocol.Pieces{Pieces: format})
	if err != nil {
		return nil, err
	}
	return m.of.get(ctx, sha256.Sum256(raw), func(ctx context.Context) (*constrain.Machine, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		m.prepare(t)
		return constrain.Compile(m.vocab, format)
	})
}

// prepare makes the vocabulary ready. Called with mu held.
func (m *machines) prepare(t *text.Tokenizer) {
	if m.vocab == nil {
		m.vocab = constrain.NewVocab(t)
	}
}

// stageFormats reads formats for a stage that ends a model.
type stageFormats struct {
	node  *Node
	model *store.Model
}

func (f stageFormats) Compile(format []*protocol.Piece, stopIDs []int32) (stage.Format, error) {
	t, err := f.node.tools(context.Background(), f.model) // its header is here
	if err != nil {
		return nil, err
	}
	m, err := t.machines.compile(context.Background(), t.Tokenizer, format)
	if err != nil {
		return nil, err
	}
	return m.Start(stopIDs), nil
}

// prepare does beforehand what would keep the first client waiting, who would
// take the stage for a hanging one.
func (f stageFormats) prepare(ctx context.Context) {
	t, err := f.node.tools(ctx, f.model)
	if err != nil {
		f.node.cfg.Log.Warn("answers of a given format cannot be served", "model", f.model.Name(), "error", err)
		return
	}
	t.machines.mu.Lock()
	defer t.machines.mu.Unlock()
	t.machines.prepare(t.Tokenizer)
}

// abilities of a model beyond text, as far as its template, if it is here, says.
func abilities(m *store.Model) (out []string) {
	h, err := m.Header()
	if err != nil {
		return nil
	}
	t, err := text.NewTemplate(h)
	if err != nil {
		return nil
	}
	if t.Traits().Tools {
		out = append(out, "tools")
	}
	if answer.Thinks(t.Source()) {
		out = append(out, "thinking")
	}
	return out
}
