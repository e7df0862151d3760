package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	msmux "github.com/multiformats/go-multistream"
	"github.com/quic-go/quic-go"

	"github.com/shoalnet/shoal/protocol"
)

// Stream is a stream to a peer, or to oneself.
type Stream struct {
	inner interface {
		Read([]byte) (int, error)
		Write([]byte) (int, error)
		Close() error
		SetDeadline(time.Time) error
	}
	reset func() error
	peer  peer.ID
	proto string
}

// Read is io.Reader's; errors are os.ErrDeadlineExceeded after a deadline,
// io.EOF, and the connection's.
func (s *Stream) Read(b []byte) (int, error) { return s.inner.Read(b) }

// Write is io.Writer's, with errors as Read has them.
func (s *Stream) Write(b []byte) (int, error) { return s.inner.Write(b) }

// Close ends the sending side, and gives up the receiving one. Its errors are
// the connection's.
func (s *Stream) Close() error { return s.inner.Close() }

// SetDeadline is net.Conn's. Its errors are the connection's.
func (s *Stream) SetDeadline(t time.Time) error { return s.inner.SetDeadline(t) }

// Reset ends the stream at once, on both sides. Its error says that it had ended
// before.
func (s *Stream) Reset() error { return s.reset() }

// Peer is who is at the other end.
func (s *Stream) Peer() peer.ID { return s.peer }

// Protocol is what both ends speak on it.
func (s *Stream) Protocol() string { return s.proto }

// Handle serves a protocol: each stream in a goroutine of its own.
func (n *Network) Handle(proto string, serve func(*Stream)) {
	n.mu.Lock()
	n.handlers[proto] = serve
	n.mu.Unlock()
	n.host.SetStreamHandler(libprotocol.ID(proto), func(s network.Stream) {
		serve(&Stream{inner: s, reset: s.Reset, peer: s.Conn().RemotePeer(), proto: proto})
	})
}

// offerAddrs is how many addresses of an offer are dialled at most.
const offerAddrs = 8

// Open opens a stream to a peer that is connected, known, or reached where its
// own signed offer says: offer is that envelope, which others may have passed
// on. An offer that is not the peer's, or has expired, is ignored. The stream
// speaks the first of the protocols that both sides know. Errors are those of
// the connection, tidied for people, and ErrRefused if the peer takes none.
func (n *Network) Open(ctx context.Context, p peer.ID, offer []byte, protos ...string) (*Stream, error) {
	if p == n.host.ID() {
		return n.openSelf(protos)
	}
	ids := libprotocol.ConvertFromStrings(protos)
	direct := func(c network.Conn) bool { return !c.Stat().Limited }
	if len(offer) > 0 && !slices.ContainsFunc(n.host.Network().ConnsToPeer(p), direct) {
		if o, err := protocol.OpenOffer(offer, time.Now()); err == nil && o.From == p {
			addrs := o.Addresses()
			n.host.Peerstore().AddAddrs(p, addrs[:min(len(addrs), offerAddrs)], peerstore.TempAddrTTL)
		}
	}
	s, err := n.openQUIC(ctx, p, ids)
	if err != nil {
		s, err = n.host.NewStream(ctx, p, ids...)
	}
	if err != nil {
		return nil, tidy(err)
	}
	return &Stream{inner: s, reset: s.Reset, peer: p, proto: string(s.Protocol())}, nil
}

// errNoChoice says that libp2p may choose the connection.
var errNoChoice = errors.New("no choice of connections")

// openQUIC opens a stream over QUIC, if the peer has a TCP connection with this
// node as well, on which bulk may be under way. libp2p would take whichever has
// more streams.
func (n *Network) openQUIC(ctx context.Context, p peer.ID, ids []libprotocol.ID) (network.Stream, error) {
	conns := n.host.Network().ConnsToPeer(p)
	if len(conns) < 2 {
		return nil, errNoChoice
	}
	for _, c := range conns {
		var qc *quic.Conn
		if c.IsClosed() || c.Stat().Limited || !c.As(&qc) {
			continue
		}
		s, err := c.NewStream(ctx)
		if err != nil {
			continue
		}
		deadline, ok := ctx.Deadline()
		if soon := time.Now().Add(dialTime); !ok || soon.Before(deadline) {
			deadline = soon
		}
		var id libprotocol.ID
		if err = s.SetDeadline(deadline); err == nil {
			id, err = msmux.SelectOneOf(ids, s)
		}
		if err == nil {
			err = errors.Join(s.SetProtocol(id), s.SetDeadline(time.Time{}))
		}
		if err == nil {
			return s, nil
		}
		_ = s.Reset()
	}
	return nil, errNoChoice
}

func (n *Network) openSelf(protos []string) (*Stream, error) {
	var serve func(*Stream)
	var proto string
	n.mu.Lock()
	for _, proto = range protos {
		if serve = n.handlers[proto]; serve != nil {
			break
		}
	}
	n.mu.Unlock()
	if serve == nil {
		return nil, fmt.Errorf("this node does not speak %s", strings.Join(protos, " or "))
	}
	a, b := net.Pipe()
	both := func() error { return errors.Join(a.Close(), b.Close()) }
	go serve(&Stream{inner: b, reset: both, peer: n.host.ID(), proto: proto})
	return &Stream{inner: a, reset: both, peer: n.host.ID(), proto: proto}, nil
}

// tidy shortens libp2p's account of every address it tried.
func tidy(err error) error {
	switch {
	case refused(err): // at one address, and there may have been no answer at another
		return ErrRefused
	case errors.Is(err, context.DeadlineExceeded):
		return errors.New("no answer in time")
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, network.ErrNoConn), errors.Is(err, network.ErrReset):
		return errors.New("the connection broke")
	}
	if len(err.Error()) > 200 || strings.Contains(err.Error(), "\n") {
		return errors.New("it cannot be dialled at any of its addresses")
	}
	return err
}
