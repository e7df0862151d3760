package ggml

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/ollama/ollama/ml"
	"github.com/ollama/ollama/model"
	"github.com/ollama/ollama/model/input"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/engine/tune"
	"github.com/shoalnet/shoal/node/fence"
	"github.com/shoalnet/shoal/node/remedy"
)

// libraryVersion is that of github.com/ollama/ollama in go.mod.
const libraryVersion = "v0.24.0"

// computing serializes passes: ggml's CPU backend is one for the process.
var computing sync.Mutex

// Backend is this package as an engine's process uses it.
type Backend struct{}

// Load is Load.
func (Backend) Load(ctx context.Context, cfg engine.Config, log *slog.Logger) (engine.Engine, error) {
	return Load(ctx, cfg, log)
}

// Fence lists what a process needs that computes with ggml: its stage file, the
// back ends for GPUs, and, if it may compute on a GPU, what drivers ask for.
func (Backend) Fence(cfg *engine.Config) fence.Rules { return fenceRules(cfg) }

// local is an engine in this process.
type local struct {
	info    engine.Info
	backend ml.Backend
	unmap   func() // of the weights' file; nil: they were copied
	arch    *arch
	tuner   *tune.Threads
	log     *slog.Logger
	exact   bool
	closed  bool

	buffer   unsafe.Pointer // of the last pass; nil: given back, or none
	released time.Time      // when cells that nobody refers to were last given back
}

// Load loads a span in this process. It is an engine.Loader.
func Load(ctx context.Context, cfg engine.Config, log *slog.Logger) (_ engine.Engine, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if _, err := os.Stat(cfg.Path); err != nil {
		return nil, err
	}
	if cfg.KVTokens < 1 || cfg.MaxSeqs < 1 || cfg.MaxBatch < 1 {
		return nil, fmt.Errorf("engine: %d KV tokens, %d sequences, %d rows a pass: all must be at least 1", cfg.KVTokens, cfg.MaxSeqs, cfg.MaxBatch)
	}
	if cfg.KVTokens > maxCells {
		return nil, fmt.Errorf("%w: %d KV tokens, of which at most %d can be told apart", engine.ErrMemory, cfg.KVTokens, maxCells)
	}
	setLibraryDirs()
	dtype := ml.DTypeF16
	if cfg.KVType == "f32" {
		dtype = ml.DTypeF32
	}
	computing.Lock()
	defer computing.Unlock()
	defer recovered(&err)

	threads := cfg.Threads
	if threads <= 0 {
		threads = runtime.NumCPU()
	}
	params := ml.BackendParams{AllocMemory: true, NumThreads: threads, FlashAttention: ml.FlashAttentionDisabled}
	if params.GPULayers, err = placement(cfg); err != nil {
		return nil, err
	}
	m, err := model.New(cfg.Path, params)
	if errors.Is(err, model.ErrUnsupportedModel) || errors.Is(err, model.ErrUnsupportedTokenizer) {
		err = fmt.Errorf("%w: %w", engine.ErrUnsupported, err)
	}
	if err != nil {
		return nil, fmt.Errorf("loading %d-%d: %w", cfg.From, cfg.To, err)
	}
	l := &local{backend: m.Backend(), log: log, exact: cfg.Exact}
	defer func() {
		if err != nil {
			l.free()
		}
	}()
	c := l.backend.Config()
	if l.arch, err = adapt(m, c, cfg.MaxBatch); err != nil {
		return nil, err
	}
	l.info = engine.Info{
		Engine: engine.BuiltIn, Version: libraryVersion, KVType: cmp.Or(cfg.KVType, "f16"), Back: -1,
		Arch: c.Architecture(), Width: int(c.Uint("embedding_length")), Blocks: l.arch.blocks,
		From: cfg.From, To: cfg.To, KVTokens: cfg.KVTokens, MaxSeqs: cfg.MaxSeqs, MaxBatch: cfg.MaxBatch,
		Rollback: engine.WindowMemory(cfg.MaxBatch),
	}
	if cfg.From < 0 || cfg.To <= cfg.From || cfg.To > l.info.Blocks {
		return nil, fmt.Errorf("engine: blocks %d-%d of a model that has %d", cfg.From, cfg.To, l.info.Blocks)
	}
	if err := l.complete(); err != nil {
		return nil, err
	}
	var mapped uint64
	if l.unmap, mapped, err = loadWeights(ctx, l.backend, cfg.Path); err != nil {
		return nil, fmt.Errorf("loading weights: %w", err)
	}
	perSeq := max(1, cfg.KVTokens/cfg.MaxSeqs)
	l.arch.cache.Init(l.backend, dtype, cfg.MaxSeqs+1, perSeq, cfg.MaxBatch) // one more for companions
	l.tuner = newTuner(l.backend, threads)
	l.reserve()
	l.measureMemory(mapped)
	l.info.Exact = (l.exact || companyRows() == 1) && len(l.info.Devices) == 1 // on the processor alone
	l.released = time.Now()
	return l, nil
}

