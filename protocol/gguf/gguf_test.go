package gguf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const tiny = "../../contrib/tinymodel/tinytales.gguf"

// everything has one of each kind of value.
func everything() *Header {
	return &Header{Version: 3, KVs: []KV{
		{"general.architecture", "llama"}, {"general.alignment", uint32(64)},
		{"llama.block_count", uint32(2)}, {"llama.embedding_length", uint64(32)}, {"llama.context_length", int32(99)},
		{"u8", uint8(255)}, {"i8", int8(-128)}, {"u16", uint16(65535)}, {"i16", int16(-32768)}, {"i64", int64(math.MinInt64)},
		{"f32", float32(1.5)}, {"f64", math.Pi}, {"yes", true}, {"no", false}, {"empty", ""}, {"text", "häagen ☃ \x00"},
		{"au8", []uint8{1, 2}}, {"ai8", []int8{-1}}, {"au16", []uint16{7}}, {"ai16", []int16{-7}}, {"au32", []uint32{3, 9, 4}},
		{"ai32", []int32{-3}}, {"af32", []float32{0.5}}, {"abool", []bool{true, false}}, {"atext", []string{"a", "", "b"}},
		{"au64", []uint64{math.MaxUint64}}, {"ai64", []int64{-5}}, {"af64", []float64{math.Inf(1)}}, {"none", []string{}},
		{"tokenizer.ggml.tokens", slices.Repeat([]string{"tok"}, 500)}, {"tokenizer.ggml.scores", make([]float32, 500)},
		{"tokenizer.ggml.token_type", make([]int32, 500)}, {"tokenizer.chat_template", strings.Repeat("{{ x }}", 100)},
	}, Tensors: []Tensor{
		{Name: "a", Type: 0, Shape: []uint64{3, 2}, Offset: 64},
		{Name: "b", Type: 8, Shape: []uint64{32, 2, 2}, Offset: 128},
		{Name: "c", Type: 14, Shape: []uint64{256}, Offset: 0x180},
	}}
}

func encode(t testing.TB, h *Header) []byte {
	t.Helper()
	raw, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRoundTrip(t *testing.T) {
	want := everything()
	raw := encode(t, want)
	got, err := Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.KVs, want.KVs) || !reflect.DeepEqual(got.Tensors, want.Tensors) {
		t.Errorf("came back as %v", got)
	}
	if got.DataOffset != int64(len(raw)+63)/64*64 || got.Alignment() != 64 {
		t.Errorf("data at %d, aligned to %d, after %d bytes", got.DataOffset, got.Alignment(), len(raw))
	}
	if got.Blocks() != 2 || got.Width() != 32 || got.Context() != 99 || got.Architecture() != "llama" {
		t.Errorf("%d blocks, width %d, context %d, %q", got.Blocks(), got.Width(), got.Context(), got.Architecture())
	}
	if n, ok := got.Uint("au32"); n != 9 || !ok {
		t.Errorf("the largest of a list: %d", n)
	}
	if _, ok := got.Uint("i8"); ok {
		t.Error("a negative number was taken")
	}
	if got.Value("nothing") != nil || got.String("f32") != "" {
		t.Error("values out of nothing")
	}
	for i, size := range []uint64{24, 136, 210} {
		if n := got.Tensors[i].Bytes(); n != size {
			t.Errorf("tensor %d has %d bytes", i, n)
		}
	}
	if err := got.Check(got.DataOffset + 0x180 + 210); err != nil {
		t.Error(err)
	}
}

