//go:build cgo

package prometheus

import (
	"testing"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/ggml"
)

// realEngine is the engine of a node in this process.
func realEngine(testing.TB) engine.Loader { return ggml.Load }
