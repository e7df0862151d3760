package protocol

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
)

// Limits of /shoal/leaves/1.
const (
	MaxLeaves      = 1 << 22 // of a model, to be told of by number: 4 TiB
	MaxLeavesAsked = 64      // in one request
	MaxFetchers    = 32      // told of in one state
	maxFetchAddrs  = 8       // of one of them
	maxState       = 2 << 20 // bytes of a state: two bits a leaf, and the rest
	maxRequest     = 1 << 10
)

// ErrLeaves is wrapped by every error about the bytes of /shoal/leaves/1, as
// opposed to those of the stream that carries them.
var ErrLeaves = errors.New("malformed message about leaves")

func badLeaves(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrLeaves, fmt.Sprintf(format, args...))
}

// WriteLeaves sends a LeavesRequest or a LeavesState, its length in front.
// Errors are the stream's.
func WriteLeaves(w io.Writer, m proto.Message) error {
	_, err := protodelim.MarshalTo(w, m)
	return err
}

func readLeaves(r *bufio.Reader, m proto.Message, limit int64) error {
	err := protodelim.UnmarshalOptions{MaxSize: limit}.UnmarshalFrom(r, m)
	var big *protodelim.SizeTooLargeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &big):
		return badLeaves("%d bytes, where %d are allowed", big.Size, big.MaxSize)
	case errors.Is(err, proto.Error) || isOverflow(err):
		return fmt.Errorf("%w: %w", ErrLeaves, err)
	}
	return err
}

// ReadLeavesRequest reads and checks a request. Errors are ErrLeaves for a
// malformed one, and otherwise the stream's.
func ReadLeavesRequest(r *bufio.Reader) (*LeavesRequest, error) {
	q := new(LeavesRequest)
	if err := readLeaves(r, q, maxRequest); err != nil {
		return nil, err
	}
	switch {
	case len(q.Leaves) > MaxLeavesAsked:
		return nil, badLeaves("%d leaves are asked for at once, where %d are allowed", len(q.Leaves), MaxLeavesAsked)
	case q.Watch == (len(q.Leaves) > 0):
		return nil, badLeaves("a request is either for leaves or for what is held")
	}
	for _, n := range q.Leaves {
		if n >= MaxLeaves {
			return nil, badLeaves("leaf %d, where %d are possible", n, MaxLeaves)
		}
	}
	return q, nil
}

// ReadLeavesState reads and checks a peer's state of a model that has total
// leaves. Errors are ErrLeaves for a malformed one, and otherwise the stream's.
func ReadLeavesState(r *bufio.Reader, total int) (*LeavesState, error) {
	s := new(LeavesState)
	if err := readLeaves(r, s, maxState); err != nil {
		return nil, err
	}
	size := (total + 7) / 8
	switch {
	case s.Total != 0 && int64(s.Total) != int64(total):
		return nil, badLeaves("the model has %d leaves, the peer says %d", total, s.Total)
	case s.Total != 0 && (len(s.Held) != size || len(s.Wanted) != 0 && len(s.Wanted) != size):
		return nil, badLeaves("%d and %d bytes for %d leaves", len(s.Held), len(s.Wanted), total)
	case s.Total == 0 && len(s.Held)+len(s.Wanted) > 0:
		return nil, badLeaves("a part tells of the whole")
	case len(s.Fetchers) > MaxFetchers:
		return nil, badLeaves("%d fetchers, where %d are allowed", len(s.Fetchers), MaxFetchers)
	}
	for _, n := range s.Got {
		if int64(n) >= int64(total) {
			return nil, badLeaves("leaf %d of %d", n, total)
		}
	}
	for _, f := range s.Fetchers {
		if len(f.Addrs) > maxFetchAddrs {
			return nil, badLeaves("a fetcher with %d addresses", len(f.Addrs))
		}
	}
	return s, nil
}

// Bit reads bit i of a bitmap of leaves; beyond its end all are 0.
func Bit(bits []byte, i int) bool { return i>>3 < len(bits) && bits[i>>3]>>(i&7)&1 != 0 }

// SetBit sets bit i of a bitmap of leaves.
func SetBit(bits []byte, i int) { bits[i>>3] |= 1 << (i & 7) }

// LeafHead stands before each leaf of an answer: the leaf's number, and the
// bytes that follow. A leaf of no bytes is not held.
type LeafHead struct {
	Leaf uint32
	Size uint32
}

// LeafHeadSize is that of an encoded LeafHead: two little-endian integers.
const LeafHeadSize = 8

// LeafLater is sent as a size when the leaf is yet to come, since others have
// their turn first. It is repeated at least every five seconds.
const LeafLater = 1<<32 - 1

// Append encodes the head.
func (h LeafHead) Append(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, h.Leaf), h.Size)
}

// ReadLeafHead reads a head of an answer that should be about the given leaf, of
// size bytes. The head's size is 0, LeafLater, or that. Errors are ErrLeaves for
// any other head, and otherwise the stream's.
func ReadLeafHead(r io.Reader, leaf, size int) (LeafHead, error) {
	var b [LeafHeadSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return LeafHead{}, err
	}
	h := LeafHead{binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:])}
	if int64(h.Leaf) != int64(leaf) || h.Size != 0 && h.Size != LeafLater && int64(h.Size) != int64(size) {
		return h, badLeaves("%d bytes of leaf %d, where %d of leaf %d were asked for", h.Size, h.Leaf, size, leaf)
	}
	return h, nil
}
