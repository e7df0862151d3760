package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// AddOptions are the options of an import.
type AddOptions struct {
	Name      string                  // name of the model here; "": derived from the file's
	Span      *protocol.Span          // keep only what this span needs; nil: everything
	Transient bool                    // the source will disappear: do not remember it as an origin
	Listed    bool                    // the source was named by a catalogue, not by a person: read it from public addresses only
	Pin       bool                    // protect what is kept from the quota
	Base      *Model                  // the source is an adapter (LoRA) that adds to this model; nil: it is a model
	Expect    Expect                  // what is known about the source beforehand
	Progress  func(done, total int64) // in bytes of the source; may be nil
	Read      *Mark                   // is set to that of the source as it was read; may be nil
}

// Expect is what an import must turn out to be. Anything else is refused and
// never enters the store.
type Expect struct {
	ID     cid.Cid  // CID of the manifest; undefined: any
	Size   int64    // bytes of all parts together; 0: any
	Sha256 [][]byte // one hash per part; empty: any
}

// begins compares the headers, and what the origins report, with what is
// expected, before any of the weights are fetched.
func (e *Expect) begins(im *importer) error {
	if n := im.man.Size(); e.Size > 0 && n != e.Size {
		return fmt.Errorf("%w: %s has %d bytes where %d were expected: it is another file", ErrSource, shown(im.src.parts[0]), n, e.Size)
	}
	if len(e.Sha256) > 0 && len(e.Sha256) != len(im.parts) {
		return fmt.Errorf("%w: %s has %d parts where %d were expected", ErrSource, shown(im.src.parts[0]), len(im.parts), len(e.Sha256))
	}
	for i, p := range im.parts {
		if told := p.rest.Sha256(); told != nil {
			if err := e.file(im, i, told); err != nil {
				return err
			}
		}
	}
	return nil
}

// file compares one part's hash with the expected one.
func (e *Expect) file(im *importer, i int, sum []byte) error {
	if len(e.Sha256) == 0 || bytes.Equal(sum, e.Sha256[i]) {
		return nil
	}
	return fmt.Errorf("%w: %s has sha256 %x, and %x was expected: it is another file", ErrSource, shown(im.src.parts[i]), sum, e.Sha256[i])
}

// Add imports a model from a path, an http(s) URL, or hf:owner/repo/file.gguf.
// It reads the whole source once, to hash it, and keeps only what the span
// needs. Nothing is visible until all of it is stored, and nothing is left
// behind if the import fails. If the model is already in the store, it gains
// what it was missing. Errors wrap ErrSource (the source cannot be read, or is
// not what Expect says), gguf.ErrFormat, ErrSpan, ErrFull, that of
// Options.Check, or ctx's.
//
//	headers -> layout, checks -> [read a leaf -> hash it -> write it] ... -> DAGs, manifest -> rename
//	                                  \-> hash the file
func (s *Store) Add(ctx context.Context, from string, opt AddOptions) (*Model, error) {
	src, err := findSource(from, !opt.Listed)
	if err != nil {
		return nil, err
	}
	if opt.Name == "" {
		opt.Name = src.name
	}
	if opt.Base != nil {
		opt.Name = adapted(opt.Base.Name(), opt.Name)
	}
	im := &importer{ctx: ctx, src: src, opt: opt}
	defer im.close()
	if err := im.layOut(s.opt.Check); err != nil {
		return nil, err
	}
	if err := opt.Expect.begins(im); err != nil {
		return nil, err
	}
	if opt.Read != nil {
		*opt.Read = im.mark()
	}
	var coming int64
	for i := range im.man.Shards {
		if im.keep[i] {
			coming += im.man.Shards[i].Size
		}
	}
	if err := SpaceFor(s.dir, coming); err != nil {
		return nil, err
	}
	counts := coming
	if opt.Pin {
		counts = 0
	}
	release, err := s.reserve(counts)
	if err != nil {
		return nil, err
	}
	defer release()
	tmp, done, err := s.tempDir()
	if err != nil {
		return nil, err
	}
	defer done()
	if im.out, err = os.Create(filepath.Join(tmp, dataName)); err != nil {
		return nil, full(err)
	}
	if err := im.read(); err != nil {
		return nil, needs(err, coming)
	}
	m, err := s.adopt(im, tmp)
	return m, needs(err, coming)
}

// needs adds to a full disk's error how many bytes the model takes in all.
func needs(err error, bytes int64) error {
	if errors.Is(err, ErrFull) {
		return fmt.Errorf("%w; it takes %s in all", err, SizeText(bytes))
	}
	return err
}

// adopt turns a finished import into a model, or adds it to the existing one.
func (s *Store) adopt(im *importer, tmp string) (*Model, error) {
	raw, id, err := im.man.Encode()
	if err != nil {
		return nil, err
	}
	if want := im.opt.Expect.ID; want.Defined() && !want.Equals(id) {
		return nil, fmt.Errorf("%w: %s is model %s, but %s was expected: it is another file", ErrSource, shown(im.src.parts[0]), id, want)
	}
	m, done := s.take(id)
	if m == nil {
		if err := im.writeBooks(tmp); err != nil {
			return nil, full(err)
		}
		if m, done, err = s.settle(tmp, id, raw, im.record()); err != nil {
			return nil, err
		}
	}
	defer done()
	return m, errors.Join(im.merge(m), m.addRecord(im.record()))
}

