package exchange

import (
	"bufio"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

const (
	allowanceTime  = time.Hour
	allowance      = 4 * protocol.MaxHeading // bytes of headings that a peer may have in that time
	mostAllowances = 4096                    // peers counted at once
)

// errRefused means that a block of a heading is here, and is not sent for now.
var errRefused = errors.New("it is not sent over a relay for now")

// serveHeadings serves a stream of /shoal/heading/1 in a network.
func (x *Exchange) serveHeadings(l *lane, s network.Stream) {
	r := bufio.NewReaderSize(s, 1<<10)
	for {
		_ = s.SetReadDeadline(time.Now().Add(idleStream))
		list, err := protocol.ReadHeadingRequest(r)
		if errors.Is(err, protocol.ErrLeaves) {
			x.log.Debug("a request for a model's heading is refused", "peer", s.Conn().RemotePeer(), "error", err)
		}
		if err == nil {
			var order []uint32
			for i := range list {
				order = append(order, uint32(i))
			}
			err = x.upload(l.ctx, s, headingReader{x, l, s.Conn(), list}, order)
		}
		if err != nil {
			_ = s.Reset()
			return
		}
	}
}

// headingReader reads the blocks of a request, as far as its peer may have them now.
type headingReader struct {
	x    *Exchange
	in   *lane
	conn network.Conn
	list []cid.Cid
}

// ReadLeaf reads block n of the request. The error is errRefused if the peer may not have
// it, or it is more than the connection may still carry or the peer may still have.
func (h headingReader) ReadLeaf(n int, _ []byte) ([]byte, error) {
	size, err := h.in.Headings.Size(h.in.ctx, h.list[n])
	switch {
	case err != nil:
		return nil, err
	case size > protocol.LeafSize:
		return nil, fmt.Errorf("a block of %d bytes", size)
	case h.in.Sends != nil && !h.in.Sends(h.conn.RemotePeer(), h.list[n]):
		return nil, errRefused
	case uint64(size) > h.in.room(h.conn), !h.x.headings.take(h.conn.RemotePeer(), size, time.Now()):
		return nil, errRefused
	}
	return h.in.Headings.Get(h.in.ctx, h.list[n])
}

// room returns how many bytes a connection may still carry.
func (l *lane) room(c network.Conn) uint64 {
	if l.Room == nil {
		return 1<<64 - 1
	}
	return l.Room(c)
}

// allowances bound how much of headings each peer is sent. The zero value is ready. It is
// safe for concurrent use.
type allowances struct {
	mu    sync.Mutex
	began time.Time
	spent map[peer.ID]int
}

// take reports whether a peer may have so many bytes more, and counts them. All begin
// again when there are too many peers to count: whoever makes that many keys has as many
// allowances anyway.
func (a *allowances) take(p peer.ID, size int, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.spent[p]; a.spent == nil || now.Sub(a.began) >= allowanceTime || !known && len(a.spent) >= mostAllowances {
		a.began, a.spent = now, map[peer.ID]int{}
	}
	if a.spent[p]+size > allowance {
		return false
	}
	a.spent[p] += size
	return true
}
