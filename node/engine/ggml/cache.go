package ggml

import (
	"fmt"
	"math"
	"reflect"
	"unsafe"

	"github.com/ollama/ollama/kvcache"
	"github.com/ollama/ollama/ml"
	"github.com/ollama/ollama/model/input"

	"github.com/shoalnet/shoal/node/engine"
)

// page is how many cells a sequence is given at a time, and the longest stride
// in which ggml's CPU kernels sum over cells.
const page = engine.PrefixPage

// pages is a KV cache in which a sequence's cells come in pages, each position
// at its own place in its page, and a later page behind an earlier one as long
// as there is room. The library's cache takes any free cell, so the order in
// which attention sums depends on who came before and who is there besides, and
// with it the last bits of a session's numbers, and now and then its words.
// Cells of others add exact zeros to a sum; with pages, what is not zero stays
// in the same lanes and in the same order wherever it lies.
//
// A full page whose positions are below a prefix is shared by sequences that
// begin alike. A page that is shared is never written.
type pages struct {
	window int32 // positions before the current one that are seen; MaxInt32: all
	memory int32 // positions before the current one that are kept

	config  *ml.CacheConfig
	dtype   ml.DType
	backend ml.Backend
	host    bool // the tensors lie in this machine's own memory
	cells   int
	users   []int  // of each page: sequences that refer to it
	touched []bool // of each page: it has been written to since release gave it back
	tables  map[int]*table

	layer        int
	ctxs         map[int]ml.Context
	keys, values map[int]ml.Tensor

	// the pass under way
	rows   int
	lo, hi int // cells [lo, hi) are looked at
	locs   ml.Tensor
	mask   ml.Tensor
}

// table says where a sequence's positions lie.
type table struct {
	pages []int32 // by position / page; -1: given up
	first int     // index of the first page that is not
	next  int32   // the position that follows
}

// newPages makes a cache that sees window positions back, and remembers memory
// positions so that some can be taken back. MaxInt32: all.
func newPages(window, memory int32) *pages {
	return &pages{window: window, memory: memory, tables: map[int]*table{}, ctxs: map[int]ml.Context{}, keys: map[int]ml.Tensor{}, values: map[int]ml.Tensor{}}
}

func up(n, to int) int { return (n + to - 1) / to * to }

// Init says how much the cache is to hold: so many sequences of capacity
// positions on average.
func (c *pages) Init(backend ml.Backend, dtype ml.DType, maxSequences, capacity, maxBatch int) {
	if c.config == nil {
		c.config = &ml.CacheConfig{}
		if b, ok := backend.(ml.BackendCacheConfig); ok {
			*c.config = b.CacheConfig()
		}
	}
	c.config.CachePadding = max(1, c.config.CachePadding)
	if c.config.MaskDType == ml.DTypeOther {
		c.config.MaskDType = ml.DTypeF32
	}
	if int(c.memory) >= capacity {
		c.memory = math.MaxInt32
	}
	c.cells = maxSequences * (capacity + page) // the last page of each is not full
	if c.memory != math.MaxInt32 {
		c.cells = maxSequences*(up(int(c.memory), page)+2*page) + up(maxBatch, page)
	}
	c.cells = up(up(c.cells, page), c.config.CachePadding)
	c.users, c.touched = make([]int, c.cells/page), make([]bool, c.cells/page)
	c.dtype, c.backend, c.host = dtype, backend, len(backend.BackendMemory().GPUs) == 0
}

// SetConfig is for models that want their tensors plain.
func (c *pages) SetConfig(config ml.CacheConfig) { c.config = &config }

// Close frees the tensors.
func (c *pages) Close() {
	for _, ctx := range c.ctxs {
		ctx.Close()
	}
}

// SetLayer says which layer Put and Get are about.
func (c *pages) SetLayer(layer int) { c.layer = layer }

// StartForward finds cells for a pass's rows.
func (c *pages) StartForward(ctx ml.Context, batch input.Batch, reserve bool) error {
	c.rows = len(batch.Positions)
	locs := make([]int32, c.rows)
	if reserve { // the worst that can come
		c.lo, c.hi = 0, c.cells
		for i := range locs {
			locs[i] = int32(i % c.cells)
		}
		c.locs, c.mask = ctx.Input().FromInts(locs, c.rows), c.cast(ctx, ctx.Input().Empty(ml.DTypeF32, c.cells, c.rows))
		return nil
	}
	c.slide(batch)
	for i, pos := range batch.Positions {
		cell, err := c.place(batch.Sequences[i], pos)
		if err != nil {
			for j := range i {
				_ = c.Remove(batch.Sequences[j], batch.Positions[j], math.MaxInt32)
			}
			return err
		}
		locs[i] = cell
	}
	c.look(batch)
	c.locs, c.mask = ctx.Input().FromInts(locs, c.rows), c.maskOf(ctx, c.shade(batch))
	return nil
}

