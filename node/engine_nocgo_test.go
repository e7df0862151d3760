//go:build !cgo

package node_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/engine"
)

// needEngine skips a test that serves though it begins with nothing to serve.
func needEngine(t testing.TB) {
	t.Helper()
	t.Skip("needs the engine, which is built with C: CGO_ENABLED=0")
}

// engineFor skips the tests of nodes that serve: without C there is no engine.
func engineFor(t testing.TB, cfg node.Config) engine.Loader {
	t.Helper()
	if len(cfg.Serve) > 0 {
		needEngine(t)
	}
	return func(context.Context, engine.Config, *slog.Logger) (engine.Engine, error) {
		return nil, errors.New("no engine here")
	}
}
