package llama

import (
	"context"
	"log/slog"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/fence"
)

// Backend is this package as an engine's process uses it.
type Backend struct{}

// Load is Load.
func (Backend) Load(ctx context.Context, cfg engine.Config, log *slog.Logger) (engine.Engine, error) {
	return Load(ctx, cfg, log)
}

// Fence lists what a process needs that computes with libllama: its stage files, the
// library, and, if it may compute on a GPU, what drivers ask for.
func (Backend) Fence(cfg *engine.Config) fence.Rules {
	r := fence.Rules{Read: append([]string{cfg.Path}, cfg.Adapters...), Memory: cfg.Memory}
	if lib, _ := Find(cfg.Library); lib != nil {
		r.Read = append(r.Read, lib.Dir, lib.Backends)
	}
	return r
}
