package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// AddOptions say how to import a model.
type AddOptions struct {
	Name     string         // what to call it; "": after the file
	Span     *protocol.Span // keep only what this span needs; nil: all
	Progress func(done, total int64)
}

// Add imports a model from a path, an http(s) URL, or hf:owner/repo/file.gguf.
// The whole source is read, for its hashes; what the span does not need is not
// kept. Nothing is visible before all of it is there, and nothing is left
// behind if it fails. A model that is there already gains what it lacked.
func (s *Store) Add(ctx context.Context, from string, opt AddOptions) (*Model, error) {
	src, err := findSource(from)
	if err != nil {
		return nil, err
	}
	if opt.Name == "" {
		opt.Name = src.name
	}
	tmp, err := os.MkdirTemp(s.modelsDir(), tmpPrefix)
	if err != nil {
		return nil, full(err)
	}
	defer os.RemoveAll(tmp)
	im := &importer{ctx: ctx, src: src, opt: opt}
	if err := im.layOut(s.opt.Check); err != nil {
		return nil, err
	}
	if opt.Span != nil && !opt.Span.Valid(int(im.man.Blocks)) {
		return nil, fmt.Errorf("blocks %s: the model has %d", opt.Span, im.man.Blocks)
	}
	if err := s.Room(im.size()); err != nil {
		return nil, err
	}
	if im.out, err = os.CreateTemp(tmp, "data"); err != nil {
		return nil, full(err)
	}
	defer im.out.Close()
	if err := im.read(); err != nil {
		return nil, err
	}
	return s.adopt(im, tmp)
}

