package engine

import "fmt"

// Plausible returns an error if metadata are no model's: what a node that keeps a model
// and passes it on relies on, whether or not an engine of its own computes it. Which
// architectures there are it does not know. Errors wrap ErrUnsupported.
func Plausible(md Metadata) error {
	no := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrUnsupported, fmt.Sprintf(format, args...))
	}
	arch := text(md, "general.architecture")
	if arch == "" || len(arch) > maxArch {
		return no("the file names no architecture (general.architecture)")
	}
	for _, k := range []struct {
		name string
		most float64
	}{{"block_count", maxBlocks}, {"embedding_length", 1 << 20}} {
		key := arch + "." + k.name
		if n, ok := number(md.Value(key)); !ok || n < 1 || n > k.most || n != float64(int(n)) {
			return no("%s is missing or impossible (%s); is the file complete?", key, shortly(md.Value(key)))
		}
	}
	return nil
}

// maxArch is how many bytes the name of an architecture may have.
const maxArch = 64