// What people have in place of a GGUF file is named, and what to do about it.
func TestForeign(t *testing.T) {
	oid := strings.Repeat("0a", 32)
	safetensors := append(binary.LittleEndian.AppendUint64(nil, 20), `{"a":{"dtype":"F32"}}`...)
	for raw, want := range map[string]string{
		"version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\nsize 4661211808\n": "a Git LFS pointer, which stands for a file of 4661211808 bytes",
		"version https://git-lfs.github.com/spec/v1\r\noid sha256:" + oid + "\r\nsize x\r\n":    "a Git LFS pointer; fetch",
		"/annex/objects/MD5E-s1--00.gguf\n":                                                     "a git-annex pointer",
		"<!DOCTYPE html>\n<html class=\"\">":                                                    "an HTML page",
		"\ufeff\r\n  <HTML><head>":                                                              "an HTML page",
		"<?xml version='1.0'?><Error><Code>AccessDenied</Code>":                                 "an XML document",
		`{"error":"Invalid credentials in Authorization header"}`:                               "JSON that begins with",
		"Entry not found":                           `a text that begins with "Entry not found"`,
		"PK\x03\x04archive/data.pkl":                "a ZIP archive",
		"\x1f\x8b\x08\x00":                          "gzip",
		"(\xb5/\xfd\x04\x58":                        "Zstandard",
		"\x80\x02\x8a\x0al\xfc":                     "a PyTorch checkpoint",
		"tjgg\x03\x00\x00\x00":                      "GGJT format that GGUF replaced",
		"lmgg\x00\x7d\x00\x00":                      "GGML format that GGUF replaced",
		"fmgg\x01\x00\x00\x00":                      "GGMF format that GGUF replaced",
		"algg\x01\x00\x00\x00":                      "adapter",
		"FUGG\x00\x00\x00\x03":                      "big-endian",
		string(safetensors):                         "a safetensors file",
		strings.Repeat("\x00", 600):                 "download that did not finish",
		strings.Repeat("\x00", 257) + "ustar\x0000": "a tar archive",
		"\x08\x07\x12\x07pytorch":                   `it does not begin with "GGUF"`,
	} {
		_, err := Read(strings.NewReader(raw), int64(len(raw)))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", raw, err, want)
		}
	}
	for version, want := range map[string]string{"\x01\x00\x00\x00": "before October 2023", "\x00\x00\x00\x03": "big-endian"} {
		raw := Magic + version + strings.Repeat("\x00", 40)
		if _, err := Read(strings.NewReader(raw), int64(len(raw))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("version %q: %v, want %q", version, err, want)
		}
	}
}

// A number may have any of the format's types.
func TestWidths(t *testing.T) {
	for _, v := range []any{uint8(64), int8(64), uint16(64), int16(64), uint32(64), int32(64), uint64(64), int64(64), float32(64), float64(64),
		[]uint8{64, 2}, []int8{64}, []uint16{1, 64}, []int16{64}, []uint32{64}, []int32{64, -1}, []uint64{64}, []int64{64}, []float32{64}, []float64{64}} {
		h := everything()
		h.KVs[1].Value, h.KVs[2].Value, h.KVs[4].Value = v, v, v
		h.Tensors = nil
		raw := encode(t, h)
		got, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil || got.Alignment() != 64 || got.Blocks() != 64 || got.Context() != 64 || got.DataOffset%64 != 0 {
			t.Errorf("%T: %v: %+v", v, err, got)
			continue
		}
		stage, err := got.Stage(nil, func(Tensor) int64 { return -1 })
		if err != nil {
			t.Fatal(err)
		}
		back, err := Read(bytes.NewReader(stage), int64(len(stage)))
		if err != nil || back.Value("general.alignment") != uint32(64) {
			t.Errorf("%T: a stage file's alignment is %v: %v", v, back.Value("general.alignment"), err)
		}
	}
	for _, v := range []any{true, "64", int8(-1), float32(0.5), math.NaN(), []uint32{}, []string{"64"}} {
		h := everything()
		h.KVs[1].Value = v
		raw := encode(t, h)
		if _, err := Read(bytes.NewReader(raw), int64(len(raw))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "general.alignment") {
			t.Errorf("alignment %v: %v", v, err)
		}
	}
}

// Types that ggml once had are named; a newer shoal will not know them either.
func TestRemovedTypes(t *testing.T) {
	for kind, name := range removed {
		h := everything()
		h.Tensors[0].Type = kind
		raw := encode(t, h)
		if _, err := Read(bytes.NewReader(raw), int64(len(raw))); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "newer") {
			t.Errorf("type %d: %v", kind, err)
		}
	}
}

// The smallest file, by hand from the format's description.
func TestVector(t *testing.T) {
	raw, err := hex.DecodeString(strings.Join(strings.Fields(`
		47475546 03000000 0100000000000000 0200000000000000
		0400000000000000 6e616d65 08000000 0200000000000000 6869
		0100000000000000 6c 09000000 05000000 0200000000000000 07000000 ffffffff
		0100000000000000 74 02000000 2000000000000000 0300000000000000 02000000 4000000000000000`), ""))
	if err != nil {
		t.Fatal(err)
	}
	h, err := Read(bytes.NewReader(raw), 1000)
	if err != nil {
		t.Fatal(err)
	}
	want := Header{Version: 3, KVs: []KV{{"name", "hi"}, {"l", []int32{7, -1}}},
		Tensors: []Tensor{{Name: "t", Type: 2, Shape: []uint64{32, 3}, Offset: 64}}, DataOffset: int64(len(raw)+31) / 32 * 32}
	h.index = nil
	if !reflect.DeepEqual(*h, want) {
		t.Errorf("read %+v", *h)
	}
	if got := encode(t, &want); !bytes.Equal(got, raw) {
		t.Errorf("wrote %x", got)
	}
}

