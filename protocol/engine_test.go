package protocol

import "testing"

func TestClass(t *testing.T) {
	for want, e := range map[string]*Engine{
		"":                         nil,
		"llama v0.5.0, CUDA, q8_0": {Name: "llama", Version: "v0.5.0", Device: "CUDA", Kv: "q8_0"},
		"ggml, CPU, f16":           {Name: "ggml", Device: "CPU", Kv: "f16"},
	} {
		if got := e.Class(); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
