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

	"github.com/shoalnet/shoal/node/network/reach"
	"github.com/shoalnet/shoal/protocol"
)

// Stream is a stream to a peer, or to this node itself.
type Stream struct {
	inner interface {
		Read([]byte) (int, error)
		Write([]byte) (int, error)
		Close() error
		SetDeadline(time.Time) error
	}
	reset func() error
	conn  network.Conn // nil: to this node itself
	peer  peer.ID
	proto string
	hope  <-chan struct{} // closed once there is a better path
	swarm string
}

// wrap makes a Stream of libp2p's.
func (n *Network) wrap(s network.Stream, proto string) *Stream {
	out := &Stream{inner: s, reset: s.Reset, conn: s.Conn(), peer: s.Conn().RemotePeer(), proto: proto, swarm: n.Swarm()}
	if l := lineOf(s.Conn()); l != nil {
		n.Used(out.peer) // which may get it a better path
		out.hope = l.hope(!n.Direct(out.peer))
	}
	return out
}

// Read implements io.Reader. Errors are os.ErrDeadlineExceeded after a
// deadline, io.EOF, and those of the connection.
func (s *Stream) Read(b []byte) (int, error) { return s.inner.Read(b) }

// Write implements io.Writer. Errors are those of Read except io.EOF.
func (s *Stream) Write(b []byte) (int, error) { return s.inner.Write(b) }

// Close closes the sending side and abandons the receiving side. Errors are
// those of the connection.
func (s *Stream) Close() error { return s.inner.Close() }

// SetDeadline implements net.Conn. Errors are those of the connection.
func (s *Stream) SetDeadline(t time.Time) error { return s.inner.SetDeadline(t) }

// Reset ends the stream at once on both sides. It returns an error if the
// stream had already ended.
func (s *Stream) Reset() error { return s.reset() }

// Peer returns the peer at the other end.
func (s *Stream) Peer() peer.ID { return s.peer }

// Swarm returns the ID of the swarm in which the stream is; "": the open network.
func (s *Stream) Swarm() string { return s.swarm }

// Protocol returns the protocol spoken on the stream.
func (s *Stream) Protocol() string { return s.proto }

// Relayed reports whether the stream crosses a relay. Bulk must not.
func (s *Stream) Relayed() bool { return s.conn != nil && reach.Relayed(s.conn) }

// Better returns a channel that is closed once a new stream to the peer would take a
// better path: a direct connection, or a circuit that will not be cut soon. It is nil
// if this stream crosses no relay.
func (s *Stream) Better() <-chan struct{} { return s.hope }

// Handle serves a protocol, with a goroutine per stream. Its streams may cross a
// relay, so it must not be one for bulk.
func (n *Network) Handle(proto string, serve func(*Stream)) {
	n.mu.Lock()
	n.handlers[proto] = serve
	n.mu.Unlock()
	n.Host().SetStreamHandler(libprotocol.ID(proto), func(s network.Stream) {
		serve(n.wrap(s, proto))
	})
}

// offerAddrs is the maximum number of an offer's addresses that are dialled.
const offerAddrs = 8

// Open opens a stream to a peer that is connected, known, or reachable at the
// addresses in its own signed offer. offer is that envelope, which may have
// been passed on by others; it is ignored if it is not the peer's or has
// expired. The stream speaks the first of the protocols that both sides
// support. Errors are those of the connection, shortened for people, and
// ErrRefused if the peer takes no connection.
func (n *Network) Open(ctx context.Context, p peer.ID, offer []byte, protos ...string) (*Stream, error) {
	if p == n.host.ID() {
		return n.openSelf(protos)
	}
	ids := libprotocol.ConvertFromStrings(protos)
	ctx = network.WithAllowLimitedConn(ctx, "frames")
	direct := func(c network.Conn) bool { return !c.Stat().Limited }
	if len(offer) > 0 && !slices.ContainsFunc(n.host.Network().ConnsToPeer(p), direct) {
		if o, err := protocol.OpenOffer(offer, time.Now()); err == nil && o.From == p {
			addrs := o.Addresses()
			n.host.Peerstore().AddAddrs(p, addrs[:min(len(addrs), offerAddrs)], peerstore.TempAddrTTL)
		}
	}
	had := n.host.Network().ConnsToPeer(p)
	opened := n.hangs(p)
	s, err := n.openQUIC(ctx, p, ids)
	if err != nil {
		s, err = n.host.NewStream(ctx, p, ids...)
	}
	if err != nil && ctx.Err() == nil && slices.ContainsFunc(had, network.Conn.IsClosed) {
		// The connection was dead, or the peer has closed it: one that dials over QUIC and
		// TCP at once closes the later, which this node may be using by then.
		s, err = n.host.NewStream(ctx, p, ids...)
	}
	opened()
	if err != nil {
		return nil, n.explainTo(p, err)
	}
	if err := n.mayServe(p, s.Protocol()); err != nil {
		_ = s.Reset()
		return nil, err
	}
	return n.wrap(s, string(s.Protocol())), nil
}

// errNoChoice means that libp2p may choose the connection.
var errNoChoice = errors.New("no choice of connections")

// openQUIC opens a stream over QUIC if the peer also has a TCP connection with
// this node, which bulk transfers may be using. libp2p would choose the
// connection with more streams.
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
	go serve(&Stream{inner: b, reset: both, peer: n.host.ID(), proto: proto, swarm: n.Swarm()})
	return &Stream{inner: a, reset: both, peer: n.host.ID(), proto: proto, swarm: n.Swarm()}, nil
}

// otherPeer returns the peer that answered in place of the one that was dialled; "": it
// is another error. QUIC passes on only the text of libp2p's.
func otherPeer(err error) peer.ID {
	_, rest, _ := strings.Cut(err.Error(), "peer id mismatch: ")
	_, rest, _ = strings.Cut(rest, "remote key matches ")
	words := strings.Fields(rest)
	if len(words) == 0 {
		return ""
	}
	id, err := peer.Decode(strings.TrimRight(words[0], ",;)"))
	if err != nil {
		return ""
	}
	return id
}

// tidy shortens libp2p's report, which covers every address it tried.
func tidy(err error) error {
	switch {
	case gated(err) != nil:
		return gated(err)
	case refused(err): // at one address; others may not have answered
		return ErrRefused
	case otherPeer(err) != "":
		return fmt.Errorf("another node answers there: %s", otherPeer(err))
	case isNobody(err):
		return ErrNobody
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
