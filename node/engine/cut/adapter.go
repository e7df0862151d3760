package cut

import (
	"cmp"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Adapter returns the file of what an adapter (LoRA) adds to a span of a model, for the
// library, which looks its tensors up by the names that they have in the span's file, of
// LayFor. h is the adapter's own header, base the model's. Errors wrap protocol.ErrCut.
func Adapter(h, base *gguf.Header, span protocol.Span) (*Stage, error) {
	m, err := check(base, span)
	if err != nil {
		return nil, err
	}
	run := len(m.Blocks) - m.Ahead
	out := gguf.Header{Version: h.Version}
	for _, kv := range h.KVs {
		if kv.Key == "general.alignment" {
			kv.Value = uint32(h.Alignment())
		}
		if !strings.HasPrefix(kv.Key, "shoal.") {
			out.KVs = append(out.KVs, kv)
		}
	}
	out.KVs = append(out.KVs, gguf.KV{Key: "shoal.span", Value: span.String()})
	var tensors []placed
	for _, t := range h.Tensors {
		if !strings.HasSuffix(t.Name, ".lora_a") && !strings.HasSuffix(t.Name, ".lora_b") {
			continue
		}
		from := h.DataOffset + int64(t.Offset)
		switch part, n := gguf.PartOf(t.Name, run); {
		case part == gguf.PartBlock && span.From <= n && n < span.To:
			t.Name = renamed(t.Name, n-span.From)
		case part == gguf.PartEmbedding && span.From == 0, part == gguf.PartOutput && span.To == len(m.Blocks):
		case part == gguf.PartOther:
			if span.Len() != len(m.Blocks) {
				return nil, errf("blocks %s: nothing is known of where the model needs the adapter's tensor %.60q, so it runs whole only", span, t.Name)
			}
		default:
			continue
		}
		tensors = append(tensors, placed{Tensor: t, from: from})
	}
	slices.SortStableFunc(tensors, func(a, b placed) int { return cmp.Compare(a.from, b.from) })
	return lay(&out, tensors, h.Alignment())
}
