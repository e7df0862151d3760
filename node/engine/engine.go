package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/fence"
)

// Errors that callers tell apart.
var (
	// ErrBatch is wrapped by errors about what a batch says: the engine goes on.
	ErrBatch = errors.New("bad batch")
	// ErrLost is wrapped when the engine can do nothing more.
	ErrLost = errors.New("the engine was lost")
	// ErrUnsupported is wrapped when a model is none that this engine computes.
	ErrUnsupported = errors.New("unsupported model")
	// ErrMemory is wrapped when the devices have no room.
	ErrMemory = errors.New("out of memory")
)

// Config says what to load and what it may use.
type Config struct {
	Path     string   // a stage file
	From, To int      // blocks [From, To)
	KVTokens int      // KV cells, shared by all sequences
	MaxSeqs  int      // sequence slots
	MaxBatch int      // rows a pass
	KVType   string   // "f16" (also if empty) or "f32"
	Threads  int      // at most; 0: as many as there are cores
	Nice     int      // of a child
	Devices  []string // GPUs to use, by name or ID; none: all found
	Memory   int64    // of a child on the CPU: bytes that it may have for itself; 0: no bound
	Exact    bool     // no number depends on how many rows a pass has: see companion
}

// Device of this machine.
type Device struct {
	Name    string
	Library string // CPU, CUDA, Vulkan, ...
	Memory  uint64 // bytes, 0 if unknown
	Free    uint64
}

// Info about a loaded span.
type Info struct {
	Arch     string
	Width    int // of a hidden state
	Blocks   int // of the model
	Vocab    int // 0 unless the span embeds or ends the model
	From, To int
	KVTokens int
	MaxSeqs  int
	MaxBatch int
	Devices  []Device // those in use
	Weights  uint64   // bytes
	KV       uint64
	Graph    uint64
	Host     uint64        // of these three, in this machine's own memory
	Fence    *fence.Report // of a child; nil: there is none
}

// Row is a position of a sequence slot.
type Row struct {
	Seq int
	Pos int32
}

// Output asks for a token after a row of a batch.
type Output struct {
	Row      int
	Params   sample.Params
	History  []int32
	Position uint64   // absolute, of the token to be drawn
	Allowed  []uint64 // a bit for each token that may come, the lowest of a word first; nil: all
}

// Batch is the input of a pass: Tokens if the span begins the model, else
// Hidden, row-major [rows, width]. Outputs belong to a span that ends it.
type Batch struct {
	Rows    []Row
	Tokens  []int32
	Hidden  []float32
	Outputs []Output
}

// Result of a pass: Hidden, row-major [rows, width], unless the span ends the
// model; then one token for each Output.
type Result struct {
	Hidden  []float32
	Tokens  []sample.Token
	Compute time.Duration
}

// Engine computes a span.
type Engine interface {
	Info() Info
	Run(ctx context.Context, b *Batch) (*Result, error)
	// Remove forgets a sequence's positions >= from.
	Remove(seq int, from int32) error
	// CopyPrefix makes dst share src's positions < n, a multiple of 32.
	CopyPrefix(src, dst int, n int32) error
	Close() error
}

func (i *Info) first() bool { return i.From == 0 }
func (i *Info) last() bool  { return i.To == i.Blocks }

// check holds a batch to what the graph relies on: it comes from peers.
func (b *Batch) check(i *Info) error {
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
	if i.first() {
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
	if len(b.Outputs) > 0 && !i.last() {
		return bad("a token was asked for before the model's end")
	}
	for _, o := range b.Outputs {
		if o.Row < 0 || o.Row >= n {
			return bad("a token after row %d of %d", o.Row, n)
		}
		if err := o.Params.Validate(); err != nil {
			return bad("%s", err)
		}
	}
	return nil
}
