package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Lay says how the file of a span is laid out for an engine that cannot compute from
// the model's file as it is. The positions of h's tensors are those in that file, in
// which the model's header lies behind so many bytes of room; room is 0 if the model
// is split. It must not keep or change h.
type Lay func(h *gguf.Header, span protocol.Span, room int64) (*gguf.Layout, error)

// LaidFile is StageFile for an engine that needs a file of its own: laid out by lay,
// and made of the span's leaves. The file stays beside the model's for the next load
// that wants the same one, and counts to the quota with what of it is a copy; what the
// file system can share between the two files is not. Errors are those of StageFile,
// and lay's.
//
// A file that is there is used again if all its bytes are those that were once made
// of verified leaves: it ends with their sum.
func (m *Model) LaidFile(ctx context.Context, span protocol.Span, lay Lay, load func(path string) error) error {
	if !span.Valid(int(m.man.Blocks)) {
		return fmt.Errorf("%w: %s: the model has blocks 0-%d", ErrSpan, span, m.man.Blocks)
	}
	shards := m.man.ShardsFor(span)
	defer m.UseShards(shards)()
	path, done, err := m.laidFile(ctx, span, shards, lay)
	if err != nil {
		return err
	}
	defer done()
	return load(path)
}

// laidFile returns the path of a span's file, which others leave alone until done is
// called; done is not nil.
func (m *Model) laidFile(ctx context.Context, span protocol.Span, shards []int, lay Lay) (path string, done func(), err error) {
	if err := m.loading.Acquire(ctx, 1); err != nil {
		return "", nil, err
	}
	done = sync.OnceFunc(func() { m.loading.Release(1) })
	path, err = m.laidAt(ctx, span, shards, lay)
	if err != nil || path != filepath.Join(m.dir, dataName) {
		done() // a file of its own is the span's alone
	}
	return path, done, err
}

// laidAt returns the path of a span's file, which it makes if need be. Called with
// loading held.
func (m *Model) laidAt(ctx context.Context, span protocol.Span, shards []int, lay Lay) (path string, err error) {
	if err := m.missing(shards); err != nil {
		return "", err
	}
	l, err := m.layOut(span, shards, lay)
	if err != nil {
		return "", err
	}
	if l.InPlace {
		m.dropLaid(nil) // of spans that nobody serves any more
		if _, err := m.Verify(ctx, shards, true); err != nil {
			return "", err
		}
		return filepath.Join(m.dir, dataName), m.putHead(l.Header)
	}
	path = filepath.Join(m.dir, laidName(span))
	right, err := isLaid(ctx, path, l)
	if err == nil && !right {
		m.dropLaid(nil) // of spans that nobody serves any more
		err = m.makeLaid(ctx, path, span, shards, l)
	}
	return path, err
}

// putHead writes a header into the room before the model's own, unless it is there.
func (m *Model) putHead(head []byte) error {
	if int64(len(head)) > m.base[0] {
		return fmt.Errorf("the stage header takes %d bytes, more than the %d reserved for it", len(head), m.base[0])
	}
	there := make([]byte, len(head))
	if _, err := m.data.ReadAt(there, 0); err == nil && bytes.Equal(there, head) {
		return nil
	}
	if _, err := m.data.WriteAt(head, 0); err != nil {
		return m.failed(err)
	}
	return nil
}

// layOut calls lay with the positions in the data file, and checks what it returns:
// the file may have nothing but what its span holds.
func (m *Model) layOut(span protocol.Span, shards []int, lay Lay) (*gguf.Layout, error) {
	h, err := m.ownHeader(context.Background())
	if err != nil {
		return nil, err
	}
	placed := *h
	room := int64(0)
	if len(m.man.Files) == 1 && m.agrees(h) {
		room = m.base[0]
		placed.DataOffset += room
	} else {
		placed.DataOffset, placed.Tensors = 0, nil
		for i := range m.man.Shards {
			ts, err := m.tensors(i)
			if err != nil {
				return nil, err
			}
			placed.Tensors = append(placed.Tensors, ts...)
		}
	}
	l, err := lay(&placed, span, room)
	if err != nil {
		return nil, err
	}
	var held []run
	for _, i := range shards {
		held = append(held, m.shards[i].runs...)
	}
	held = joined(held)
	for _, p := range l.Pieces {
		if !slices.ContainsFunc(held, func(r run) bool { return r.at <= p.From && p.From+p.Length <= r.at+r.length }) {
			return nil, fmt.Errorf("%w: its tensors do not lie where the file has them", protocol.ErrManifest)
		}
	}
	return l, nil
}

