package ggml

import (
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/fence"
)

// fenceRules are what an engine's process needs: its stage file, the backends,
// and, if it may compute on a GPU, what drivers ask for.
func fenceRules(cfg *engine.Config) fence.Rules {
	r := fence.Rules{Read: append([]string{cfg.Path}, LibraryDirs()...), Memory: cfg.Memory}
	engine.FenceGPUs(&r, cfg, LibraryDirs()...)
	return r
}
