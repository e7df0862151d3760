package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	library "github.com/ollama/ollama/convert"
	fsggml "github.com/ollama/ollama/fs/ggml"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// refusal is an error about a directory. It matches engine.ErrUnsupported
// without having its text.
type refusal string

func (r refusal) Error() string        { return string(r) }
func (r refusal) Is(target error) bool { return target == engine.ErrUnsupported }

// ErrUnsupported is wrapped when Options.Check refuses a model.
var ErrUnsupported error = refusal("a model that cannot be computed")

// Options are the options of a conversion.
type Options struct {
	Quantize string // q8_0, q4_K_M or f16; "": the numbers stay as they are
	Temp     string // directory for the temporary file, which is as large as the model

	// Check returns an error if a model with this metadata cannot be computed.
	Check func(md interface{ Value(key string) any }) error
	// Progress is called with bytes of weights read; they are read twice. May
	// be nil.
	Progress func(done, total int64)
}

// Directory converts a Hugging Face directory to a GGUF file, written to out,
// which must be empty. Errors wrap ErrDirectory if the directory is the cause,
// ErrUnsupported if Options.Check refuses the model; others are ctx's and those
// of reading and writing files.
func Directory(ctx context.Context, dir string, out *os.File, opt Options) error {
	q, err := parseQuantization(opt.Quantize)
	if err != nil {
		return err
	}
	c, err := readConfig(dir)
	if err != nil {
		return err
	}
	vocab, err := readVocabulary(dir)
	if err != nil {
		return err
	}
	files, all, err := weights(dir)
	if err != nil {
		return err
	}
	if c.arch == bert {
		maps.DeleteFunc(all, func(name string, _ stored) bool { return unusedByBert(name) })
	}
	var size int64
	for name, t := range all {
		if t.DType == "I64" {
			return errf("%s: tensor %.80q %w", t.file, name, t.foreign())
		}
		size += t.Offsets[1] - t.Offsets[0]
		if t.DType == "U8" && c.arch != "gptoss" {
			return errf("its weights are quantized already (numbers U8); take the model's unquantized files")
		}
	}
	report := throttled(opt.Progress)
	src := &source{ctx: ctx, dir: dir, replaced: c.files, weights: files, hidePieces: vocab.pieces == nil, read: func(n int64) { report(min(n, size), 2*size) }}
	tmp, err := os.CreateTemp(opt.Temp, "*.gguf")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := callLibrary(src, all, tmp); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	m, err := c.look(dir, tmp, vocab, opt)
	if err != nil {
		return err
	}
	mix := &mixer{q: q, blocks: int(m.md.uint(c.arch + ".block_count")), experts: m.md.uint(c.arch + ".expert_count"), tied: c.tied}
	return m.write(ctx, tmp, mix, out, func(done, total int64) {
		report(size+int64(float64(size)*float64(done)/float64(max(1, total))), 2*size)
	})
}

// callLibrary runs the library's conversion of the directory's tensors. It panics
// at some configs.
func callLibrary(src *source, all map[string]stored, tmp *os.File) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errf("the converter failed: %v", p)
		}
	}()
	err = convertTensors(src, all, tmp)
	var disk *fs.PathError
	if err == nil || errors.As(err, &disk) && disk.Path == tmp.Name() || errors.Is(err, ErrDirectory) {
		return err
	}
	return errf("%w", err)
}

// convertTensors does what the library's ConvertModel does, with tensors of our own.
func convertTensors(src *source, all map[string]stored, tmp *os.File) error {
	kv, tokens, err := library.LoadModelMetadata(src)
	if err != nil {
		return err
	}
	by, ok := kv.(library.ModelConverter)
	if !ok {
		return errf("the library has no converter for it")
	}
	tensors, err := src.tensors(all, strings.NewReplacer(by.Replacements()...))
	if err != nil {
		return err
	}
	out := by.Tensors(tensors)
	for _, t := range out {
		t.Shape = slices.Clone(t.Shape)
		slices.Reverse(t.Shape) // GGUF's begin with the dimension that varies fastest
	}
	return fsggml.WriteGGUF(tmp, by.KV(tokens), out)
}