// agrees reports whether the manifest places every tensor where the model's header
// does.
func (m *Model) agrees(h *gguf.Header) bool {
	at := map[string]protocol.TensorInfo{}
	for i := range m.man.Shards {
		for _, t := range m.man.Shards[i].Tensors {
			at[t.Name] = t
		}
	}
	for _, t := range h.Tensors {
		if x, ok := at[t.Name]; !ok || x.Offset != h.DataOffset+int64(t.Offset) || x.Length != int64(t.Bytes()) {
			return false
		}
	}
	return len(at) == len(h.Tensors)
}

// tensors returns a shard's, with their positions in the data file.
func (m *Model) tensors(shard int) (out []gguf.Tensor, err error) {
	for _, t := range m.man.Shards[shard].Tensors {
		g := gguf.Tensor{Name: t.Name, Type: gguf.Type(t.Type), Offset: uint64(m.base[t.File] + t.Offset)}
		for _, d := range t.Shape {
			g.Shape = append(g.Shape, uint64(d))
		}
		if t.Length != int64(g.Bytes()) {
			return nil, fmt.Errorf("%w: tensor %q has %d bytes where its shape needs %d", protocol.ErrManifest, t.Name, t.Length, g.Bytes())
		}
		out = append(out, g)
	}
	return out, nil
}

// laidName is the name of a span's file.
func laidName(span protocol.Span) string { return "span-" + span.String() + ".gguf" }

// seal ends a laid file: a mark, the bytes that are not shared with the model's file,
// and the sum of all bytes before it.
type seal struct {
	mark   [8]byte
	copied int64
	sum    digest
}

const sealSize = 8 + 8 + sha256.Size

var sealMark = [8]byte{'s', 'h', 'o', 'a', 'l', 's', 'u', 'm'}

func (s seal) bytes() []byte {
	b := binary.LittleEndian.AppendUint64(sealMark[:len(sealMark):len(sealMark)], uint64(s.copied))
	return append(b, s.sum[:]...)
}

// readSeal reads a file's; ok is false if it has none.
func readSeal(f *os.File) (s seal, size int64, ok bool) {
	st, err := f.Stat()
	if err != nil || st.Size() < sealSize {
		return s, 0, false
	}
	size = st.Size() - sealSize
	raw := make([]byte, sealSize)
	if _, err := f.ReadAt(raw, size); err != nil {
		return s, 0, false
	}
	copy(s.mark[:], raw)
	s.copied = int64(binary.LittleEndian.Uint64(raw[8:]))
	copy(s.sum[:], raw[16:])
	return s, size, s.mark == sealMark && s.copied >= 0 && s.copied <= st.Size()
}

// isLaid reports whether a file is there, laid out so, and undamaged. The error is
// ctx's.
func isLaid(ctx context.Context, path string, l *gguf.Layout) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, nil //nolint:nilerr // it is made
	}
	defer f.Close()
	s, size, ok := readSeal(f)
	head := make([]byte, len(l.Header))
	if !ok || size != l.Size {
		return false, nil
	}
	if _, err := f.ReadAt(head, 0); err != nil || !bytes.Equal(head, l.Header) {
		return false, nil //nolint:nilerr // it is made again
	}
	sum, err := sumFile(ctx, f, size)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	return err == nil && sum == s.sum, nil
}

