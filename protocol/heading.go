package protocol

import (
	"bufio"
	"encoding/binary"
	"io"

	"github.com/ipfs/go-cid"
)

// Limits of /shoal/heading/1.
const (
	MaxHeading      = 32 << 20 // bytes of a model's manifest, header, and what lists its leaves
	MaxHeadingAsked = 16       // blocks in one request
	maxHeadingAsk   = 2 << 10  // bytes of a request
)

// HeadingRefused is sent as a size when the block is held, but is more than the relay may
// still carry, or than the peer may still have for now.
const HeadingRefused = 1<<32 - 2

// ReadHeadingRequest reads and checks a request, which was sent by WriteLeaves, and
// returns the blocks. Errors are ErrLeaves for a malformed one, and otherwise the stream's.
func ReadHeadingRequest(r *bufio.Reader) ([]cid.Cid, error) {
	q := new(HeadingRequest)
	if err := readLeaves(r, q, maxHeadingAsk); err != nil {
		return nil, err
	}
	if n := len(q.Blocks); n == 0 || n > MaxHeadingAsked {
		return nil, badLeaves("%d blocks are asked for at once, where 1 to %d are allowed", n, MaxHeadingAsked)
	}
	var list []cid.Cid
	for _, b := range q.Blocks {
		c, err := cid.Cast(b)
		if err != nil {
			return nil, badLeaves("block %d: %s", len(list), err)
		}
		list = append(list, c)
	}
	return list, nil
}

// ReadHeadingHead reads the head of block i of a request. Its size is at most LeafSize, or
// 0 (it is not held), LeafLater, or HeadingRefused. Errors are ErrLeaves for any other
// head, and otherwise the stream's.
func ReadHeadingHead(r io.Reader, i int) (LeafHead, error) {
	var b [LeafHeadSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return LeafHead{}, err
	}
	h := LeafHead{binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:])}
	if int64(h.Leaf) != int64(i) || h.Size > LeafSize && h.Size != LeafLater && h.Size != HeadingRefused {
		return h, badLeaves("%d bytes of block %d, where block %d was asked for", h.Size, h.Leaf, i)
	}
	return h, nil
}
