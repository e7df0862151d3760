package bitswap

import (
	"context"
	"errors"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
)

// blockstore shows this node's blocks to bitswap. Bitswap never writes to it:
// the caller keeps what its sessions bring.
type blockstore struct{ have Blocks }

var errReadOnly = errors.New("exchange: bitswap does not write")

func (s blockstore) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	data, err := s.have.Get(ctx, c)
	if err != nil { // bitswap knows one way of not having a block
		return nil, ipld.ErrNotFound{Cid: c}
	}
	return blocks.NewBlockWithCid(data, c)
}

func (s blockstore) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	n, err := s.have.Size(ctx, c)
	if err != nil {
		return 0, ipld.ErrNotFound{Cid: c}
	}
	return n, nil
}

func (s blockstore) Has(ctx context.Context, c cid.Cid) (bool, error) { return s.have.Has(ctx, c) }
func (s blockstore) DeleteBlock(context.Context, cid.Cid) error       { return errReadOnly }
func (s blockstore) Put(context.Context, blocks.Block) error          { return errReadOnly }
func (s blockstore) PutMany(context.Context, []blocks.Block) error    { return errReadOnly }

func (s blockstore) AllKeysChan(context.Context) (<-chan cid.Cid, error) {
	none := make(chan cid.Cid)
	close(none)
	return none, nil
}
