package stage

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

const (
	firstTime = 5 * time.Second  // for a stream's first frame
	openTime  = 15 * time.Second // that a Link waits for its Open
)

// Server hands the streams of protocol.StageID to the stages of this node. It is safe
// for concurrent use.
type Server struct {
	log     *slog.Logger
	trusted func(peer.ID) bool
	refuses func(Stream, cid.Cid) *protocol.Error
	charge  Charge
	held    held

	mu     sync.Mutex
	stages []*Stage
}

// NewServer returns a server without stages. Streams of peers for which trusted
// returns true are exempt from the memory limits before admission; nil: none are.
func NewServer(log *slog.Logger, trusted func(peer.ID) bool) *Server {
	return &Server{log: log, trusted: trusted}
}

// Restrict sets who may open sessions with a model: a client for whose stream refuses
// returns an error gets that. Links from other stages are not refused. It must be called
// before the first Serve; without it, everybody may.
func (v *Server) Restrict(refuses func(st Stream, model cid.Cid) *protocol.Error) {
	v.refuses = refuses
}

// Charge counts rows that were computed for a session in the network of a private swarm,
// through blocks of a model that has of in all: those of tokens that are known to be right,
// as a Seat does. It returns why the session must end, or nil. The loop calls it after each
// pass, so it must not block.
type Charge func(swarm string, rows, blocks, of int) *protocol.Error

// Charge sets what counts the work of sessions. It must be called before the first Add.
func (v *Server) Charge(c Charge) { v.charge = c }

// Add makes a stage available to new streams.
func (v *Server) Add(s *Stage) {
	s.mu.Lock()
	s.charger = v.charge
	s.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stages = append(v.stages, s)
}

// Remove stops new streams from reaching a stage. Its sessions go on.
func (v *Server) Remove(s *Stage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stages = slices.DeleteFunc(v.stages, func(x *Stage) bool { return x == s })
}

// Stages returns the stages that are served now.
func (v *Server) Stages() []*Stage {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.stages)
}

// Busy reports whether sessions run.
func (v *Server) Busy() bool {
	return slices.ContainsFunc(v.Stages(), func(s *Stage) bool { return s.Status().Sessions > 0 })
}

// Serve serves one stream until it ends.
func (v *Server) Serve(st Stream) {
	_ = st.SetDeadline(time.Now().Add(firstTime))
	hold := v.held.open(st)
	defer hold.release()
	limits := protocol.Limits{Header: protocol.MaxFirst, Take: hold.take}
	if v.trusted != nil && v.trusted(st.Peer()) {
		limits.Take = nil
	} else if hold.take(streamBuffer) != nil {
		_ = st.Reset()
		return
	}
	r := bufio.NewReaderSize(st, streamBuffer)
	f, _, err := protocol.ReadFrameWithin(r, limits)
	if err != nil {
		var full *protocol.Error
		if errors.As(err, &full) {
			refuse(st, full)
			return
		}
		_ = st.Reset()
		return
	}
	_ = st.SetDeadline(time.Time{})
	switch k := f.Kind.(type) {
	case *protocol.Frame_Open:
		v.serveClient(st, r, k.Open, hold)
	case *protocol.Frame_Link:
		v.serveLink(st, r, k.Link, hold)
	case *protocol.Frame_Move:
		v.serveMove(st, r, k.Move, hold)
	default:
		refuse(st, protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "a stage stream begins with Open, Link or Move"))
	}
}

func (v *Server) serveClient(st Stream, r *bufio.Reader, o *protocol.Open, hold *hold) {
	s, e := v.stageFor(st, o)
	if e != nil {
		refuse(st, e)
		return
	}
	if e := s.awaken(o, st.Peer()); e != nil {
		refuse(st, e)
		return
	}
	sess, kept, e := s.admit(o, st)
	if e != nil {
		refuse(st, e)
		return
	}
	hold.release()
	sess.accept(st, &protocol.Opened{
		UsPerStep: uint32(s.stats.decodePass().Microseconds()), Cached: uint32(kept), Format: sess.format != nil, Scores: sess.scores(), Embeds: sess.embeds(),
		Readings: sess.reads(), Back: uint32(s.cfg.Back),
		RollbackRows: uint32(s.cfg.Rollback), PromptCodec: sess.promptSentIn(),
	})
	sess.readClient(st, r)
}

func (v *Server) stageFor(st Stream, o *protocol.Open) (*Stage, *protocol.Error) {
	model, err := cid.Cast(o.Model)
	if err != nil {
		return nil, protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "the model's CID: %s", err)
	}
	if v.refuses != nil {
		if e := v.refuses(st, model); e != nil {
			return nil, e
		}
	}
	span := protocol.Span{From: int(o.From), To: int(o.To)}
	for _, s := range v.Stages() {
		if s.cfg.Model == model && s.cfg.Span == span && s.ctx.Err() == nil {
			return s, nil
		}
	}
	return nil, protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "blocks %s of this model are not served here now", span)
}

// serveLink finds the session that a predecessor's link belongs to.
func (v *Server) serveLink(st Stream, r *bufio.Reader, l *protocol.Link, hold *hold) {
	if len(l.Session) != 16 {
		_ = st.Reset()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	sess := v.findSession(ctx, l)
	cancel()
	if sess == nil {
		_ = st.Reset()
		return
	}
	linked, in, ok := sess.link(sess.ctx, st, l)
	if !ok {
		_ = st.Reset()
		return
	}
	hold.release()
	sess.readLink(linked, l.Epoch, in, r)
	_ = st.Reset()
}

// findSession waits, on all stages at once, for a Link's session. It returns nil if
// ctx ends first.
func (v *Server) findSession(ctx context.Context, l *protocol.Link) *session {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stages := v.Stages()
	found := make(chan *session, len(stages))
	for _, s := range stages {
		go func() { found <- s.find(ctx, l) }()
	}
	for range stages {
		if sess := <-found; sess != nil {
			return sess
		}
	}
	return nil
}

func refuse(st Stream, e *protocol.Error) {
	if b, err := protocol.AppendFrame(nil, e.Fail(), nil); err == nil {
		_ = st.SetDeadline(time.Now().Add(lastWords))
		_, _ = st.Write(b)
	}
	_ = st.Close()
}
