package survey

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/test"

	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/protocol"
)

// distant is a network whose peers answer after a round trip.
type distant struct {
	answering
	mu    sync.Mutex
	asked int
	mute  map[peer.ID]bool
	room  uint32
}

const roundTrip = 80 * time.Millisecond

func (n *distant) Status(ctx context.Context, p peer.ID, model cid.Cid, prefix []uint64) (*protocol.StatusReply, error) {
	n.mu.Lock()
	n.asked++
	mute, room := n.mute[p], n.room
	n.mu.Unlock()
	time.Sleep(roundTrip)
	if mute {
		return nil, errors.New("no answer")
	}
	st, err := n.answering.Status(ctx, p, model, prefix)
	for _, sp := range st.Spans {
		sp.KvFree, sp.Cached = room, uint32(protocol.PrefixBlock*len(prefix))
	}
	return st, err
}

func (n *distant) set(mute peer.ID, room uint32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mute, n.room = map[peer.ID]bool{mute: true}, room
}

func (n *distant) questions() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

// While a model is in use a route is planned without a round trip, unless something speaks
// against it; and an idle node asks nobody.
func TestWarm(t *testing.T) { synctest.Test(t, warmly) }

func warmly(t *testing.T) {
	a, b := test.RandPeerIDFatal(t), test.RandPeerIDFatal(t)
	offers := []*protocol.Offer{offering(t, string(a), "m 0-8 of 8"), offering(t, string(b), "m 0-8 of 8")}
	n := &distant{answering: answering{offersOf: offers}, room: 100}
	s := surveyOf(t)
	s.net = n
	model, prefix := someID(t, "m"), []uint64{1, 2, 3}
	var list []route.Candidate
	choose := func(warm bool, room int) (took time.Duration) {
		t.Helper()
		begin := time.Now()
		q := Query{Model: model, Span: protocol.Span{From: 0, To: 8}, Warm: warm, Prefix: prefix}
		_, _, err := s.Choose(t.Context(), q, func(_ string, found []route.Candidate, _ Distances) (*route.Route, error) {
			if list = found; len(list) == 0 || list[0].KVFree < room {
				return nil, route.ErrNoRoom
			}
			return &route.Route{}, nil
		})
		if err != nil {
			t.Error(err)
		}
		return time.Since(begin)
	}
	is := func(what string, took, want time.Duration) {
		t.Helper()
		if took != want {
			t.Errorf("%s: a plan took %s, want %s", what, took, want)
		}
	}
	is("the first", choose(true, 1), roundTrip)
	time.Sleep(2 * roundTrip)
	is("in use", choose(true, 1), 0)
	if len(list) != 2 || list[0].Cached != 0 || list[1].Cached != 0 {
		t.Errorf("candidates %+v", list)
	}
	is("with other requests under way", choose(false, 1), roundTrip)
	time.Sleep(20 * time.Second)
	is("a while later", choose(true, 1), 0)

	s.Ended(model, []session.Hop{{Peer: a, Span: protocol.Span{From: 0, To: 8}}}, []uint64{1, 2, 9}, false)
	is("after a session", choose(true, 1), 0)
	for _, c := range list {
		if want := 2 * protocol.PrefixBlock; (c.Cached == want) != (c.Peer == a.String()) || c.Kept != 0 {
			t.Errorf("%d tokens are kept, and %d counted on", c.Cached, c.Kept) // those of a stranger are not
		}
	}
	s.Ended(model, nil, nil, true)
	time.Sleep(5 * time.Second)
	is("after one of which nobody knows what is kept", choose(true, 1), roundTrip)
	if list[0].Cached != 0 || list[1].Cached != 0 {
		t.Errorf("%d and %d tokens are kept by strangers who were not asked", list[0].Cached, list[1].Cached)
	}

	n.set("", 200)
	is("with more room than was known", choose(true, 150), roundTrip)
	n.set(b, 200)
	time.Sleep(5 * time.Second)
	is("without one that is gone", choose(true, 150), 0)
	if len(list) != 1 || list[0].Peer != a.String() {
		t.Errorf("candidates %+v", list)
	}

	time.Sleep(warmFor + 5*time.Second)
	before := n.questions()
	time.Sleep(time.Hour)
	if more := n.questions() - before; more != 0 {
		t.Errorf("an idle node asked %d times", more)
	}
	is("after an hour", choose(true, 1), roundTrip)
	n.set(a, 0) // and both are gone
	n.mu.Lock()
	n.mute[b] = true
	n.mu.Unlock()
	time.Sleep(5 * time.Second)
	before = n.questions()
	time.Sleep(time.Hour)
	if more := n.questions() - before; more != 0 {
		t.Errorf("%d questions to peers that are gone", more)
	}
}

// What is remembered is bounded, and newer sessions replace those that they contain.
func TestWarmRemembersLittle(t *testing.T) {
	s := surveyOf(t)
	a := test.RandPeerIDFatal(t)
	hops := []session.Hop{{Peer: a, Span: protocol.Span{From: 0, To: 8}}}
	for n := range 100 {
		s.Ended(someID(t, "m"), hops, make([]uint64, n), false)
	}
	if n := len(s.warm.sessions); n != 1 {
		t.Errorf("%d sessions of one conversation", n)
	}
	for n := range uint64(3 * mostSessions) {
		s.Ended(someID(t, "m"), hops, []uint64{n}, false)
	}
	if n := len(s.warm.sessions); n > mostSessions {
		t.Errorf("%d sessions", n)
	}
}
