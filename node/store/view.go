package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"
)

// View is the blocks of some of a store's models. It is safe for concurrent use.
type View struct {
	s   *Store
	may func(model cid.Cid) bool
}

// Only returns a view of the blocks of those models for which may returns true. A block
// that several models have is in the view if one of them is.
func (s *Store) Only(may func(model cid.Cid) bool) *View { return &View{s, may} }

// Get reads a block as Store.Get does, and fails as if those of other models were not
// there.
func (v *View) Get(ctx context.Context, c cid.Cid) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err := fmt.Errorf("block %s: %w", c, ErrNotFound)
	for _, m := range v.s.all() {
		if !v.may(m.ID()) {
			continue
		}
		raw, e := m.block(c)
		if e == nil {
			return raw, nil
		}
		if !errors.Is(e, ErrNotFound) {
			err = e
		}
	}
	return nil, err
}

// Has reports whether a block is in the view, as Store.Has does.
func (v *View) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := v.Size(ctx, c)
	return err == nil, nil
}

// Size returns a block's size in bytes. The error is ErrNotFound.
func (v *View) Size(_ context.Context, c cid.Cid) (int, error) {
	for _, m := range v.s.all() {
		if n, ok := m.size(c); ok && v.may(m.ID()) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("block %s: %w", c, ErrNotFound)
}

// Holds reports whether a block is here and in one of the models for which of returns
// true.
func (s *Store) Holds(block cid.Cid, of func(model cid.Cid) bool) bool {
	return slices.ContainsFunc(s.all(), func(m *Model) bool {
		_, has := m.size(block)
		return has && of(m.ID())
	})
}
