package serve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// WithFiles calls load with the files of a span of a model in cfg, laid out for cfg's back
// end. Errors are those of the store's StageFile and LaidFile, engine.ErrUnsupported,
// protocol.ErrCut, and load's.
func WithFiles(ctx context.Context, m *store.Model, span protocol.Span, cfg engine.Config, load func(engine.Config) error) error {
	return target{m, span}.withFiles(ctx, cfg, load)
}

// withFiles calls load with the target's files in cfg, laid out for cfg's back end.
// Errors are those of the store's StageFile, engine.ErrUnsupported, protocol.ErrCut, and
// load's.
func (t target) withFiles(ctx context.Context, cfg engine.Config, load func(engine.Config) error) error {
	base, err := t.model.Base()
	if err != nil {
		return err
	}
	if base == nil {
		return stageFile(ctx, t.model, t.span, cut.Lay, cfg, load)
	}
	if cfg.Engine != engine.Llama {
		return fmt.Errorf("%w: %s has an adapter, which only llama.cpp's library computes", engine.ErrUnsupported, t.model.Name())
	}
	h, err := base.Header()
	if err != nil {
		return err
	}
	adapter, err := t.model.Header()
	if err != nil {
		return err
	}
	lay := func(own *gguf.Header, span protocol.Span, _ int64) (*gguf.Layout, error) {
		return cut.Adapter(own, h, span)
	}
	return stageFile(ctx, base, t.span, cut.LayFor(adapter), cfg, func(cfg engine.Config) error {
		return t.model.LaidFile(ctx, t.span, lay, func(path string) error {
			cfg.Adapters = []string{path}
			return load(cfg)
		})
	})
}

// stageFile calls load with the file of a span of a model without an adapter. lay is how
// llama.cpp's library wants it.
func stageFile(ctx context.Context, m *store.Model, span protocol.Span, lay store.Lay, cfg engine.Config, load func(engine.Config) error) error {
	with := func(path string) error {
		cfg.Path = path
		return load(cfg)
	}
	if cfg.Engine == engine.Llama {
		return m.LaidFile(ctx, span, lay, with)
	}
	return m.StageFile(ctx, span, Defaults, with)
}

// Defaults are the keys that the built-in engine adds to a model's header, sorted.
func Defaults(md *gguf.Header) (out []gguf.KV) {
	for k, v := range engine.Defaults(md) {
		out = append(out, gguf.KV{Key: k, Value: v})
	}
	slices.SortFunc(out, func(a, b gguf.KV) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// parts are the target itself and, of one with an adapter, what that adds to, if it is
// here.
func (t target) parts() []target {
	if base, err := t.model.Base(); err == nil && base != nil {
		return []target{t, {base, t.span}}
	}
	return []target{t}
}
