#!/bin/sh
# The GGUF reader of github.com/ollama/ollama v0.24.0 (package fs/ggml): a number whose
# GGUF type is another than the one that the model's code asks for counts as absent, and
# the code's default takes its place. GGUF has twelve number types, and its description
# leaves the choice to whoever writes a file.
#
# Seen: llama.rope.freq_base = 10000 as float32 is read as 10000; as float64 or uint32 the
# same number is read as the default that the caller names. Nothing is returned that tells
# the cases apart, and the only trace is a line of the debug log. The same holds for
# integers: llama.attention.head_count as uint64 is read as the default of 1, since only
# uint32 is looked for.
#
# Why it matters: a file from another writer is computed, and answers, with other
# parameters than it has: other text, and no error. shoal converts such keys before the
# engine sees them, or refuses the file.
#
# Needs Go; fails if the behaviour is another.
set -eu
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
cat > go.mod <<'MOD'
module finding

go 1.26

require github.com/ollama/ollama v0.24.0
MOD
cat > main.go <<'GO'
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/ollama/ollama/fs/ggml"
)

// file is a GGUF file of version 3 with an architecture, one number, and no tensor.
func file(key string, kind uint32, value any) []byte {
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	text := func(s string) { put(uint64(len(s))); b.WriteString(s) }
	b.WriteString("GGUF")
	put(uint32(3))
	put(uint64(0)) // tensors
	put(uint64(2)) // keys
	text("general.architecture")
	put(uint32(8)) // string
	text("llama")
	text(key)
	put(kind)
	put(value)
	return b.Bytes()
}

func read(key string, kind uint32, value any) ggml.KV {
	f, err := ggml.Decode(bytes.NewReader(file("llama."+key, kind, value)), -1)
	if err != nil {
		panic(err)
	}
	return f.KV()
}

func main() {
	const base, heads = "rope.freq_base", "attention.head_count"
	fmt.Println("10000 as float32:", read(base, 6, float32(10000)).Float(base, 1e5))
	fmt.Println("10000 as float64:", read(base, 12, float64(10000)).Float(base, 1e5))
	fmt.Println("10000 as uint32:", read(base, 4, uint32(10000)).Float(base, 1e5))
	fmt.Println("8 as uint32:", read(heads, 4, uint32(8)).Uint(heads, 1))
	fmt.Println("8 as uint64:", read(heads, 10, uint64(8)).Uint(heads, 1))
}
GO
go mod tidy >/dev/null 2>&1
CGO_ENABLED=0 go run . >out
cat out
cat >want <<'WANT'
10000 as float32: 10000
10000 as float64: 100000
10000 as uint32: 100000
8 as uint32: 8
8 as uint64: 1
WANT
cmp out want && echo "as described"