func TestReadRefused(t *testing.T) {
	good := encode(t, everything())
	put := func(at int, v uint64) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint64(b[at:], v)
		return b
	}
	change := func(f func(h *Header)) []byte {
		h := everything()
		f(h)
		return encode(t, h)
	}
	for name, raw := range map[string][]byte{
		"empty":               {},
		"text":                []byte("once upon a time there was no model"),
		"magic only":          []byte("GGUF"),
		"version 1":           put(4, 1|3<<32)[:100],
		"version 99":          append([]byte("GGUF\x63\x00\x00\x00"), good[8:]...),
		"big-endian":          append([]byte("GGUF\x00\x00\x00\x03"), good[8:]...),
		"too many tensors":    put(8, 1<<60),
		"too many entries":    put(16, 1<<62),
		"key too long":        put(24, 1<<40),
		"key of 70000":        change(func(h *Header) { h.KVs[0].Key = strings.Repeat("k", 70_000) }),
		"key twice":           change(func(h *Header) { h.KVs[3].Key = h.KVs[2].Key }),
		"tensor twice":        change(func(h *Header) { h.Tensors[1].Name = "a" }),
		"alignment 3":         change(func(h *Header) { h.KVs[1].Value = uint32(3) }),
		"alignment 2^30":      change(func(h *Header) { h.KVs[1].Value = uint32(1 << 30) }),
		"no dimensions":       change(func(h *Header) { h.Tensors[0].Shape = nil }),
		"five dimensions":     change(func(h *Header) { h.Tensors[0].Shape = []uint64{1, 1, 1, 1, 1} }),
		"dimension 0":         change(func(h *Header) { h.Tensors[0].Shape = []uint64{3, 0} }),
		"overflowing shape":   change(func(h *Header) { h.Tensors[0].Shape = []uint64{1 << 33, 1 << 33} }),
		"half a block":        change(func(h *Header) { h.Tensors[1].Shape[0] = 31 }),
		"unknown tensor type": change(func(h *Header) { h.Tensors[0].Type = 77 }),
		"unaligned":           change(func(h *Header) { h.Tensors[0].Offset = 65 }),
		"offset 2^60":         change(func(h *Header) { h.Tensors[0].Offset = 1 << 60 }),
	} {
		h, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
	for n := range good { // cut off anywhere
		if _, err := Read(bytes.NewReader(good[:n]), int64(n)); !errors.Is(err, ErrFormat) {
			t.Fatalf("cut off at %d: %v", n, err)
		}
		if _, err := Read(bytes.NewReader(good[:n]), 1<<40); !errors.Is(err, ErrFormat) { // the size was a lie
			t.Fatalf("cut off at %d of a file said to be long: %v", n, err)
		}
	}
	boom := errors.New("boom")
	if _, err := Read(io.MultiReader(bytes.NewReader(good[:200]), errReader{boom}), 1<<30); !errors.Is(err, boom) || errors.Is(err, ErrFormat) {
		t.Errorf("a read error: %v", err)
	}
}

type errReader struct{ error }

func (e errReader) Read([]byte) (int, error) { return 0, e.error }

// A short file that claims long texts and lists costs little memory.
func TestReadAllocates(t *testing.T) {
	le := binary.LittleEndian
	head := func(tensors, kvs uint64) []byte {
		return le.AppendUint64(le.AppendUint64([]byte("GGUF\x03\x00\x00\x00"), tensors), kvs)
	}
	key := func(b []byte) []byte { return append(le.AppendUint64(b, 1), 'k') }
	const claim = 400 << 20
	for name, raw := range map[string][]byte{
		"text":    le.AppendUint64(le.AppendUint32(key(head(0, 1)), kindString), claim),
		"list":    le.AppendUint64(le.AppendUint32(le.AppendUint32(key(head(0, 1)), kindArray), kindU8), claim),
		"tensors": head(claim/24, 0),
		"entries": head(0, claim/13),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Read(bytes.NewReader(raw), 1<<40); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
			t.Errorf("%s: %d bytes for a file of %d", name, got, len(raw))
		}
	}
}

func TestCheck(t *testing.T) {
	h := everything()
	h.DataOffset = 4096
	end := int64(4096 + 0x180 + 210)
	for name, c := range map[string]struct {
		change func()
		size   int64
		ok     bool
	}{
		"fits":                {func() {}, end, true},
		"one byte short":      {func() {}, end - 1, false},
		"ends in the header":  {func() {}, 4000, false},
		"overlap":             {func() { h.Tensors[1].Offset = 64 }, end, false},
		"reach over the next": {func() { h.Tensors[0].Shape = []uint64{3, 20} }, end, false},
		"beyond all":          {func() { h.Tensors[2].Offset = 1 << 50 }, end, false},
	} {
		save := everything().Tensors
		c.change()
		if err := h.Check(c.size); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		h.Tensors = save
	}
}