// model is the library's output for a directory.
type model struct {
	md      *metadata
	tensors []gguf.Tensor
	data    int64 // where the tensors' data begin in the temporary file
}

// look reads the library's output, corrects the metadata, and makes sure that
// all tensors are there. It returns those that belong to the language model.
func (c *config) look(dir string, tmp *os.File, vocab *vocabulary, opt Options) (*model, error) {
	st, err := tmp.Stat()
	if err != nil {
		return nil, err
	}
	h, err := gguf.Read(io.NewSectionReader(tmp, 0, st.Size()), st.Size())
	if err == nil {
		err = h.Check(st.Size())
	}
	if err != nil {
		return nil, errf("the converter's output: %w", err)
	}
	md := &metadata{}
	for _, kv := range h.KVs {
		if rest, ok := strings.CutPrefix(kv.Key, c.prefix+"."); ok {
			if strings.HasPrefix(rest, "vision.") || strings.HasPrefix(rest, "mm.") {
				continue // vision tensors are not kept
			}
			if strings.HasPrefix(rest, "rope.") && (kv.Value == float32(0) || kv.Value == "") {
				continue // a value missing in the config, which the library writes as zero
			}
			kv.Key = c.arch + "." + rest
		}
		md.kvs = append(md.kvs, kv)
	}
	slices.SortFunc(md.kvs, func(a, b gguf.KV) int { return strings.Compare(a.Key, b.Key) })
	md.set("general.architecture", c.arch)
	if c.name != "" {
		md.set("general.name", c.name)
	}
	if l := licence(dir); l != "" {
		md.set("general.license", l)
	}
	if c.pool != 0 {
		md.set(c.arch+".pooling_type", c.pool)
	}
	if err := vocab.mend(dir, md); err != nil {
		return nil, err
	}
	if opt.Check != nil {
		if err := opt.Check(md); err != nil {
			return nil, &failure{err.Error(), ErrUnsupported}
		}
	}
	var tensors []gguf.Tensor
	for _, t := range h.Tensors {
		if !strings.HasPrefix(t.Name, "v.") && !strings.HasPrefix(t.Name, "mm.") {
			tensors = append(tensors, t)
		}
	}
	return &model{md, tensors, h.DataOffset}, c.complete(md, tensors)
}

// complete returns an error if a tensor is missing or its shape contradicts the
// config, which would otherwise make the engine fail.
func (c *config) complete(md *metadata, tensors []gguf.Tensor) error {
	shapes := map[string][]uint64{}
	for _, t := range tensors {
		shapes[t.Name] = t.Shape
	}
	width, blocks := md.uint(c.arch+".embedding_length"), md.uint(c.arch+".block_count")
	tokens, _ := md.Value("tokenizer.ggml.tokens").([]string)
	need := func(name string) error {
		if _, ok := shapes[name]; !ok {
			return errf("the tensor %s is missing; does the directory have all files of the model?", name)
		}
		return nil
	}
	global := []string{"token_embd.weight", "output_norm.weight"}
	if c.arch == bert {
		global = []string{"token_embd.weight", "token_types.weight", "position_embd.weight", "token_embd_norm.weight", "token_embd_norm.bias"}
	}
	if !c.tied {
		global = append(global, "output.weight")
	}
	for _, name := range global {
		if err := need(name); err != nil {
			return err
		}
	}
	for i := range blocks {
		for _, part := range c.blocks {
			if err := need(fmt.Sprintf("blk.%d.%s", i, part)); err != nil {
				return err
			}
		}
	}
	if s := shapes["token_embd.weight"]; len(s) != 2 || s[0] != width || s[1] < uint64(len(tokens)) {
		return errf("the embedding has shape %d but the config has a width of %d and the tokenizer %d tokens", s, width, len(tokens))
	}
	heads := md.uint(c.arch + ".attention.head_count")
	kv := max(1, md.uint(c.arch+".attention.head_count_kv"))
	if c.arch == bert {
		kv = heads
	}
	head := md.uint(c.arch + ".attention.key_length")
	if head == 0 && heads > 0 {
		head = width / heads
	}
	ff := md.uint(c.arch + ".feed_forward_length")
	want := map[string][]uint64{
		"attn_norm.weight": {width}, "ffn_norm.weight": {width},
		"attn_q.weight": {width, heads * head}, "attn_k.weight": {width, kv * head}, "attn_v.weight": {width, kv * head},
		"attn_output.weight": {heads * head, width}, "attn_q.bias": {heads * head}, "attn_k.bias": {kv * head}, "attn_v.bias": {kv * head},
		"ffn_gate.weight": {width, ff}, "ffn_up.weight": {width, ff}, "ffn_down.weight": {ff, width},
		"post_attention_norm.weight": {width}, "post_ffw_norm.weight": {width},
	}
	for name, s := range shapes {
		block, part, ok := strings.Cut(strings.TrimPrefix(name, "blk."), ".")
		if w, known := want[part]; ok && strings.HasPrefix(name, "blk.") && known && !slices.Equal(s, w) {
			return errf("the tensor %s of block %s has shape %d where the config requires %d", part, block, s, w)
		}
	}
	for _, name := range []string{"output_norm.weight", "output.weight"} {
		if s, ok := shapes[name]; ok && (s[0] != width || len(s) == 2 && s[1] != shapes["token_embd.weight"][1]) {
			return errf("the tensor %s has shape %d and the embedding %d", name, s, shapes["token_embd.weight"])
		}
	}
	return nil
}

