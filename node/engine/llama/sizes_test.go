package llama

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/cpu"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

func TestBuffers(t *testing.T) {
	b := buffersOf([]line{
		{2, "load_tensors:   CPU_Mapped model buffer size =    93.80 MiB"},
		{2, "load_tensors:   CPU_REPACK model buffer size =    30.00 MiB"},
		{2, "llama_kv_cache:        CPU KV buffer size =     4.00 MiB"},
		{2, "llama_kv_cache:      CUDA0 KV buffer size =     8.00 MiB"},
		{2, "sched_reserve:  CUDA_Host compute buffer size =     1.50 MiB"},
		{2, "llama_context:        CPU  output buffer size =     0.25 MiB"},
		{2, "something else of 3 MiB"},
	})
	const mib = 1 << 20
	for kind, want := range map[string][2]float64{"model": {30 * mib, 30 * mib}, "KV": {12 * mib, 4 * mib}, "compute": {1.5 * mib, 1.5 * mib}, "output": {mib / 4, mib / 4}, "RS": {}} {
		if b.all[kind] != want[0] || b.host[kind] != want[1] {
			t.Errorf("%s: %v, of them here %v", kind, b.all[kind], b.host[kind])
		}
	}
}

// What is foreseen of the copies of weights is no less than the library makes.
func TestCopied(t *testing.T) {
	l := tiny(t, func(*engine.Config) {})
	raw, err := os.ReadFile(l.cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	all := protocol.Span{To: l.info.Blocks}
	if n := uint64(cut.Copied(h, all, cpu.X86.HasAMXInt8)); n+1<<20 < l.copied || n > l.info.Weights {
		t.Errorf("%d bytes of %d are copied, foreseen are %d", l.copied, l.info.Weights, n)
	}
	if n := cut.Copied(h, protocol.Span{From: 1, To: 2}, true); n >= cut.Copied(h, all, true) {
		t.Errorf("%d bytes for one block", n)
	}
}
