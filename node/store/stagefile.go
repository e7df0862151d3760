package store

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Header reads and checks the model's own header. For a split model it is the
// first part's, with the metadata but only that part's tensors; for an adapter it is
// its base's. Errors are those of Verify (such as *Missing if the header is not
// held), of Base, and gguf.ErrFormat.
func (m *Model) Header() (*gguf.Header, error) {
	base, err := m.Base()
	if err != nil {
		return nil, err
	}
	if base != nil {
		m = base
	}
	return m.ownHeader(context.Background())
}

func (m *Model) ownHeader(ctx context.Context) (*gguf.Header, error) {
	for i := range m.man.Shards {
		if m.man.Shards[i].Kind != protocol.ShardHeader {
			continue
		}
		if _, err := m.Verify(ctx, []int{i}, true); err != nil {
			return nil, err
		}
		return gguf.Read(m.file(0), m.man.Files[0].Size)
	}
	return nil, protocol.ErrManifest // Check has ensured that there is one
}

// StageFile checks every leaf that a span needs, writes the stage header, and
// calls load with the file's path. Until load returns, another call waits. The
// header stays for the next load, when a disk that is full by then would have
// no room for it; an identical header is not written again. extra returns
// entries to add to the metadata, replacing those with the same key. Errors are
// a *Missing that lists what must be fetched first, ErrSpan, ErrFull,
// gguf.ErrFormat, ctx's and load's.
//
// Before each load the whole span is read and hashed: what is on disk may have
// changed since the last one, and hashing costs less than loading.
func (m *Model) StageFile(ctx context.Context, span protocol.Span, extra func(md *gguf.Header) []gguf.KV, load func(path string) error) error {
	if !span.Valid(int(m.man.Blocks)) {
		return fmt.Errorf("%w: %s: the model has blocks 0-%d", ErrSpan, span, m.man.Blocks)
	}
	shards := m.man.ShardsFor(span)
	defer m.UseShards(shards)()
	if err := m.loading.Acquire(ctx, 1); err != nil {
		return err
	}
	defer m.loading.Release(1)
	if _, err := m.Verify(ctx, shards, true); err != nil {
		return err
	}
	head, err := m.stageHeader(shards, extra)
	if err != nil {
		return err
	}
	if err := m.putHead(head); err != nil {
		return err
	}
	return load(filepath.Join(m.dir, dataName))
}

// stageHeader builds a header that lists the shards' tensors at their positions
// in the data file.
func (m *Model) stageHeader(shards []int, extra func(md *gguf.Header) []gguf.KV) ([]byte, error) {
	h, err := m.Header()
	if err != nil {
		return nil, err
	}
	listed := *h
	listed.Tensors = nil // for a split model, h does not have all of them
	at := map[string]int64{}
	for _, i := range shards {
		ts, err := m.tensors(i)
		if err != nil {
			return nil, err
		}
		for _, t := range ts {
			listed.Tensors = append(listed.Tensors, t)
			at[t.Name] = int64(t.Offset)
		}
	}
	var kvs []gguf.KV
	if extra != nil {
		kvs = extra(h)
	}
	head, err := listed.Stage(kvs, func(t gguf.Tensor) int64 { return at[t.Name] })
	if err != nil {
		return nil, fmt.Errorf("writing the stage header: %w", err)
	}
	return head, nil
}
