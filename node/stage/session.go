package stage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol"
)

const (
	maxPending = 32               // steps of a session that wait for the loop
	dialTime   = 10 * time.Second // to reach the successor
)

// step is a checked Step that waits for the loop.
type step struct {
	epoch    uint64
	base     int
	rows     int
	sample   bool
	truncate bool // forget positions >= base first
	tokens   []int32
	hidden   []float32
}

// session is one sequence at one stage.
type session struct {
	stage    *Stage
	key      key
	open     *protocol.Open
	seq      int
	reserved int // KV tokens
	client   *sender
	next     *sender // nil if the route has one stage
	ctx      context.Context
	cancel   context.CancelFunc
	gone     chan struct{} // KV is free again
	room     chan struct{} // capacity 1: a step was taken from pending
	endOnce  sync.Once
	idle     *time.Timer

	// guarded by stage.mu
	epoch   uint64
	length  int // positions queued so far
	pending []*step
	ended   bool
	linked  bool // a predecessor has linked up

	// the loop's alone
	sampled []int32
}

func newSession(s *Stage, k key, o *protocol.Open, client Stream, seq int) *session {
	ctx, cancel := context.WithCancel(s.ctx)
	sess := &session{
		stage: s, key: k, open: o, seq: seq, reserved: int(o.MaxTokensTotal), epoch: o.Epoch,
		ctx: ctx, cancel: cancel, gone: make(chan struct{}), room: make(chan struct{}, 1),
	}
	if o.Sampling != nil {
		sess.sampled = append(sess.sampled, o.Sampling.Sampled...)
	}
	sess.client = newSender(client, func(error) { sess.end(nil) }, s.poke)
	sess.idle = time.AfterFunc(s.cfg.Idle, func() {
		sess.fail(protocol.Errorf(protocol.Code_CODE_TIMEOUT, "the session was idle for %s", s.cfg.Idle))
	})
	if o.Stages > 1 {
		sess.next = newSender(nil, sess.linkLost, s.poke)
		go sess.connect()
	}
	return sess
}

// connect reaches the successor while the client still opens other stages, so
// that the first step does not pay for it.
func (sess *session) connect() {
	err := func() error {
		ctx, cancel := context.WithTimeout(sess.ctx, dialTime)
		defer cancel()
		id, err := peer.IDFromBytes(sess.open.Next.Peer)
		if err != nil {
			return fmt.Errorf("the successor's peer ID: %w", err)
		}
		var addrs []multiaddr.Multiaddr
		for _, b := range sess.open.Next.Addrs {
			if a, err := multiaddr.NewMultiaddrBytes(b); err == nil {
				addrs = append(addrs, a)
			}
		}
		st, err := sess.stage.dial.OpenStage(ctx, id, addrs)
		if err != nil {
			return err
		}
		link, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{
			Session: sess.open.Session, Epoch: sess.open.Epoch, Index: sess.open.Index,
		}}}, nil)
		if err != nil {
			return err
		}
		sess.next.start(st, link)
		// The successor says nothing on this stream; what can be read is its loss.
		go func() {
			_, err := io.Copy(io.Discard, st)
			sess.next.lost(errors.Join(err, io.EOF))
		}()
		return nil
	}()
	if err != nil {
		sess.next.lost(err)
	}
}

// linkLost reports a broken link to the client, who decides what to do.
func (sess *session) linkLost(err error) {
	if sess.ctx.Err() != nil {
		return
	}
	sess.stage.cfg.Log.Info("lost a successor", "index", sess.open.Index, "error", err)
	sess.fail(protocol.Errorf(protocol.Code_CODE_PEER_LOST, "stage %d lost its successor", sess.open.Index))
}

// fail tells the client why and ends the session.
func (sess *session) fail(e *protocol.Error) { sess.end(e) }

// end ends the session once; the loop then frees its KV.
func (sess *session) end(e *protocol.Error) {
	sess.endOnce.Do(func() {
		sess.idle.Stop()
		if e != nil {
			if b, err := protocol.AppendFrame(nil, e.Fail(), nil); err == nil {
				sess.client.push(b)
			}
		}
		sess.client.finish()
		if sess.next != nil {
			sess.next.finish()
		}
		s := sess.stage
		s.mu.Lock()
		sess.ended = true
		sess.pending = nil
		s.mu.Unlock()
		sess.cancel()
		s.poke()
		go func() { // once the loop is gone nobody else frees it
			select {
			case <-sess.gone:
			case <-s.done:
				s.mu.Lock()
				if s.sessions[sess.key] == sess {
					delete(s.sessions, sess.key)
					close(sess.gone)
				}
				s.mu.Unlock()
			}
		}()
	})
}