// adopt makes a model of a finished import.
func (s *Store) adopt(im *importer, tmp string) (*Model, error) {
	raw, id, err := im.man.Encode()
	if err != nil {
		return nil, err
	}
	if err := im.man.Check(); err != nil {
		return nil, fmt.Errorf("the file's layout: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, there := s.models[id], true
	if m == nil {
		there = false
		if m, err = createModel(tmp, id, raw, im.man); err != nil {
			return nil, err
		}
	}
	if err := im.fill(m, !there); err != nil {
		if !there {
			m.close()
		}
		return nil, err
	}
	m.mu.Lock()
	if !slices.Contains(m.rec.Names, im.opt.Name) {
		m.rec.Names = append(m.rec.Names, im.opt.Name)
	}
	for _, p := range im.src.parts {
		if !slices.Contains(m.rec.Origins, p) {
			m.rec.Origins = append(m.rec.Origins, p)
		}
	}
	m.mu.Unlock()
	if there {
		return m, errors.Join(m.saveRecord(), m.sync())
	}
	return m, s.settle(m, tmp)
}

// importer reads a source once, from beginning to end.
type importer struct {
	ctx  context.Context
	src  *source
	opt  AddOptions
	man  *protocol.Manifest
	keep map[int]bool
	out  *os.File // leaves that are kept, at their places
	done int64

	leaves [][]link // by shard
	nodes  map[cid.Cid][]byte
}

func (im *importer) size() int64 {
	var n int64
	for i := range im.man.Shards {
		if im.keep[i] {
			n += im.man.Shards[i].Size
		}
	}
	return n
}

// layOut reads the headers and assigns every byte to a shard.
func (im *importer) layOut(check func(md interface{ Value(key string) any }) error) error {
	var first *gguf.Header
	lay := newLayout()
	for i := range im.src.parts {
		r, size, err := im.src.open(im.ctx, i)
		if err != nil {
			return err
		}
		h, err := gguf.Read(r, size)
		r.Close()
		if err == nil {
			err = h.Check(size)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", im.src.parts[i], err)
		}
		if i == 0 {
			first = h
			if h.Blocks() < 1 || h.Width() < 1 {
				return fmt.Errorf("%s: %w: it holds no model's blocks", im.src.parts[i], gguf.ErrFormat)
			}
			if check != nil {
				if err := check(h); err != nil {
					return err
				}
			}
		}
		lay.file(i, size, h)
	}
	var err error
	im.man, err = lay.manifest(first)
	if err != nil {
		return err
	}
	im.keep = map[int]bool{}
	span := im.man.All()
	if im.opt.Span != nil {
		span = *im.opt.Span
	}
	for _, i := range im.man.ShardsFor(span) {
		im.keep[i] = true
	}
	if im.opt.Span == nil {
		for i := range im.man.Shards {
			im.keep[i] = true
		}
	}
	return nil
}

// read hashes everything and keeps what is to be kept.
func (im *importer) read() error {
	im.leaves = make([][]link, len(im.man.Shards))
	base := int64(0)
	for i := range im.man.Files {
		if err := im.readFile(i, base); err != nil {
			return err
		}
		base += roundUp(im.man.Files[i].Size, 1<<20)
	}
	im.nodes = map[cid.Cid][]byte{}
	for i := range im.man.Shards {
		root, nodes, err := buildDAG(im.leaves[i])
		if err != nil {
			return err
		}
		im.man.Shards[i].Root = root
		for c, raw := range nodes {
			im.nodes[c] = raw
		}
	}
	return nil
}

// run is a piece of a file that belongs to one shard.
type run struct {
	shard int
	protocol.Extent
}

func (im *importer) readFile(file int, base int64) error {
	r, size, err := im.src.open(im.ctx, file)
	if err != nil {
		return err
	}
	defer r.Close()
	if size != im.man.Files[file].Size {
		return fmt.Errorf("%w: %s changed while it was read", ErrSource, im.src.parts[file])
	}
	var runs []run
	for i, s := range im.man.Shards {
		for _, e := range s.Extents {
			if e.File == int64(file) {
				runs = append(runs, run{i, e})
			}
		}
	}
	slices.SortFunc(runs, func(a, b run) int { return int(max(-1, min(1, a.Offset-b.Offset))) })
	whole := newAsyncHash()
	defer whole.close()
	for _, e := range runs {
		for off := int64(0); off < e.Length; off += protocol.LeafSize {
			if err := im.ctx.Err(); err != nil {
				return err
			}
			buf := whole.buffer(int(min(e.Length-off, protocol.LeafSize)))
			if _, err := io.ReadFull(r, buf); err != nil {
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					err = errors.New("it ended early")
				}
				return fmt.Errorf("%w: %s: %w", ErrSource, im.src.parts[file], err)
			}
			c, err := rawBuilder.Sum(buf)
			if err != nil {
				return err
			}
			im.leaves[e.shard] = append(im.leaves[e.shard], link{c, uint64(len(buf)), uint64(len(buf))})
			if im.keep[e.shard] {
				if _, err := im.out.WriteAt(buf, base+e.Offset+off); err != nil {
					return full(err)
				}
			}
			whole.write(buf)
			im.done += int64(len(buf))
			if im.opt.Progress != nil {
				im.opt.Progress(im.done, im.man.Size())
			}
		}
	}
	im.man.Files[file].Sha256 = whole.sum()
	return nil
}

// asyncHash hashes in another goroutine than the reader's, with two buffers.
type asyncHash struct {
	h     hash.Hash
	full  chan []byte
	empty chan []byte
	done  chan struct{}
}

func newAsyncHash() *asyncHash {
	a := &asyncHash{h: sha256.New(), full: make(chan []byte, 2), empty: make(chan []byte, 3), done: make(chan struct{})}
	for range cap(a.empty) {
		a.empty <- make([]byte, protocol.LeafSize)
	}
	go func() {
		defer close(a.done)
		for b := range a.full {
			a.h.Write(b)
			a.empty <- b[:cap(b)]
		}
	}()
	return a
}

func (a *asyncHash) buffer(n int) []byte { return (<-a.empty)[:n] }
func (a *asyncHash) write(b []byte)      { a.full <- b }

func (a *asyncHash) sum() []byte {
	a.close()
	return a.h.Sum(nil)
}

func (a *asyncHash) close() {
	select {
	case <-a.done:
	default:
		close(a.full)
		<-a.done
	}
}

// fill gives a model the leaves of the import. A new model takes the file as a
// whole, an old one what it lacks.
func (im *importer) fill(m *Model, fresh bool) error {
	m.mu.Lock()
	for c, raw := range im.nodes {
		if err := m.writeNode(c, raw); err != nil {
			m.mu.Unlock()
			return err
		}
	}
	for i := range m.shards {
		if _, err := m.learn(i); err != nil {
			m.mu.Unlock()
			return err
		}
	}
	m.mu.Unlock()
	off := int64(prefixSize(im.man))
	for i := range m.shards {
		if !im.keep[i] {
			continue
		}
		s := &m.shards[i]
		for n := range s.sizes {
			if s.held[n] {
				continue
			}
			buf := make([]byte, s.sizes[n])
			if _, err := im.out.ReadAt(buf, s.at[n]-off); err != nil {
				return err
			}
			if fresh { // verified a moment ago, in this process
				m.mu.Lock()
				_, err := m.data.WriteAt(buf, s.at[n])
				if err == nil {
					err = m.note(journalHeld, i, n)
				}
				m.mu.Unlock()
				if err != nil {
					return full(err)
				}
				continue
			}
			if err := m.Put(s.leaves[n], buf); err != nil {
				return err
			}
		}
	}
	return nil
}

// layout assigns the bytes of a model's files to shards.
type layout struct {
	files   []protocol.File
	shards  map[string]*protocol.Shard
	tied    bool
	types   map[string]uint64 // bytes of block matrices by type
	params  int64
	tensors []gguf.Tensor
	vocab   int64
}

func newLayout() *layout {
	return &layout{shards: map[string]*protocol.Shard{}, tied: true, types: map[string]uint64{}}
}

// shardOf says which shard a tensor belongs to, and of which block.
func shardOf(name string) (kind string, block int64) {
	head, rest, _ := strings.Cut(name, ".")
	switch {
	case head == "blk":
		n, _, _ := strings.Cut(rest, ".")
		if i, err := strconv.ParseInt(n, 10, 32); err == nil && i >= 0 {
			return protocol.ShardBlock, i
		}
	case strings.HasPrefix(head, "rope_f"): // rope_freqs, rope_factors_long, rope_factors_short
		return protocol.ShardHeader, -1
	case head == "token_embd", head == "position_embd", head == "token_embd_norm":
		return protocol.ShardEmbedding, -1
	case head == "output", head == "output_norm":
		return protocol.ShardOutput, -1
	}
	return protocol.ShardOther, -1
}

func (l *layout) shard(kind string, block int64) *protocol.Shard {
	key := fmt.Sprintf("%s %d", kind, block)
	if l.shards[key] == nil {
		l.shards[key] = &protocol.Shard{Kind: kind, Block: block}
	}
	return l.shards[key]
}

// grow gives a shard a piece of a file, joined to the one before it if it
// follows on.
func grow(s *protocol.Shard, e protocol.Extent) {
	s.Size += e.Length
	if n := len(s.Extents); n > 0 {
		if last := &s.Extents[n-1]; last.File == e.File && last.Offset+last.Length == e.Offset {
			last.Length += e.Length
			return
		}
	}
	s.Extents = append(s.Extents, e)
}

// file lays out one file: the header up to the first tensor, then each tensor
// with the padding behind it.
func (l *layout) file(i int, size int64, h *gguf.Header) {
	l.files = append(l.files, protocol.File{Size: size})
	ts := slices.Clone(h.Tensors)
	slices.SortStableFunc(ts, func(a, b gguf.Tensor) int {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	end := func(n int) int64 {
		if n < len(ts) {
			return h.DataOffset + int64(ts[n].Offset)
		}
		return size
	}
	grow(l.shard(protocol.ShardHeader, -1), protocol.Extent{File: int64(i), Length: end(0)})
	for n, t := range ts {
		kind, block := shardOf(t.Name)
		s := l.shard(kind, block)
		at := end(n)
		if length := end(n+1) - at; length > 0 {
			grow(s, protocol.Extent{File: int64(i), Offset: at, Length: length})
		}
		info := protocol.TensorInfo{Name: t.Name, Type: int64(t.Type), File: int64(i), Offset: at, Length: int64(t.Bytes())}
		for _, d := range t.Shape {
			info.Shape = append(info.Shape, int64(d))
		}
		s.Tensors = append(s.Tensors, info)
		l.params += int64(t.Elements())
		switch {
		case t.Name == "output.weight":
			l.tied = false
		case t.Name == "token_embd.weight" && len(t.Shape) == 2:
			l.vocab = int64(t.Shape[1])
		}
		if kind == protocol.ShardBlock && len(t.Shape) > 1 {
			l.types[t.Type.String()] += t.Bytes()
		}
	}
}

// manifest puts the shards in order; roots and hashes come later.
func (l *layout) manifest(h *gguf.Header) (*protocol.Manifest, error) {
	m := &protocol.Manifest{
		Format: protocol.ManifestFormat, Name: clipText(h.String("general.name"), 200), Architecture: h.Architecture(),
		Licence: clipText(h.String("general.license"), 200), Parameters: l.params, Context: int64(h.Context()),
		Blocks: int64(h.Blocks()), Width: int64(h.Width()), Vocab: l.vocab, TiedOutput: l.tied, Files: l.files,
	}
	var most uint64
	for name, n := range l.types {
		if n > most || n == most && name < m.Quantization {
			most, m.Quantization = n, name
		}
	}
	take := func(kind string, block int64) error {
		s := l.shards[fmt.Sprintf("%s %d", kind, block)]
		if s == nil {
			return fmt.Errorf("%w: it lacks the tensors of the %s", gguf.ErrFormat, strings.TrimSuffix(fmt.Sprintf("%s %d", kind, block), " -1"))
		}
		m.Shards = append(m.Shards, *s)
		delete(l.shards, fmt.Sprintf("%s %d", kind, block))
		return nil
	}
	if err := errors.Join(take(protocol.ShardHeader, -1), take(protocol.ShardEmbedding, -1)); err != nil {
		return nil, err
	}
	for i := range m.Blocks {
		if err := take(protocol.ShardBlock, i); err != nil {
			return nil, err
		}
	}
	if err := take(protocol.ShardOutput, -1); err != nil {
		return nil, err
	}
	other := fmt.Sprintf("%s %d", protocol.ShardOther, -1)
	if l.shards[other] != nil {
		_ = take(protocol.ShardOther, -1)
	}
	for name := range l.shards {
		return nil, fmt.Errorf("%w: it has tensors of %s, and %d blocks", gguf.ErrFormat, name, m.Blocks)
	}
	return m, nil
}

func clipText(s string, n int) string {
	s = strings.ToValidUTF8(s, "")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}
