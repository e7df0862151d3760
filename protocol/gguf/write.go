package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// Append appends the header's bytes, without the padding before the weights.
// The error is that of a value whose type GGUF does not have.
func (h *Header) Append(b []byte) ([]byte, error) {
	le := binary.LittleEndian
	b = append(b, Magic...)
	b = le.AppendUint32(b, h.Version)
	b = le.AppendUint64(b, uint64(len(h.Tensors)))
	b = le.AppendUint64(b, uint64(len(h.KVs)))
	var err error
	for _, kv := range h.KVs {
		b = appendText(b, kv.Key)
		if b, err = appendValue(b, kv.Value); err != nil {
			return nil, fmt.Errorf("metadata key %q: %w", kv.Key, err)
		}
	}
	for _, t := range h.Tensors {
		b = appendText(b, t.Name)
		b = le.AppendUint32(b, uint32(len(t.Shape)))
		for _, n := range t.Shape {
			b = le.AppendUint64(b, n)
		}
		b = le.AppendUint32(b, uint32(t.Type))
		b = le.AppendUint64(b, t.Offset)
	}
	return b, nil
}

// Stage returns the header of a stage file. Its metadata has the tokenizer's
// tables cut short, no marks of a split model's part, and the extra entries,
// which replace those with the same key. Its tensors are those for which at
// returns an absolute position in the stage file, in bytes (negative: left
// out). Positions must be aligned and lie behind the header, which is padded to
// the alignment. Errors are those of Append, and of a position that does not
// meet these conditions.
func (h *Header) Stage(extra []KV, at func(Tensor) int64) ([]byte, error) {
	s := Header{Version: h.Version}
	replaced := map[string]bool{}
	for _, kv := range extra {
		replaced[kv.Key] = true
	}
	for _, kv := range h.KVs {
		switch {
		case replaced[kv.Key]:
			continue
		case kv.Key == "general.alignment": // readers look for it in this type only
			kv.Value = uint32(h.Alignment())
		case IsTokenizerTable(kv.Key):
			kv.Value = stub(kv.Value)
		case strings.HasPrefix(kv.Key, "split."): // a stage file is a single file
			continue
		}
		if kv.Value != nil {
			s.KVs = append(s.KVs, kv)
		}
	}
	s.KVs = append(s.KVs, extra...)
	var positions []int64
	for _, t := range h.Tensors {
		if p := at(t); p >= 0 {
			s.Tensors = append(s.Tensors, t)
			positions = append(positions, p)
		}
	}
	raw, err := s.Append(nil) // offsets have a fixed width, so this is the final length
	if err != nil {
		return nil, err
	}
	align := h.Alignment()
	data := int64(roundUp(uint64(len(raw)), align))
	for i, p := range positions {
		if p < data || uint64(p)%align != 0 {
			return nil, fmt.Errorf("tensor %q at byte %d: not behind the header of %d bytes, or not aligned to %d", s.Tensors[i].Name, p, data, align)
		}
		s.Tensors[i].Offset = uint64(p - data)
	}
	if raw, err = s.Append(raw[:0]); err != nil {
		return nil, err
	}
	return append(raw, make([]byte, data-int64(len(raw)))...), nil
}

// stub returns what is kept of a tokenizer's table: its first entries, for
// readers that access those without checking the length.
func stub(v any) any {
	const n = 8
	switch v := v.(type) {
	case []string:
		return v[:min(n, len(v))]
	case []float32:
		return v[:min(n, len(v))]
	case []int32:
		return v[:min(n, len(v))]
	}
	return nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func appendValue(b []byte, v any) ([]byte, error) {
	le := binary.LittleEndian
	if kind, ok := kindOf(v); ok {
		return appendScalar(le.AppendUint32(b, kind), v), nil
	}
	switch v := v.(type) {
	case []uint8:
		return appendList(b, kindU8, v), nil
	case []int8:
		return appendList(b, kindI8, v), nil
	case []uint16:
		return appendList(b, kindU16, v), nil
	case []int16:
		return appendList(b, kindI16, v), nil
	case []uint32:
		return appendList(b, kindU32, v), nil
	case []int32:
		return appendList(b, kindI32, v), nil
	case []float32:
		return appendList(b, kindF32, v), nil
	case []bool:
		return appendList(b, kindBool, v), nil
	case []string:
		return appendList(b, kindString, v), nil
	case []uint64:
		return appendList(b, kindU64, v), nil
	case []int64:
		return appendList(b, kindI64, v), nil
	case []float64:
		return appendList(b, kindF64, v), nil
	}
	return nil, fmt.Errorf("a %T has no GGUF type", v)
}

func appendList[T any](b []byte, kind uint32, v []T) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, kindArray)
	b = le.AppendUint32(b, kind)
	b = le.AppendUint64(b, uint64(len(v)))
	for _, x := range v {
		b = appendScalar(b, x)
	}
	return b
}

func kindOf(v any) (uint32, bool) {
	switch v.(type) {
	case uint8:
		return kindU8, true
	case int8:
		return kindI8, true
	case uint16:
		return kindU16, true
	case int16:
		return kindI16, true
	case uint32:
		return kindU32, true
	case int32:
		return kindI32, true
	case float32:
		return kindF32, true
	case bool:
		return kindBool, true
	case string:
		return kindString, true
	case uint64:
		return kindU64, true
	case int64:
		return kindI64, true
	case float64:
		return kindF64, true
	}
	return 0, false
}

func appendScalar(b []byte, v any) []byte {
	le := binary.LittleEndian
	switch v := v.(type) {
	case uint8:
		return append(b, v)
	case int8:
		return append(b, byte(v))
	case uint16:
		return le.AppendUint16(b, v)
	case int16:
		return le.AppendUint16(b, uint16(v))
	case uint32:
		return le.AppendUint32(b, v)
	case int32:
		return le.AppendUint32(b, uint32(v))
	case float32:
		return le.AppendUint32(b, math.Float32bits(v))
	case bool:
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	case string:
		return appendText(b, v)
	case uint64:
		return le.AppendUint64(b, v)
	case int64:
		return le.AppendUint64(b, uint64(v))
	case float64:
		return le.AppendUint64(b, math.Float64bits(v))
	}
	return b
}
