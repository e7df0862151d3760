package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// An adapter (LoRA) is a file of its own and has a manifest of its own, which names
// that of the model that it adds to, its base. The two together are a model to
// everybody: with the adapter's CID, the base's blocks, header and text. The base's
// shards are the base's; none is copied.

// adapterType is the general.type of an adapter's file.
const adapterType = "adapter"

// Base returns the model that an adapter adds to; nil if m is no adapter. Errors wrap
// ErrNotFound if the base is not here.
func (m *Model) Base() (*Model, error) {
	if m.man.Base == nil {
		return nil, nil //nolint:nilnil // a model adds to nothing
	}
	if m.find == nil {
		return nil, m.removed()
	}
	base, err := m.find(*m.man.Base)
	if err != nil {
		return nil, fmt.Errorf("what %s adds to: %w", m.Name(), err)
	}
	if base.man.Base != nil || base.man.Blocks != m.man.Blocks || base.man.Width != m.man.Width {
		return nil, fmt.Errorf("%w: %s is no adapter of %s", protocol.ErrManifest, m.id, base.id)
	}
	return base, nil
}

// IsAdapter reports whether m adds to another model.
func (m *Model) IsAdapter() bool { return m.man.Base != nil }

// AdapterHeader reads and checks an adapter's own header. Errors are those of Header.
func (m *Model) AdapterHeader(ctx context.Context) (*gguf.Header, error) { return m.ownHeader(ctx) }

// adapts fills in what an adapter's manifest has of its base's.
func (l *layout) adapts(m *protocol.Manifest) {
	man := l.to.man
	id := l.to.id
	m.Base = &id
	m.Architecture, m.Blocks, m.Width, m.Vocab, m.Context, m.TiedOutput = man.Architecture, man.Blocks, man.Width, man.Vocab, man.Context, man.TiedOutput
	m.Quantization = ""
}

// checkAdapter returns an error if a file is no adapter that can be added to a model.
// Errors wrap gguf.ErrFormat and say why.
func checkAdapter(h *gguf.Header, base *Model, parts int) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", gguf.ErrFormat, fmt.Sprintf(format, args...))
	}
	kind := h.String("adapter.type")
	switch {
	case parts != 1:
		return no("an adapter in %d parts", parts)
	case base.man.Base != nil:
		return no("%s is an adapter itself; name the model that it adds to", base.Name())
	case h.String("general.type") != adapterType:
		return no("it is no adapter (its general.type is %.40q)", h.String("general.type"))
	case kind != "lora":
		return no("an adapter of type %.40q; shoal knows lora", kind)
	case h.Architecture() != base.man.Architecture:
		return no("the adapter is for models of architecture %.40q, and %s is of architecture %q", h.Architecture(), base.Name(), base.man.Architecture)
	case h.Value("adapter.alora.invocation_tokens") != nil:
		return no("an adapter that certain tokens switch on, which shoal does not know")
	case len(h.Tensors) == 0:
		return no("the adapter has no tensors")
	}
	shapes := map[string][]int64{}
	for i := range base.man.Shards {
		for _, t := range base.man.Shards[i].Tensors {
			shapes[t.Name] = t.Shape
		}
	}
	halves := map[string]gguf.Tensor{}
	for _, t := range h.Tensors {
		halves[t.Name] = t
	}
	for _, t := range h.Tensors {
		if strings.HasSuffix(t.Name, "_norm.weight") { // which the library does not look at
			continue
		}
		name, half := "", ""
		for _, end := range []string{".lora_a", ".lora_b"} {
			if n, ok := strings.CutSuffix(t.Name, end); ok {
				name, half = n, end
			}
		}
		if half == "" {
			return no("tensor %.80q is no half of a pair (NAME.lora_a, NAME.lora_b)", t.Name)
		}
		shape, ok := shapes[name]
		if !ok {
			return no("it adds to %.80q, which %s does not have; is it for another model?", name, base.Name())
		}
		if name == "token_embd.weight" && base.man.TiedOutput {
			return no("it adds to the embedding, which is the output head of %s, too; the library cannot compute that", base.Name())
		}
		a, okA := halves[name+".lora_a"]
		b, okB := halves[name+".lora_b"]
		if !okA || !okB {
			return no("%.80q has one half of its pair only", name)
		}
		if !pairs(a.Shape, b.Shape, shape, name == "token_embd.weight") {
			return no("what it adds to %.80q has another shape than %s's (%v and %v for %v); is it for another model?", name, base.Name(), a.Shape, b.Shape, shape)
		}
	}
	return nil
}

// pairs reports whether a and b are halves of a sum to a matrix of the shape. Of the
// embedding, whose rows are looked up, the two stand the other way round.
func pairs(a, b []uint64, shape []int64, lookup bool) bool {
	at := func(s []uint64, i int) uint64 {
		if i < len(s) {
			return s[i]
		}
		return 1
	}
	if len(shape) < 2 {
		return false
	}
	in, out := uint64(shape[0]), uint64(shape[1])
	if lookup {
		return at(b, 1) == in && at(a, 1) == out && at(a, 0) == at(b, 0)
	}
	return at(a, 0) == in && at(b, 1) == out && at(a, 1) == at(b, 0)
}

// adapted is the name of a model with an adapter.
func adapted(model, adapter string) string {
	if _, own, ok := protocol.CutAdapter(adapter); ok {
		adapter = own
	}
	return model + "+" + adapter
}

// matchAdapted says how a word of the form MODEL+ADAPTER fits an adapter whose base is
// here, by whatever name that goes.
func (m *Model) matchAdapted(word string) protocol.Match {
	model, adapter, ok := protocol.CutAdapter(word)
	base, err := m.Base()
	if !ok || err != nil || base == nil {
		return protocol.MatchNone
	}
	var own []string
	for _, n := range m.Names() {
		if _, a, ok := protocol.CutAdapter(n); ok {
			own = append(own, a)
		}
	}
	return min(base.match(model), protocol.MatchModel(adapter, m.id, own))
}
