package swarm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/node/home"
	node "github.com/shoalnet/shoal/node/network"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// Why a code does not let its holder in.
var (
	ErrCode        = errors.New("this is no code of an invitation")
	ErrSpent       = errors.New("the code has been used as often as it may be: ask for another")
	ErrExpired     = errors.New("the code has expired: ask for another")
	ErrWrongSecret = errors.New("the inviter does not know this code: it was made by another node or long ago; ask for another")
	ErrRemoved     = errors.New("this machine was removed from the swarm")
	ErrBusy        = errors.New("too many attempts were made: try again in a minute")
	ErrInviter     = errors.New("the inviter could not let this machine in; its log says why")
	ErrUnreachable = errors.New("the inviter cannot be reached")
	ErrAlready     = errors.New("this home is in that swarm already")
	ErrJoining     = errors.New("this home is joining that swarm already, and waits for the inviter")
	ErrDamaged     = errors.New("a damaged folder of that swarm is in this home, and has the swarm's root key: restore its other files from a backup, or move it away")
	ErrRootHere    = errors.New("the swarm's root key is in this home, and would be lost by joining again; a membership that has ended is renewed with it")
)

// joinError returns the error for a refusal.
func joinError(r protocol.JoinRefusal) error {
	switch r {
	case protocol.JoinRefusal_JOIN_REFUSAL_UNKNOWN:
		return ErrWrongSecret
	case protocol.JoinRefusal_JOIN_REFUSAL_SPENT:
		return ErrSpent
	case protocol.JoinRefusal_JOIN_REFUSAL_EXPIRED:
		return ErrExpired
	case protocol.JoinRefusal_JOIN_REFUSAL_BUSY:
		return ErrBusy
	case protocol.JoinRefusal_JOIN_REFUSAL_REVOKED:
		return ErrRemoved
	case protocol.JoinRefusal_JOIN_REFUSAL_MALFORMED:
		return fmt.Errorf("%w: it speaks another version of shoal", ErrInviter)
	}
	return ErrInviter
}

// maxPeers is how many members a newcomer is told of.
const maxPeers = 32

// redeem lets a peer in, or not. The use of the code is on disk before the certificate
// leaves this node.
func (s *Swarm) redeem(joiner peer.ID, req *protocol.JoinRequest) *protocol.JoinReply {
	now := s.book.cfg.Now()
	refuse := func(r protocol.JoinRefusal) *protocol.JoinReply { return &protocol.JoinReply{Refusal: r} }
	key, err := member.KeyOf(joiner)
	if id := s.ID(); err != nil || string(req.Swarm) != string(id[:]) {
		return refuse(protocol.JoinRefusal_JOIN_REFUSAL_MALFORMED)
	}
	t, undo, refusal := s.claim(joiner, req.Proof, now)
	if refusal != protocol.JoinRefusal_JOIN_REFUSAL_NONE {
		return refuse(refusal)
	}
	cert, err := s.certify(key, t.Roles, now)
	if err == nil {
		err = s.saveTickets()
	}
	if err == nil {
		s.learn(cert, req.Name, nil)
		err = s.saveMembers()
	}
	switch {
	case errors.Is(err, member.ErrRevoked):
		undo()
		return refuse(protocol.JoinRefusal_JOIN_REFUSAL_REVOKED)
	case err != nil:
		undo()
		s.log.Warn("a machine with a good code cannot be let in", "swarm", s.Name(), "peer", joiner, "error", err)
		return refuse(protocol.JoinRefusal_JOIN_REFUSAL_FAILED)
	}
	name := protocol.MachineName(req.Name)
	s.log.Info("a machine has joined the swarm", "swarm", s.Name(), "peer", joiner, "name", name, "roles", t.Roles)
	s.event(Event{Kind: "member", Peer: joiner.String(), Name: name})
	s.poke()
	return &protocol.JoinReply{
		Certificate: cert.Marshal(), Root: s.about.Root[:], ViewKey: s.about.View[:], Name: s.Name(), Revocations: s.listBytes(), Peers: s.introductions(joiner),
	}
}

// certify issues a certificate for a key that is not revoked. A member keeps its serial.
func (s *Swarm) certify(key member.Key, roles member.Roles, now time.Time) (*member.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	issuer, err := s.issuer()
	if err != nil {
		return nil, err
	}
	if s.revoked(key.Peer()) {
		return nil, member.ErrRevoked
	}
	if old := s.members[key.Peer()]; old != nil {
		return issuer.Renew(old.Certificate, roles|old.Certificate.Roles, now, member.Life)
	}
	return issuer.Issue(key, roles, now, member.Life)
}

