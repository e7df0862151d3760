package library

import (
	"context"
	"crypto/sha256"
	"os"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Tools are a model's tokenizer and chat template. They are safe for concurrent use.
type Tools struct {
	*text.Tokenizer
	Template    *text.Template // nil: TemplateErr says why
	TemplateErr error
	Syntax      *answer.Syntax // of the template; nil without one
	Cuts        *protocol.Cuts // spans of the model that this program can compute; nil: all

	formats formats
}

// Tools returns a model's tokenizer and template, and fetches its header first if
// that is missing. A caller that waits for one model's keeps no other from another's.
// The errors are those of Fetch, and api's BadInput if the model has no tokenizer.
func (l *Library) Tools(ctx context.Context, m *store.Model) (*Tools, error) {
	return l.tools.get(ctx, m.ID(), func(ctx context.Context) (*Tools, error) {
		if err := l.Fetch(ctx, m, m.Manifest().ShardsFor(protocol.Span{}), nil); err != nil {
			return nil, err
		}
		h, err := m.Header()
		if err != nil {
			return nil, err
		}
		t := &Tools{Cuts: l.cuts(h)}
		if t.Tokenizer, err = text.New(h); err != nil {
			return nil, api.Errorf(api.BadInput, "%s: %s", m.Name(), err)
		}
		if t.Template, t.TemplateErr = text.NewTemplate(h); t.TemplateErr == nil {
			t.Syntax = answer.Detect(t.Template.Source())
		}
		return t, nil
	})
}

// formats keeps the formats in use of one vocabulary; one takes some megabytes.
type formats struct {
	of    once[[sha256.Size]byte, *constrain.Machine]
	mu    sync.Mutex // held while one is compiled: they come from strangers
	vocab *constrain.Vocab
}

// Compile returns the machine of an answer's format. One is compiled at a time, and
// those that were used last are kept.
func (t *Tools) Compile(ctx context.Context, format []*protocol.Piece) (*constrain.Machine, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(&protocol.Pieces{Pieces: format})
	if err != nil {
		return nil, err
	}
	f := &t.formats
	return f.of.get(ctx, sha256.Sum256(raw), func(ctx context.Context) (*constrain.Machine, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		f.prepare(t.Tokenizer)
		return constrain.Compile(f.vocab, format)
	})
}

// Prepare does what the first Compile would take long for.
func (t *Tools) Prepare() {
	t.formats.mu.Lock()
	defer t.formats.mu.Unlock()
	t.formats.prepare(t.Tokenizer)
}

// prepare makes the vocabulary ready. Called with mu held.
func (f *formats) prepare(t *text.Tokenizer) {
	if f.vocab == nil {
		f.vocab = constrain.NewVocab(t)
	}
}

// encodeRoom is how much text is tokenized at once, in bytes: that takes some
// hundred times as much memory. A longer text is tokenized alone.
const encodeRoom = 2 << 20

// Encode tokenizes a text when there is room for the work. The errors are the
// context's, and api's BadInput.
func (l *Library) Encode(ctx context.Context, by *text.Tokenizer, t string, opt text.EncodeOptions) ([]int32, error) {
	weight := int64(min(len(t), encodeRoom))
	if err := l.encoding.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	defer l.encoding.Release(weight)
	ids, err := by.Encode(ctx, t, opt)
	if err != nil && ctx.Err() == nil {
		err = api.Errorf(api.BadInput, "%s", err)
	}
	return ids, err
}

// Tokenize returns a text's tokens by a model of this node or of its peers, or by a
// GGUF file on this machine. With special it has the special tokens that the model
// wants at its ends, and those that the text names are one token each.
func (l *Library) Tokenize(ctx context.Context, name, t string, special bool) ([]int32, error) {
	if isSource(name) && !isRemote(name) {
		return TokenizeFile(ctx, name, t, special)
	}
	m, err := l.Find(ctx, name, Want{})
	if err != nil {
		return nil, err
	}
	tools, err := l.Tools(ctx, m)
	if err != nil {
		return nil, err
	}
	return l.Encode(ctx, tools.Tokenizer, t, text.EncodeOptions{AddSpecial: special, ParseSpecial: special})
}

// TokenizeFile returns a text's tokens by the vocabulary of a GGUF file, which need
// hold nothing else. The errors are the context's, and api's BadInput.
func TokenizeFile(ctx context.Context, path, t string, special bool) ([]int32, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s", err)
	}
	h, err := gguf.Read(f, st.Size())
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s: %s", path, err)
	}
	tok, err := text.New(h)
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s: %s", path, err)
	}
	return tok.Encode(ctx, t, text.EncodeOptions{AddSpecial: special, ParseSpecial: special})
}

// addHeader adds what a model's header says, as far as it is here: what is wrong with
// its tokenizer and template, and where it can be cut.
func (l *Library) addHeader(m *store.Model, d *api.Model) {
	if h, err := m.Header(); err == nil {
		d.Warnings, d.Cuts = text.Doubts(h), l.cuts(h)
	}
}

// cuts are the spans of a model that this program can compute; nil: all.
func (l *Library) cuts(h *gguf.Header) *protocol.Cuts {
	if l.cfg.Cuts == nil {
		return nil
	}
	return l.cfg.Cuts(h)
}