// metadata is a header's metadata while it is being changed.
type metadata struct{ kvs []gguf.KV }

// Value returns a metadata value, or nil.
func (m *metadata) Value(key string) any {
	for _, kv := range m.kvs {
		if kv.Key == key {
			return kv.Value
		}
	}
	return nil
}

func (m *metadata) uint(key string) uint64 {
	n, _ := m.Value(key).(uint32)
	return uint64(n)
}

// remove removes a key.
func (m *metadata) remove(key string) {
	m.kvs = slices.DeleteFunc(m.kvs, func(kv gguf.KV) bool { return kv.Key == key })
}

// set keeps the keys sorted, so that the file's bytes do not depend on the
// order of insertion.
func (m *metadata) set(key string, v any) {
	at, found := slices.BinarySearchFunc(m.kvs, key, func(kv gguf.KV, k string) int { return strings.Compare(kv.Key, k) })
	if found {
		m.kvs[at].Value = v
		return
	}
	m.kvs = slices.Insert(m.kvs, at, gguf.KV{Key: key, Value: v})
}

// throttled limits the calls of f to a few per second.
func throttled(f func(done, total int64)) func(done, total int64) {
	if f == nil {
		return func(int64, int64) {}
	}
	var last atomic.Int64
	return func(done, total int64) {
		now := time.Now().UnixMilli()
		if before := last.Load(); now-before > 100 && last.CompareAndSwap(before, now) {
			f(done, total)
		}
	}
}

// source is the directory as the library sees it.
type source struct {
	ctx        context.Context
	dir        string
	replaced   map[string][]byte
	weights    []string
	hidePieces bool
	read       func(total int64)
	sum        atomic.Int64
}

// Open returns a file of the directory, or its replacement.
func (s *source) Open(name string) (fs.File, error) {
	if raw, ok := s.replaced[name]; ok {
		return memory(name, raw), nil
	}
	if !fs.ValidPath(name) || name == "tokenizer.model" && s.hidePieces {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f, err := os.Open(filepath.Join(s.dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(s.weights, name) {
		return f, nil
	}
	return &counted{File: f, src: s}, nil
}

// counted is a file that reports how much of it was read, and fails once the
// context ends.
type counted struct {
	*os.File
	src *source
}

func (c *counted) count(n int, err error) (int, error) {
	c.src.read(c.src.sum.Add(int64(n)))
	return n, err
}

func (c *counted) Read(b []byte) (int, error) {
	if c.src.ctx.Err() != nil {
		return 0, context.Cause(c.src.ctx)
	}
	return c.count(c.File.Read(b))
}

// ReadAt is how the library reads tensors.
func (c *counted) ReadAt(b []byte, at int64) (int, error) {
	if c.src.ctx.Err() != nil {
		return 0, context.Cause(c.src.ctx)
	}
	return c.count(c.File.ReadAt(b, at))
}
