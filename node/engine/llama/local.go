package llama

/*
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/engine/tune"
	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/node/remedy"
)

// local is an engine in this process.
type local struct {
	version *version
	cfg     engine.Config
	log     *slog.Logger

	mu        sync.Mutex // one pass at a time
	info      engine.Info
	closed    bool
	model     unsafe.Pointer
	copied    uint64 // bytes of weights beside the mapped file: repacked for kernels
	lora      []unsafe.Pointer
	embedding *embedding // nil: the library has the model's, or the span needs none
	shape     shape
	kv        kv
	tuner     *tune.Threads
	pool      unsafe.Pointer // nil: the library makes threads for each pass
	tap       *C.sl_tap      // nil: the span ends the model
}

// shape is what of a model matters to a pass.
type shape struct {
	width, widthIn int // of a hidden state, and of what the library takes for one
	perRow         int // positions per row
	recurrent      bool
	everyRow       bool // logits are asked for after every row
	encodes        bool // no cache: texts are computed as a whole
	lastRow        bool // an embedding is the last row's hidden state, normed
	pools          bool // the library pools texts, each in one pass of its own
	rows           int  // per pass of the library
	outputs        int  // per pass of the library
}

// spanKey in a stage file's metadata is which blocks of how many it has, such as
// "10-20 of 30". A file without it is the whole model.
const spanKey = "shoal.span"

// maxCells bounds Config.KVTokens.
const maxCells = math.MaxInt32 / 4

// errClosed is what comes of using an engine after Close.
var errClosed = fmt.Errorf("%w: it was closed", engine.ErrLost)

// loading serializes loads: the library's log is one for the process.
var loading sync.Mutex

// Load loads a span in this process. It is an engine.Loader.
func Load(ctx context.Context, cfg engine.Config, log *slog.Logger) (_ engine.Engine, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.KVTokens < 1 || cfg.MaxSeqs < 1 || cfg.MaxBatch < 1 {
		return nil, fmt.Errorf("engine: %d KV tokens, %d sequences, %d rows per pass: all must be at least 1", cfg.KVTokens, cfg.MaxSeqs, cfg.MaxBatch)
	}
	if cfg.From < 0 || cfg.To <= cfg.From {
		return nil, fmt.Errorf("engine: no blocks %d-%d", cfg.From, cfg.To)
	}
	if cfg.KVTokens > maxCells {
		return nil, tooLarge(fmt.Errorf("%w: %d KV tokens", engine.ErrMemory, cfg.KVTokens))
	}
	if _, err := os.Stat(cfg.Path); err != nil {
		return nil, err
	}
	lib, _ := Find(cfg.Library)
	if lib == nil {
		return nil, fmt.Errorf("%w: there is no libllama where it is looked for", engine.ErrUnsupported)
	}
	loading.Lock()
	defer loading.Unlock()
	hearing.Lock()
	hearing.log = log
	hearing.Unlock()
	v, err := open(lib)
	if err != nil {
		return nil, err
	}
	l := &local{version: v, cfg: cfg, log: log}
	defer func() {
		if err != nil {
			l.free()
		}
	}()
	if err := l.loadModel(); err != nil {
		return nil, fmt.Errorf("loading %d-%d: %w", cfg.From, cfg.To, err)
	}
	if err := l.describe(); err != nil {
		return nil, err
	}
	if err := l.loadAdapters(); err != nil {
		return nil, err
	}
	if err := l.begin(); err != nil {
		return nil, err
	}
	return l, nil
}

// tooLarge says what would help against a lack of memory.
func tooLarge(err error) error { return remedy.For(err, remedy.RaiseMemory) }

// loadModel maps the stage file.
func (l *local) loadModel() error {
	p := l.version.mapped()
	devices, list, err := l.devices()
	if err != nil {
		return err
	}
	defer C.free(list)
	p.setPointer(l.version.model.devices, list)
	p.setInt(l.version.model.gpuLayers, map[bool]int{true: -1}[len(devices) > 0])
	path := C.CString(l.cfg.Path)
	defer C.free(unsafe.Pointer(path))
	lines := listen(func() { l.model = C.sl_model_load(path, p.c()) })
	if l.model == nil {
		err := fmt.Errorf("libllama does not load it: %s", complaint(lines))
		switch {
		case complains(lines, "unknown model architecture", "unknown tokenizer", "unknown pre-tokenizer"):
			err = fmt.Errorf("%w: %w", engine.ErrUnsupported, err)
		case complains(lines, "unable to allocate", "failed to allocate"):
			err = tooLarge(fmt.Errorf("%w: %w", engine.ErrMemory, err))
		}
		return err
	}
	l.info.Devices = devices
	if len(devices) == 0 {
		l.info.Devices = []engine.Device{{Name: "CPU", Library: "CPU"}}
	}
	l.info.Weights = uint64(C.sl_model_bytes(l.model))
	if l.copied = uint64(buffersOf(lines).host["model"]); l.copied > 0 {
		proc.ShedFile(l.cfg.Path) // the copies are used, and their originals need not be resident
	}
	return nil
}

// describe reads what the model is like, and compares it with what was asked for.
func (l *local) describe() error {
	blocks := int(C.sl_model_blocks(l.model))
	arch, _ := l.text("general.architecture")
	l.shape = shape{
		width: int(C.sl_model_width(l.model)), widthIn: int(C.sl_model_width_in(l.model)), perRow: 1,
		recurrent: bool(C.sl_model_recurrent(l.model)), everyRow: everyRow[arch],
		encodes: bool(C.sl_model_encodes(l.model)) && !bool(C.sl_model_decodes(l.model)),
	}
	if rope := C.sl_model_rope(l.model); rope == ropeMulti || rope == ropeInterleaved {
		l.shape.perRow = 4
	}
	i := &l.info
	i.Engine, i.Version, i.KVType = engine.Llama, l.version.name, cmp.Or(l.cfg.KVType, "f16")
	i.Arch, i.Width, i.Blocks, i.From, i.To = arch, l.shape.width, blocks, l.cfg.From, l.cfg.To
	i.KVTokens, i.MaxSeqs, i.MaxBatch = l.cfg.KVTokens, l.cfg.MaxSeqs, l.cfg.MaxBatch
	if single[arch] {
		i.MaxSeqs = 1
	}
	i.Back = -1
	if !l.shape.recurrent && !l.shape.encodes {
		i.Rollback = i.KVTokens
	}
	i.Exact = l.exact() && len(i.Devices) == 1 && i.Devices[0].Library == "CPU"
	if l.shape.recurrent && !i.First() {
		i.Back = stateStep
	}
	from, to := 0, blocks
	if span, cut := l.text(spanKey); cut { // whose blocks that draft tokens are left out
		if _, err := fmt.Sscanf(span, "%d-%d of %d", &from, &to, &i.Blocks); err != nil {
			return fmt.Errorf("engine: the file is of blocks %q", span)
		}
	}
	if from != i.From || to != i.To || i.To > i.Blocks {
		return fmt.Errorf("engine: blocks %d-%d of a model that has %d, from a file that has %d-%d", i.From, i.To, i.Blocks, from, to)
	}
	if l.version.whole && !(i.First() && i.Last()) {
		return fmt.Errorf("%w: libllama %s computes whole models only, no spans such as %d-%d", engine.ErrUnsupported, l.version.name, i.From, i.To)
	}
	if i.First() || i.Last() {
		i.Vocab = int(C.sl_model_vocab(l.model))
	}
	if i.First() && !i.Last() {
		var err error
		if l.embedding, err = openEmbedding(l.cfg.Path, l.shape.width); err != nil {
			return err
		}
		if l.embedding != nil {
			i.Vocab = l.embedding.tokens
		}
	}
	return l.describeEmbeddings()
}

// text is a value of the model's metadata.
func (l *local) text(key string) (string, bool) {
	k := C.CString(key)
	defer C.free(unsafe.Pointer(k))
	var out [256]C.char
	if C.sl_model_text(l.model, k, &out[0], C.size_t(len(out))) < 0 {
		return "", false
	}
	return C.GoString(&out[0]), true
}

// loadAdapters loads what is added to the weights.
func (l *local) loadAdapters() error {
	for _, path := range l.cfg.Adapters {
		p := C.CString(path)
		var a unsafe.Pointer
		lines := listen(func() { a = C.sl_adapter(l.model, p) })
		C.free(unsafe.Pointer(p))
		if a == nil {
			return fmt.Errorf("%w: libllama does not load the adapter: %s", engine.ErrUnsupported, complaint(lines))
		}
		l.lora = append(l.lora, a)
	}
	return nil
}

// logitBytes bounds the logits of one of the library's passes: where a span does not
// end the model, the library still has room for those of every row.
const logitBytes = 16 << 20

// outputStep divides the number of outputs for which a context has room. The library lays
// out a pass's memory for that many, and matrix products of AMX took a quarter longer if
// what it laid out did not begin at the same place of a page as in its own programs, which
// have room for 512 (SmolLM2 Q8_0: 84, 200 and 500 were slow; 16, 128, 256 and 400 not).
const outputStep = 16

// begin decides how passes are cut, and makes the first context.
func (l *local) begin() error {
	s := &l.shape
	s.rows = min(l.cfg.MaxBatch, 512)
	vocab := int(C.sl_model_vocab(l.model))
	fit := max(16, logitBytes/4/max(1, vocab)/outputStep*outputStep)
	if l.exact() {
		s.rows = min(s.rows, exactMost, fit) / exactRows * exactRows
		s.rows = max(s.rows, exactRows)
	}
	tapped := ""
	switch {
	case s.pools: // a text is computed at once, and every row of it is an output
		s.rows = l.cfg.MaxBatch
		s.outputs = s.rows
	case l.info.Last():
		if s.everyRow {
			s.rows = min(s.rows, fit)
		}
		s.outputs = min(s.rows, fit)
		if s.lastRow {
			tapped = lastNorm
		}
	default:
		s.rows = min(s.rows, fit)
		s.outputs = s.rows
		tapped = boundary(l.info.Arch, l.info.To-l.info.From-1)
	}
	if tapped != "" {
		name := C.CString(tapped)
		defer C.free(unsafe.Pointer(name))
		if l.tap = C.sl_tap_new(name, C.int64_t(s.width), C.int64_t(s.rows)); l.tap == nil {
			return tooLarge(engine.ErrMemory)
		}
	}
	threads := l.cfg.Threads
	if threads <= 0 {
		threads = runtime.NumCPU()
	}
	l.tuner = tune.New(threads, l.setThreads)
	l.pool = C.sl_pool(C.int(threads))
	l.kv.init(l)
	k := &l.kv
	var lines []line
	var err error
	k.cells, k.seqs = k.least(), 1
	if k.context, lines, err = l.newContext(k.cells, k.seqs); err != nil {
		return err
	}
	return k.measure(lines)
}

// Info describes what is loaded.
func (l *local) Info() engine.Info { return l.info }

// Run makes one pass.
func (l *local) Run(ctx context.Context, b *engine.Batch) (res *engine.Result, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := b.Check(&l.info); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	begin := time.Now()
	l.tuner.Before(len(b.Rows))
	res = &engine.Result{}
	if b.Embed {
		err = l.embed(b, res)
	} else {
		err = l.compute(b, res)
	}
	if err != nil { // the caller may try some of the rows again
		l.kv.forget(b.Rows)
		return nil, err
	}
	res.Compute = time.Since(begin)
	l.tuner.After(len(b.Rows), res.Compute)
	return res, nil
}

// compute makes a pass of rows, with companions where results are to be exact.
func (l *local) compute(b *engine.Batch, res *engine.Result) error {
	whole := b
	if l.exact() {
		if err := l.kv.compact(); err != nil {
			return err
		}
		if whole = l.companions(b); len(whole.Rows) > len(b.Rows) {
			defer func() { _ = l.kv.remove(l.info.MaxSeqs, 0) }()
		}
	}
	if err := l.kv.follow(whole.Rows); err != nil {
		return err
	}
	err := l.pass(whole, res)
	if !l.info.Last() && err == nil {
		res.Hidden = res.Hidden[:len(b.Rows)*l.shape.width]
	}
	return err
}

// pass computes a batch in parts that the library takes at once.
func (l *local) pass(b *engine.Batch, res *engine.Result) error {
	if !l.info.Last() {
		res.Hidden = make([]float32, 0, len(b.Rows)*l.shape.width)
	}
	tokens := make([]*sample.Token, len(b.Outputs))
	if err := l.kv.ensure(len(b.Rows)); err != nil {
		return err
	}
	for _, rows := range l.parts(b) {
		if err := l.part(b, rows, res, tokens); err != nil {
			return err
		}
	}
	if l.shape.lastRow {
		return nil
	}
	for _, t := range tokens {
		res.Tokens = append(res.Tokens, *t)
	}
	return nil
}

// span is rows [from, to) of a batch.
type span struct{ from, to int }

// parts cuts a batch so that no part has more rows or outputs than one of the
// library's passes may, and a recurrent model's where breaks says so.
func (l *local) parts(b *engine.Batch) []span {
	wanted := make([]bool, len(b.Rows))
	for _, o := range b.Outputs {
		wanted[o.Row] = true
	}
	most := l.shape.rows
	var out []span
	from, outputs := 0, 0
	for i := range b.Rows {
		n := map[bool]int{true: 1}[(wanted[i] || l.shape.everyRow) && l.info.Last()]
		if i > from && (i-from == most || outputs+n > l.shape.outputs || l.shape.recurrent && l.breaks(b.Rows[from:], i-from)) {
			out = append(out, span{from, i})
			from, outputs = i, 0
		}
		outputs += n
	}
	return append(out, span{from, len(b.Rows)})
}

// breaks reports whether a part of a recurrent model's pass ends before its i-th row. The
// library reorders rows unless a part has one sequence, or one row of each in the order of
// their numbers. A prompt's part ends where a copy of the state is worth keeping.
func (l *local) breaks(rows []engine.Row, i int) bool {
	r, before := rows[i], rows[i-1]
	if r.Seq != before.Seq {
		single := i == 1 || rows[0].Seq != rows[1].Seq
		next := i+1 == len(rows) || rows[i+1].Seq != r.Seq
		return !single || !next || l.kv.slots[r.Seq].id < l.kv.slots[before.Seq].id
	}
	if i > 1 && rows[i-2].Seq != before.Seq {
		return true
	}
	if r.Pos%engine.PrefixPage != 0 {
		return false
	}
	last := i+engine.PrefixPage > len(rows) || rows[i+engine.PrefixPage-1].Seq != r.Seq // the last whole page
	return last || r.Pos%stateStep == 0
}

// outputs marks the rows of a part whose result is wanted.
func (l *local) outputs(b *engine.Batch, rows span) []int8 {
	marks := make([]int8, rows.to-rows.from)
	for i := range marks {
		if !l.info.Last() || l.shape.everyRow {
			marks[i] = 1
		}
	}
	for _, o := range b.Outputs {
		if rows.from <= o.Row && o.Row < rows.to {
			marks[o.Row-rows.from] = 1
		}
	}
	if l.exact() && l.tap == nil {
		evenOut(marks)
	}
	return marks
}

// part computes rows of a batch.
func (l *local) part(b *engine.Batch, rows span, res *engine.Result, tokens []*sample.Token) error {
	marks := l.outputs(b, rows)
	if err := l.kv.compute(b, rows, marks); err != nil {
		return err
	}
	if l.tap != nil {
		want := 0
		for _, o := range marks {
			want += int(o)
		}
		if l.tap.bad || int(l.tap.got) != want {
			return fmt.Errorf("engine: libllama had %d hidden states for %d rows", l.tap.got, want)
		}
		if want == 0 { // no text ends here
			return nil
		}
		hidden := unsafe.Slice((*float32)(l.tap.rows), want*l.shape.width)
		if !finite(hidden) {
			return l.poisoned()
		}
		if !l.info.Last() {
			res.Hidden = append(res.Hidden, hidden...)
			return nil
		}
		for ; len(hidden) > 0; hidden = hidden[l.shape.width:] {
			res.Embeddings = append(res.Embeddings, slices.Clone(hidden[:l.shape.width]))
		}
		return nil
	}
	for i, o := range b.Outputs {
		if o.Row < rows.from || o.Row >= rows.to {
			continue
		}
		logits := l.logits(o.Row - rows.from)
		if logits == nil {
			return fmt.Errorf("engine: libllama has no logits for row %d", o.Row)
		}
		if !finite(logits) {
			return l.poisoned()
		}
		t := sample.Sample(logits, o.Sampling, o.Sampled, o.Position, o.Allowed)
		tokens[i] = &t
	}
	return nil
}

// logits are those behind a row of the library's last pass; nil: it has none.
func (l *local) logits(row int) []float32 {
	at := C.sl_logits(l.kv.context, C.int(row))
	if at == nil {
		return nil
	}
	return unsafe.Slice((*float32)(at), l.info.Vocab)
}

func finite(xs []float32) bool {
	return !slices.ContainsFunc(xs, func(v float32) bool { return v-v != 0 })
}

// poisoned is the error of a result that is not finite. What it left in the cache
// could reach other sequences, since a cell that is masked still counts as 0 times
// what it holds; so the cache is laid out once more without it.
func (l *local) poisoned() error {
	l.kv.dirty = true
	return fmt.Errorf("%w: the result is not finite", engine.ErrBatch)
}

// Remove forgets a sequence's positions >= from.
func (l *local) Remove(seq int, from int32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	return l.kv.remove(seq, from)
}

// CopyPrefix makes dst share src's positions < n.
func (l *local) CopyPrefix(src, dst int, n int32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	return l.kv.copyPrefix(src, dst, n)
}

// Close frees everything.
func (l *local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		l.free()
	}
	return nil
}

func (l *local) free() {
	l.kv.close()
	C.sl_pool_free(l.pool)
	l.embedding.close()
	C.sl_tap_free(l.tap)
	if l.model != nil {
		C.sl_model_free(l.model) // and its adapters
	}
	l.tap, l.model, l.pool = nil, nil, nil
}
