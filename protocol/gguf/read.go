package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
)

// Read reads a header from the start of a file of the given size in bytes. It
// reads no further than the header, and allocates nothing that the file is too
// short to fill. Errors about the bytes wrap [ErrFormat]; others are those of
// r.
func Read(r io.Reader, fileSize int64) (*Header, error) {
	d := &decoder{r: bufio.NewReaderSize(r, 1<<16), left: uint64(max(0, min(fileSize, MaxHeader)))}
	h, err := d.header()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errf("it ends inside its header, at byte %d; fetch it again", d.read)
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

type decoder struct {
	r    *bufio.Reader
	read uint64
	left uint64 // bytes that may still be read
	buf  [8]byte
}

func (d *decoder) bytes(b []byte) error {
	if uint64(len(b)) > d.left {
		return io.ErrUnexpectedEOF
	}
	n, err := io.ReadFull(d.r, b)
	d.read += uint64(n)
	d.left -= uint64(n)
	return err
}

func (d *decoder) u32() (uint32, error) {
	err := d.bytes(d.buf[:4])
	return binary.LittleEndian.Uint32(d.buf[:4]), err
}

func (d *decoder) u64() (uint64, error) {
	err := d.bytes(d.buf[:8])
	return binary.LittleEndian.Uint64(d.buf[:8]), err
}

// count reads a count of items that take at least size bytes each.
func (d *decoder) count(what string, size uint64) (int, error) {
	n, err := d.u64()
	if err != nil {
		return 0, err
	}
	if n > d.left/size {
		return 0, errf("it claims %d %s, more than its bytes can hold", n, what)
	}
	return int(n), nil
}

func (d *decoder) text(limit uint64) (string, error) {
	n, err := d.count("bytes of text", 1)
	if err != nil {
		return "", err
	}
	if uint64(n) > limit {
		return "", errf("a name of %d bytes; %d are allowed", n, limit)
	}
	// The length is only the file's claim, so grow as the bytes arrive.
	b := make([]byte, 0, min(n, 1<<16))
	for len(b) < n {
		at := len(b)
		b = slices.Grow(b, 1)
		b = b[:min(n, cap(b))]
		if err := d.bytes(b[at:]); err != nil {
			return "", err
		}
	}
	return string(b), nil
}

func (d *decoder) header() (*Header, error) {
	if err := d.bytes(d.buf[:4]); err != nil {
		if d.read == 0 {
			return nil, errf("the file is empty")
		}
		return nil, err
	}
	if string(d.buf[:4]) != Magic {
		return nil, d.foreign()
	}
	h := &Header{index: map[string]int{}}
	var err error
	if h.Version, err = d.u32(); err != nil {
		return nil, err
	}
	switch {
	case h.Version == 2, h.Version == 3:
	case bits.ReverseBytes32(h.Version) <= 3 && h.Version != 0:
		return nil, errf("it is big-endian; convert it to little-endian first")
	case h.Version == 1:
		return nil, errf("version 1 of the format, from before October 2023; versions 2 and 3 are supported: take a newer file of the model")
	default:
		return nil, errf("version %d; versions 2 and 3 are supported", h.Version)
	}
	tensors, err := d.count("tensors", 24)
	if err != nil {
		return nil, err
	}
	kvs, err := d.count("metadata entries", 13)
	if err != nil {
		return nil, err
	}
	for range kvs {
		kv, err := d.kv()
		if err != nil {
			return nil, err
		}
		if _, twice := h.index[kv.Key]; twice {
			return nil, errf("metadata key %q appears twice", kv.Key)
		}
		h.index[kv.Key] = len(h.KVs)
		h.KVs = append(h.KVs, kv)
	}
	if v := h.Value("general.alignment"); v != nil {
		if n, ok := asUint(v); !ok || n == 0 {
			return nil, errf("general.alignment should be a whole number and is %.60q (%T)", fmt.Sprint(v), v)
		}
	}
	align := h.Alignment()
	if align > 1<<20 || bits.OnesCount64(align) != 1 {
		return nil, errf("alignment %d is not a sensible power of two", align)
	}
	seen := make(map[string]bool, min(tensors, 1<<12))
	for range tensors {
		t, err := d.tensor(align)
		if err != nil {
			return nil, err
		}
		if seen[t.Name] {
			return nil, errf("tensor %q appears twice", t.Name)
		}
		seen[t.Name] = true
		h.Tensors = append(h.Tensors, t)
	}
	h.DataOffset = int64(roundUp(d.read, align))
	return h, nil
}

// foreign is the error for a file that does not begin with Magic.
func (d *decoder) foreign() error {
	rest, _ := d.r.Peek(int(min(foreignHead-4, d.left)))
	if is := Foreign(append(d.buf[:4:4], rest...)); is != "" {
		return errf("it is %s", is)
	}
	return errf("it does not begin with %q; shoal runs models in GGUF format", Magic)
}

func (d *decoder) kv() (kv KV, err error) {
	if kv.Key, err = d.text(MaxKey); err != nil {
		return kv, err
	}
	kind, err := d.u32()
	if err != nil {
		return kv, err
	}
	if kind == kindArray {
		kv.Value, err = d.array(kv.Key)
	} else {
		kv.Value, err = d.scalar(kv.Key, kind)
	}
	return kv, err
}

func (d *decoder) scalar(key string, kind uint32) (any, error) {
	if kind == kindString {
		return d.text(math.MaxUint64)
	}
	if kind >= uint32(len(kindSize)) || kind == kindArray {
		return nil, errf("metadata key %q has a value of unknown type %d", key, kind)
	}
	b := d.buf[:kindSize[kind]]
	if err := d.bytes(b); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	switch kind {
	case kindU8:
		return b[0], nil
	case kindI8:
		return int8(b[0]), nil
	case kindU16:
		return le.Uint16(b), nil
	case kindI16:
		return int16(le.Uint16(b)), nil
	case kindU32:
		return le.Uint32(b), nil
	case kindI32:
		return int32(le.Uint32(b)), nil
	case kindF32:
		return math.Float32frombits(le.Uint32(b)), nil
	case kindBool:
		return b[0] != 0, nil
	case kindU64:
		return le.Uint64(b), nil
	case kindI64:
		return int64(le.Uint64(b)), nil
	default:
		return math.Float64frombits(le.Uint64(b)), nil
	}
}

func (d *decoder) array(key string) (any, error) {
	kind, err := d.u32()
	if err != nil {
		return nil, err
	}
	if kind >= uint32(len(kindSize)) {
		return nil, errf("metadata key %q has elements of unknown type %d", key, kind)
	}
	if kind == kindArray {
		return nil, errf("metadata key %q is an array of arrays, which shoal does not support", key)
	}
	n, err := d.count("elements of "+key, kindSize[kind])
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindU8:
		return list[uint8](d, key, kind, n)
	case kindI8:
		return list[int8](d, key, kind, n)
	case kindU16:
		return list[uint16](d, key, kind, n)
	case kindI16:
		return list[int16](d, key, kind, n)
	case kindU32:
		return list[uint32](d, key, kind, n)
	case kindI32:
		return list[int32](d, key, kind, n)
	case kindF32:
		return list[float32](d, key, kind, n)
	case kindBool:
		return list[bool](d, key, kind, n)
	case kindString:
		return list[string](d, key, kind, n)
	case kindU64:
		return list[uint64](d, key, kind, n)
	case kindI64:
		return list[int64](d, key, kind, n)
	default:
		return list[float64](d, key, kind, n)
	}
}

