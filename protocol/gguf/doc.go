// Package gguf reads and writes the header of a GGUF file: its metadata and its
// table of tensors, never the weights.
//
// Two nodes must agree on it byte for byte, because a manifest is derived from
// a header and must come out the same wherever it is made. So the package lies
// below protocol. The format is GGUF version 2 and 3, little-endian, as
// described in ggml's docs/gguf.md
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
//
// A header is treated as hostile while it is read: every count is checked
// against the bytes that are left before anything is allocated for it, and
// every tensor against the size of the file (see [Header.Check]).
//
// [Header.Stage] writes the header of a stage file: the same metadata without
// the tokenizer's tables, and only the tensors that a span needs, at offsets
// that may leave gaps.
package gguf
