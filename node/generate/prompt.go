package generate

import (
	"context"
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
)

// defaultLimit is the most tokens of an answer whose caller names no limit: KV is
// reserved for all of them.
const defaultLimit = 4096

// formatRoom is how many tokens must be left for an answer in a format, or else the model
// is not told the schema.
const formatRoom = 128

// maxExpected is how many tokens of a prediction are sent to the first stage: longer ones
// would hold up the prompt.
const maxExpected = 16 << 10

// prompt is what a request is read as, before any token is drawn. The choices of a
// request share one.
type prompt struct {
	model  *store.Model
	tools  *Tools
	ids    []int32
	prefix []uint64 // hashes of the beginnings of ids
	expect []int32  // tokens that the answer is expected to repeat, maxExpected at most
	limit  int      // tokens of an answer

	told      bool                                      // the schema of the answer's format, in words
	silent    bool                                      // it must not be told: the prompt would be too long
	warning   string                                    // about the model's name
	pieces    []*protocol.Piece                         // the answer's format; nil: any
	machine   *constrain.Machine                        // of pieces
	free      func([]answer.Function) []*protocol.Piece // the pieces of text in a format, or calls that nobody demands; nil: not asked for
	newReader func() *answer.Reader                     // of the answer to a chat; nil: all of it is text
	rendered  string                                    // a chat's prompt as text
	functions []string                                  // that a chat offers
}

// readPrompt makes the prompt of the request.
func (g *generation) readPrompt(ctx context.Context) (err error) {
	if err := g.readTokens(ctx); err != nil {
		return err
	}
	if err := g.limitAnswer(); err != nil {
		return err
	}
	if g.req.PromptLogprobs {
		if len(g.ids) > protocol.MaxScored+1 {
			return api.Errorf(api.BadInput, "the prompt has %d tokens, and log probabilities are computed of up to %d: send it in parts", len(g.ids), protocol.MaxScored+1)
		}
	} else { // what is to be scored is computed, though it may be cached
		g.prefix = protocol.AppendPrefix(nil, g.ids)
	}
	if err := g.readPrediction(ctx); err != nil {
		return err
	}
	return g.compileFormat(ctx)
}

// readPrediction makes tokens of the text that the answer is expected to repeat. What the
// answer has no room for is cut off.
func (g *generation) readPrediction(ctx context.Context) (err error) {
	predicted := g.req.Prediction
	if predicted == "" {
		return nil
	}
	most := min(g.limit, maxExpected)
	if n := most * g.tools.Longest(); len(predicted) > n {
		predicted = strings.ToValidUTF8(predicted[:n], "")
	}
	if g.expect, err = g.cfg.Models.Encode(ctx, g.tools.Tokenizer, predicted, text.EncodeOptions{}); err != nil {
		return err
	}
	g.expect = g.expect[:min(len(g.expect), most)]
	return nil
}

// readTokens makes tokens of the request, after it has picked the model.
func (g *generation) readTokens(ctx context.Context) (err error) {
	if g.model, g.warning, err = g.cfg.Models.Pick(ctx, g.req.Model); err != nil {
		return err
	}
	if g.tools, err = g.cfg.Models.Tools(ctx, g.model); err != nil {
		return err
	}
	if g.tools.Embeds != nil {
		return badModel("%s is an embedding model or reranker, and generates no text: ask it for embeddings, or name another model", g.model.Name())
	}
	err = g.encode(ctx)
	if g.told && (len(g.ids)+formatRoom > g.context() || err != nil) && ctx.Err() == nil {
		g.silent, g.told = true, false
		err = g.encode(ctx)
	}
	return err
}

// encode makes tokens of the request.
func (g *generation) encode(ctx context.Context) error {
	if g.req.Raw {
		g.setFormat("", nil)
	}
	if g.req.Raw && g.req.PromptIDs != nil {
		return g.takeIDs()
	}
	prompt, opt := g.req.Prompt, text.EncodeOptions{AddSpecial: true, ParseSpecial: true}
	if !g.req.Raw {
		if g.tools.TemplateErr != nil {
			return api.Errorf(api.BadInput, "%w", remedy.For(fmt.Errorf("%s: %w; send a raw prompt instead", g.model.Name(), g.tools.TemplateErr), remedy.RawPrompt, g.model.Name()))
		}
		var err error
		if prompt, err = g.render(); err != nil {
			return fmt.Errorf("%s: %w", g.model.Name(), err)
		}
		opt = g.rendering(prompt)
	}
	ids, err := g.tokenize(ctx, prompt, opt)
	g.ids = ids
	return err
}

// tokenize makes tokens of a prompt.
func (g *generation) tokenize(ctx context.Context, prompt string, opt text.EncodeOptions) ([]int32, error) {
	// A text that no tokens of the model could hold is not tokenized at all.
	if most, holds := g.context(), g.tools.Longest(); len(prompt)/holds > most {
		return nil, tooLong(most, "the prompt has %d KiB, and so many tokens of %s hold %d KiB at most", len(prompt)>>10, g.model.Name(), most*holds>>10)
	}
	return g.cfg.Models.Encode(ctx, g.tools.Tokenizer, prompt, opt)
}

// rendering returns how a rendered chat is tokenized. Templates write the beginning of the
// sequence themselves.
func (g *generation) rendering(prompt string) text.EncodeOptions {
	bos, ok := g.tools.BOS()
	return text.EncodeOptions{AddSpecial: !ok || !strings.HasPrefix(prompt, g.tools.Token(bos)), ParseSpecial: true}
}

// takeIDs takes the prompt's tokens as the caller gave them.
func (g *generation) takeIDs() error {
	for _, id := range g.req.PromptIDs {
		if id < 0 || int(id) >= g.tools.VocabSize() {
			return api.Errorf(api.BadInput, "token %d is not in the vocabulary of %d", id, g.tools.VocabSize())
		}
	}
	g.ids = g.req.PromptIDs
	return nil
}

// context is how many tokens the model takes, the answer's included.
func (g *generation) context() int {
	if most := int(g.model.Manifest().Context); most > 0 {
		return most
	}
	return 1 << 30
}

// limitAnswer sets how many tokens the answer may have.
func (g *generation) limitAnswer() error {
	if len(g.ids) == 0 {
		return api.Errorf(api.BadInput, "the prompt is empty")
	}
	most := g.context()
	if len(g.ids) >= most {
		return tooLong(most, "the prompt has %d tokens, and %s must hold the answer, too", len(g.ids), g.model.Name())
	}
	g.limit = g.req.MaxTokens
	if g.limit <= 0 {
		g.limit = defaultLimit
	}
	g.limit = min(g.limit, most-len(g.ids))
	return nil
}

// tooLong is the error for a prompt that leaves no room for an answer. Its first sentence
// is OpenAI's: clients search the text for "maximum context length" to know when to
// shorten a conversation.
func tooLong(most int, format string, args ...any) error {
	return api.Errorf(api.TooLong, "This model's maximum context length is %d tokens. However, %s. Shorten it.", most, fmt.Sprintf(format, args...))
}