// slide gives up what lies behind the memory of the sequences of a pass.
func (c *pages) slide(batch input.Batch) {
	if c.memory == math.MaxInt32 {
		return
	}
	for i, seq := range batch.Sequences {
		t := c.tables[seq]
		if t == nil {
			continue
		}
		for t.first < len(t.pages)-1 && int32(t.first+1)*page <= batch.Positions[i]-c.memory {
			c.free(t, t.first)
			t.first++
		}
	}
}

func (c *pages) free(t *table, i int) {
	if p := t.pages[i]; p >= 0 {
		c.users[p]--
		t.pages[i] = -1
	}
}

// place gives the cell of a sequence's next position.
func (c *pages) place(seq int, pos int32) (int32, error) {
	t := c.tables[seq]
	if t == nil {
		t = &table{}
		c.tables[seq] = t
	}
	if pos != t.next {
		return 0, fmt.Errorf("position %d of sequence %d, which has %d", pos, seq, t.next)
	}
	i := int(pos) / page
	if i == len(t.pages) {
		p, ok := c.find(t)
		if !ok {
			return 0, kvcache.ErrKvCacheFull
		}
		c.users[p]++
		c.touched[p] = true
		t.pages = append(t.pages, int32(p))
	}
	t.next++
	return t.pages[i]*page + pos%page, nil
}

// find gives a free page, if there is one behind the sequence's last.
func (c *pages) find(t *table) (int, bool) {
	after := -1
	if n := len(t.pages); n > 0 {
		after = int(t.pages[n-1])
	}
	for p := after + 1; p < len(c.users); p++ {
		if c.users[p] == 0 {
			return p, true
		}
	}
	for p := range after + 1 {
		if c.users[p] == 0 {
			return p, true
		}
	}
	return 0, false
}

// seen is the first position that a row at pos sees.
func (c *pages) seen(pos int32) int32 { return max(0, pos-min(pos, c.window)) }

// look finds the cells that a pass has to look at.
func (c *pages) look(batch input.Batch) {
	c.lo, c.hi = c.cells, 0
	for i, seq := range batch.Sequences {
		t := c.tables[seq]
		for k := max(t.first, int(c.seen(batch.Positions[i]))/page); k <= int(batch.Positions[i])/page; k++ {
			at := int(t.pages[k]) * page
			c.lo, c.hi = min(c.lo, at), max(c.hi, at+page)
		}
	}
	c.lo = c.lo / c.config.CachePadding * c.config.CachePadding
	c.hi = up(c.hi, c.config.CachePadding)
}

// shade makes the mask, [rows, cells]: 0 where a row sees a cell, else -Inf.
func (c *pages) shade(batch input.Batch) []float32 {
	n := c.hi - c.lo
	mask := make([]float32, c.rows*n)
	dark := float32(math.Inf(-1))
	for i := range mask {
		mask[i] = dark
	}
	for i, seq := range batch.Sequences {
		t, row, pos := c.tables[seq], mask[i*n:][:n], batch.Positions[i]
		for p := max(c.seen(pos), int32(t.first)*page); p <= pos; p++ {
			row[int(t.pages[p/page]*page+p%page)-c.lo] = 0
		}
	}
	return mask
}

func (c *pages) maskOf(ctx ml.Context, mask []float32) ml.Tensor {
	return c.cast(ctx, ctx.Input().FromFloats(mask, c.hi-c.lo, c.rows))
}

func (c *pages) cast(ctx ml.Context, m ml.Tensor) ml.Tensor {
	if c.config.MaskDType != ml.DTypeF32 {
		m = m.Cast(ctx, c.config.MaskDType)
	}
	return m
}

// Put stores a layer's keys and values, [head size, heads, rows].
func (c *pages) Put(ctx ml.Context, key, value ml.Tensor) {
	kSize, vSize, heads := key.Dim(0), value.Dim(0), key.Dim(1)
	if key.Dim(2) != c.rows {
		panic(fmt.Errorf("layer %d stores %d rows in a pass of %d", c.layer, key.Dim(2), c.rows))
	}
	if c.keys[c.layer] == nil {
		lctx := c.backend.NewContextSize(2).Layer(c.layer)
		c.ctxs[c.layer] = lctx
		c.keys[c.layer] = c.zeros(lctx, kSize, heads, c.cells)
		if c.config.PermutedV {
			c.values[c.layer] = c.zeros(lctx, c.cells, vSize, heads)
		} else {
			c.values[c.layer] = c.zeros(lctx, vSize, heads, c.cells)
		}
	}
	keys, values := c.keys[c.layer], c.values[c.layer]
	ctx.Forward(keys.Reshape(ctx, kSize*heads, c.cells).SetRows(ctx, key.Reshape(ctx, kSize*heads, c.rows), c.locs))
	if c.config.PermutedV { // one number a row
		value = value.Reshape(ctx, vSize*heads, 1, c.rows).Permute(ctx, 2, 0, 1, 3)
		ctx.Forward(values.Reshape(ctx, 1, c.cells, vSize*heads).SetRows(ctx, value, c.locs))
		return
	}
	ctx.Forward(values.Reshape(ctx, vSize*heads, c.cells).SetRows(ctx, value.Reshape(ctx, vSize*heads, c.rows), c.locs))
}