// queuedRows is called with stage.mu held.
func (sess *session) queuedRows() int {
	n := 0
	for _, st := range sess.pending {
		n += st.rows
	}
	return n
}

// readClient serves the client's stream after its Open, to its end.
func (sess *session) readClient(r *bufio.Reader) {
	for {
		f, _, err := protocol.ReadFrame(r, 0)
		if err != nil {
			if errors.Is(err, protocol.ErrFrame) {
				sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "%s", err))
			}
			sess.end(nil)
			return
		}
		switch k := f.Kind.(type) {
		case *protocol.Frame_Step:
			if sess.open.Index != 0 {
				sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "only stage 0 takes steps from the client"))
				return
			}
			if !sess.take(k.Step, nil) {
				return
			}
		case *protocol.Frame_Bye:
			sess.end(nil)
			return
		default:
			sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "unexpected frame"))
			return
		}
	}
}

// readLink serves the predecessor's stream after its Link.
func (sess *session) readLink(r *bufio.Reader) error {
	limit := 4 * protocol.MaxRows * sess.stage.cfg.Width
	for {
		f, payload, err := protocol.ReadFrame(r, limit)
		if err != nil {
			if errors.Is(err, protocol.ErrFrame) {
				sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "from the predecessor: %s", err))
			} else if sess.ctx.Err() == nil {
				sess.fail(protocol.Errorf(protocol.Code_CODE_PEER_LOST, "stage %d lost its predecessor", sess.open.Index))
			}
			return err
		}
		k, ok := f.Kind.(*protocol.Frame_Step)
		if !ok {
			sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "unexpected frame from the predecessor"))
			return protocol.ErrFrame
		}
		if !sess.take(k.Step, payload) {
			return nil
		}
	}
}

// take checks a step and queues it, waiting for room. False: the session is
// over.
func (sess *session) take(p *protocol.Step, payload []byte) bool {
	st, err := sess.parse(p, payload)
	if err != nil {
		sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "%s", err))
		return false
	}
	for {
		queued, err := sess.queue(st)
		if err != nil {
			sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "%s", err))
			return false
		}
		if queued {
			sess.idle.Reset(sess.stage.cfg.Idle)
			sess.stage.poke()
			return true
		}
		select {
		case <-sess.room:
		case <-sess.ctx.Done():
			return false
		}
	}
}

func (sess *session) parse(p *protocol.Step, payload []byte) (*step, error) {
	cfg := &sess.stage.cfg
	st := &step{epoch: p.Epoch, base: int(p.Base), rows: int(p.Rows), sample: p.Sample}
	if st.rows < 1 || st.rows > protocol.MaxRows || st.rows > cfg.MaxBatch {
		return nil, fmt.Errorf("a step of %d rows, where up to %d are taken", st.rows, min(protocol.MaxRows, cfg.MaxBatch))
	}
	if p.Base > uint32(sess.reserved) || st.base+st.rows > sess.reserved {
		return nil, fmt.Errorf("a step to position %d of a session of %d tokens", uint64(p.Base)+uint64(p.Rows), sess.reserved)
	}
	if cfg.first() {
		if len(p.Tokens) != st.rows {
			return nil, fmt.Errorf("%d tokens for %d rows", len(p.Tokens), st.rows)
		}
		for _, id := range p.Tokens {
			if id < 0 || int(id) >= cfg.Vocab {
				return nil, fmt.Errorf("token %d is not in the vocabulary of %d", id, cfg.Vocab)
			}
		}
		st.tokens = p.Tokens
		return st, nil
	}
	x, err := protocol.Tensor(p.Codec, payload, st.rows*cfg.Width)
	st.hidden = x
	return st, err
}

// queue appends a step to the session; false means that there is no room yet.
func (sess *session) queue(st *step) (bool, error) {
	sess.stage.mu.Lock()
	defer sess.stage.mu.Unlock()
	switch {
	case sess.ended || st.epoch < sess.epoch:
		return true, nil // of a past epoch: dropped
	case st.epoch > sess.epoch:
		if st.base > sess.length {
			return false, fmt.Errorf("epoch %d begins at position %d, where the session has %d", st.epoch, st.base, sess.length)
		}
		sess.epoch, sess.length, sess.pending = st.epoch, st.base, nil
		st.truncate = true
	case st.base != sess.length:
		return false, fmt.Errorf("a step at position %d, where %d was due", st.base, sess.length)
	case len(sess.pending) >= maxPending:
		return false, nil
	}
	sess.length += st.rows
	sess.pending = append(sess.pending, st)
	return true, nil
}
