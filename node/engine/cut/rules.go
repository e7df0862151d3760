package cut

import (
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/blocks"
	"github.com/shoalnet/shoal/protocol/gguf"
)

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

// heads are architectures for which the library takes an output head of its own where a
// file has one, and the embedding where it has none. Such a head is put into the file
// that begins a model, or the library would prepare a copy of the embedding for a
// product that nobody asks for.
var heads = []string{
	"ernie4_5", "exaone4", "gemma3", "gemma4", "granite", "granitehybrid", "lfm2", "llama", "mistral3", "phi3", "qwen2", "qwen3", "qwen35", "qwen3vl",
	"seed_oss", "smollm3", "starcoder2",
}

// mostBlocks is how many blocks the library has room for.
const mostBlocks = 512

// check returns what is known of the model's blocks, and an error if the span cannot be
// made a file for the library. Errors wrap protocol.ErrCut.
func check(h *gguf.Header, span protocol.Span) (*blocks.Model, error) {
	m, err := blocks.Of(h)
	if err != nil {
		return nil, errf("%s", err)
	}
	name := "the model"
	if s := strings.ToValidUTF8(h.String("general.name"), ""); s != "" {
		name = s[:min(len(s), 80)]
	}
	switch count := len(m.Blocks); {
	case count > mostBlocks:
		return nil, errf("%s has %d blocks; %d are possible", name, count, mostBlocks)
	case !span.Valid(count):
		return nil, errf("blocks %s: %s has blocks 0-%d", span, name, count)
	}
	return m, cuts(h, m).Check(span, name)
}

// errf makes an error that wraps protocol.ErrCut and is meant for people.
func errf(format string, args ...any) error { return refused(fmt.Sprintf(format, args...)) }

// refused is a protocol.ErrCut whose text says why.
type refused string

func (e refused) Error() string        { return string(e) }
func (e refused) Is(target error) bool { return target == protocol.ErrCut }
