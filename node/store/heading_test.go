package store

import (
	"errors"
	"testing"

	"github.com/ipfs/go-cid"
)

// Of a model's heading, the header's leaves can be read and no weights, by number and by CID.
func TestHeading(t *testing.T) {
	s := open(t, t.TempDir())
	m := add(t, s, tiny, nil)
	h := m.Heading()
	bits, v, hidden := h.HeldLeaves(), s.Headings(func(id cid.Cid) bool { return id == m.ID() }), s.Headings(func(cid.Cid) bool { return false })
	headers, weights := 0, 0
	for n := range h.LeafCount() {
		p, _ := m.numbered(n)
		c := m.shards[p.shard].leaves[p.leaf].cid()
		_, byNumber := h.ReadLeaf(n, nil)
		_, byCID := v.Get(t.Context(), c)
		has, _ := v.Has(t.Context(), c)
		if m.header(p) {
			headers++
			if byNumber != nil || byCID != nil || !has || bits[n>>3]>>(n&7)&1 == 0 {
				t.Errorf("leaf %d of the header: %v, %v", n, byNumber, byCID)
			}
			if ok, _ := hidden.Has(t.Context(), c); ok {
				t.Error("the header of a model that may not be seen")
			}
			continue
		}
		weights++
		if m.heads(c) { // a leaf of the header is the same
			continue
		}
		if !errors.Is(byNumber, ErrNotFound) || !errors.Is(byCID, ErrNotFound) || has || bits[n>>3]>>(n&7)&1 != 0 {
			t.Errorf("leaf %d of the weights can be read: %v, %v", n, byNumber, byCID)
		}
	}
	if headers == 0 || weights == 0 {
		t.Errorf("%d leaves of the header, %d of weights", headers, weights)
	}
	if raw, err := v.Get(t.Context(), m.ID()); err != nil || len(raw) == 0 {
		t.Error("the manifest: ", err)
	}
	if _, err := h.ReadLeaf(h.LeafCount(), nil); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
