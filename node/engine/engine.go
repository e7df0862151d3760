package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/fence"
	"github.com/shoalnet/shoal/protocol"
)

// Errors that callers tell apart. All of them cross from a child to its parent.
var (
	// ErrBatch is wrapped by errors about the content of a batch, or about
	// positions that cannot be removed or copied: the engine goes on.
	ErrBatch = errors.New("bad batch")
	// ErrLost is wrapped when no later call can work: the engine was closed, or
	// its process has ended.
	ErrLost = errors.New("the engine was lost")
	// ErrUnsupported is wrapped when the model, or a device that was named, is not
	// one that this engine computes with.
	ErrUnsupported = errors.New("unsupported model")
	// ErrMemory is wrapped when the devices have no room.
	ErrMemory = errors.New("out of memory")
	// ErrNoChild is wrapped when a program does not serve as its own engine child,
	// because it does not call ChildMain first.
	ErrNoChild = errors.New("this program does not serve as its own engine")
)

// Config says what to load and what it may use.
type Config struct {
	Engine   string   // which of the program's back ends, by its name in Backends; empty: BuiltIn
	Library  string   // folder of the back end's library, where it is opened at run time; empty: looked for
	Path     string   // a stage file, laid out for the back end
	From, To int      // blocks [From, To)
	KVTokens int      // KV cells, shared by all sequences
	MaxSeqs  int      // sequence slots
	MaxBatch int      // rows per pass
	KVType   string   // "f16" (also if empty) or "f32"
	Threads  int      // at most; 0: as many as there are cores
	Nice     int      // niceness of a child
	Devices  []string // GPUs to use, by name or ID; empty: all that are found; NoDevice alone: none
	Memory   int64    // bytes that a child on the CPU may have for itself; 0: no bound
	Exact    bool     // results do not depend on how many rows a pass has, to the last bit; slower
	Embeds   bool     // passes give a pooled embedding per sequence in place of tokens
	Adapters []string // stage files of LoRA adapters, all with their own scale
}

// Names of back ends.
const (
	BuiltIn = "ggml"  // compiled into the program
	Llama   = "llama" // llama.cpp's library, opened at run time
)

// NoDevice in Config.Devices stands for: compute on the processor alone.
const NoDevice = "none"

// Device of this machine.
type Device struct {
	Name    string
	Library string // CPU, CUDA, Vulkan, ...
	Memory  uint64 // bytes, 0 if unknown
	Free    uint64
}

// Info about a loaded span.
type Info struct {
	Engine   string  // the back end's name
	Version  string  // of its library
	KVType   string  // of the cache, as Config.KVType names it
	Exact    bool    // results do not depend on how many rows a pass has, or on other sequences, to the last bit
	Back     int     // rows that a sequence can certainly be taken back, with Remove; -1: all
	Rollback int     // rows that a sequence can be taken back at any time without computing any again; 0: none
	Pooling  Pooling // of the embeddings that passes give; NoPooling: they give tokens
	Embedded int     // numbers per embedding
	Arch     string  // as GGUF names it
	Width    int     // numbers per hidden state
	Blocks   int     // of the model
	Vocab    int     // 0 unless the span embeds or ends the model
	From, To int     // blocks [From, To)
	KVTokens int
	MaxSeqs  int
	MaxBatch int
	Devices  []Device      // those in use
	Weights  uint64        // bytes of weights
	KV       uint64        // bytes of the KV cache
	Graph    uint64        // bytes of the largest pass's buffers
	Host     uint64        // bytes of these three in this machine's own memory
	Fence    *fence.Report // of a child; nil: it has none
}

// Row is one position of one sequence slot.
type Row struct {
	Seq int // slot, in [0, MaxSeqs)
	Pos int32
}

// Output asks for a token after a row of a batch.
type Output struct {
	Row      int                // index into Batch.Rows
	Sampling *protocol.Sampling // nil: greedy. StopIds, MaxTokens, Sampled and Format of it are not read; leave them out, since all of it goes to a child with each pass
	Sampled  []int32            // the answer so far
	Position uint64             // absolute position of the token to be drawn
	Allowed  []uint64           // one bit per token that may come, the lowest bit of a word first; nil: all
}

// Batch is the input of one pass: Tokens, one per row, if the span begins the
// model, else Hidden, row-major [rows, width]. Rows of one sequence stand in the
// order of their positions, which follow those computed before. Outputs belong to
// a span that ends the model. The engine keeps nothing of a batch after Run.
type Batch struct {
	Rows    []Row
	Tokens  []int32
	Hidden  []float32
	Outputs []Output

	// Embed asks for embeddings, of an engine that was loaded for them. The rows are
	// whole texts, one after another, each in a slot of its own that is empty, from
	// position 0 on. The slots are empty again after the pass, at every span.
	Embed bool
}

// Result of a pass: Hidden, row-major [rows, width], unless the span ends the
// model; then one token per Output, in their order, or one embedding per sequence, in
// the order of their first rows. It belongs to the caller.
type Result struct {
	Hidden     []float32
	Tokens     []sample.Token
	Embeddings [][]float32
	Compute    time.Duration // wall time of the pass inside the engine
}

