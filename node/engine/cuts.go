package engine

import (
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// CutsFor returns the spans of a model that a back end can compute; nil: all. Llama
// cuts by its library's rules. Every other name stands for the built-in engine where it
// knows the model, which cuts anywhere, and for the library elsewhere.
func CutsFor(backend string, h *gguf.Header) *protocol.Cuts {
	if backend != Llama && Check(h) == nil {
		return nil
	}
	c, err := cut.Cuts(h)
	if err != nil || c.Anywhere() { // an error: no span can be loaded
		return nil
	}
	return c
}