// sumFile hashes a file's first bytes: the hash of the hashes of its MiBs.
func sumFile(ctx context.Context, f *os.File, size int64) (digest, error) {
	parts := int((size + protocol.LeafSize - 1) / protocol.LeafSize)
	sums := make([]byte, parts*sha256.Size)
	next := make(chan int)
	errs := make([]error, verifiers)
	var wg sync.WaitGroup
	for w := range verifiers {
		wg.Go(func() {
			buf := make([]byte, protocol.LeafSize)
			for i := range next {
				at := int64(i) * protocol.LeafSize
				part := buf[:min(size-at, protocol.LeafSize)]
				if _, err := f.ReadAt(part, at); err != nil {
					errs[w] = err
				}
				sum := sha256.Sum256(part)
				copy(sums[i*sha256.Size:], sum[:])
			}
		})
	}
	for i := range parts {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	return sha256.Sum256(sums), errors.Join(append(errs, context.Cause(ctx))...)
}

// makeLaid makes a span's file of its leaves, each of which is checked first. Until it
// is complete, it has a name that Open sweeps.
func (m *Model) makeLaid(ctx context.Context, path string, span protocol.Span, shards []int, l *gguf.Layout) error {
	m.forgetLaid(span)
	_ = os.Remove(path)
	if _, err := m.Verify(ctx, shards, true); err != nil {
		return err
	}
	f, err := os.CreateTemp(m.dir, laidName(span)+files.Mark)
	if err != nil {
		return m.failed(err)
	}
	copied, err := m.fillLaid(ctx, f, l)
	if err = errors.Join(err, f.Close()); err == nil {
		err = m.placeLaid(f.Name(), path, span, copied)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return m.failed(err)
	}
	return nil
}

// placeLaid gives a complete file its name.
func (m *Model) placeLaid(tmp, path string, span protocol.Span, copied int64) error {
	m.laying.Lock()
	defer m.laying.Unlock()
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	m.mu.Lock()
	m.laid[span] = copied
	m.mu.Unlock()
	return files.SyncDir(m.dir)
}

// fillLaid writes a file, and returns how much of it the disk does not share.
func (m *Model) fillLaid(ctx context.Context, f *os.File, l *gguf.Layout) (copied int64, err error) {
	if err := f.Truncate(l.Size + sealSize); err != nil {
		return 0, err
	}
	var rest []gguf.Piece // what cannot be shared
	for _, p := range l.Pieces {
		rest = append(rest, m.sharePiece(f, p)...)
	}
	copied = int64(len(l.Header)) + sealSize
	for _, p := range rest {
		copied += p.Length
	}
	done, err := m.room(copied)
	if err != nil {
		return 0, err
	}
	defer done()
	for _, p := range rest {
		if err := m.copyPiece(ctx, f, p); err != nil {
			return 0, err
		}
	}
	if _, err := f.WriteAt(l.Header, 0); err != nil {
		return 0, err
	}
	sum, err := sumFile(ctx, f, l.Size)
	if err != nil {
		return 0, err
	}
	if _, err := f.WriteAt(seal{copied: copied, sum: sum}.bytes(), l.Size); err != nil {
		return 0, err
	}
	return copied, errors.Join(f.Chmod(0o644), f.Sync())
}

// sharePiece lets a file have a range of the model's data in common with it, and
// returns what of it must be copied: the ends, which share a block of the disk with
// others, or all of it.
func (m *Model) sharePiece(f *os.File, p gguf.Piece) []gguf.Piece {
	first := roundUp(p.From, diskBlock) - p.From
	last := (p.From+p.Length)/diskBlock*diskBlock - p.From
	if (p.From-p.At)%diskBlock != 0 || first >= last || !share(f, p.At+first, m.data, p.From+first, last-first) {
		return []gguf.Piece{p}
	}
	var rest []gguf.Piece
	if first > 0 {
		rest = append(rest, gguf.Piece{From: p.From, At: p.At, Length: first})
	}
	if last < p.Length {
		rest = append(rest, gguf.Piece{From: p.From + last, At: p.At + last, Length: p.Length - last})
	}
	return rest
}

func (m *Model) copyPiece(ctx context.Context, f *os.File, p gguf.Piece) error {
	buf := make([]byte, min(p.Length, protocol.LeafSize))
	for at := int64(0); at < p.Length; at += int64(len(buf)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := buf[:min(p.Length-at, int64(len(buf)))]
		if _, err := m.data.ReadAt(part, p.From+at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := f.WriteAt(part, p.At+at); err != nil {
			return err
		}
	}
	return nil
}

// room makes room for so many bytes of a laid file, on the disk and in the quota, until
// done is called.
func (m *Model) room(n int64) (done func(), err error) {
	if err := SpaceFor(m.dir, n); err != nil {
		return nil, err
	}
	if m.reserve == nil {
		return func() {}, nil
	}
	return m.reserve(n)
}

// findLaid lists the laid files that a closed store left, and deletes those that are of
// no use: incomplete ones, and ones of shards that are not held any more.
func (m *Model) findLaid() {
	paths, _ := filepath.Glob(filepath.Join(m.dir, "span-*.gguf"))
	for _, path := range paths {
		span, err := protocol.ParseSpan(filepath.Base(path)[len("span-") : len(filepath.Base(path))-len(".gguf")])
		s, ok := seal{}, false
		if err == nil && span.Valid(int(m.man.Blocks)) && m.missing(m.man.ShardsFor(span)) == nil {
			s, ok = sealOf(path)
		}
		if ok {
			m.laid[span] = s.copied
		} else {
			_ = os.Remove(path)
		}
	}
}

func sealOf(path string) (s seal, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return s, false
	}
	defer f.Close()
	s, _, ok = readSeal(f)
	return s, ok
}

// laidUnused returns the spans whose file nobody uses, in order, and the bytes that
// those files do not share with the model's. Called with mu held.
func (m *Model) laidUnused() (spans []protocol.Span, bytes int64) {
	for span, n := range m.laid {
		if slices.ContainsFunc(m.man.ShardsFor(span), func(i int) bool { return m.shards[i].users == 0 }) {
			spans, bytes = append(spans, span), bytes+n
		}
	}
	slices.SortFunc(spans, func(a, b protocol.Span) int { return cmp.Or(a.From-b.From, a.To-b.To) })
	return spans, bytes
}

// laidUnpinned returns the bytes of laid files that count against the quota. Called
// with mu held.
func (m *Model) laidUnpinned() (bytes int64) {
	for span, n := range m.laid {
		if slices.ContainsFunc(m.man.ShardsFor(span), func(i int) bool { return !m.pinned(i) }) {
			bytes += n
		}
	}
	return bytes
}

// dropLaid deletes the laid files that need one of the shards (nil: those that nobody
// uses), and returns the bytes that were freed.
func (m *Model) dropLaid(shards []int) (freed int64) {
	m.laying.Lock()
	defer m.laying.Unlock()
	m.mu.Lock()
	spans, _ := m.laidUnused()
	if shards != nil {
		spans = nil
		for span := range m.laid {
			if slices.ContainsFunc(m.man.ShardsFor(span), func(i int) bool { return slices.Contains(shards, i) }) {
				spans = append(spans, span)
			}
		}
	}
	for _, span := range spans {
		freed += m.laid[span]
		delete(m.laid, span)
	}
	m.mu.Unlock()
	for _, span := range spans {
		_ = os.Remove(filepath.Join(m.dir, laidName(span))) // at worst the next Open finds it
	}
	return freed
}

func (m *Model) forgetLaid(span protocol.Span) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.laid, span)
}

// Unserved deletes the files that were laid out for spans which nobody uses now.
func (m *Model) Unserved() { m.dropLaid(nil) }

// dropLaid deletes the laid files that nobody uses.
func (s *Store) dropLaid() (freed int64) {
	for _, m := range s.all() {
		freed += m.dropLaid(nil)
	}
	return freed
}
