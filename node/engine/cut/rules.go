package cut

import (
	"fmt"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Reasons why the blocks of some architectures cannot be separated.
const (
	encodes = "it reads a text as a whole"
	before  = "what precedes its first block would be computed again before a later one"
	streams = "its blocks pass on more than one hidden state"
	earlier = "its blocks use what the first one computed"
	tokens  = "its later blocks read the tokens, too"
	loops   = "its blocks are computed several times over"
	counts  = "the library derives what its blocks compute from how many there are"
	helps   = "it works with another model's states"
)

// never are the architectures that cannot be cut at all, and why.
var never = map[string]string{
	"bert": encodes, "modern-bert": encodes, "nomic-bert": encodes, "nomic-bert-moe": encodes, "neo-bert": encodes, "jina-bert-v2": encodes,
	"jina-bert-v3": encodes, "eurobert": encodes, "gemma-embedding": encodes, "llama-embed": encodes, "t5": encodes, "t5encoder": encodes,
	"clef": encodes, "dream": encodes, "llada": encodes, "llada-moe": encodes, "rnd1": encodes,

	"afmoe": before, "bloom": before, "gemma": before, "gemma2": before, "muse-glimmer": before, "minicpm3": before, "rwkv6": before, "talkie": before,

	"deepseek4": streams, "gemma3n": streams, "glm5-next": streams, "hy_v4": streams, "kimi-k3": streams, "qwen4exp": streams,

	"arwkv7": earlier, "rwkv7": earlier,

	"cogvlm": tokens, "graniteswitch": tokens,

	"hrm_text": loops, "nanbeige": loops,

	"baichuan": counts, "minimax-01": counts,

	"clip": helps, "dflash": helps, "eagle3": helps, "gemma4-assistant": helps, "pockettts": helps, "qwen3tts": helps, "wavtokenizer-dec": helps,
}

// step is how often something changes from block to block, where no metadata can say
// which blocks it is: a span must begin at a multiple of it.
var step = map[string]int{
	"llama4":       4, // every fourth block has no positions
	"smallthinker": 4,
	"smollm3":      4,
}

// windows is how often a block without a window comes, in architectures where the
// library assumes a number if the file has none. Where first is set, the block
// without one begins each group; else it ends it.
var windows = map[string]struct {
	every uint64
	first bool
}{
	"afmoe": {every: 4}, "cohere2": {every: 4}, "cohere2moe": {4, true}, "exaone-moe": {every: 4}, "exaone4": {every: 4}, "gemma-embedding": {every: 6},
	"gemma2": {every: 2}, "gemma3": {every: 6}, "gemma3n": {every: 5}, "gpt-oss": {every: 2}, "laguna": {4, true}, "llama4": {every: 4},
	"mellum": {every: 4}, "modern-bert": {3, true}, "muse-glimmer": {every: 4}, "olmo2": {every: 4}, "plamo3": {every: 8}, "smallthinker": {4, true},
}

// attends is how often a block with attention comes in hybrids where the library
// assumes a number if the file has none. The other blocks are recurrent.
var attends = map[string]uint64{"minimax-01": 8, "qwen35": 4, "qwen35moe": 4, "qwen3next": 4, "qwen4exp": 4}

// perBlock are the keys whose value is a list of one element per block. They have
// the architecture's name before them.
var perBlock = []string{
	"attention.compress_ratios", "attention.head_count", "attention.head_count_kv", "attention.indexer.types", "attention.recurrent_layers",
	"attention.rope_pattern", "attention.sliding_window_pattern", "deepstack_mapping", "expert_feed_forward_length", "expert_used_count",
	"feed_forward_length", "swiglu_clamp_exp", "swiglu_clamp_shexp",
}

// perBlockBare are such keys without an architecture's name.
var perBlockBare = []string{"xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"}

// notPerBlock are lists of other things, of which a model may happen to have as many
// as it has blocks. Other lists of that length are taken for ones of blocks.
var notPerBlock = []string{
	"adapters.token_ids_activate", "adapters.token_ids_substitute", "classifier.output_labels", "ple.head_offsets", "ple.head_vocab_sizes",
	"ple.layer_multipliers", "ple.layers", "rope.dimension_sections", "target_layers",
}

// maxBlocks is how many blocks the library computes at most.
const maxBlocks = 512

// Check returns an error if the span cannot be made a file for the library, by the
// model's metadata. Errors wrap ErrCut and are meant for people.
func Check(h *gguf.Header, span protocol.Span) error {
	blocks, arch := h.Blocks(), h.Architecture()
	if blocks == 0 || blocks > maxBlocks {
		return errf("a model of %d blocks; 1 to %d are possible", blocks, maxBlocks)
	}
	if !span.Valid(blocks) {
		return errf("blocks %s: the model has blocks 0-%d", span, blocks)
	}
	if span.Len() == blocks {
		return nil
	}
	if why := never[arch]; why != "" {
		return errf("a model of architecture %s runs whole only: %s", arch, why)
	}
	if causal, ok := h.Value(h.Arch("attention.causal")).(bool); ok && !causal {
		return errf("this model runs whole only: %s", encodes)
	}
	if n := step[arch]; n > 1 && span.From%n != 0 {
		return errf("blocks %s: a span of %s begins at a multiple of %d", span, arch, n)
	}
	if n, ok := h.Uint(h.Arch("interleave_moe_layer_step")); ok && n > 1 && uint64(span.From)%n != 0 {
		return errf("blocks %s: a span of this model begins at a multiple of %d, since every %dth block has experts", span, n, n)
	}
	if n, ok := h.Uint(h.Arch("rescale_every_n_layers")); ok && n > 1 && uint64(span.From)%n != 0 {
		return errf("blocks %s: a span of this model begins at a multiple of %d", span, n)
	}
	return checkArch(h, span)
}

// checkArch looks at what single architectures do.
func checkArch(h *gguf.Header, span protocol.Span) error {
	arch, blocks := h.Architecture(), h.Blocks()
	number := func(key string) uint64 {
		n, _ := h.Uint(h.Arch(key))
		return n
	}
	wholeOnly := func(why string) error { return errf("this model of architecture %s runs whole only: %s", arch, why) }
	switch arch {
	case "deepseek2":
		// The library takes a model of so many blocks for one of another make.
		if n := span.Len(); queryRank(h) > 0 && (n == 26 || n == 27 || n == 48 && vocabulary(h) == 128256) {
			return errf("blocks %s: a span of this model has a length other than %d", span, n)
		}
	case "exaone4":
		if blocks == 64 {
			return wholeOnly(counts)
		}
		if span.Len() == 64 {
			return errf("blocks %s: a span of this model has a length other than 64", span)
		}
	case "gemma3":
		if heads := number("attention.head_count"); blocks == 62 && heads > 0 && number("embedding_length")/heads != number("attention.key_length") {
			return wholeOnly(counts)
		}
	case "gemma4":
		return checkShared(h, span)
	case "glm-dsa", "deepseek32", "dots3note":
		if arch == "glm-dsa" && h.Context() >= 1<<20 && h.Value(h.Arch("attention.indexer.types")) == nil {
			return wholeOnly(counts)
		}
		if from, ok := flagAt(h.Value(h.Arch("attention.indexer.types")), span.From); ok && !from {
			return errf("blocks %s: block %d uses the selection of an earlier block; let the span begin at a block that makes its own", span, span.From)
		}
	case "glm4":
		if span.From > 0 && !sections(h) {
			return wholeOnly("the library takes no hidden states for it")
		}
	case "lfm2", "lfm2moe":
		if span.To == blocks && span.From > 0 && !tied(h) {
			return wholeOnly("its last norm is among the embedding's tensors")
		}
	case "llama4":
		if n, ok := h.Uint(h.Arch("attention.sliding_window")); ok && n == 0 {
			return wholeOnly(counts)
		}
	}
	return nil
}

// checkShared checks a span of Gemma 4, whose last blocks may use the keys and values
// of the two blocks before them, and whose blocks may have embeddings of their own.
func checkShared(h *gguf.Header, span protocol.Span) error {
	if n, _ := h.Uint(h.Arch("embedding_length_per_layer_input")); n > 0 {
		return errf("this model of architecture gemma4 runs whole only: %s", tokens)
	}
	own := sharedFrom(h)
	if span.To > own && span.From > own-2 {
		return errf("blocks %s: blocks from %d on use the keys and values of the two before; let the span begin at block %d or earlier", span, own, max(0, own-2))
	}
	return nil
}

// sharedFrom returns the first block that has no keys and values of its own.
func sharedFrom(h *gguf.Header) int {
	shared, _ := h.Uint(h.Arch("attention.shared_kv_layers"))
	return h.Blocks() - int(min(shared, uint64(h.Blocks())))
}

// queryRank is the rank of the queries' projection; 0: they have a plain one.
func queryRank(h *gguf.Header) uint64 {
	n, _ := h.Uint(h.Arch("attention.q_lora_rank"))
	return n
}

// sections reports whether positions have several parts.
func sections(h *gguf.Header) bool {
	list, _ := h.Value(h.Arch("rope.dimension_sections")).([]int32)
	return len(list) > 1 && list[0] > 0 && list[1] > 0
}

// flagAt returns the i-th element of a list as true or false; ok is false if there is
// none.
func flagAt(v any, i int) (on, ok bool) {
	switch v := v.(type) {
	case []bool:
		if i < len(v) {
			return v[i], true
		}
	case []uint32:
		if i < len(v) {
			return v[i] != 0, true
		}
	case []int32:
		if i < len(v) {
			return v[i] != 0, true
		}
	}
	return false, false
}

// errf makes an error that wraps ErrCut.
func errf(format string, args ...any) error { return refused(fmt.Sprintf(format, args...)) }

// refused is an ErrCut whose text says why.
type refused string

func (e refused) Error() string        { return string(e) }
func (e refused) Is(target error) bool { return target == ErrCut }
