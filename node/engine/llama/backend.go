package llama

import (
	"context"
	"log/slog"
	"path/filepath"

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
		r.Read = append(r.Read, lib.folders()...)
		engine.FenceGPUs(&r, cfg, lib.Backends)
	}
	return r
}

// folders are those that the library's files are in, where links lead, too.
func (l *Library) folders() []string {
	out := []string{l.Dir, l.Backends}
	for _, file := range []string{l.Llama, l.Ggml, l.Base} {
		if path, err := filepath.EvalSymlinks(file); err == nil {
			out = append(out, filepath.Dir(path))
		}
	}
	return out
}
