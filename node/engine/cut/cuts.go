package cut

import (
	"fmt"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/blocks"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Cuts returns the spans of a model of which files can be made for the library: those
// that its metadata allow, and only the whole model where its tensors cannot be divided.
// It returns an error if nothing of the model can be loaded.
func Cuts(h *gguf.Header) (*protocol.Cuts, error) {
	m, err := blocks.Of(h)
	if err != nil {
		return nil, err
	}
	return cuts(h, m), nil
}

func cuts(h *gguf.Header, m *blocks.Model) *protocol.Cuts {
	if why := undivided(h, m); why != "" {
		return &protocol.Cuts{Blocks: len(m.Blocks), Edges: []int{}, Why: "it can only be computed whole: " + why}
	}
	return m.Cuts()
}

// undivided returns why a model's tensors cannot be divided among spans; "": they can.
func undivided(h *gguf.Header, m *blocks.Model) string {
	if (m.Arch == "lfm2" || m.Arch == "lfm2moe") && !tied(h) {
		return "its last norm is among its embedding's tensors"
	}
	for _, t := range h.Tensors {
		if part, _ := gguf.PartOf(t.Name, len(m.Blocks)-m.Ahead); part == gguf.PartOther {
			return fmt.Sprintf("nothing is known of where it needs its tensor %.60q", t.Name)
		}
	}
	return ""
}
