package engine

import (
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/blocks"
)

// CutsFor returns the spans of a model that a back end can compute; nil: all. Llama
// cuts by its library's rules. Every other name stands for the built-in engine where it
// knows the model, which cuts anywhere, and for the library elsewhere.
func CutsFor(backend string, md Metadata) *protocol.Cuts {
	if backend != Llama && Check(md) == nil {
		return nil
	}
	m, err := blocks.Of(md)
	if err != nil {
		return nil // of which no span can be loaded
	}
	if c := m.Cuts(); !c.Anywhere() {
		return c
	}
	return nil
}
