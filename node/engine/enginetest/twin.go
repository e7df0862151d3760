package enginetest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// Twin writes a model of the first blocks of another one, and all else of it but for edits
// of its metadata, and returns the file's path. With all blocks it computes the same, and
// with fewer it has an idea of it.
func Twin(t testing.TB, path string, blocks int, edits ...gguf.KV) string {
	t.Helper()
	h, raw := ReadHeader(t, path)
	edits = append(edits, gguf.KV{Key: h.Arch("block_count"), Value: uint32(blocks)}, gguf.KV{Key: "general.name", Value: "twin of " + strconv.Itoa(blocks)})
	twin := gguf.Header{Version: h.Version}
	for _, kv := range h.KVs {
		for _, e := range edits {
			if e.Key == kv.Key {
				kv.Value = e.Value
			}
		}
		twin.KVs = append(twin.KVs, kv)
	}
	var data []byte
	pad := func(b []byte) []byte {
		for uint64(len(b))%h.Alignment() != 0 {
			b = append(b, 0)
		}
		return b
	}
	for _, x := range h.Tensors {
		if rest, ok := strings.CutPrefix(x.Name, "blk."); ok {
			n, _, _ := strings.Cut(rest, ".")
			if i, _ := strconv.Atoi(n); i >= blocks {
				continue
			}
		}
		at := h.DataOffset + int64(x.Offset)
		data = pad(data)
		x.Offset = uint64(len(data))
		data = append(data, raw[at:at+int64(x.Bytes())]...)
		twin.Tensors = append(twin.Tensors, x)
	}
	head, err := twin.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "twin"+strconv.Itoa(blocks)+".gguf")
	if err := os.WriteFile(out, append(pad(head), pad(data)...), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}