// placement puts the span's layers on the first GPU wanted, all of them; more
// than one GPU share the blocks evenly. None: the CPU.
func placement(cfg engine.Config) (ml.GPULayersList, error) {
	gpus, err := gpuDevices(cfg.Path, cfg.Devices)
	if err != nil || len(gpus) == 0 {
		return nil, err
	}
	list := make(ml.GPULayersList, len(gpus))
	n := cfg.To - cfg.From
	for i, g := range gpus {
		list[i] = ml.GPULayers{DeviceID: g.DeviceID}
		for b := cfg.From + n*i/len(gpus); b < cfg.From+n*(i+1)/len(gpus); b++ {
			list[i].Layers = append(list[i].Layers, b)
		}
	}
	return list, nil
}

// complete looks for the tensors that the span cannot do without.
func (l *local) complete() error {
	a := l.arch
	missing := func(what string) error {
		return fmt.Errorf("engine: the file lacks %s, which blocks %d-%d need", what, l.info.From, l.info.To)
	}
	if l.info.First() {
		if a.embedding == nil || a.embedding.Weight == nil {
			return missing("the token embedding")
		}
		l.info.Vocab = a.embedding.Weight.Dim(1)
	}
	if l.info.Last() {
		if a.norm == nil || a.norm.Weight == nil || a.output == nil || a.output.Weight == nil {
			return missing("the output head")
		}
		l.info.Vocab = a.output.Weight.Dim(1)
	}
	return nil
}

// reserve sizes the devices' buffers by the largest pass there will be, so
// that a lack of memory shows now.
func (l *local) reserve() {
	n := l.info.MaxBatch
	b := &engine.Batch{Rows: make([]engine.Row, n)}
	if l.info.First() {
		b.Tokens = make([]int32, n)
	} else {
		b.Hidden = make([]float32, n*l.info.Width)
	}
	for i := range b.Rows {
		b.Rows[i].Pos = int32(i)
	}
	ctx := l.backend.NewContext()
	defer ctx.Close()
	if out, err := l.graph(ctx, b, true); err == nil {
		ctx.Forward(out)
		ctx.Reserve()
	}
}

// measureMemory notes what the engine takes. Weights that are mapped, of which there
// are so many bytes, count once, though the library may use a tensor twice.
func (l *local) measureMemory(mapped uint64) {
	m := l.backend.BackendMemory()
	add := func(d ml.DeviceMemory) bool {
		var sum uint64
		for _, w := range d.Weights {
			sum += w
		}
		l.info.Weights += sum
		for _, c := range d.Cache {
			l.info.KV += c
		}
		l.info.Graph += d.Graph
		return sum > 0
	}
	l.info.Weights = m.InputWeights
	add(m.CPU)
	if mapped > 0 {
		l.info.Weights = mapped
	}
	l.info.Host = l.info.Weights + l.info.KV + l.info.Graph
	l.info.Devices = []engine.Device{{Name: m.CPU.Name, Library: "CPU"}}
	for _, g := range m.GPUs {
		if add(g) {
			l.info.Devices = append(l.info.Devices, engine.Device{Name: g.Name, Library: g.Library})
		}
	}
}

// Info tells what is loaded.
func (l *local) Info() engine.Info { return l.info }

