package llama

import "testing"

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
