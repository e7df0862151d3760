package swarm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	libp2p "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Network is the host of one swarm, which only members reach.
type Network interface {
	Host() host.Host
	// InstallLists takes newer revocation lists: it refuses those that are no longer members
	// from now on, and closes their connections, for which it does not wait.
	InstallLists(member.Lists) (news bool, err error)
	// OutsideRelays returns what lists the relays of the open network that may carry circuits
	// for the swarm; nil: it is to use none.
	OutsideRelays() func() []peer.AddrInfo
}

const (
	greetTime = 5 * time.Second // for one exchange with a member
	keepTime  = time.Minute     // between two looks at what time has changed
	saveTime  = 2 * time.Second // after news of members, until they are saved
	atOnce    = 64              // exchanges under way at a time, in each direction
	maxTalk   = member.MaxLists + maxBridges*(member.MaxGrant+maxBridgeNodes*2<<10) + 8<<10
)

// running is a swarm with a host.
type running struct {
	s      *Swarm
	net    Network
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// Requests that come have slots apart from those that go: nobody who keeps this node
	// busy keeps it from passing a list on.
	serving, telling chan struct{} // atOnce each

	lines *rate.Limiter // of the log that members cause

	wake  chan struct{} // capacity 1: what is to be kept has changed
	dirty chan struct{} // capacity 1: the members have
	door  *door         // nil: closed; guarded by s.doorWork

	agreeing agreeing

	mu    sync.Mutex
	ended bool
}

// Attach has the swarm's protocols served on its network, members greeted, the newest
// revocation list passed on, certificates renewed, and the door opened while a code is out,
// until detach is called.
func (s *Swarm) Attach(net Network) (detach func()) {
	r := &running{
		s: s, net: net, serving: make(chan struct{}, atOnce), telling: make(chan struct{}, atOnce), wake: make(chan struct{}, 1), dirty: make(chan struct{}, 1),
		lines: rate.NewLimiter(rate.Every(10*time.Second), 10),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	h := net.Host()
	h.SetStreamHandler(protocol.MemberID, r.serve)
	met := &libp2p.NotifyBundle{
		ConnectedF: func(_ libp2p.Network, c libp2p.Conn) {
			if c.Stat().Direction == libp2p.DirOutbound { // one of the two begins
				r.start(func() { r.agree(c.RemotePeer(), false) })
			}
		},
	}
	h.Network().Notify(met)
	s.mu.Lock()
	s.run = r
	lists := s.lists
	s.mu.Unlock()
	r.enforce(lists) // they may have come after the network's configuration
	for _, p := range h.Network().Peers() {
		r.start(func() { r.agree(p, false) })
	}
	r.start(r.compare)
	r.start(r.keep)
	r.start(r.saveNews)
	return func() {
		h.Network().StopNotify(met)
		h.RemoveStreamHandler(protocol.MemberID)
		s.mu.Lock()
		if s.run == r {
			s.run = nil
		}
		s.mu.Unlock()
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
		r.cancel()
		r.wg.Wait()
		s.doorWork.Lock()
		defer s.doorWork.Unlock()
		if r.door != nil {
			r.door.close()
			r.door = nil
		}
	}
}

// start runs do in the background, unless the swarm was detached.
func (r *running) start(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.wg.Go(do)
	}
}

func (s *Swarm) attached() *running {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run
}