// introductions are the members that a newcomer is told of, this one first.
func (s *Swarm) introductions(to peer.ID) (out []*protocol.SwarmPeer) {
	own := &protocol.SwarmPeer{Name: s.book.cfg.Machine}
	if run := s.attached(); run != nil {
		for _, a := range plainOnes(run.net.Host().Addrs()) {
			own.Addrs = append(own.Addrs, a.Bytes())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	own.Certificate = s.cert.Marshal()
	out = append(out, own)
	for p, m := range s.members {
		if p == to || p == s.self || len(m.Addrs) == 0 || s.lists.Has(m.Certificate) || len(out) >= maxPeers {
			continue
		}
		v := &protocol.SwarmPeer{Certificate: m.Certificate.Marshal(), Name: m.Name}
		for _, a := range m.Addrs {
			v.Addrs = append(v.Addrs, a.Bytes())
		}
		out = append(out, v)
	}
	return out
}

// Join redeems the code of an invitation at the inviter, and keeps what makes this node a
// member. The node's key there is kept from the first attempt on, so that one whose answer
// is lost costs no second use of the code. Errors are those above, member.ErrMalformed for
// a code that is not whole, and those of writing; on an error from Hosts.Enter the swarm is
// returned, too.
func (b *Book) Join(ctx context.Context, code string) (*Swarm, error) {
	t, err := member.ParseTicket(code)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCode, err)
	}
	if t.Expired(b.cfg.Now()) {
		return nil, fmt.Errorf("%w (on %s, by this machine's clock)", ErrExpired, t.Expires.Local().Format("2006-01-02 15:04"))
	}
	at := joinPrefix + t.Swarm.String()
	key, err := b.prepare(t.Swarm, at)
	if err != nil {
		return nil, err
	}
	defer b.joined(t.Swarm)
	reply, err := knock(ctx, key, t, b.cfg.Machine)
	if errors.Is(err, ErrRemoved) { // the next attempt is by another peer
		_ = os.RemoveAll(filepath.Join(b.dir, at))
	}
	if err != nil {
		return nil, err
	}
	b.work.Lock()
	defer b.work.Unlock()
	content, err := b.accept(key, t, reply)
	if err != nil {
		return nil, fmt.Errorf("%w: its answer is wrong: %w", ErrInviter, err)
	}
	if err := b.makeWay(t.Swarm); err != nil {
		return nil, err
	}
	return b.take(t.Swarm, at, content)
}

// prepare begins to join a swarm, and returns this node's key there, which is kept in the
// folder at. The error says why it cannot be joined, before a use of the code is spent.
// joined ends what it began. b.work is not held in between: an inviter may take its time.
func (b *Book) prepare(id member.SwarmID, at string) (crypto.PrivKey, error) {
	b.work.Lock()
	defer b.work.Unlock()
	if err := b.mayJoin(id); err != nil {
		return nil, err
	}
	if err := stayOpen(home.Home(b.cfg.Home)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(b.dir, at), 0o700); err != nil {
		return nil, err
	}
	key, err := node.LoadKey(filepath.Join(b.dir, at, keyFile))
	if err == nil {
		b.mu.Lock()
		b.joining[id] = true
		b.mu.Unlock()
	}
	return key, err
}

func (b *Book) joined(id member.SwarmID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.joining, id)
}

// byID returns the swarm with an ID; nil: there is none that can be used.
func (b *Book) byID(id member.SwarmID) *Swarm {
	for _, s := range b.Swarms() {
		if s.ID() == id {
			return s
		}
	}
	return nil
}

// mayJoin returns why a swarm cannot be joined; nil: it can. A swarm in which this node is
// no member any more may be joined again, and one whose folder is damaged, unless either
// would lose the root key. It is called with b.work held.
func (b *Book) mayJoin(id member.SwarmID) error {
	b.mu.Lock()
	busy := b.joining[id]
	b.mu.Unlock()
	if busy {
		return ErrJoining
	}
	s := b.byID(id)
	switch {
	case s == nil:
		if _, err := os.Stat(filepath.Join(b.dir, id.String(), rootFile)); err == nil {
			return fmt.Errorf("%w: %s", ErrDamaged, filepath.Join(b.dir, id.String()))
		}
	case s.member():
		return fmt.Errorf("%w: %s", ErrAlready, s.Name())
	case s.Founder():
		return remedy.For(fmt.Errorf("%w: %s", ErrRootHere, s.Name()), remedy.RenewSwarm, s.ID().String()[:8], s.path(rootFile))
	}
	return nil
}

// makeWay drops what is in this home of a swarm that is joined again. A damaged folder is
// put aside, since nobody can know what its owner wants of it. It is called with b.work
// held.
func (b *Book) makeWay(id member.SwarmID) error {
	if s := b.byID(id); s != nil {
		return b.drop(s)
	}
	dir := filepath.Join(b.dir, id.String())
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.Rename(dir, filepath.Join(b.dir, fmt.Sprintf("%s%s-%d", damagedPrefix, id, b.cfg.Now().UnixNano())))
}

