package api

import (
	"context"
	"net/http"
)

// Endpoints of llama.cpp's server and of vLLM's that clients of OpenAI's API ask for
// besides: whether the server lives, and what a text is in tokens.

// Vocabulary splits texts into a model's tokens. Errors are api's: UnknownModel, and
// BadInput for a token that the model does not have.
type Vocabulary interface {
	// Split returns the tokens of a text and the text of each. special tokens at the ends
	// are added with add; those that the text names are one token each with parse.
	Split(ctx context.Context, model, text string, add, parse bool) (*Split, error)
	// Join returns the text of tokens.
	Join(ctx context.Context, model string, ids []int32) (string, error)
	// Special returns the special tokens and the chat template of a model.
	Special(ctx context.Context, model string) (*Special, error)
}

// Split is a text in tokens.
type Split struct {
	IDs     []int32
	Pieces  []string // the text of each
	Context int      // tokens that the model takes
}

// Special is what a tokenizer has besides its vocabulary; "": the model has none.
type Special struct {
	BOS, EOS, Template string
}

func (s *server) extras() {
	for pattern, h := range map[string]handler{
		"GET /health": s.alive, "GET /v1/health": s.alive,
	} {
		s.mux.HandleFunc(pattern, s.serve(h)) // needs no key: it says nothing of the node
	}
	if s.Vocabulary == nil {
		return
	}
	for pattern, h := range map[string]handler{
		"POST /tokenize": s.split, "POST /v1/tokenize": s.split,
		"POST /detokenize": s.join, "POST /v1/detokenize": s.join,
		"GET /tokenizer_info": s.special,
	} {
		s.mux.HandleFunc(pattern, s.serve(s.open(h)))
	}
}

func (s *server) alive(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// splitRequest has the fields of both servers: llama.cpp's text is content, vLLM's is
// prompt.
type splitRequest struct {
	Model    string  `json:"model"`
	Content  *string `json:"content"`
	Prompt   *string `json:"prompt"`
	Messages []any   `json:"messages"`

	AddSpecial   bool `json:"add_special"`
	ParseSpecial bool `json:"parse_special"`
	WithPieces   bool `json:"with_pieces"`

	AddSpecialTokens *bool `json:"add_special_tokens"` // unless false
	ReturnTokenStrs  bool  `json:"return_token_strs"`
}

// splitByLlama and splitByVLLM are the answers in the shapes of the two.
type splitByLlama struct {
	Tokens []any `json:"tokens"` // numbers, or pieces
}

type splitPiece struct {
	ID    int32  `json:"id"`
	Piece string `json:"piece"`
}

type splitByVLLM struct {
	Count       int      `json:"count"`
	MaxModelLen int      `json:"max_model_len"`
	Tokens      []int32  `json:"tokens"`
	TokenStrs   []string `json:"token_strs"` // null unless asked for
}

func (s *server) split(w http.ResponseWriter, r *http.Request) error {
	var req splitRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	var err error
	if req.Model, err = visitOf(r.Context()).modelFor(req.Model); err != nil {
		return err
	}
	switch {
	case req.Messages != nil:
		return badParam("messages", "are not supported: send the text as prompt")
	case req.Prompt != nil:
		got, err := s.Vocabulary.Split(r.Context(), req.Model, *req.Prompt, deref(req.AddSpecialTokens, true), true)
		if err != nil {
			return err
		}
		out := splitByVLLM{Count: len(got.IDs), MaxModelLen: got.Context, Tokens: got.IDs}
		if req.ReturnTokenStrs {
			out.TokenStrs = got.Pieces
		}
		writeJSON(w, http.StatusOK, out)
		return nil
	case req.Content == nil:
		return badParam("content", "is missing")
	}
	got, err := s.Vocabulary.Split(r.Context(), req.Model, *req.Content, req.AddSpecial, req.ParseSpecial)
	if err != nil {
		return err
	}
	out := splitByLlama{Tokens: make([]any, len(got.IDs))}
	for i, id := range got.IDs {
		if out.Tokens[i] = id; req.WithPieces {
			out.Tokens[i] = splitPiece{id, got.Pieces[i]}
		}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *server) join(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Model  string  `json:"model"`
		Tokens []int32 `json:"tokens"`
	}
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Tokens == nil {
		return badParam("tokens", "is missing")
	}
	var err error
	if req.Model, err = visitOf(r.Context()).modelFor(req.Model); err != nil {
		return err
	}
	text, err := s.Vocabulary.Join(r.Context(), req.Model, req.Tokens)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"content": text, "prompt": text}) // llama.cpp's name and vLLM's
	return nil
}

// special answers as vLLM does: with a tokenizer's configuration.
func (s *server) special(w http.ResponseWriter, r *http.Request) error {
	model, err := visitOf(r.Context()).modelFor(r.URL.Query().Get("model"))
	if err != nil {
		return err
	}
	got, err := s.Vocabulary.Special(r.Context(), model)
	if err != nil {
		return err
	}
	out := map[string]string{"tokenizer_class": "PreTrainedTokenizerFast"}
	for key, v := range map[string]string{"bos_token": got.BOS, "eos_token": got.EOS, "chat_template": got.Template} {
		if v != "" {
			out[key] = v
		}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}
