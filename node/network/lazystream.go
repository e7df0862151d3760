package network

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	msmux "github.com/multiformats/go-multistream"
)

// lazyStream is a stream on which the protocol is proposed with the first bytes that are
// written, as libp2p's host does it: a peer that is known to speak it need not be waited for.
type lazyStream struct {
	network.Stream
	rw msmux.LazyConn
}

// lazily proposes a protocol that the peer is known to speak.
func lazily(s network.Stream, id libprotocol.ID) (network.Stream, error) {
	if err := s.SetProtocol(id); err != nil {
		return nil, err
	}
	return &lazyStream{s, msmux.NewMSSelect(s, id)}, nil
}

func (s *lazyStream) Read(b []byte) (int, error) { return s.rw.Read(b) }

func (s *lazyStream) Write(b []byte) (int, error) { return s.rw.Write(b) }

// Close waits for the peer's answer to the proposal, but not long.
func (s *lazyStream) Close() error {
	_ = s.SetReadDeadline(time.Now().Add(dialTime))
	return s.rw.Close()
}

// CloseWrite sends the proposal if nothing has been written.
func (s *lazyStream) CloseWrite() error {
	_ = s.rw.Flush()
	return s.Stream.CloseWrite()
}