// accept checks an inviter's answer, and returns the files of the swarm.
func (b *Book) accept(key crypto.PrivKey, t *member.Ticket, reply *protocol.JoinReply) (map[string][]byte, error) {
	a := about{Name: swarmName(reply.Name)}
	if len(reply.Root) != len(a.Root) || len(reply.ViewKey) != len(a.View) {
		return nil, member.ErrMalformed
	}
	copy(a.Root[:], reply.Root)
	copy(a.View[:], reply.ViewKey)
	if a.Root.Swarm() != t.Swarm {
		return nil, member.ErrForeign
	}
	self, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	now := b.cfg.Now()
	cert, err := member.ParseCertificate(reply.Certificate)
	if err == nil {
		err = cert.Check(a.Root, self, now, member.Lists{})
	}
	if err != nil {
		return nil, fmt.Errorf("the certificate: %w", err)
	}
	if a.Name == "" {
		a.Name = t.Swarm.String()[:8]
	}
	a.Name = b.freeName(a.Name)
	content := map[string][]byte{aboutFile: a.marshal(), certificateFile: cert.Marshal()}
	lists, err := member.ParseLists(reply.Revocations)
	if err == nil {
		lists, _, err = member.Lists{}.Merge(lists, a.Root, now)
	}
	if err != nil {
		return nil, fmt.Errorf("the revocation lists: %w", err)
	}
	content[listFile] = lists.Marshal()
	s := &Swarm{book: b, about: a, cert: cert, lists: lists, self: self, members: map[peer.ID]*known{}}
	for _, p := range reply.Peers[:min(len(reply.Peers), maxPeers)] {
		s.hear(p, now)
	}
	if m := s.members[t.Inviter]; m != nil {
		m.trustCode(t.Addrs)
	}
	content[membersFile] = marshalMembers(s.members)
	return content, nil
}

// hear notes a member that another has told of.
func (s *Swarm) hear(p *protocol.SwarmPeer, now time.Time) {
	c, err := member.ParseCertificate(p.Certificate)
	if err != nil || c.Check(s.about.Root, c.Peer(), now, s.lists) != nil {
		return
	}
	s.learn(c, p.Name, parseAddrs(p.Addrs))
}

func parseAddrs(raw [][]byte) (out []multiaddr.Multiaddr) {
	for _, b := range raw {
		if a, err := multiaddr.NewMultiaddrBytes(b); err == nil {
			out = append(out, a)
		}
	}
	return plainOnes(out)
}

// knock asks the inviter to be let in.
func knock(ctx context.Context, key crypto.PrivKey, t *member.Ticket, machine string) (*protocol.JoinReply, error) {
	h, leave, err := caller(key)
	if err != nil {
		return nil, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(ctx, "join"), 2*talkTime)
	defer cancel()
	if err := h.Connect(ctx, peer.AddrInfo{ID: t.Inviter, Addrs: dialled(t.Addrs)}); err != nil {
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
			return nil, ctx.Err()
		}
		return nil, unreachable(t, err)
	}
	st, err := h.NewStream(ctx, t.Inviter, libprotocol.ID(protocol.JoinID))
	if err != nil {
		return nil, unreachable(t, err)
	}
	defer st.Close()
	if by, ok := ctx.Deadline(); ok {
		_ = st.SetDeadline(by)
	}
	stop := context.AfterFunc(ctx, func() { _ = st.Reset() })
	defer stop()
	reply := new(protocol.JoinReply)
	err = send(st, &protocol.JoinRequest{Swarm: t.Swarm[:], Proof: proofKey(t.Secret).Proof(t.Swarm, h.ID(), t.Inviter), Name: machine})
	if err == nil {
		err = receive(st, reply, maxWelcome)
	}
	switch {
	case err != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("%w: the connection broke off: %w", ErrUnreachable, err)
	}
	if reply.Refusal != protocol.JoinRefusal_JOIN_REFUSAL_NONE {
		return nil, joinError(reply.Refusal)
	}
	return reply, nil
}

// dialled are the addresses of a code, and for each of QUIC the one of TCP at the same
// port, for networks without UDP.
func dialled(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	out := append([]multiaddr.Multiaddr(nil), addrs...)
	for _, a := range addrs {
		s := a.String()
		if i := strings.Index(s, "/quic-v1"); i > 0 {
			if b, err := multiaddr.NewMultiaddr(strings.Replace(s[:i], "/udp/", "/tcp/", 1) + s[i+len("/quic-v1"):]); err == nil {
				out = append(out, b)
			}
		}
	}
	return out
}

// unreachable says why the inviter does not answer. Its listener is closed once no code is
// out, so a code that was used long ago looks the same as a node that is off.
func unreachable(t *member.Ticket, err error) error {
	var at []string
	for _, a := range t.Addrs {
		at = append(at, a.String())
	}
	return fmt.Errorf("%w at %s (%w): its node must be running, and the code not have been used before", ErrUnreachable, strings.Join(at, ", "), node.Explain(err))
}
