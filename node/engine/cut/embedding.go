package cut

import (
	"math"
	"slices"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// The library has room for the logits of every row that leaves a span, of all tokens that
// the file has, and copies them. So the file that begins a model has few tokens, too, where
// the engine can look rows of the embedding up by itself: the embedding then lies behind
// the library's tensors, which the library does not notice.

// plain are the architectures that begin with the tokens' rows of the embedding and nothing
// else, and whether those are multiplied by the root of their width. Where rows from outside
// are treated otherwise than those, or there is more at the beginning, an architecture is
// not in it.
var plain = map[string]bool{
	"ernie4_5": false, "exaone4": false, "gemma3": true, "glm4": false, "granite": false, "granitehybrid": false, "hunyuan-dense": false, "llama": false,
	"mistral3": false, "nemotron_h": false, "olmo2": false, "phi3": false, "qwen2": false, "qwen2moe": false, "qwen3": false, "qwen3moe": false,
	"qwen35": false, "seed_oss": false, "smollm3": false, "starcoder2": false,
}

// Keys of a file whose engine looks tokens up by itself: where the embedding lies, in bytes
// from the first tensor's data on, its type, how many tokens it has, and what its numbers
// are multiplied by.
const (
	EmbeddingAt     = "shoal.embedding.at"
	EmbeddingType   = "shoal.embedding.type"
	EmbeddingTokens = "shoal.embedding.tokens"
	EmbeddingScale  = "shoal.embedding.scale"
)

// aside returns the embedding if the file that begins the model can do without it.
func (c *cutter) aside() *gguf.Tensor {
	rooted, ok := plain[c.m.Arch]
	if !ok || !c.first || c.last || c.vocab <= few {
		return nil
	}
	var found *gguf.Tensor
	for i, t := range c.h.Tensors {
		if part, _ := gguf.PartOf(t.Name, c.run); part != gguf.PartEmbedding {
			continue
		}
		if t.Name != "token_embd.weight" || len(t.Shape) != 2 || t.Shape[1] != c.vocab || t.Bytes() == 0 {
			return nil
		}
		found = &c.h.Tensors[i]
	}
	if c.scale = 1; found != nil && rooted {
		c.scale = float32(math.Sqrt(float64(found.Shape[0])))
	}
	return found
}

// beside are the entries that say where the embedding lies, behind the tensors.
func (c *cutter) beside(tensors []placed) []gguf.KV {
	if c.apart == nil {
		return nil
	}
	at := int64(0)
	for _, t := range tensors {
		if !t.aside {
			at = roundUp(at+int64(t.Bytes()), int64(c.h.Alignment()))
		}
	}
	return []gguf.KV{
		{Key: EmbeddingAt, Value: uint64(at)}, {Key: EmbeddingType, Value: uint32(c.apart.Type)},
		{Key: EmbeddingTokens, Value: c.vocab}, {Key: EmbeddingScale, Value: c.scale},
	}
}

// LayFor is Lay for a model to which an adapter adds. One that adds to the embedding wants
// that among the library's tensors.
func LayFor(adapter *gguf.Header) func(h *gguf.Header, span protocol.Span, room int64) (*Stage, error) {
	adds := slices.ContainsFunc(adapter.Tensors, func(t gguf.Tensor) bool {
		part, _ := gguf.PartOf(t.Name, 0)
		return part == gguf.PartEmbedding
	})
	return func(h *gguf.Header, span protocol.Span, room int64) (*Stage, error) {
		return layBehind(h, span, room, !adds)
	}
}