func TestStage(t *testing.T) {
	src := encode(t, everything())
	h, err := Read(bytes.NewReader(src), int64(len(src)))
	if err != nil {
		t.Fatal(err)
	}
	const base = 1 << 16
	at := func(tn Tensor) int64 {
		if tn.Name == "b" {
			return -1
		}
		return base + int64(tn.Offset)
	}
	raw, err := h.Stage([]KV{{"u8", uint8(1)}, {"new", float32(10_000)}}, at)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(raw)) != s.DataOffset {
		t.Errorf("%d bytes, data from %d", len(raw), s.DataOffset)
	}
	if len(s.Tensors) != 2 || s.DataOffset+int64(s.Tensors[0].Offset) != base+64 || s.DataOffset+int64(s.Tensors[1].Offset) != base+0x180 {
		t.Errorf("tensors %v from %d", s.Tensors, s.DataOffset)
	}
	if s.Value("u8") != uint8(1) || s.Value("new") != float32(10_000) || s.Value("text") != h.Value("text") {
		t.Error("metadata is not what it was, but for what was given")
	}
	if n := len(s.Value("tokenizer.ggml.tokens").([]string)); n == 0 || n > 16 {
		t.Errorf("%d tokens are left", n)
	}
	if s.Value("tokenizer.chat_template") != nil {
		t.Error("the chat template is still there")
	}
	if _, err := h.Stage(nil, func(Tensor) int64 { return 64 }); err == nil {
		t.Error("a tensor inside the header was taken")
	}
	if _, err := h.Stage(nil, func(Tensor) int64 { return base + 1 }); err == nil {
		t.Error("an unaligned tensor was taken")
	}
	if _, err := h.Stage([]KV{{"odd", struct{}{}}}, at); err == nil {
		t.Error("a value of no GGUF type was taken")
	}
}

// A split model's first part says that it is one; a stage file is not.
func TestStageOfSplit(t *testing.T) {
	h := everything()
	h.KVs = append(h.KVs, KV{"split.no", uint16(0)}, KV{"split.count", uint16(3)}, KV{"split.tensors.count", int32(9)})
	raw := encode(t, h)
	h, err := Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = h.Stage(nil, func(Tensor) int64 { return -1 }); err != nil {
		t.Fatal(err)
	}
	s, err := Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil || s.Value("split.count") != nil || s.Value("split.no") != nil || len(s.Tensors) != 0 {
		t.Errorf("split.count is %v: %v", s.Value("split.count"), err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(encode(f, everything()))
	if raw, err := os.ReadFile(tiny); err == nil {
		f.Add(raw[:4096])
	}
	f.Add([]byte("GGUF\x03\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("%v does not wrap ErrFormat", err)
			}
			return
		}
		if err := h.Check(int64(len(raw))); err != nil && !errors.Is(err, ErrFormat) {
			t.Fatalf("%v does not wrap ErrFormat", err)
		}
		// What was read is written the same, up to booleans that are neither 0 nor 1.
		again, err := h.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		h2, err := Read(bytes.NewReader(again), int64(len(again)))
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		third, err := h2.Append(nil)
		if err != nil || !bytes.Equal(again, third) || h2.DataOffset != h.DataOffset {
			t.Fatalf("written anew it is another header: %v", err)
		}
		// A stage file's header reads back with the tensors where they were put.
		const base = 1 << 21
		odd := func(tn Tensor) int64 {
			if len(tn.Name)%2 == 0 || tn.Offset > 1<<40 {
				return -1
			}
			return base + int64(tn.Offset)
		}
		raw, err = h.Stage([]KV{{"shoal.test", uint32(7)}}, odd)
		if err != nil {
			return
		}
		s, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			t.Fatalf("the stage header cannot be read: %v", err)
		}
		n := 0
		for _, tn := range h.Tensors {
			at := odd(tn)
			if at < 0 {
				continue
			}
			if s.Tensors[n].Name != tn.Name || s.DataOffset+int64(s.Tensors[n].Offset) != at {
				t.Fatalf("tensor %q is listed as %v behind %d", tn.Name, s.Tensors[n], s.DataOffset)
			}
			n++
		}
		if n != len(s.Tensors) {
			t.Fatalf("%d tensors are listed, %d were put", len(s.Tensors), n)
		}
	})
}
