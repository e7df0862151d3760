package llama

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/node/engine/enginetest"
	"github.com/shoalnet/shoal/protocol"
)

// stageFile writes what a store would hand to this engine.
func stageFile(t testing.TB, path string, from, to int) string {
	t.Helper()
	h, raw := enginetest.ReadHeader(t, path)
	stage, err := cut.Of(h, protocol.Span{From: from, To: to})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, stage.Size)
	copy(out, stage.Header)
	for _, p := range stage.Pieces {
		copy(out[p.At:], raw[p.From:][:p.Length])
	}
	file := filepath.Join(t.TempDir(), "stage.gguf")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func blocksOf(t testing.TB, path string) int {
	t.Helper()
	h, _ := enginetest.ReadHeader(t, path)
	return h.Blocks()
}