// graph builds a pass. It gives hidden states, [width, rows], or at the
// model's end logits, [vocab, outputs].
func (l *local) graph(ctx ml.Context, b *engine.Batch, reserve bool) (ml.Tensor, error) {
	in := input.Batch{Positions: make([]int32, len(b.Rows)), Sequences: make([]int, len(b.Rows))}
	for i, r := range b.Rows {
		in.Positions[i], in.Sequences[i] = r.Pos, r.Seq
	}
	if err := l.arch.cache.StartForward(ctx, in, reserve); err != nil {
		return nil, fmt.Errorf("%w: %w", engine.ErrBatch, err)
	}
	s := &step{positions: ctx.Input().FromInts(in.Positions, len(in.Positions)), pos: in.Positions}
	if l.arch.prepare != nil {
		l.arch.prepare(ctx, s)
	}
	var h ml.Tensor
	if len(b.Tokens) > 0 {
		h = l.arch.embed(ctx, b.Tokens)
	} else {
		h = ctx.Input().FromFloats(b.Hidden, l.info.Width, len(b.Rows))
	}
	for i := l.info.From; i < l.info.To; i++ {
		if i == l.info.Blocks-1 {
			rows := wanted(b)
			for l.exact && len(rows) < companyRows() {
				rows = append(rows, rows[0])
			}
			s.outputs = ctx.Input().FromInts(rows, len(rows))
		}
		h = l.arch.block(ctx, i, h, s)
	}
	if l.info.Last() && (reserve || len(b.Outputs) > 0) {
		h = l.arch.head(ctx, h)
	}
	return h, nil
}

// companions adds rows to a pass that is too small for its results to be those of a
// larger one (see companyRows): the last row again, in a sequence of its own.
func (l *local) companions(b *engine.Batch) *engine.Batch {
	more := *b
	more.Rows, more.Tokens, more.Hidden = slices.Clone(b.Rows), slices.Clone(b.Tokens), slices.Clone(b.Hidden)
	last := len(b.Rows) - 1
	for i := range companyRows() - len(b.Rows) {
		more.Rows = append(more.Rows, engine.Row{Seq: l.info.MaxSeqs, Pos: int32(i)})
		if l.info.First() {
			more.Tokens = append(more.Tokens, b.Tokens[last])
		} else {
			more.Hidden = append(more.Hidden, b.Hidden[last*l.info.Width:]...)
		}
	}
	return &more
}

// wanted lists the rows that go on after the model's last block: those of the
// outputs, or if there are none (a chunk in the middle of a prompt) any one.
func wanted(b *engine.Batch) []int32 {
	if len(b.Outputs) == 0 {
		return []int32{int32(len(b.Rows) - 1)}
	}
	rows := make([]int32, len(b.Outputs))
	for i, o := range b.Outputs {
		rows[i] = int32(o.Row)
	}
	return rows
}

// Run makes one pass.
func (l *local) Run(ctx context.Context, b *engine.Batch) (res *engine.Result, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := b.Check(&l.info); err != nil {
		return nil, err
	}
	computing.Lock()
	defer computing.Unlock()
	if l.closed {
		return nil, errClosed
	}
	defer func() {
		if err != nil { // the caller may try some of the rows again
			l.forget(b)
		}
	}()
	defer recovered(&err)
	begin := time.Now()
	l.tuner.Before(len(b.Rows))
	c := l.backend.NewContext()
	defer c.Close()
	c.SetBatchSize(len(b.Rows))
	whole := b
	if l.exact && len(b.Rows) < companyRows() {
		whole = l.companions(b)
		defer func() { _ = l.arch.cache.Remove(l.info.MaxSeqs, 0, math.MaxInt32) }()
	}
	out, err := l.graph(c, whole, false)
	if err != nil {
		return nil, err
	}
	c.Forward(out).Compute(out)
	if t, ok := tensorStruct(out); ok {
		l.buffer = t.getBuffer()
	}
	values := out.Floats()
	if !l.info.Last() {
		values = values[:len(b.Rows)*l.info.Width]
	}
	for _, v := range values {
		if v-v != 0 {
			l.blank(b)
			return nil, fmt.Errorf("%w: the result is not finite", engine.ErrBatch)
		}
	}
	res = &engine.Result{}
	switch {
	case !l.info.Last():
		res.Hidden = slices.Clone(values)
	case len(b.Outputs) > 0:
		for i, o := range b.Outputs {
			res.Tokens = append(res.Tokens, sample.Sample(values[i*l.info.Vocab:][:l.info.Vocab], o.Sampling, o.Sampled, o.Position, o.Allowed))
		}
	}
	res.Compute = time.Since(begin)
	l.tuner.After(len(b.Rows), res.Compute)
	return res, nil
}

