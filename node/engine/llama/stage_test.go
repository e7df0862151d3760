package llama

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// stageFile writes what a store would hand to this engine: a file of the span alone,
// with blocks that are numbered from 0.
func stageFile(t testing.TB, path string, from, to int) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	blocks, vocab := h.Blocks(), uint64(0)
	out := gguf.Header{Version: 3}
	var data []byte
	tied := true
	for _, t := range h.Tensors {
		if t.Name == "token_embd.weight" {
			vocab = t.Shape[1]
		}
		tied = tied && t.Name != "output.weight"
	}
	if from > 0 && to < blocks {
		vocab = 32
	}
	for _, t := range h.Tensors {
		head, rest, _ := strings.Cut(t.Name, ".")
		content := raw[h.DataOffset+int64(t.Offset):][:t.Bytes()]
		switch {
		case head == "blk":
			n, rest, _ := strings.Cut(rest, ".")
			i, _ := strconv.Atoi(n)
			if i < from || i >= to {
				continue
			}
			t.Name = fmt.Sprintf("blk.%d.%s", i-from, rest)
		case t.Name == "token_embd.weight" && (from == 0 || tied && to == blocks), head != "token_embd" && (t.Name != "output.weight" || to == blocks):
		case t.Name == "output.weight" && from == 0:
			continue // the library takes the embedding
		default:
			t.Shape = []uint64{t.Shape[0], vocab}
			content = content[:t.Bytes()]
		}
		t.Offset = uint64(len(data))
		out.Tensors = append(out.Tensors, t)
		data = append(data, content...)
		for len(data)%32 != 0 {
			data = append(data, 0)
		}
	}
	for _, kv := range h.KVs {
		if strings.HasPrefix(kv.Key, "tokenizer.") || kv.Key == h.Arch("vocab_size") {
			continue
		}
		if kv.Key == h.Arch("block_count") {
			kv.Value = uint32(to - from)
		}
		out.KVs = append(out.KVs, kv)
	}
	if p := map[string]int{"gemma3": 6, "gemma2": 2, "gpt-oss": 2}[h.Architecture()]; p > 0 {
		pattern := make([]bool, to-from)
		for i := range pattern {
			pattern[i] = (from+i+1)%p != 0
		}
		out.KVs = append(out.KVs, gguf.KV{Key: h.Arch("attention.sliding_window_pattern"), Value: pattern})
	}
	out.KVs = append(out.KVs, gguf.KV{Key: "tokenizer.ggml.model", Value: "no_vocab"}, gguf.KV{Key: h.Arch("vocab_size"), Value: uint32(vocab)},
		gguf.KV{Key: spanKey, Value: fmt.Sprintf("%d-%d of %d", from, to, blocks)})
	head, err := out.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for len(head)%32 != 0 {
		head = append(head, 0)
	}
	file := filepath.Join(t.TempDir(), fmt.Sprintf("%d-%d.gguf", from, to))
	if err := os.WriteFile(file, append(head, data...), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