// poke has what time and codes change looked at now.
func (s *Swarm) poke() {
	if r := s.attached(); r != nil {
		signal(r.wake)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (r *running) connected(p peer.ID) bool {
	return len(r.net.Host().Network().ConnsToPeer(p)) > 0
}

// enforce has the network act on revocation lists.
func (r *running) enforce(lists member.Lists) {
	if _, err := r.net.InstallLists(lists); err != nil {
		r.s.log.Warn("a revocation list cannot be put in force", "swarm", r.s.Name(), "error", err)
	}
}

// digest tells lists apart.
func digest(list []byte) []byte {
	sum := sha256.Sum256(list)
	return sum[:]
}

// tell exchanges what members tell each other. With list the request carries the newest
// revocation list; with renew it asks for another certificate. differs reports whether the
// other side has another list than this one, although it has been heard.
func (r *running) tell(p peer.ID, list, renew bool) (differs bool, err error) {
	s := r.s
	conn, reply, err := askMember(r.ctx, r.telling, r.net.Host(), p, maxTalk, func() *protocol.MemberRequest {
		s.mu.Lock()
		req := &protocol.MemberRequest{Certificate: s.cert.Marshal(), Name: s.book.cfg.Machine, Renew: renew}
		s.mu.Unlock()
		req.Bridges = s.bridgesFor()
		mine := s.listBytes()
		req.Digest = digest(mine)
		if list {
			req.Revocations = mine
		}
		return req
	})
	if err != nil {
		return false, err
	}
	r.note(conn, reply)
	if renew && len(reply.Renewed) > 0 {
		if err := s.renewed(reply.Renewed); err != nil && r.lines.Allow() {
			s.log.Warn("a renewed certificate cannot be used", "swarm", s.Name(), "peer", p, "error", err)
		}
	}
	return !bytes.Equal(digest(s.listBytes()), reply.Digest), nil
}

// askMember sends a connected peer a request, which is made once the peer's turn has come:
// as many exchanges run at once as telling has room for. A reply has at most so many bytes.
func askMember(ctx context.Context, telling chan struct{}, h host.Host, p peer.ID, most int64, request func() *protocol.MemberRequest) (libp2p.Conn, *protocol.MemberReply, error) {
	select {
	case telling <- struct{}{}:
		defer func() { <-telling }()
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(libp2p.WithAllowLimitedConn(ctx, "member"), greetTime)
	defer cancel()
	st, err := h.NewStream(libp2p.WithNoDial(ctx, "member"), p, libprotocol.ID(protocol.MemberID))
	if err != nil {
		return nil, nil, err
	}
	defer st.Close()
	_ = st.SetDeadline(time.Now().Add(greetTime))
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() }) // nobody who does not answer holds up the end
	defer stop()
	reply := new(protocol.MemberReply)
	if err = send(st, request()); err == nil {
		err = receive(st, reply, most)
	}
	if err != nil {
		_ = st.Reset()
		return nil, nil, err
	}
	return st.Conn(), reply, nil
}

// account is what either side of an exchange tells.
type account interface {
	GetCertificate() []byte
	GetName() string
	GetRevocations() []byte
	GetBridges() []*protocol.SwarmBridge
}

// note takes what a member has told of itself, newer bridges, and its lists if they are
// newer. A bridge comes before the list that revokes the record that it replaces.
func (r *running) note(c libp2p.Conn, told account) {
	s := r.s
	if err := s.hearBridges(told.GetBridges()); err != nil && r.lines.Allow() {
		s.log.Info("a member passes on a bridge that is not valid here", "swarm", s.Name(), "peer", c.RemotePeer(), "error", err)
	}
	if lists := told.GetRevocations(); len(lists) > 0 {
		v, err := member.ParseLists(lists)
		if err == nil {
			err = s.install(v)
		}
		if err != nil && r.lines.Allow() {
			s.log.Info("a member passes on a revocation list that is not valid here", "swarm", s.Name(), "peer", c.RemotePeer(), "error", err)
		}
	}
	now := s.book.cfg.Now()
	v, err := member.ParseCertificate(told.GetCertificate())
	s.mu.Lock()
	newest := s.lists
	s.mu.Unlock()
	if err != nil || v.Check(s.about.Root, c.RemotePeer(), now, newest) != nil {
		return // the connection was let in with another certificate
	}
	s.learn(v, told.GetName(), r.listens(c))
	s.mu.Lock()
	if m := s.members[c.RemotePeer()]; m != nil {
		m.Seen = now.UTC().Truncate(time.Second)
		if c.Stat().Direction == libp2p.DirOutbound {
			m.reach(c.RemoteMultiaddr())
		}
	}
	s.mu.Unlock()
	signal(r.dirty)
}

// listens returns where a member can be found again: the address that was dialled, or what
// it says of itself.
func (r *running) listens(c libp2p.Conn) []multiaddr.Multiaddr {
	var out []multiaddr.Multiaddr
	if c.Stat().Direction == libp2p.DirOutbound {
		out = append(out, c.RemoteMultiaddr())
	}
	for _, a := range r.net.Host().Peerstore().Addrs(c.RemotePeer()) {
		if len(out) < maxAddrs && plain(a) && !slices.ContainsFunc(out, a.Equal) && (!manet.IsIPLoopback(a) || manet.IsIPLoopback(c.RemoteMultiaddr())) {
			out = append(out, a)
		}
	}
	return out
}

// serve answers one request of a member.
func (r *running) serve(st libp2p.Stream) {
	defer st.Close()
	_ = st.SetDeadline(time.Now().Add(greetTime))
	select {
	case r.serving <- struct{}{}:
		defer func() { <-r.serving }()
	default:
		_ = st.Reset()
		return
	}
	req := new(protocol.MemberRequest)
	if err := receive(st, req, maxTalk); err != nil {
		_ = st.Reset()
		return
	}
	r.note(st.Conn(), req)
	s := r.s
	s.mu.Lock()
	reply := &protocol.MemberReply{Certificate: s.cert.Marshal(), Name: s.book.cfg.Machine}
	s.mu.Unlock()
	reply.Bridges = s.bridgesFor()
	list := s.listBytes()
	if reply.Digest = digest(list); !bytes.Equal(reply.Digest, req.Digest) {
		reply.Revocations = list
	}
	if req.Renew {
		if c, err := s.renewFor(st.Conn().RemotePeer()); err == nil {
			reply.Renewed = c.Marshal()
		} else if !errors.Is(err, ErrMayNot) && r.lines.Allow() {
			s.log.Info("a member's certificate is not renewed", "swarm", s.Name(), "peer", st.Conn().RemotePeer(), "error", err)
		}
	}
	if err := send(st, reply); err != nil {
		_ = st.Reset()
	}
}