func (im *importer) record() record {
	rec := record{Names: []string{im.opt.Name}, Added: time.Now().UTC()}
	if !im.opt.Transient {
		rec.Origins = im.src.origins()
		if im.src.way.wasNear() {
			rec.Near = rec.Origins
		}
	}
	if im.opt.Pin {
		for i := range im.man.Shards {
			if im.keep[i] {
				rec.Pins = append(rec.Pins, im.man.Shards[i].Root.String())
			}
		}
	}
	return rec
}

// importer reads a source once, from beginning to end.
type importer struct {
	ctx   context.Context
	src   *source
	opt   AddOptions
	parts []*part
	man   *protocol.Manifest
	base  []int64
	lay   []shard
	keep  map[int]bool
	out   *os.File // has the layout of the model's data file
	done  int64    // bytes read
	nodes map[cid.Cid][]byte
}

// part is one file of the source: its parsed header and a reader for the rest.
type part struct {
	head []byte
	rest reader
}

func (im *importer) close() {
	for _, p := range im.parts {
		p.rest.Close()
	}
	if im.out != nil {
		im.out.Close()
	}
}

// layOut reads the headers and assigns every byte to a shard. Everything that
// can be refused is refused here, before anything is written.
func (im *importer) layOut(check func(md interface{ Value(key string) any }) error) error {
	var first *gguf.Header
	var lay *layout
	for i, where := range im.src.parts {
		h, err := im.readHeader(i)
		if err != nil {
			return fmt.Errorf("%s: %w", shown(where), err)
		}
		size := im.parts[i].rest.Size()
		if err := errors.Join(h.Check(size), splitCheck(h, i, len(im.src.parts))); err != nil {
			return fmt.Errorf("%s: %w", shown(where), err)
		}
		if i == 0 && im.opt.Base != nil {
			if err := checkAdapter(h, im.opt.Base, len(im.src.parts)); err != nil {
				return fmt.Errorf("%s: %w", shown(where), err)
			}
			first, lay = h, newLayout(im.opt.Base.man.Blocks)
			lay.to = im.opt.Base
		} else if i == 0 {
			if h.String("general.type") == adapterType {
				err := fmt.Errorf("%s: %w: it is an adapter (LoRA); name the model that it adds to, too", shown(where), gguf.ErrFormat)
				return remedy.For(err, remedy.NameBase)
			}
			if check != nil {
				if err := check(h); err != nil {
					return fmt.Errorf("%s: %w", shown(where), err)
				}
			}
			if h.Blocks() < 1 || h.Blocks() > 1<<16 || h.Width() < 1 {
				return fmt.Errorf("%s: %w: it holds no language model (block count %d, width %d)", shown(where), gguf.ErrFormat, h.Blocks(), h.Width())
			}
			first, lay = h, newLayout(int64(h.Blocks()))
		}
		if err := lay.file(size, h); err != nil {
			return err
		}
	}
	var err error
	if im.man, err = lay.manifest(first); err != nil {
		return err
	}
	raw, _, err := im.man.Encode() // as long as the final one, so this checks whether peers would accept it
	if err == nil {
		_, err = protocol.DecodeManifest(raw)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", gguf.ErrFormat, err)
	}
	im.keep = map[int]bool{}
	for i := range im.man.Shards {
		im.keep[i] = im.opt.Span == nil
	}
	if s := im.opt.Span; s != nil {
		if !s.Valid(int(im.man.Blocks)) && *s != (protocol.Span{}) {
			return fmt.Errorf("%w: %s: the model has blocks 0-%d", ErrSpan, s, im.man.Blocks)
		}
		for _, i := range im.man.ShardsFor(*s) {
			im.keep[i] = true
		}
	}
	im.base, im.lay = layShards(im.man)
	return nil
}

func (im *importer) readHeader(i int) (*gguf.Header, error) {
	r, err := im.src.open(im.ctx, i)
	if err != nil {
		return nil, err
	}
	p := &part{rest: r}
	im.parts = append(im.parts, p)
	var head bytes.Buffer
	h, err := gguf.Read(io.TeeReader(r, &head), r.Size())
	p.head = head.Bytes()
	if len(im.src.parts) > 1 {
		r.Rest() // a model of thousands of parts must not hold thousands of connections open
	}
	return h, err
}

// splitCheck compares a split model's part with what its own header says.
func splitCheck(h *gguf.Header, i, n int) error {
	if count, ok := h.Uint("split.count"); ok && count > 0 && int(min(count, 1<<20)) != n {
		return fmt.Errorf("%w: its header says %d parts and its name says %d; keep the parts' original names", gguf.ErrFormat, count, n)
	}
	if no, ok := h.Uint("split.no"); ok && n > 1 && int(min(no, 1<<20)) != i {
		return fmt.Errorf("%w: its header says part %d and its name says %d; keep the parts' original names", gguf.ErrFormat, no+1, i+1)
	}
	return nil
}