// Engine computes a span. Implementations are safe for concurrent use; they make
// one pass at a time.
type Engine interface {
	Info() Info
	// Run makes one pass. A ctx that has ended keeps it from beginning; a pass that
	// has begun is not interrupted. Of a pass that fails with ErrBatch nothing
	// stays: its rows may be tried again.
	Run(ctx context.Context, b *Batch) (*Result, error)
	// Remove forgets a sequence's positions >= from; from 0 empties the slot. It
	// fails with ErrBatch, and empties the slot, where the engine has given up what
	// the earlier positions need.
	Remove(seq int, from int32) error
	// CopyPrefix makes the slot dst, which is empty, share src's positions < n, a
	// multiple of PrefixPage. It fails with ErrBatch, and leaves dst empty, where
	// the engine has not got them any more.
	CopyPrefix(src, dst int, n int32) error
	// Close frees everything. Later calls fail with ErrLost.
	Close() error
}

// Trimmer is an Engine that can give memory back that it holds for passes to come. A
// child's process trims its engine when it has been idle for some seconds.
type Trimmer interface {
	// Trim gives memory back. Nothing that Run, Remove and CopyPrefix do changes by it.
	Trim()
}

// PrefixPage is what the length of a copied prefix is a multiple of, in positions.
const PrefixPage = 32

// Loader loads a span. log may be nil. Errors wrap ErrUnsupported or ErrMemory
// where these are the reason, and ctx's error if it ended first.
type Loader func(ctx context.Context, cfg Config, log *slog.Logger) (Engine, error)

// Backend is a library that computes, as an engine's process needs it.
type Backend interface {
	// Load loads a span in this process. It is a Loader.
	Load(ctx context.Context, cfg Config, log *slog.Logger) (Engine, error)
	// Fence lists what the process needs while it loads and computes.
	Fence(cfg *Config) fence.Rules
}

// Backends are the back ends of a program, by name. It is a Backend itself: the one
// that a Config names.
type Backends map[string]Backend

// Load loads a span with the back end that cfg names.
func (b Backends) Load(ctx context.Context, cfg Config, log *slog.Logger) (Engine, error) {
	one, err := b.of(&cfg)
	if err != nil {
		return nil, err
	}
	return one.Load(ctx, cfg, log)
}

// Fence is that of the back end that cfg names.
func (b Backends) Fence(cfg *Config) fence.Rules {
	if one, err := b.of(cfg); err == nil {
		return one.Fence(cfg)
	}
	return fence.Rules{} // Load will say why
}

func (b Backends) of(cfg *Config) (Backend, error) {
	name := cmp.Or(cfg.Engine, BuiltIn)
	if one, ok := b[name]; ok {
		return one, nil
	}
	return nil, fmt.Errorf("%w: this program has no engine %q, only %s", ErrUnsupported, name, strings.Join(slices.Sorted(maps.Keys(b)), " and "))
}

// First reports whether the span begins the model: it takes tokens.
func (i *Info) First() bool { return i.From == 0 }

// Last reports whether the span ends the model: it draws tokens.
func (i *Info) Last() bool { return i.To == i.Blocks }

// Check holds a batch to what a back end relies on: it comes from peers. Errors
// wrap ErrBatch. Sampling parameters are not looked at: none of them can do harm.
func (b *Batch) Check(i *Info) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrBatch, fmt.Sprintf(format, args...))
	}
	n := len(b.Rows)
	if n == 0 || n > i.MaxBatch {
		return bad("%d rows, where 1 to %d are possible", n, i.MaxBatch)
	}
	for _, r := range b.Rows {
		if r.Seq < 0 || r.Seq >= i.MaxSeqs || r.Pos < 0 {
			return bad("position %d of sequence %d", r.Pos, r.Seq)
		}
	}
	if i.First() {
		if len(b.Tokens) != n || len(b.Hidden) != 0 {
			return bad("%d tokens for %d rows", len(b.Tokens), n)
		}
		for _, id := range b.Tokens {
			if id < 0 || int(id) >= i.Vocab {
				return bad("token %d of a vocabulary of %d", id, i.Vocab)
			}
		}
	} else if len(b.Hidden) != n*i.Width || len(b.Tokens) != 0 {
		return bad("%d activations for %d rows of %d", len(b.Hidden), n, i.Width)
	}
	for _, v := range b.Hidden {
		if v-v != 0 {
			return bad("an activation is not a finite number")
		}
	}
	if b.Embed != (i.Pooling != NoPooling) {
		return bad("embeddings where tokens are drawn, or the other way around")
	}
	if b.Embed {
		if err := b.checkTexts(); err != nil {
			return bad("%s", err)
		}
	}
	if len(b.Outputs) > 0 && (!i.Last() || b.Embed) {
		return bad("a token was asked for before the model's end")
	}
	for _, o := range b.Outputs {
		if o.Row < 0 || o.Row >= n {
			return bad("a token after row %d of %d", o.Row, n)
		}
	}
	return nil
}
