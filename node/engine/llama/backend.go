package llama

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/fence"
)

// Backend is this package as an engine's process uses it.
type Backend struct{}

// Load is an engine.Loader.
func (Backend) Load(context.Context, engine.Config, *slog.Logger) (engine.Engine, error) {
	return nil, fmt.Errorf("%w: libllama cannot be opened yet", engine.ErrUnsupported)
}

// Fence lists what a process needs that computes with libllama.
func (Backend) Fence(cfg *engine.Config) fence.Rules {
	return fence.Rules{}
}
