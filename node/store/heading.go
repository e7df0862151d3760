package store

import (
	"context"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
)

// Heading is a model as those see it who use it but may not have its weights: only the
// leaves of its header, with the vocabulary, are held. It is safe for concurrent use.
type Heading struct{ m *Model }

// Heading returns the model's heading.
func (m *Model) Heading() Heading { return Heading{m} }

// header reports whether a leaf is of the header.
func (m *Model) header(p place) bool { return m.man.Shards[p.shard].Kind == protocol.ShardHeader }

// LeafCount returns the number of leaves in the model.
func (h Heading) LeafCount() int { return h.m.LeafCount() }

// HeldLeaves returns the held leaves of the header as Model.HeldLeaves does.
func (h Heading) HeldLeaves() []byte {
	bits := h.m.HeldLeaves()
	for n := range h.m.LeafCount() {
		if p, _ := h.m.numbered(n); !h.m.header(p) {
			bits[n>>3] &^= 1 << (n & 7)
		}
	}
	return bits
}

// ReadLeaf reads a leaf of the header as Model.ReadLeaf does; others are not found.
func (h Heading) ReadLeaf(n int, buf []byte) ([]byte, error) {
	if p, ok := h.m.numbered(n); !ok || !h.m.header(p) {
		return nil, fmt.Errorf("leaf %d of %s: %w", n, h.m.id, ErrNotFound)
	}
	return h.m.ReadLeaf(n, buf)
}

// Headings are the blocks of a view without those of weights: manifests, headers, and the
// nodes that list leaves. They are safe for concurrent use.
type Headings struct{ *View }

// Headings returns the headings of those models for which may returns true.
func (s *Store) Headings(may func(model cid.Cid) bool) Headings { return Headings{s.Only(may)} }

// Get reads a block as View.Get does.
func (v Headings) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if _, err := v.Size(ctx, c); err != nil {
		return nil, err
	}
	return v.View.Get(ctx, c)
}

// Has reports whether a block is among them, as Store.Has does.
func (v Headings) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := v.Size(ctx, c)
	return err == nil, nil
}

// Size returns a block's size in bytes. The error is ErrNotFound.
func (v Headings) Size(_ context.Context, c cid.Cid) (int, error) {
	for _, m := range v.s.all() {
		if n, ok := m.size(c); ok && v.may(m.ID()) && m.heads(c) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("block %s: %w", c, ErrNotFound)
}

// heads reports whether a block is no weights: all that is no leaf, and the header's leaves.
func (m *Model) heads(c cid.Cid) bool {
	d, ok := digestOf(c)
	if !ok || c == m.id {
		return true
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, p := range m.places(d) {
		if m.header(p) {
			return true
		}
	}
	return false
}
