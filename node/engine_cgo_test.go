//go:build cgo

package node_test

import (
	"testing"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/ggml"
)

func needEngine(testing.TB) {}

// engineFor is the engine of a node in this process.
func engineFor(testing.TB, node.Config) engine.Loader { return ggml.Load }
