package cut

import (
	"strings"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Types of weights that the library lays out otherwise for a processor's kernels, in a
// copy beside the mapped file.
var (
	repacked = map[gguf.Type]bool{2: true, 8: true, 10: true, 12: true, 13: true, 14: true, 20: true, 39: true} // Q4_0, Q8_0, Q2_K, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4
	tiled    = map[gguf.Type]bool{2: true, 3: true, 8: true, 12: true, 13: true, 14: true, 23: true}            // with AMX: Q4_0, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_XS
)

// Copied returns how many bytes of a span's weights the library keeps twice at most, where
// the processor computes: in the file that it maps, and as its kernels read them. amx says
// that the processor has AMX.
func Copied(h *gguf.Header, span protocol.Span, amx bool) (n int64) {
	run, _ := h.Uint(h.Arch("block_count"))
	last, head := span.To == int(run), tied(h)
	for _, t := range h.Tensors {
		if len(t.Shape) < 2 || !repacked[t.Type] && !(amx && tiled[t.Type]) || !strings.HasSuffix(t.Name, ".weight") {
			continue
		}
		switch part, block := gguf.PartOf(t.Name, int(run)); {
		case part == gguf.PartBlock && block >= span.From && block < span.To,
			part == gguf.PartOutput && last,
			part == gguf.PartEmbedding && last && head:
			n += int64(t.Bytes())
		}
	}
	return n
}
