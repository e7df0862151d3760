package engine

import (
	"fmt"
	"slices"

	"github.com/shoalnet/shoal/protocol/blocks"
)

// Pooling is how a model makes one vector of a text's hidden states.
type Pooling string

// Ways of pooling. Their names are those of offers and of llama.cpp's options.
const (
	NoPooling   Pooling = ""     // the model generates text
	PoolMean    Pooling = "mean" // of all positions
	PoolFirst   Pooling = "cls"  // the first position
	PoolLast    Pooling = "last" // the last position
	PoolRanking Pooling = "rank" // a score of the text by a classifier head
)

// poolings are in the order of GGUF's numbers.
var poolings = []Pooling{NoPooling, PoolMean, PoolFirst, PoolLast, PoolRanking}

// Number returns GGUF's number of a way of pooling.
func (p Pooling) Number() int { return max(0, slices.Index(poolings, p)) }

// encoders are the architectures whose positions see those after them, or whose
// blocks cannot be computed apart, as GGUF names them.
var encoders = []string{
	"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert", "gemma-embedding", "t5encoder",
}

// PoolingOf returns how a model with this metadata pools; NoPooling if it generates
// text. An encoder whose file says nothing pools by the mean, as sentence-transformers
// does by default.
func PoolingOf(md Metadata) Pooling {
	t, _ := typedOf(md) // without keys that cannot be converted
	if n := t.count("pooling_type"); n > 0 && int64(n) < int64(len(poolings)) {
		return poolings[n]
	}
	if IsEncoder(md) {
		return PoolMean
	}
	return NoPooling
}

// IsEncoder reports whether a model with this metadata must be computed whole, with
// each text in one pass.
func IsEncoder(md Metadata) bool {
	arch := text(md, "general.architecture")
	if slices.Contains(encoders, arch) {
		return true
	}
	causal, said := md.Value(arch + ".attention.causal").(bool)
	return said && !causal
}

// IsRecurrent reports whether a model with this metadata has blocks that carry a state
// from position to position.
func IsRecurrent(md Metadata) bool {
	m, err := blocks.Of(md)
	return err == nil && slices.ContainsFunc(m.Blocks, func(b blocks.Block) bool { return b.Recurrent })
}

// EmbeddingWidth returns how many numbers an embedding of a model with this metadata
// has: 1 for a score.
func EmbeddingWidth(md Metadata) int {
	if PoolingOf(md) == PoolRanking {
		return 1
	}
	t, _ := typedOf(md) // without keys that cannot be converted
	if n := t.count("embedding_length_out"); n > 0 {
		return int(n)
	}
	return int(t.count("embedding_length"))
}

// Embeds says what embeddings a model makes.
type Embeds struct {
	Width    int    // numbers per embedding
	Scores   bool   // it scores texts by a query, and makes no embeddings
	Logit    bool   // its scores are logits: 0 is even odds
	Shortens bool   // the beginning of an embedding, normalized, is one as well
	Pair     string // how a reranker reads a query and a text: its template, with {query} and {document}; "": by its special tokens
}

// EmbedsOf says what embeddings a model with this metadata makes; nil: it generates text.
func EmbedsOf(md Metadata) *Embeds {
	p := PoolingOf(md)
	if p == NoPooling {
		return nil
	}
	labels, _ := md.Value(text(md, "general.architecture") + ".classifier.output_labels").([]string)
	return &Embeds{
		Width: EmbeddingWidth(md), Scores: p == PoolRanking, Logit: len(labels) < 2, Shortens: Shortens(md), Pair: text(md, "tokenizer.chat_template.rerank"),
	}
}

// Ability names what a model with this metadata does that generates no text; "": it
// generates text.
func Ability(md interface{ Value(key string) any }) string {
	switch PoolingOf(md) {
	case NoPooling:
		return ""
	case PoolRanking:
		return "rerank"
	}
	return "embedding"
}

// shortens are the architectures whose embedding models are trained so that the
// beginning of an embedding is one, too (Matryoshka representations).
var shortens = []string{"gemma-embedding", "qwen3"}

// Shortens reports whether the beginning of an embedding of this model, normalized,
// is known to be a good embedding as well.
func Shortens(md Metadata) bool {
	return PoolingOf(md) != NoPooling && slices.Contains(shortens, text(md, "general.architecture"))
}

// checkTexts returns an error unless the rows are whole texts, each in a slot of its
// own.
func (b *Batch) checkTexts() error {
	seen := map[int]bool{}
	for i, r := range b.Rows {
		switch {
		case i > 0 && r.Seq == b.Rows[i-1].Seq:
			if r.Pos != b.Rows[i-1].Pos+1 {
				return fmt.Errorf("position %d of a text after %d", r.Pos, b.Rows[i-1].Pos)
			}
		case seen[r.Seq]:
			return fmt.Errorf("two texts in slot %d", r.Seq)
		case r.Pos != 0:
			return fmt.Errorf("a text that begins at position %d", r.Pos)
		}
		seen[r.Seq] = true
	}
	return nil
}

// Texts returns how many texts a batch with Embed has.
func (b *Batch) Texts() int {
	n := 0
	for _, r := range b.Rows {
		if r.Pos == 0 {
			n++
		}
	}
	return n
}
