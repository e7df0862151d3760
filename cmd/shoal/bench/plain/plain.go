// Package plain is what `shoal bench fetch` compares the exchange with: boxo's unmodified
// bitswap over a flatfs blockstore with one file per block. Nodes do not use it.
package plain

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	flatfs "github.com/ipfs/go-ds-flatfs"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/multiformats/go-multihash"
)

// Node serves and fetches blocks.
type Node struct {
	ds    *flatfs.Datastore
	store blockstore.Blockstore
	bs    *bitswap.Bitswap
}

// New opens a blockstore in a directory. It does not sync writes, which would only make
// it slower.
func New(h host.Host, dir string) (*Node, error) {
	ds, err := flatfs.CreateOrOpen(dir, flatfs.NextToLast(2), false)
	if err != nil {
		return nil, fmt.Errorf("opening flatfs: %w", err)
	}
	n := &Node{ds: ds, store: blockstore.NewBlockstore(ds, blockstore.NoPrefix())}
	n.bs = bitswap.New(context.Background(), bsnet.NewFromIpfsHost(h), nil, n.store)
	return n, nil
}

// Add splits a file into raw blocks of a given size and stores them.
func (n *Node) Add(ctx context.Context, r io.Reader, size int) (list []cid.Cid, err error) {
	prefix := cid.Prefix{Version: 1, Codec: cid.Raw, MhType: multihash.SHA2_256, MhLength: -1}
	buf := make([]byte, size)
	for {
		k, err := io.ReadFull(r, buf)
		if k == 0 {
			return list, nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, err
		}
		c, err := prefix.Sum(buf[:k])
		if err != nil {
			return nil, err
		}
		b, err := blocks.NewBlockWithCid(buf[:k], c)
		if err == nil {
			err = n.store.Put(ctx, b)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
}

// Fetch fetches blocks from the connected peers and stores them.
func (n *Node) Fetch(ctx context.Context, list []cid.Cid) error {
	got, err := n.bs.NewSession(ctx).GetBlocks(ctx, list)
	if err != nil {
		return err
	}
	left := len(list)
	for b := range got {
		if err := n.store.Put(ctx, b); err != nil {
			return err
		}
		if err := n.bs.NotifyNewBlocks(ctx, b); err != nil {
			return err
		}
		left--
	}
	if left > 0 {
		return errors.Join(ctx.Err(), fmt.Errorf("%d blocks did not come", left))
	}
	return nil
}

// Close stops the node and closes its store.
func (n *Node) Close() error { return errors.Join(n.bs.Close(), n.ds.Close()) }
