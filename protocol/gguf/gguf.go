package gguf

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Magic is the first four bytes of every GGUF file.
const Magic = "GGUF"

// Limits that no real model reaches, but that a forged header might exceed.
const (
	MaxHeader = 512 << 20 // bytes of metadata and tensor table
	MaxKey    = 65535     // bytes; the format's own limit
	MaxDims   = 4         // ggml's limit
)

// ErrFormat is wrapped by every error about the header's bytes.
var ErrFormat = errors.New("not a usable GGUF file")

func errf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// KV is one metadata entry. Value is one of uint8, int8, uint16, int16,
// uint32, int32, uint64, int64, float32, float64, bool, string, or a slice of
// one of these.
type KV struct {
	Key   string
	Value any
}

// Tensor is an entry of the tensor table.
type Tensor struct {
	Name   string
	Type   Type
	Shape  []uint64 // in elements, in ggml's order: the fastest-varying dimension first
	Offset uint64   // in bytes, from Header.DataOffset
}

// Elements returns the number of weights.
func (t Tensor) Elements() uint64 {
	n := uint64(1)
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Bytes returns the size of the tensor's data.
func (t Tensor) Bytes() uint64 {
	info := types[t.Type]
	if info.block == 0 {
		return 0
	}
	return t.Elements() / info.block * info.size
}

// Header is everything before the weights. Its methods that do not change it
// are safe for concurrent use.
type Header struct {
	Version    uint32
	KVs        []KV // in the file's order
	Tensors    []Tensor
	DataOffset int64 // where the weights begin in the file, in bytes; aligned

	index map[string]int
}

// Value returns a metadata value, or nil.
func (h *Header) Value(key string) any {
	if i, ok := h.index[key]; ok {
		return h.KVs[i].Value
	}
	return nil
}

// String returns a text value, or "".
func (h *Header) String(key string) string {
	s, _ := h.Value(key).(string)
	return s
}

// Uint returns a non-negative whole number stored in any of the format's types
// for numbers. For an array (some architectures have head counts per block) it
// returns the largest element. It is false if there is no such value.
func (h *Header) Uint(key string) (uint64, bool) { return asUint(h.Value(key)) }

func asUint(v any) (uint64, bool) {
	switch v := v.(type) {
	case uint8:
		return whole(v)
	case uint16:
		return whole(v)
	case uint32:
		return whole(v)
	case uint64:
		return v, true
	case int8:
		return whole(v)
	case int16:
		return whole(v)
	case int32:
		return whole(v)
	case int64:
		return whole(v)
	case float32:
		return whole(v)
	case float64:
		return whole(v)
	case []uint8:
		return largest(v)
	case []uint16:
		return largest(v)
	case []uint32:
		return largest(v)
	case []uint64:
		return largest(v)
	case []int8:
		return largest(v)
	case []int16:
		return largest(v)
	case []int32:
		return largest(v)
	case []int64:
		return largest(v)
	case []float32:
		return largest(v)
	case []float64:
		return largest(v)
	}
	return 0, false
}

// number is any of the format's types for numbers.
type number interface {
	uint8 | uint16 | uint32 | uint64 | int8 | int16 | int32 | int64 | float32 | float64
}

func whole[T number](v T) (uint64, bool) {
	f := float64(v)
	return uint64(v), f >= 0 && f < 1<<63 && f == math.Trunc(f)
}

func largest[T number](v []T) (uint64, bool) {
	if len(v) == 0 {
		return 0, false
	}
	return whole(slices.Max(v))
}

// Architecture returns general.architecture.
func (h *Header) Architecture() string { return h.String("general.architecture") }

// Arch returns an architecture-specific key: Arch("block_count") is
// "llama.block_count" for a llama model.
func (h *Header) Arch(key string) string { return h.Architecture() + "." + key }

// Blocks returns the number of transformer blocks.
func (h *Header) Blocks() int {
	n, _ := h.Uint(h.Arch("block_count"))
	return int(min(n, 1<<20))
}

// Width returns the number of elements of a hidden state.
func (h *Header) Width() int {
	n, _ := h.Uint(h.Arch("embedding_length"))
	return int(min(n, 1<<24))
}

// Context returns the longest sequence that the model was trained for, in
// tokens.
func (h *Header) Context() int {
	n, _ := h.Uint(h.Arch("context_length"))
	return int(min(n, 1<<31))
}

// Alignment returns the alignment of tensor data, in bytes.
func (h *Header) Alignment() uint64 {
	if n, ok := h.Uint("general.alignment"); ok && n > 0 {
		return n
	}
	return 32
}

// Check compares the tensor table with the size of the file in bytes: every
// tensor must lie inside the file, and no two may overlap. Errors wrap
// ErrFormat.
func (h *Header) Check(fileSize int64) error {
	if h.DataOffset > fileSize {
		return errf("it ends inside its header, at %d of %d bytes; fetch it again", fileSize, h.DataOffset)
	}
	data := uint64(fileSize - h.DataOffset)
	order := make([]int, len(h.Tensors))
	for i := range order {
		order[i] = i
	}
	sortByOffset(order, h.Tensors)
	var end uint64
	for _, i := range order {
		t := h.Tensors[i]
		size := t.Bytes()
		if t.Offset > data || size > data-t.Offset {
			return errf("tensor %q ends at byte %d, the file at %d: it is truncated; fetch it again",
				t.Name, uint64(h.DataOffset)+t.Offset+size, fileSize)
		}
		if t.Offset < end {
			return errf("tensor %q overlaps the one before it", t.Name)
		}
		end = t.Offset + size
	}
	return nil
}

// IsTokenizerTable reports whether key holds one of the tokenizer's long lists,
// which the engine does not use.
func IsTokenizerTable(key string) bool {
	return strings.HasPrefix(key, "tokenizer.") &&
		(strings.HasSuffix(key, ".tokens") || strings.HasSuffix(key, ".scores") ||
			strings.HasSuffix(key, ".token_type") || strings.HasSuffix(key, ".merges") ||
			strings.Contains(key, "chat_template") || strings.HasSuffix(key, "precompiled_charsmap") ||
			strings.HasSuffix(key, "huggingface.json"))
}
