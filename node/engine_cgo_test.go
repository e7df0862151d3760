//go:build cgo

package node_test

import (
	"testing"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/ggml"
	"github.com/shoalnet/shoal/node/engine/llama"
)

func needEngine(testing.TB) {}

// engineFor are the engines of a node in this process.
func engineFor(testing.TB, node.Config) engine.Loader {
	return engine.Backends{engine.BuiltIn: ggml.Backend{}, engine.Llama: llama.Backend{}}.Load
}