// forget takes the rows of a failed pass back.
func (l *local) forget(b *engine.Batch) {
	for _, r := range b.Rows {
		_ = l.arch.cache.Remove(r.Seq, r.Pos, math.MaxInt32)
	}
}

// blank writes over the cells of a pass whose result is not finite. They may
// hold infinities, and these would reach every sequence: a cell that is masked
// still counts, as 0 times what it holds. The rows are taken back and computed
// again from zeros, which puts them into the same cells.
func (l *local) blank(b *engine.Batch) {
	l.forget(b)
	ctx := l.backend.NewContext()
	defer ctx.Close()
	ctx.SetBatchSize(len(b.Rows))
	out, err := l.graph(ctx, &engine.Batch{Rows: b.Rows, Hidden: make([]float32, len(b.Rows)*l.info.Width)}, false)
	if err == nil {
		ctx.Forward(out).Compute(out)
	}
}

// Remove forgets a sequence's positions >= from. It refuses where the cache
// has given up what the earlier positions' window needs.
func (l *local) Remove(seq int, from int32) (err error) {
	computing.Lock()
	defer computing.Unlock()
	if l.closed {
		return errClosed
	}
	defer recovered(&err)
	if from > 0 && !l.arch.cache.CanResume(seq, from) {
		_ = l.arch.cache.Remove(seq, 0, math.MaxInt32)
		return fmt.Errorf("%w: sequence %d cannot be taken back to %d: what it would see is gone, or shared", engine.ErrBatch, seq, from)
	}
	err = l.arch.cache.Remove(seq, from, math.MaxInt32)
	if time.Since(l.released) > releaseEvery { // Trim does it sooner, where there is a pause
		l.release()
	}
	return err
}

// releaseEvery is how often cells are given back in an engine that is never idle. It
// may take some milliseconds.
const releaseEvery = 30 * time.Second

func (l *local) release() {
	for _, c := range l.arch.caches() {
		c.release()
	}
	l.released = time.Now()
}

// Trim gives back what only passes need, and the cells that no sequence refers to. The
// next pass takes what it needs again.
func (l *local) Trim() {
	computing.Lock()
	defer computing.Unlock()
	if l.closed {
		return
	}
	l.release()
	if l.buffer != nil && len(l.backend.BackendMemory().GPUs) == 0 {
		giveBackBuffer(l.buffer)
		l.buffer = nil
	}
	trimHeap()
}

// CopyPrefix makes dst share src's positions < n.
func (l *local) CopyPrefix(src, dst int, n int32) (err error) {
	computing.Lock()
	defer computing.Unlock()
	if l.closed {
		return errClosed
	}
	defer recovered(&err)
	l.arch.cache.CopyPrefix(src, dst, n)
	if !l.arch.cache.CanResume(dst, n) {
		_ = l.arch.cache.Remove(dst, 0, math.MaxInt32)
		return fmt.Errorf("%w: the prefix of sequence %d is no longer whole", engine.ErrBatch, src)
	}
	return nil
}

// Close frees the devices' memory.
func (l *local) Close() error {
	computing.Lock()
	defer computing.Unlock()
	if !l.closed {
		l.closed = true
		l.arch.cache.Close()
		l.free()
	}
	return nil
}

// free frees the library's part, and then what its tensors point to.
func (l *local) free() {
	l.backend.Close()
	if l.unmap != nil {
		l.unmap()
	}
}

// maxCells bounds Config.KVTokens: cells are counted in 32 bits, and there are some
// more than tokens.
const maxCells = math.MaxInt32 / 4

// errClosed is what comes of using an engine after Close.
var errClosed = fmt.Errorf("%w: it was closed", engine.ErrLost)

// recovered turns the library's panics into errors.
func recovered(err *error) {
	r := recover()
	if r == nil {
		return
	}
	var noMem ml.ErrNoMem
	if e, ok := r.(error); ok && errors.As(e, &noMem) {
		*err = remedy.For(fmt.Errorf("%w: the span and its KV cache do not fit; lend more memory or serve fewer blocks", engine.ErrMemory), remedy.RaiseMemory)
		return
	}
	*err = fmt.Errorf("the engine failed: %v", r)
}
