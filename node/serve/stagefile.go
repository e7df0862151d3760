package serve

import (
	"context"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// withFile calls load with the path of the target's file, laid out for a back end.
// Errors are those of the store's StageFile, protocol.ErrCut, and load's.
func (t target) withFile(ctx context.Context, backend string, load func(path string) error) error {
	if backend == engine.Llama {
		return t.model.LaidFile(ctx, t.span, cut.Lay, load)
	}
	return t.model.StageFile(ctx, t.span, Defaults, load)
}

// Defaults are the keys that the built-in engine adds to a model's header, sorted.
func Defaults(md *gguf.Header) (out []gguf.KV) {
	for k, v := range engine.Defaults(md) {
		out = append(out, gguf.KV{Key: k, Value: v})
	}
	slices.SortFunc(out, func(a, b gguf.KV) int { return strings.Compare(a.Key, b.Key) })
	return out
}
