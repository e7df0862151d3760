package stage

import (
	"bufio"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
)

// openTime is how long a stream may take to say what it is for, and a Link to
// wait for its Open.
const openTime = 15 * time.Second

// Server hands the streams of protocol.StageID to the stages of this node.
type Server struct {
	log *slog.Logger

	mu     sync.Mutex
	stages []*Stage
}

// NewServer makes a server without stages.
func NewServer(log *slog.Logger) *Server { return &Server{log: log} }

// Add begins to hand streams to a stage.
func (v *Server) Add(s *Stage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stages = append(v.stages, s)
}

// Remove no longer hands streams to a stage.
func (v *Server) Remove(s *Stage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stages = slices.DeleteFunc(v.stages, func(x *Stage) bool { return x == s })
}

// Stages that are served now.
func (v *Server) Stages() []*Stage {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.stages)
}

// Serve serves one stream to its end.
func (v *Server) Serve(st Stream) {
	_ = st.SetDeadline(time.Now().Add(openTime))
	r := bufio.NewReaderSize(st, 32<<10)
	f, _, err := protocol.ReadFrame(r, 0)
	if err != nil {
		_ = st.Reset()
		return
	}
	_ = st.SetDeadline(time.Time{})
	switch k := f.Kind.(type) {
	case *protocol.Frame_Open:
		v.serveClient(st, r, k.Open)
	case *protocol.Frame_Link:
		v.serveLink(st, r, k.Link)
	default:
		refuse(st, protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "a stage stream begins with Open or Link"))
	}
}

func (v *Server) serveClient(st Stream, r *bufio.Reader, o *protocol.Open) {
	s, e := v.stageFor(o)
	if e != nil {
		refuse(st, e)
		return
	}
	sess, kept, e := s.admit(o, st)
	if e != nil {
		refuse(st, e)
		return
	}
	s.mu.Lock()
	client := sess.client
	s.mu.Unlock()
	sess.send(client, &protocol.Frame{Kind: &protocol.Frame_Opened{Opened: &protocol.Opened{
		UsPerStep: uint32(s.stats.decodePass().Microseconds()), Kept: uint32(kept), Format: sess.format != nil,
	}}}, nil, control)
	sess.readClient(st, r)
}

func (v *Server) stageFor(o *protocol.Open) (*Stage, *protocol.Error) {
	model, err := cid.Cast(o.Model)
	if err != nil {
		return nil, protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "the model's CID: %s", err)
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
func (v *Server) serveLink(st Stream, r *bufio.Reader, l *protocol.Link) {
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
	linked, ok := sess.link(sess.ctx, st, l)
	if !ok {
		_ = st.Reset()
		return
	}
	sess.readLink(linked, r)
	_ = st.Reset()
}

// findSession waits, on all stages at once, for the session that a Link means.
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