// zeros makes a tensor of zeros, which takes memory only for cells that are used: most
// of a large cache never are.
func (c *pages) zeros(ctx ml.Context, shape ...int) ml.Tensor {
	if c.host {
		t := ctx.Empty(c.dtype, shape...)
		if clearLazily(tensorOf(t)) {
			return t
		}
	}
	return ctx.Zeros(c.dtype, shape...)
}

// tensorOf finds ggml's tensor, which the library keeps to itself; nil if it is not there.
func tensorOf(t ml.Tensor) unsafe.Pointer {
	v := reflect.ValueOf(t)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil
	}
	of := v.Elem().FieldByName("t")
	if !of.IsValid() || of.Kind() != reflect.Pointer {
		return nil
	}
	return of.UnsafePointer()
}

// Get gives a layer's keys, values and mask of the cells looked at.
func (c *pages) Get(ctx ml.Context) (key, value, mask ml.Tensor) {
	k, v, n := c.keys[c.layer], c.values[c.layer], c.hi-c.lo
	key = k.View(ctx, k.Stride(2)*c.lo, k.Dim(0), k.Stride(1), k.Dim(1), k.Stride(2), n)
	if c.config.PermutedV {
		value = v.View(ctx, v.Stride(0)*c.lo, n, v.Stride(1), v.Dim(1), v.Stride(2), v.Dim(2))
	} else {
		value = v.View(ctx, v.Stride(2)*c.lo, v.Dim(0), v.Stride(1), v.Dim(1), v.Stride(2), n)
	}
	return key, value, c.mask
}

// CopyPrefix makes dst begin as src does, as far as whole pages go: CanResume
// tells whether that is far enough.
func (c *pages) CopyPrefix(src, dst int, n int32) {
	_ = c.Remove(dst, 0, math.MaxInt32)
	s := c.tables[src]
	if s == nil {
		return
	}
	whole := min(int(n), int(s.next)) / page
	if whole == 0 {
		return
	}
	t := &table{pages: append([]int32(nil), s.pages[:whole]...), first: min(s.first, whole), next: int32(whole * page)}
	for _, p := range t.pages {
		if p >= 0 {
			c.users[p]++
		}
	}
	c.tables[dst] = t
}

// CanResume says that a sequence can go on at a position: all that it sees is
// there, and what will be written is the sequence's alone.
func (c *pages) CanResume(seq int, pos int32) bool {
	t := c.tables[seq]
	if t == nil {
		return pos == 0
	}
	if pos > t.next || c.seen(pos) < int32(t.first)*page {
		return false
	}
	return pos%page == 0 || c.users[t.pages[pos/page]] == 1
}

// Remove forgets a sequence's positions from begin on.
func (c *pages) Remove(seq int, begin, end int32) error {
	if end != math.MaxInt32 {
		return kvcache.ErrNotSupported
	}
	t := c.tables[seq]
	if t == nil || begin >= t.next {
		return nil
	}
	stay := up(int(begin), page) / page
	for i := stay; i < len(t.pages); i++ {
		c.free(t, i)
	}
	t.pages, t.next = t.pages[:stay], begin
	if t.first = min(t.first, stay); begin == 0 {
		delete(c.tables, seq)
	}
	return nil
}

// release gives the memory of cells back that no sequence refers to, as far as they
// fill pages of the system's. Values lie with one number of each cell in a row, so that
// takes some thousand cells side by side; what is left of a shorter run is given back
// with its neighbours.
func (c *pages) release() {
	if !c.host {
		return
	}
	for a := 0; a < len(c.users); {
		b, used := a, false
		for ; b < len(c.users) && c.users[b] == 0; b++ {
			used = used || c.touched[b]
		}
		if used {
			c.giveBack(a*page, b*page)
			clear(c.touched[a:b])
		}
		a = max(b, a+1)
	}
}

// giveBack gives the memory of cells [from, to) back. They read as zeros then, as they
// did at first.
func (c *pages) giveBack(from, to int) {
	for layer, keys := range c.keys {
		if k, ok := tensorStruct(keys); ok {
			giveBack(k.getData(), 1, 0, keys.Stride(2)*from, keys.Stride(2)*to)
		}
		values := c.values[layer]
		v, ok := tensorStruct(values)
		switch {
		case !ok:
		case c.config.PermutedV:
			giveBack(v.getData(), values.Dim(1)*values.Dim(2), values.Stride(1), values.Stride(0)*from, values.Stride(0)*to)
		default:
			giveBack(v.getData(), 1, 0, values.Stride(2)*from, values.Stride(2)*to)
		}
	}
}
