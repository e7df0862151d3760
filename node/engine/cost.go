package engine

import (
	"math"
	"runtime"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/blocks"
)

// Maps reports that engines on this system use weights where their file is mapped, and
// do not copy them, where the processor alone computes.
const Maps = runtime.GOOS != "windows"

// Cost is what an engine of a span takes besides its weights, as estimated before it is
// loaded: within a tenth, for the models that were tried. All are bytes.
type Cost struct {
	Token    int64 // per KV cell, in blocks that see all cells
	Windowed int64 // per KV cell, in blocks that see the last Window positions only
	Window   int64 // positions
	Sequence int64 // per sequence, whatever its length: of recurrent blocks, the state, two copies of it, and rows kept to go on from those
	Row      int64 // per row of a pass
	Score    int64 // per row and cell that it looks at
}

// CostOf estimates the cost of a span from the model's header. Of a header that cannot be
// read it returns zeros; loading says why.
func CostOf(md Metadata, span protocol.Span, backend, kvType string) Cost {
	m, err := blocks.Of(md)
	if err != nil {
		return Cost{}
	}
	t, _ := typedOf(md)
	width, heads := int64(t.count("embedding_length")), t.most("attention.head_count")
	c := Cost{Row: 16*width + 4*t.most("feed_forward_length") + 8<<10}
	if backend == Llama { // whose attention keeps no scores
		cache := m.Cache(span, kvType)
		c.Token, c.Windowed, c.Window, c.Sequence = cache.Token, cache.Windowed, cache.Window, 3*cache.Sequence
		if c.Sequence > 0 && span.From > 0 {
			c.Sequence += 4 * 3 * StateStep * width
		}
		return c
	}
	c.Score = 4 * heads
	if m.Arch == "gemma2" { // whose scores are capped, beside themselves
		c.Score *= 2
	}
	size := int64(2)
	if kvType == "f32" {
		size = 4
	}
	latent := int64(t.count("attention.kv_lora_rank"))
	for _, b := range m.Blocks[max(0, span.From):max(0, span.From, min(span.To, len(m.Blocks)))] {
		n := b.Keys + b.Values
		if b.Values == 0 && b.Keys > 0 { // kept beside the keys here, though they are a part of them
			n += latent
		}
		if b.Window {
			c.Windowed += size * n
		} else {
			c.Token += size * n
		}
	}
	c.Window = m.Window
	return c
}

// most is the largest value of a key that may have one per block; 0: there is none.
func (t *typed) most(name string) (most int64) {
	list, ok := listOf(t.own(name))
	if !ok {
		list = []any{t.own(name)}
	}
	for _, v := range list {
		if n, ok := number(v); ok && n >= 0 && n <= math.MaxInt32 {
			most = max(most, int64(n))
		}
	}
	return min(most, 1<<24)
}

// Cells is how many cells an engine lays out that is to hold so many, of so many
// sequences: of each the last page is not full, and there is one more for companions.
func Cells(cells, seqs int) int {
	return (seqs + 1) * (max(1, cells/max(1, seqs)) + PrefixPage)
}

// StateStep is how many positions lie between two copies of what recurrent blocks hold, at
// least; they lie at most twice as far apart.
const StateStep = 256

// WindowMemory is how many positions behind a window stay in memory, so that they can be
// taken back.
func WindowMemory(maxBatch int) int { return max(512, maxBatch) }

// windowed is how many cells blocks with a window have.
func (c Cost) windowed(cells, seqs, batch int) int64 {
	if behind := c.Window + int64(WindowMemory(batch)); behind < int64(cells/max(1, seqs)) {
		return int64(seqs+1)*(behind+3*PrefixPage) + int64(batch)
	}
	return int64(Cells(cells, seqs))
}

// KV is what the cells take, in bytes, once all are used.
func (c Cost) KV(cells, seqs, batch int) int64 {
	return c.Token*int64(Cells(cells, seqs)) + c.Windowed*c.windowed(cells, seqs, batch) + c.Sequence*int64(seqs+1)
}

// Pass is what the largest pass takes, in bytes.
func (c Cost) Pass(cells, seqs, batch int) int64 {
	seen := int64(Cells(cells, seqs))
	if c.Token == 0 && c.Windowed > 0 {
		seen = c.windowed(cells, seqs, batch)
	}
	return int64(batch) * (c.Row + c.Score*seen)
}
