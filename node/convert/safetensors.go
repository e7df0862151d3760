package convert

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// ErrDirectory is wrapped by every error about the directory's content.
var ErrDirectory error = refusal("cannot convert the directory")

func errf(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDirectory, fmt.Errorf(format, args...))
}

// Limits that no real directory reaches.
const (
	maxHeader = 100 << 20 // bytes; the format's own limit
	maxJSON   = 256 << 20 // bytes of config.json, tokenizer.json, ...
	maxFiles  = 10_000
	maxDims   = 8
)

// indexName is the file that says which tensor is in which file.
const indexName = "model.safetensors.index.json"

// numberSize is the size in bytes of a number, by type, for the types that can
// be converted, and those of the positions of an encoder, which are left out.
var numberSize = map[string]int64{"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I64": 8}

// stored is a tensor in a safetensors file.
type stored struct {
	DType   string  `json:"dtype"`
	Shape   []int64 `json:"shape"`
	Offsets []int64 `json:"data_offsets"` // begin and end, counted from the end of the header

	file string // its name
	base int64  // where the header ends, in bytes
}

// readSafetensors reads a file's header and checks it against the file's size.
// The format: 8 bytes with the header's length, little-endian; the header, in
// JSON; the tensors, without gaps.
func readSafetensors(r io.Reader, size int64) (map[string]stored, error) {
	var raw [8]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return nil, errors.New("it is too short for a safetensors file")
	}
	n := binary.LittleEndian.Uint64(raw[:])
	if n > maxHeader || int64(n) > size-8 {
		start, _ := io.ReadAll(io.LimitReader(r, 500))
		if is := gguf.Foreign(append(raw[:], start...)); is != "" && !bytes.HasPrefix(start, []byte("{")) {
			return nil, fmt.Errorf("it is %s", is)
		}
		return nil, fmt.Errorf("it claims a header of %d bytes, but the file has %d: it is not a safetensors file, or is incomplete", n, size)
	}
	head := make([]byte, n)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("it ends inside its header: %w", err)
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(head, &entries); err != nil {
		return nil, fmt.Errorf("its header is not JSON: %w", err)
	}
	delete(entries, "__metadata__")
	out := make(map[string]stored, len(entries))
	type run struct {
		name     string
		from, to int64
	}
	var runs []run
	for name, e := range entries {
		var t stored
		if err := json.Unmarshal(e, &t); err != nil {
			return nil, fmt.Errorf("tensor %.80q: %w", name, err)
		}
		if err := t.check(size - 8 - int64(n)); err != nil {
			return nil, fmt.Errorf("tensor %.80q %w", name, err)
		}
		t.base = 8 + int64(n)
		out[name] = t
		runs = append(runs, run{name, t.Offsets[0], t.Offsets[1]})
	}
	slices.SortFunc(runs, func(a, b run) int { return int(max(-1, min(1, a.from-b.from))) })
	for i := 1; i < len(runs); i++ {
		if runs[i].from < runs[i-1].to {
			return nil, fmt.Errorf("tensors %.80q and %.80q overlap", runs[i-1].name, runs[i].name)
		}
	}
	return out, nil
}

// foreign is the error for numbers that cannot be converted.
func (t *stored) foreign() error {
	return fmt.Errorf("has numbers of type %.20q; F32, F16 and BF16 can be converted, so take the model's unquantized files", t.DType)
}

// check compares a tensor with the number of bytes that the file has for
// tensors.
func (t *stored) check(room int64) error {
	each, known := numberSize[t.DType]
	if !known {
		return t.foreign()
	}
	if len(t.Shape) == 0 || len(t.Shape) > maxDims {
		return fmt.Errorf("has %d dimensions", len(t.Shape))
	}
	bytes := each
	for _, n := range t.Shape {
		if n <= 0 || n > 1<<40 || bytes > 1<<46/n {
			return fmt.Errorf("has an impossible shape %d", t.Shape)
		}
		bytes *= n
	}
	if len(t.Offsets) != 2 || t.Offsets[0] < 0 || t.Offsets[1] < t.Offsets[0] || t.Offsets[1]-t.Offsets[0] != bytes {
		return fmt.Errorf("has a shape %d of %d bytes, but its offsets are %d", t.Shape, bytes, t.Offsets)
	}
	if t.Offsets[1] > room {
		return fmt.Errorf("ends at byte %d of %d: the file is truncated; fetch it again", t.Offsets[1], room)
	}
	return nil
}

// weights reads a directory's safetensors headers: it returns the files that
// make up the model, and their tensors.
func weights(dir string) (files []string, all map[string]stored, err error) {
	index, listed, err := readIndex(dir)
	if err != nil {
		return nil, nil, err
	}
	if listed {
		files = slices.Compact(slices.Sorted(maps.Values(index)))
	} else {
		found, err := filepath.Glob(filepath.Join(escape(dir), "*.safetensors"))
		if err != nil {
			return nil, nil, err
		}
		for _, f := range found {
			files = append(files, filepath.Base(f))
		}
	}
	switch {
	case len(files) == 0:
		return nil, nil, errf("%s has no *.safetensors files; those are what can be converted", dir)
	case len(files) > maxFiles:
		return nil, nil, errf("it has %d safetensors files", len(files))
	case !listed && len(files) > 1:
		return nil, nil, errf("%s has %d safetensors files but no %s, which says which of them belong together; fetch it too", dir, len(files), indexName)
	}
	all = map[string]stored{}
	for _, name := range files {
		if name != filepath.Base(name) || !strings.HasSuffix(name, ".safetensors") {
			return nil, nil, errf("%s names the file %.200q", indexName, name)
		}
		ts, err := readFile(filepath.Join(dir, name))
		if err != nil {
			return nil, nil, errf("%s: %w", name, err)
		}
		for t, s := range ts {
			if _, twice := all[t]; twice {
				return nil, nil, errf("the tensor %.80q is in two files", t)
			}
			if want, ok := index[t]; listed && (!ok || want != name) {
				return nil, nil, errf("%s has the tensor %.80q, but %s says that it is in %.80q", name, t, indexName, want)
			}
			s.file = name
			all[t] = s
		}
	}
	for t, f := range index {
		if _, ok := all[t]; !ok {
			return nil, nil, errf("the tensor %.80q is missing: %s says that it is in %s, but it is not", t, indexName, f)
		}
	}
	return files, all, nil
}

func readFile(path string) (map[string]stored, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	return readSafetensors(f, st.Size())
}

// readIndex returns the file of each tensor, if the directory has an index.
func readIndex(dir string) (of map[string]string, listed bool, err error) {
	raw, err := readSmall(dir, indexName)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	var index struct {
		Map map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &index); err != nil || len(index.Map) == 0 {
		return nil, false, errf("%s lists no tensors", indexName)
	}
	return index.Map, true, nil
}

// readSmall reads a file of the directory other than weights.
func readSmall(dir, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return nil, errf("%s: %w", name, err)
	}
	if len(raw) > maxJSON {
		return nil, errf("%s has more than %d MiB", name, maxJSON>>20)
	}
	if bytes.HasPrefix(raw, []byte("version https://git-lfs")) {
		return nil, errf("%s is %s", name, gguf.Foreign(raw))
	}
	return bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")), nil
}

// escape escapes the characters of a path that filepath.Glob would read as a
// pattern.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
