package library

import (
	"context"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text"
)

// The vocabularies of models for anybody who may ask them for answers.

func (l *Library) toolsOf(ctx context.Context, name string) (*store.Model, *Tools, error) {
	m, _, err := l.Pick(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	t, err := l.Tools(ctx, m)
	return m, t, err
}

// Split returns a text's tokens, and the text of each. The errors are those of Pick and
// Tools, and api's BadInput.
func (l *Library) Split(ctx context.Context, model, s string, add, parse bool) (*api.Split, error) {
	m, t, err := l.toolsOf(ctx, model)
	if err != nil {
		return nil, err
	}
	ids, err := l.Encode(ctx, t.Tokenizer, s, text.EncodeOptions{AddSpecial: add, ParseSpecial: parse})
	if err != nil {
		return nil, err
	}
	out := &api.Split{IDs: ids, Pieces: make([]string, len(ids)), Context: int(m.Manifest().Context)}
	if ids == nil {
		out.IDs = []int32{}
	}
	for i, id := range ids {
		out.Pieces[i] = t.Token(id)
	}
	return out, nil
}

// Join returns the text of tokens, special ones included. The errors are those of Pick
// and Tools, and api's BadInput for a token that the model does not have.
func (l *Library) Join(ctx context.Context, model string, ids []int32) (string, error) {
	_, t, err := l.toolsOf(ctx, model)
	if err != nil {
		return "", err
	}
	for _, id := range ids {
		if id < 0 || int(id) >= t.VocabSize() {
			return "", api.Errorf(api.BadInput, "token %d is not in the vocabulary of %d", id, t.VocabSize())
		}
	}
	return t.Decode(ids, true), nil
}

// Special returns a model's special tokens and its chat template. The errors are those
// of Pick and Tools.
func (l *Library) Special(ctx context.Context, model string) (*api.Special, error) {
	_, t, err := l.toolsOf(ctx, model)
	if err != nil {
		return nil, err
	}
	out := &api.Special{}
	if bos, ok := t.BOS(); ok {
		out.BOS = t.Token(bos)
	}
	if eog := t.EOG(); len(eog) > 0 {
		out.EOS = t.Token(eog[0])
	}
	if t.Template != nil {
		out.Template = t.Template.Source()
	}
	return out, nil
}
