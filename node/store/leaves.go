package store

import (
	"bytes"
	"fmt"

	"github.com/ipfs/go-cid"
)

// A model's leaves are numbered from 0, shard by shard in the manifest's order,
// and within a shard in the order of its extents. Peers refer to leaves by
// these numbers.

// number returns a leaf's number within the model.
func (m *Model) number(p place) int {
	n := p.leaf
	for i := range p.shard {
		n += len(m.shards[i].held)
	}
	return n
}

// numbered returns the place of the leaf with a number.
func (m *Model) numbered(n int) (place, bool) {
	for i := range m.shards {
		if n >= 0 && n < len(m.shards[i].held) {
			return place{i, n}, true
		}
		n -= len(m.shards[i].held)
	}
	return place{}, false
}

// LeafCount returns the number of leaves in the model.
func (m *Model) LeafCount() int {
	n := 0
	for i := range m.shards {
		n += len(m.shards[i].held)
	}
	return n
}

// HeldLeaves returns the held leaves as a bitmap, one bit per leaf, least
// significant bit first.
func (m *Model) HeldLeaves() []byte {
	bits := make([]byte, (m.LeafCount()+7)/8)
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := 0
	for i := range m.shards {
		for _, held := range m.shards[i].held {
			if held {
				bits[n>>3] |= 1 << (n & 7)
			}
			n++
		}
	}
	return bits
}

// ReadLeaf reads and checks a leaf by its number, into buf if it is large
// enough. Errors are ErrNotFound if the leaf is not held, and ErrCorrupt if it
// was held but turned out damaged.
func (m *Model) ReadLeaf(n int, buf []byte) ([]byte, error) {
	p, ok := m.numbered(n)
	if ok {
		m.mu.RLock()
		ok = m.shards[p.shard].held[p.leaf]
		m.mu.RUnlock()
	}
	if !ok {
		return nil, fmt.Errorf("leaf %d of %s: %w", n, m.id, ErrNotFound)
	}
	raw, ok, err := m.readLeaf(p, buf)
	if err == nil && !ok {
		err = fmt.Errorf("leaf %d of %s: %w", n, m.id, ErrCorrupt)
	}
	return raw, err
}

// PutVerified is Put of bytes that the caller has already checked against c:
// hashing is most of the cost of storing a leaf. Errors are those of Put.
func (m *Model) PutVerified(c cid.Cid, raw []byte) error {
	switch d, ok := digestOf(c); {
	case ok:
		if err := m.putLeaf(d, raw); err != nil {
			return err
		}
		return m.syncIfDue()
	case c.Defined() && c.Prefix() == nodePrefix:
		return m.putNode(c, bytes.Clone(raw))
	}
	return fmt.Errorf("block %s: %w", c, ErrMismatch)
}
