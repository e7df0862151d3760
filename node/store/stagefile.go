package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Missing says which shards cannot be used because leaves of them are not
// held, or were found damaged.
type Missing struct {
	Shards []int
	Leaves int
	man    *protocol.Manifest
}

func (e *Missing) Error() string {
	var names []string
	for _, i := range e.Shards {
		names = append(names, shardName(&e.man.Shards[i]))
		if len(names) == 8 && len(e.Shards) > 8 {
			names = append(names, fmt.Sprintf("and %d more", len(e.Shards)-8))
			break
		}
	}
	return fmt.Sprintf("%d leaves are not held, of: %v", e.Leaves, names)
}

func shardName(s *protocol.Shard) string {
	if s.Kind == protocol.ShardBlock {
		return fmt.Sprintf("block %d", s.Block)
	}
	return s.Kind
}

// Verify reads and checks all held leaves of the given shards (nil: all). It
// drops those that are damaged and reports how many; what is then not whole
// comes back as a *Missing if whole is asked for.
func (m *Model) Verify(ctx context.Context, shards []int, whole bool) (damaged int, err error) {
	if shards == nil {
		for i := range m.shards {
			shards = append(shards, i)
		}
	}
	miss := &Missing{man: m.man}
	var mu sync.Mutex
	var wg sync.WaitGroup
	places := make(chan place)
	for range min(2, runtime.NumCPU()) {
		wg.Go(func() {
			for p := range places {
				_, ok, e := m.readLeaf(p)
				mu.Lock()
				err = errors.Join(err, e)
				if !ok {
					damaged++
				}
				mu.Unlock()
			}
		})
	}
	m.mu.RLock()
	var all []place
	for _, i := range shards {
		for n, held := range m.shards[i].held {
			if held && m.shards[i].leaves != nil {
				all = append(all, place{i, n})
			}
		}
	}
	m.mu.RUnlock()
	for _, p := range all {
		if ctx.Err() != nil {
			break
		}
		places <- p
	}
	close(places)
	wg.Wait()
	if err = cmp.Or(ctx.Err(), err); err != nil || !whole {
		return damaged, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, i := range shards {
		if s := &m.shards[i]; s.count < len(s.sizes) {
			miss.Shards = append(miss.Shards, i)
			miss.Leaves += len(s.sizes) - s.count
		}
	}
	if len(miss.Shards) > 0 {
		return damaged, miss
	}
	return damaged, nil
}

// Header reads the model's own header, checked.
func (m *Model) Header() (*gguf.Header, error) {
	for i := range m.man.Shards {
		if m.man.Shards[i].Kind != protocol.ShardHeader {
			continue
		}
		if _, err := m.Verify(context.Background(), []int{i}, true); err != nil {
			return nil, err
		}
		e := m.man.Shards[i].Extents[0]
		return gguf.Read(io.NewSectionReader(m.data, m.base[e.File]+e.Offset, e.Length), e.Length)
	}
	return nil, protocol.ErrManifest // Check has seen one
}

// StageFile checks every leaf that a span needs, writes the stage header, and
// calls load with the file's path. The header stays until the next call, which
// waits for load to return. defaults are written where the metadata lacks
// them. A *Missing error lists what is to be fetched first.
func (m *Model) StageFile(ctx context.Context, span protocol.Span, defaults func(md *gguf.Header) []gguf.KV, load func(path string) error) error {
	defer m.Use()()
	m.loading.Lock()
	defer m.loading.Unlock()
	shards := m.man.ShardsFor(span)
	if _, err := m.Verify(ctx, shards, true); err != nil {
		return err
	}
	h, err := m.Header()
	if err != nil {
		return err
	}
	full := *h
	full.Tensors = nil
	at := map[string]int64{}
	for _, i := range shards {
		for _, t := range m.man.Shards[i].Tensors {
			g := gguf.Tensor{Name: t.Name, Type: gguf.Type(t.Type)}
			for _, d := range t.Shape {
				g.Shape = append(g.Shape, uint64(d))
			}
			full.Tensors = append(full.Tensors, g)
			at[t.Name] = m.base[t.File] + t.Offset
		}
	}
	var extra []gguf.KV
	if defaults != nil {
		extra = defaults(h)
	}
	head, err := full.Stage(extra, func(t gguf.Tensor) int64 { return at[t.Name] })
	if err != nil {
		return err
	}
	if int64(len(head)) > m.base[0] {
		return fmt.Errorf("the stage header takes %d bytes, more than the %d there are", len(head), m.base[0])
	}
	if _, err := m.data.WriteAt(head, 0); err != nil {
		return err
	}
	return load(filepath.Join(m.dir, "data.gguf"))
}

// Export writes the model's original file to path, or a split model's files
// into the directory path, and checks their hashes on the way. Nothing is
// visible before it is right. A partial holding is refused with a *Missing.
func (m *Model) Export(ctx context.Context, path string, progress func(done, total int64)) error {
	defer m.Use()()
	m.mu.RLock()
	miss := &Missing{man: m.man}
	for i := range m.shards {
		if s := &m.shards[i]; s.count < len(s.sizes) {
			miss.Shards = append(miss.Shards, i)
			miss.Leaves += len(s.sizes) - s.count
		}
	}
	m.mu.RUnlock()
	if len(miss.Shards) > 0 {
		return miss
	}
	var done int64
	for i, f := range m.man.Files {
		to := path
		if st, err := os.Stat(path); err == nil && st.IsDir() || len(m.man.Files) > 1 {
			name := m.Name() + ".gguf"
			if n := len(m.man.Files); n > 1 {
				name = fmt.Sprintf("%s-%05d-of-%05d.gguf", m.Name(), i+1, n)
			}
			to = filepath.Join(path, name)
		}
		err := m.exportFile(ctx, to, io.NewSectionReader(m.data, m.base[i], f.Size), f.Sha256, func(n int64) {
			done += n
			if progress != nil {
				progress(done, m.man.Size())
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) exportFile(ctx context.Context, to string, r io.Reader, sum []byte, progress func(int64)) (err error) {
	f, err := os.CreateTemp(filepath.Dir(to), ".shoal-export-")
	if err != nil {
		return full(err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		h.Write(buf[:n])
		if _, err := f.Write(buf[:n]); err != nil {
			return full(err)
		}
		progress(int64(n))
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if !bytes.Equal(h.Sum(nil), sum) {
		damaged, err := m.Verify(ctx, nil, true)
		return cmp.Or(err, fmt.Errorf("%w: %d leaves; pull the model again", ErrCorrupt, damaged))
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return full(err)
	}
	return os.Rename(f.Name(), to)
}

// Needs lists the shards of a span that are not whole.
func (m *Model) Needs(span protocol.Span) []int {
	holds := m.Holds()
	return slices.DeleteFunc(m.man.ShardsFor(span), func(i int) bool { return holds[i] })
}