func list[T any](d *decoder, key string, kind uint32, n int) ([]T, error) {
	out := make([]T, 0, min(n, 1<<16))
	for range n {
		v, err := d.scalar(key, kind)
		if err != nil {
			return nil, err
		}
		out = append(out, v.(T))
	}
	return out, nil
}

func (d *decoder) tensor(align uint64) (t Tensor, err error) {
	if t.Name, err = d.text(MaxKey); err != nil {
		return t, err
	}
	dims, err := d.u32()
	if err != nil {
		return t, err
	}
	if dims == 0 || dims > MaxDims {
		return t, errf("tensor %q has %d dimensions; 1 to %d are possible", t.Name, dims, MaxDims)
	}
	elements := uint64(1)
	for range dims {
		n, err := d.u64()
		if err != nil {
			return t, err
		}
		hi, lo := bits.Mul64(elements, n)
		if n == 0 || hi != 0 || lo > 1<<48 {
			return t, errf("tensor %q has an impossible shape", t.Name)
		}
		elements = lo
		t.Shape = append(t.Shape, n)
	}
	kind, err := d.u32()
	if err != nil {
		return t, err
	}
	t.Type = Type(kind)
	info, ok := types[t.Type]
	if was, ok := removed[t.Type]; ok {
		return t, errf("tensor %q has type %d (%s), which ggml has removed; take another quantization of the model, such as Q4_0", t.Name, kind, was)
	}
	if !ok {
		return t, errf("tensor %q has unknown type %d; a newer shoal may know it", t.Name, kind)
	}
	if t.Shape[0]%info.block != 0 {
		return t, errf("tensor %q: rows of %d do not fill blocks of %d", t.Name, t.Shape[0], info.block)
	}
	if t.Offset, err = d.u64(); err != nil {
		return t, err
	}
	if t.Offset%align != 0 || t.Offset > 1<<50 {
		return t, errf("tensor %q has an impossible offset %d", t.Name, t.Offset)
	}
	return t, nil
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }
