package swarm

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	libp2p "github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/node/allowance"
	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

// BridgeNetwork is the host of a bridge, which members of both swarms reach.
type BridgeNetwork interface {
	Network
	// InstallOther is InstallLists for lists of the other swarm.
	InstallOther(member.Lists) (news bool, err error)
	// SetBridge puts a newer record in force.
	SetBridge(*member.BridgeRecord) error
	// Guest reports whether a peer is of the guest's swarm.
	Guest(peer.ID) bool
	// Certificate returns the certificate that a connected peer has shown; nil: none.
	Certificate(peer.ID) *member.Certificate
}

const (
	reportTime    = 50 * time.Millisecond // in which what guests use is gathered for one report
	maxMeet       = 16                    // nodes dialled at a time because members have named them
	maxBridgeTalk = 2*member.MaxLists + member.MaxBridge + 8<<10
)

// entered is a bridge whose network a daemon runs.
type entered struct {
	*Bridge
	lends  bool
	record *member.BridgeRecord // under which it offers; guarded by Book.bridgeWork
	shown  *member.Certificate  // by its connections
}

// outgrown reports whether the network is to be opened again. What is exchanged there, and
// whether this node relays, follows from the roles at its opening, and a renewed certificate
// is shown as that of a swarm's own host is (reenter.go).
func (e *entered) outgrown(now time.Time) bool {
	newest := e.s.Certificate()
	if e.record.Roles != e.terms().Roles || e.shown.Roles != newest.Roles {
		return true
	}
	r := e.attached()
	return newest.Expires().After(e.shown.Expires()) && (r == nil || idle(r.net.Host()) || e.shown.Expires().Sub(now) < lastDay)
}

// bridgeRun is a bridge with a host.
type bridgeRun struct {
	b      *Bridge
	net    BridgeNetwork
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	serving, telling chan struct{} // atOnce each
	meeting          chan struct{} // maxMeet
	spent            chan struct{} // capacity 1: a guest has used something
	lines            *rate.Limiter

	agreeing agreeing

	mu    sync.Mutex
	ended bool
}

// Attach has what nodes tell each other over the bridge served on its network, until detach
// is called.
func (b *Bridge) Attach(net BridgeNetwork) (detach func()) {
	r := &bridgeRun{
		b: b, net: net, serving: make(chan struct{}, atOnce), telling: make(chan struct{}, atOnce), meeting: make(chan struct{}, maxMeet), spent: make(chan struct{}, 1),
		lines: rate.NewLimiter(rate.Every(10*time.Second), 10),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	h := net.Host()
	h.SetStreamHandler(protocol.MemberID, r.serve)
	met := &libp2p.NotifyBundle{ConnectedF: func(_ libp2p.Network, c libp2p.Conn) {
		if c.Stat().Direction == libp2p.DirOutbound { // one of the two begins
			r.start(func() { r.agree(c.RemotePeer(), false) })
		}
	}}
	h.Network().Notify(met)
	s := b.s
	s.mu.Lock()
	b.run = r
	s.mu.Unlock()
	r.enforce() // what has come after the network's configuration
	r.push(false)
	r.start(r.report)
	signal(r.spent) // it may have been before
	return func() {
		h.Network().StopNotify(met)
		h.RemoveStreamHandler(protocol.MemberID)
		s.mu.Lock()
		if b.run == r {
			b.run = nil
		}
		s.mu.Unlock()
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
		r.cancel()
		r.wg.Wait()
		r.keepUsed()
	}
}

func (b *Bridge) attached() *bridgeRun {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.run
}

// start runs do in the background, unless the bridge was detached.
func (r *bridgeRun) start(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.wg.Go(do)
	}
}

// enforce has the network act on the lists and the record of now.
func (r *bridgeRun) enforce() {
	s := r.b.s
	s.mu.Lock()
	own, other, record := s.lists, r.b.other, r.b.record
	s.mu.Unlock()
	_, err1 := r.net.InstallLists(own)
	_, err2 := r.net.InstallOther(other)
	if err := errors.Join(err1, err2, r.net.SetBridge(record)); err != nil {
		r.b.logger().Warn("a bridge's revocation lists cannot be put in force", "error", err)
	}
}

// push tells all that are connected; with lists, the newest revocation lists at once.
func (r *bridgeRun) push(lists bool) {
	for _, p := range r.net.Host().Network().Peers() {
		r.start(func() { r.agree(p, lists) })
	}
}

// agree exchanges lists and sums with a peer until both have the same lists, as
// running.agree does among fellow members.
func (r *bridgeRun) agree(p peer.ID, lists bool) {
	r.agreeing.with(r.ctx, p, lists, r.connected, func(lists bool) (bool, error) { return r.tell(p, lists) })
}

func (r *bridgeRun) connected(p peer.ID) bool {
	return len(r.net.Host().Network().ConnsToPeer(p)) > 0
}

// sides returns the encoded lists of both swarms.
func (r *bridgeRun) sides() (lender, guest []byte) {
	s := r.b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	lender, guest = s.lists.Marshal(), r.b.other.Marshal()
	if r.b.grant != nil {
		lender, guest = guest, lender
	}
	return lender, guest
}

// talk is what this node tells a peer. with reports whether it sends lists of a digest.
func (r *bridgeRun) talk(with func(lender, guest []byte) (l, g bool)) *protocol.BridgeTalk {
	lender, guest := r.sides()
	t := &protocol.BridgeTalk{LenderDigest: digest(lender), GuestDigest: digest(guest)}
	l, g := with(t.LenderDigest, t.GuestDigest)
	if l {
		t.LenderLists = lender
	}
	if g {
		t.GuestLists = guest
	}
	if t.Record = r.b.terms().Marshal(); r.b.Lends() {
		sum := r.b.used.Mine(r.b.s.book.cfg.Now())
		t.Day, t.Used = sum.Day, sum.Used
	}
	return t
}

// tell exchanges with a peer; with lists, the request carries the newest revocation lists.
// differs reports whether the peer has others, although it has been heard.
func (r *bridgeRun) tell(p peer.ID, lists bool) (differs bool, err error) {
	_, reply, err := askMember(r.ctx, r.telling, r.net.Host(), p, maxBridgeTalk, func() *protocol.MemberRequest {
		return &protocol.MemberRequest{Talk: r.talk(func(_, _ []byte) (bool, bool) { return lists, lists })}
	})
	if err == nil && reply.Talk == nil {
		err = errMalformed
	}
	if err != nil {
		return false, err
	}
	r.note(p, reply.Talk)
	lender, guest := r.sides()
	return !bytes.Equal(digest(lender), reply.Talk.LenderDigest) || !bytes.Equal(digest(guest), reply.Talk.GuestDigest), nil
}

// serve answers one request.
func (r *bridgeRun) serve(st libp2p.Stream) {
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
	if err := receive(st, req, maxBridgeTalk); err != nil || req.Talk == nil {
		_ = st.Reset()
		return
	}
	r.note(st.Conn().RemotePeer(), req.Talk)
	others := func(lender, guest []byte) (bool, bool) {
		return !bytes.Equal(lender, req.Talk.LenderDigest), !bytes.Equal(guest, req.Talk.GuestDigest)
	}
	if err := send(st, &protocol.MemberReply{Talk: r.talk(others)}); err != nil {
		_ = st.Reset()
	}
}

// note takes what a peer has told: newer lists of either swarm, a newer record of the
// lender's, and what guests have used of it. Sums are of members: each could have any number
// of hosts here, and their sums would take the room of others'.
func (r *bridgeRun) note(p peer.ID, t *protocol.BridgeTalk) {
	own, other := t.LenderLists, t.GuestLists
	if !r.b.Lends() {
		own, other = other, own
	}
	err := errors.Join(r.take(own, r.b.s.install), r.take(other, r.b.installOther), r.takeRecord(t.Record))
	if err != nil && r.lines.Allow() {
		r.b.logger().Info("a peer passes on a revocation list or a record that is not valid here", "peer", p, "error", err)
	}
	if c := r.net.Certificate(p); t.Day != 0 && c != nil && !r.net.Guest(p) {
		r.b.used.Heard(c.Peer(), allowance.Sum{Day: t.Day, Used: t.Used}, r.b.s.book.cfg.Now())
	}
}

// takeRecord takes a newer record of the lender's, which this node of it has missed. Guests
// need one that their own root key has accepted.
func (r *bridgeRun) takeRecord(raw []byte) error {
	if len(raw) == 0 || !r.b.Lends() {
		return nil
	}
	record, err := member.ParseBridge(raw)
	switch {
	case err != nil:
		return err
	case !record.Supersedes(r.b.terms()):
		return nil
	}
	if err := r.b.s.hearBridge(&Bridge{record: record}); err != nil && !over(err) {
		return err
	}
	return nil
}

func (r *bridgeRun) take(raw []byte, install func(member.Lists) error) error {
	if len(raw) == 0 {
		return nil
	}
	l, err := member.ParseLists(raw)
	if err != nil {
		return err
	}
	return install(l)
}

// installOther takes newer revocation lists of the other swarm: they are enforced, kept, and
// passed on.
func (b *Bridge) installOther(from member.Lists) error {
	s := b.s
	s.mu.Lock()
	lists, news, err := b.other.Merge(from, b.otherRoot(), s.book.cfg.Now())
	b.other = lists
	run := b.run
	s.mu.Unlock()
	if !news {
		return err
	}
	if run != nil { // before all else: what is revoked ends now
		run.enforce()
	}
	err = errors.Join(err, s.save(b.file(bridgeLists), func() []byte { return b.other.Marshal() }))
	if run != nil {
		run.push(true)
	}
	s.book.tendSoon()
	return err
}

// report tells the other nodes what guests have used of this one, when that is due, and
// keeps it. Once a minute it compares lists with all that are connected.
func (r *bridgeRun) report() {
	again := time.NewTicker(keepTime)
	defer again.Stop()
	var saved time.Time
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-again.C:
			r.push(false)
		case <-r.spent:
			if backoff.Pause(r.ctx, reportTime) != nil {
				return
			}
			if r.b.used.Due(r.lenders(), r.b.s.book.cfg.Now()) {
				r.push(false)
			}
		}
		if now := time.Now(); now.Sub(saved) >= saveTime {
			saved = now
			r.keepUsed()
		}
	}
}

// lenders is how many nodes of the lender are connected, this one included.
func (r *bridgeRun) lenders() int {
	n := 1
	for _, p := range r.net.Host().Network().Peers() {
		if !r.net.Guest(p) {
			n++
		}
	}
	return n
}

// keepUsed writes down what guests have used of this node today.
func (r *bridgeRun) keepUsed() {
	if !r.b.Lends() {
		return
	}
	if err := r.b.s.save(r.b.file(bridgeUsed), r.b.used.Marshal); err != nil && !errors.Is(err, errGone) {
		r.b.logger().Warn("what guests have used today cannot be written down", "error", err)
	}
}

// bridgeNews has the connected members told of a bridge, and its network, if that runs,
// act on it.
func (s *Swarm) bridgeNews(b *Bridge) {
	if r := b.attached(); r != nil {
		r.enforce()
		for _, n := range s.nodesOf(b) {
			r.meet(n)
		}
	}
	if r := s.attached(); r != nil {
		r.push()
	}
}

func (s *Swarm) nodesOf(b *Bridge) []bridgeNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(b.nodes)
}

// meet connects to a node of the lender, unless many others are being dialled: they are
// named again.
func (r *bridgeRun) meet(n bridgeNode) {
	h := r.net.Host()
	if n.ID == h.ID() || r.connected(n.ID) {
		return
	}
	r.start(func() {
		select {
		case r.meeting <- struct{}{}:
			defer func() { <-r.meeting }()
		default:
			return
		}
		ctx, cancel := context.WithTimeout(r.ctx, greetTime)
		defer cancel()
		h.Peerstore().AddAddrs(n.ID, n.Addrs, peerstore.RecentlyConnectedAddrTTL)
		if err := h.Connect(ctx, peer.AddrInfo{ID: n.ID}); err != nil {
			r.b.logger().Debug("a node of the lender is not reached", "peer", n.ID, "error", err)
		}
	})
}

// nodesFor are the lender's nodes that a fellow member is told of. Each of the lender's
// names itself alone, so that what is told is never older than what is known; a guest names
// those that it is connected to first, then those that it has heard of.
func (b *Bridge) nodesFor() (nodes []bridgeNode) {
	r, lends := b.attached(), b.Lends()
	if r != nil && lends {
		return []bridgeNode{{AddrInfo: peer.AddrInfo{ID: b.self, Addrs: plainOnes(r.net.Host().Addrs())}}}
	}
	if r != nil {
		for _, p := range r.net.Host().Network().Peers() {
			if !r.net.Guest(p) && len(nodes) < maxBridgeNodes/2 {
				nodes = append(nodes, bridgeNode{AddrInfo: peer.AddrInfo{ID: p, Addrs: plainOnes(r.net.Host().Peerstore().Addrs(p))}})
			}
		}
	}
	if !lends {
		nodes = append(nodes, b.s.nodesOf(b)...)
	}
	return nodes
}

// bridgesFor returns the bridges of the swarm, for a fellow member, and then those that are
// over: it may have missed the record with which one has ended, and have an older one.
func (s *Swarm) bridgesFor() (out []*protocol.SwarmBridge) {
	for _, b := range s.Bridges() {
		nodes := b.nodesFor()
		s.mu.Lock()
		out = append(out, b.told(nodes))
		s.mu.Unlock()
	}
	return append(out, s.endsFor(maxBridges-len(out))...)
}

// hearBridges takes bridges that a fellow member tells of.
func (s *Swarm) hearBridges(all []*protocol.SwarmBridge) (first error) {
	for _, v := range all[:min(len(all), maxBridges)] {
		fresh := &Bridge{name: swarmName(v.Name)}
		var err error
		if len(v.Grant) > 0 {
			if fresh.grant, err = member.ParseGrant(v.Grant); err == nil {
				fresh.record = fresh.grant.Record
			}
		} else {
			fresh.record, err = member.ParseBridge(v.Record)
		}
		if err == nil {
			for _, n := range v.Nodes[:min(len(v.Nodes), maxBridgeNodes)] {
				if id, err := peer.IDFromBytes(n.Peer); err == nil {
					fresh.addNode(bridgeNode{AddrInfo: peer.AddrInfo{ID: id, Addrs: parseAddrs(n.Addrs[:min(len(n.Addrs), 2*maxAddrs)])}})
				}
			}
			err = s.hearBridge(fresh)
		}
		if err != nil && first == nil && !over(err) {
			first = err
		}
	}
	return first
}

func (s *Swarm) hearBridge(fresh *Bridge) error {
	b, news, err := s.hold(fresh)
	switch {
	case news:
		s.bridgeNews(b)
		s.book.tendSoon()
	case err == nil:
		if r := b.attached(); r != nil {
			for _, n := range s.nodesOf(b) {
				r.meet(n)
			}
		}
	}
	return err
}

// enforceBridges has the networks of the swarm's bridges act on its lists, and the other
// side told.
func (s *Swarm) enforceBridges() {
	for _, b := range s.Bridges() {
		if r := b.attached(); r != nil {
			r.enforce()
			r.push(true)
		}
	}
	s.book.tendSoon()
}

// tendSoon has networks of bridges opened and closed in the background. It never waits, so
// it can be called from what a network's end waits for.
func (b *Book) tendSoon() {
	if !b.tending.Swap(true) {
		go b.tendNow()
	}
}

// tendNow opens the networks of bridges that are in force, and closes those of others.
func (b *Book) tendNow() {
	b.bridgeWork.Lock()
	defer b.bridgeWork.Unlock()
	b.tending.Store(false)
	b.mu.Lock()
	hosts, running := b.hosts, maps.Clone(b.running)
	b.mu.Unlock()
	wanted, now := b.wanted(), b.cfg.Now()
	for id, e := range running {
		if (wanted[id] != e.Bridge || e.outgrown(now)) && hosts != nil {
			b.exitBridge(hosts, e.Bridge)
			delete(running, id)
		}
	}
	for id, br := range wanted {
		if hosts == nil {
			continue
		}
		if e := running[id]; e.same(br) {
			if record := br.terms(); e.record != record {
				e.record = record
				hosts.ChangeBridge(br)
			}
			continue
		}
		b.mu.Lock()
		b.running[id] = &entered{br, br.Lends(), br.terms(), br.s.Certificate()}
		b.mu.Unlock()
		if err := hosts.EnterBridge(br); err != nil {
			b.mu.Lock()
			delete(b.running, id)
			b.mu.Unlock()
			br.logger().Warn("the network of a bridge cannot be opened", "error", err)
			continue
		}
		if r := br.s.attached(); r != nil && br.Lends() { // the others can find this node there now
			r.push()
		}
	}
	b.forgetOver()
}

func (e *entered) same(b *Bridge) bool { return e != nil && e.Bridge == b }

func (b *Book) exitBridge(hosts Hosts, br *Bridge) {
	hosts.ExitBridge(br)
	b.mu.Lock()
	delete(b.running, br.ID())
	b.mu.Unlock()
}

// wanted are the bridges whose networks are to run, by ID. A home that is in both swarms
// uses the lender as a member of it.
func (b *Book) wanted() map[string]*Bridge {
	out, now := map[string]*Bridge{}, b.cfg.Now()
	all := b.Swarms()
	for _, s := range all {
		member := s.member()
		for _, br := range s.Bridges() {
			s.mu.Lock()
			ok := member && br.open(now) == nil && br.roles() != 0
			lender, guest := br.record.Lender, br.grant != nil
			s.mu.Unlock()
			if ok && !(guest && slices.ContainsFunc(all, func(o *Swarm) bool { return o.about.Root == lender })) {
				out[br.ID()] = br
			}
		}
	}
	return out
}

// forgetOver forgets bridges that have ended for good.
func (b *Book) forgetOver() {
	now := b.cfg.Now()
	for _, s := range b.Swarms() {
		for _, br := range s.Bridges() {
			s.mu.Lock()
			err := br.open(now)
			s.mu.Unlock()
			if over(err) {
				s.forgetBridge(br)
			}
		}
	}
}

// endBridges closes the networks of a swarm's bridges before the swarm is left.
func (b *Book) endBridges(hosts Hosts, s *Swarm) {
	b.bridgeWork.Lock()
	defer b.bridgeWork.Unlock()
	for _, br := range s.Bridges() {
		b.mu.Lock()
		e := b.running[br.ID()]
		b.mu.Unlock()
		if e.same(br) {
			b.exitBridge(hosts, br)
		}
	}
}

// RunsBridge returns the bridge with a network's ID that runs; nil: there is none.
func (b *Book) RunsBridge(network string) *Bridge {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.running[network]; e != nil {
		return e.Bridge
	}
	return nil
}

// pickBridges returns all bridges of the swarms that a person may mean by a name; "": of all.
func (b *Book) pickBridges(name string) (out []*Bridge) {
	for _, s := range b.Swarms() {
		if strings.TrimSpace(name) == "" || s.called(name) {
			out = append(out, s.Bridges()...)
		}
	}
	return out
}