// read hashes everything and writes what is to be kept.
func (im *importer) read() error {
	for i := range im.lay {
		im.lay[i].leaves = make([]digest, len(im.lay[i].held))
	}
	for i := range im.man.Files {
		if err := im.readFile(i); err != nil {
			return err
		}
	}
	last := len(im.man.Files) - 1
	if err := im.out.Truncate(im.base[last] + im.man.Files[last].Size); err != nil {
		return full(err)
	}
	im.nodes = map[cid.Cid][]byte{}
	for i := range im.lay {
		s := &im.lay[i]
		links := make([]link, len(s.leaves))
		for n, d := range s.leaves {
			size := uint64(s.size(n))
			links[n] = link{d.cid(), size, size}
		}
		root, nodes, err := buildDAG(links)
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

// piece is a range of one file and the shard that it belongs to.
type piece struct {
	shard int
	run
}

// pieces returns a file's ranges in reading order.
func (im *importer) pieces(file int) []piece {
	var out []piece
	for i, s := range im.man.Shards {
		for n, e := range s.Extents {
			if e.File == int64(file) {
				out = append(out, piece{i, im.lay[i].runs[n]})
			}
		}
	}
	slices.SortFunc(out, func(a, b piece) int {
		if a.at < b.at {
			return -1
		}
		return 1
	})
	return out
}

func (im *importer) readFile(file int) error {
	p := im.parts[file]
	r := io.MultiReader(bytes.NewReader(p.head), p.rest)
	whole := newAsyncHash()
	defer whole.close()
	for _, pc := range im.pieces(file) {
		s := &im.lay[pc.shard]
		for off := int64(0); off < pc.length; off += protocol.LeafSize {
			if err := im.ctx.Err(); err != nil {
				return context.Cause(im.ctx)
			}
			buf := whole.buffer(int(min(pc.length-off, protocol.LeafSize)))
			if _, err := io.ReadFull(r, buf); err != nil {
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					err = errors.New("it ended early; did it change during the import?")
				}
				return fmt.Errorf("%w: %s: %w", ErrSource, shown(im.src.parts[file]), err)
			}
			leaf := pc.leaf + int(off/protocol.LeafSize)
			s.leaves[leaf] = sha256.Sum256(buf)
			if im.keep[pc.shard] {
				if _, err := im.out.WriteAt(buf, pc.at+off); err != nil {
					return full(err)
				}
				s.held[leaf] = true
			}
			im.done += int64(len(buf))
			whole.write(buf)
			if im.opt.Progress != nil {
				im.opt.Progress(im.done, im.man.Size())
			}
		}
	}
	im.man.Files[file].Sha256 = whole.sum()
	p.rest.Close()
	p.head = nil
	if want := p.rest.Sha256(); want != nil && !bytes.Equal(want, im.man.Files[file].Sha256) {
		return fmt.Errorf("%w: %s: the bytes received have sha256 %x and the origin says %x; they were damaged on the way: try again", ErrSource,
			shown(im.src.parts[file]), im.man.Files[file].Sha256, want)
	}
	return im.opt.Expect.file(im, file, im.man.Files[file].Sha256)
}

// writeBooks completes a new model's directory with its nodes and journal, all
// synced to disk before the model becomes visible.
func (im *importer) writeBooks(dir string) error {
	var nodes []byte
	for _, c := range slices.SortedFunc(maps.Keys(im.nodes), func(a, b cid.Cid) int { return bytes.Compare(a.Bytes(), b.Bytes()) }) {
		nodes = appendNode(nodes, im.nodes[c])
	}
	return errors.Join(im.out.Sync(),
		files.Replace(filepath.Join(dir, "nodes"), nodes, 0o644),
		files.Replace(filepath.Join(dir, "journal"), heldRecords(im.lay), 0o644))
}

// merge adds to an existing model what it is missing and the import has.
func (im *importer) merge(m *Model) error {
	m.mu.Lock()
	for _, raw := range im.nodes {
		if err := m.writeNode(raw); err != nil {
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
	missing, err := m.Missing(m.Shards())
	if err != nil {
		return err
	}
	buf := make([]byte, protocol.LeafSize)
	for _, l := range missing {
		if !im.keep[l.Shard] {
			continue
		}
		if err := im.ctx.Err(); err != nil {
			return context.Cause(im.ctx)
		}
		if _, err := im.out.ReadAt(buf[:l.Size], im.base[l.File]+l.Offset); err != nil {
			return err
		}
		if err := m.Put(l.CID, buf[:l.Size]); err != nil {
			return err
		}
	}
	return m.Sync()
}

// asyncHash hashes a file in a second goroutine while the first reads it and
// hashes its leaves. Three buffers circulate between the two.
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
