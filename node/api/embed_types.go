package api

import (
	"context"
	"time"
)

// Embedder makes embeddings of texts. It is safe for concurrent use.
type Embedder interface {
	// Embed returns an embedding per text, or with Query a score per text. The Kind of
	// the error is BadInput if the model makes none, TooLong if a text is longer than it
	// takes, and else one of Generator's.
	Embed(ctx context.Context, req *EmbedRequest) (*EmbedResult, error)
}

// EmbedRequest asks for the embeddings of texts.
type EmbedRequest struct {
	Model    string // "": the only one there is
	Texts    []EmbedText
	Query    *string // asks for scores: how well each text fits it
	Truncate bool    // a text that is too long is cut; else that is an error

	// Dimensions are how many numbers of each embedding are wanted, its first ones,
	// normalized; 0: all. With Cut, that is done for models that are not known to be
	// trained for it, too; else it is refused with BadInput.
	Dimensions int
	Cut        bool

	Trace string // W3C traceparent of the caller; "": none
}

// EmbedText is a text, or its tokens as they are.
type EmbedText struct {
	Text string
	IDs  []int32 // not nil: instead of Text
}

// EmbedResult has the embeddings, in the order of the texts.
type EmbedResult struct {
	Model      string      // the CID
	Name       string      // the model's
	Embeddings [][]float32 // of the length 1; a score is one number, from 0 to 1 by a reranker, and from -1 to 1 by an embedding model
	Tokens     []int       // that were computed of each text, or of it with the query
	Planned    time.Duration
	Route      []Hop  // the last one
	Warning    string // which model was chosen if the request's name was ambiguous
}

// Count returns the tokens of all texts.
func (r *EmbedResult) Count() (n int) {
	for _, t := range r.Tokens {
		n += t
	}
	return n
}
