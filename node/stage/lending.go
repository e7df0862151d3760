package stage

import (
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// Lending decides what clients may have of this node, by its owner's rules. It is safe
// for concurrent use, and is called without locks.
type Lending interface {
	// Grant returns what a client may have now, or why it may have none of what it wants.
	// What it has already does not count.
	Grant(c Client, w Want) (Grant, *protocol.Error)
	// Seat is Grant for a session that is about to be opened, which counts from then on.
	// Leave must be called if the error is nil.
	Seat(c Client, w Want, session [16]byte) (Seat, Grant, *protocol.Error)
}

// Want is what a session is to be.
type Want struct {
	Model  cid.Cid
	Span   protocol.Span
	Tokens int // prompt and answer together; 0: not known
}

// Seat counts for one session at one stage. It is safe for concurrent use.
type Seat interface {
	// Spend counts rows that were computed of tokens that are known to be right (bill). It
	// returns why the session must end, or nil.
	Spend(rows int) *protocol.Error
	// Leave ends the count. Further calls do nothing.
	Leave()
}

// Client is who opens sessions.
type Client struct {
	Peer  peer.ID
	Swarm string // ID of the private swarm by which it came; "": the open network
}

func clientOf(st Stream) Client { return Client{st.Peer(), st.Swarm()} }

// Grant is what a client may have of a stage. Clients of one class share it: Share and
// Cap are of all of them together.
type Grant struct {
	Class string
	Own   bool    // this node's own prompts: they find room whatever others have
	Share float64 // weight against other classes, for time and room, more than 0
	Cap   float64 // part of the time, even if nobody else wants it; 0: no limit
}

// everything is what clients get where there are no rules.
var everything = Grant{Share: 1}

// freely lends everything to everybody.
type freely struct{}

func (freely) Grant(Client, Want) (Grant, *protocol.Error) { return everything, nil }

func (freely) Seat(Client, Want, [16]byte) (Seat, Grant, *protocol.Error) {
	return freely{}, everything, nil
}

func (freely) Spend(int) *protocol.Error { return nil }
func (freely) Leave()                    {}

// want is what an Open asks for; nil: anything here.
func (s *Stage) want(o *protocol.Open) Want {
	tokens := int(o.GetMaxTokensTotal())
	if o.GetEmbed() > 0 { // each text is a context of its own
		tokens = int(o.Embed)
	}
	return Want{s.cfg.Model, s.cfg.Span, tokens}
}

// Review has the rules decide about all sessions again, after they have changed. Clients
// of sessions that are not allowed any more are notified, so that they move to other
// stages. It returns how many there are that were allowed before.
func (s *Stage) Review() (barred int) {
	for _, sess := range s.all() {
		g, e := s.cfg.Lending.Grant(Client{sess.peer, sess.swarm}, s.want(sess.open))
		s.mu.Lock()
		fresh := e != nil && sess.barred == nil && !sess.ended
		if sess.barred = e; e == nil {
			sess.grant = g
		}
		s.mu.Unlock()
		if fresh {
			barred++
			sess.drain()
		}
	}
	s.poke()
	return barred
}

// Lends returns why a client may open no session here now, or nil.
func (s *Stage) Lends(c Client) *protocol.Error {
	_, e := s.cfg.Lending.Grant(c, s.want(nil))
	return e
}
