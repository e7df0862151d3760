package stage

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// work is a step that takes part in a pass.
type work struct {
	sess *session
	step *step
	at   int // its first row in the pass
}

// loop runs until the stage ends. Only it touches the engine.
func (s *Stage) loop() {
	defer close(s.done)
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		}
		for s.ctx.Err() == nil {
			batch, dead := s.gather()
			for _, sess := range dead {
				s.release(sess)
				close(sess.gone)
			}
			if len(batch) == 0 {
				break
			}
			s.pass(batch)
		}
	}
}

// gather takes the ready steps: every session's next decode, then prefill
// chunks in turn, up to MaxBatch rows; and the sessions that have ended.
func (s *Stage) gather() (batch []work, dead []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var decodes, prefills []*session
	for _, sess := range s.sessions {
		switch {
		case sess.ended:
			dead = append(dead, sess)
		case len(sess.pending) == 0 || !sess.client.room() || sess.next != nil && !sess.next.room():
		case sess.pending[0].rows == 1:
			decodes = append(decodes, sess)
		default:
			prefills = append(prefills, sess)
		}
	}
	bySlot := func(a, b *session) int { return cmp.Compare(a.seq, b.seq) }
	slices.SortFunc(decodes, bySlot)
	slices.SortFunc(prefills, bySlot)
	if n := len(prefills); n > 1 { // another first each time
		s.turn++
		prefills = append(prefills[s.turn%n:], prefills[:s.turn%n]...)
	}
	rows := 0
	for _, sess := range append(decodes, prefills...) {
		st := sess.pending[0]
		if rows+st.rows > s.cfg.MaxBatch {
			continue
		}
		sess.pending = sess.pending[1:]
		select {
		case sess.room <- struct{}{}:
		default:
		}
		batch = append(batch, work{sess, st, rows})
		rows += st.rows
	}
	return batch, dead
}

// pass runs a batch through the engine and sends on what comes of it.
func (s *Stage) pass(batch []work) {
	res, err := s.run(batch)
	switch {
	case err == nil:
		for _, w := range batch {
			s.scatter(w, res, batch)
		}
	case errors.Is(err, ErrEngineLost):
		s.cancel(err)
		for _, w := range batch {
			w.sess.fail(asError(err))
		}
	case len(batch) > 1: // one of them may be at fault: find it, spare the others
		for _, w := range batch {
			w.at = 0
			s.pass([]work{w})
		}
	default:
		s.cfg.Log.Warn("a pass failed", "rows", batch[0].step.rows, "error", err)
		batch[0].sess.fail(protocol.Errorf(protocol.Code_CODE_ENGINE, "the engine refused the step"))
	}
}

func (s *Stage) run(batch []work) (*Result, error) {
	p := &Pass{}
	decodes := 0
	for _, w := range batch {
		if w.step.truncate {
			if err := s.engine.Remove(w.sess.seq, int32(w.step.base)); err != nil {
				return nil, err
			}
			w.step.truncate = false
			keep := w.step.base + w.step.rows - int(w.sess.promptTokens())
			w.sess.sampled = w.sess.sampled[:max(0, min(keep, len(w.sess.sampled)))]
		}
		for i := range w.step.rows {
			p.Rows = append(p.Rows, Row{w.sess.seq, int32(w.step.base + i)})
		}
		p.Tokens = append(p.Tokens, w.step.tokens...)
		p.Hidden = append(p.Hidden, w.step.hidden...)
		if s.cfg.last() && w.step.sample {
			p.Draws = append(p.Draws, Draw{
				Row: w.at + w.step.rows - 1, Sampling: w.sess.open.Sampling, Sampled: w.sess.sampled,
				Position: uint64(w.step.base + w.step.rows),
			})
		}
		if w.step.rows == 1 {
			decodes++
		}
	}
	begin := time.Now()
	res, err := s.engine.Run(context.WithoutCancel(s.ctx), p)
	if err != nil {
		return nil, err
	}
	s.stats.pass(len(p.Rows), decodes, time.Since(begin), time.Now())
	return res, nil
}

func (sess *session) promptTokens() uint32 {
	if sess.open.Sampling == nil {
		return 0
	}
	return sess.open.Sampling.PromptTokens
}

// scatter sends a step's result on: activations to the successor, or a drawn
// token to the client and, unless it was the last, to stage 0.
func (s *Stage) scatter(w work, res *Result, batch []work) {
	sess := w.sess
	s.mu.Lock()
	stale := sess.ended || sess.epoch != w.step.epoch
	s.mu.Unlock()
	if stale {
		return
	}
	if !s.cfg.last() {
		n := w.step.rows * s.cfg.Width
		x := res.Hidden[w.at*s.cfg.Width:][:n]
		codec := sess.open.Codec
		sess.send(sess.next, &protocol.Frame{Kind: &protocol.Frame_Step{Step: &protocol.Step{
			Epoch: w.step.epoch, Base: uint32(w.step.base), Rows: uint32(w.step.rows), Codec: codec, Sample: w.step.sample,
		}}}, protocol.AppendTensor(make([]byte, 0, protocol.TensorSize(codec, n)), codec, x))
		return
	}
	if !w.step.sample {
		return
	}
	i := 0 // the draws stand in the batch's order
	for _, other := range batch {
		if other.sess == sess {
			break
		}
		if other.step.sample {
			i++
		}
	}
	s.token(w, res.Drawn[i], res.Compute)
}

func (s *Stage) token(w work, d Drawn, compute time.Duration) {
	sess, p := w.sess, w.sess.open.Sampling
	at := w.step.base + w.step.rows // the token's own position
	finish := protocol.Finish_FINISH_NONE
	index := len(sess.sampled)
	sess.sampled = append(sess.sampled, d.ID)
	switch {
	case slices.Contains(p.StopIds, d.ID):
		finish = protocol.Finish_FINISH_STOP
	case p.MaxTokens > 0 && len(sess.sampled) >= int(p.MaxTokens), at >= sess.reserved:
		finish = protocol.Finish_FINISH_LENGTH
	}
	s.stats.tokens.Add(1)
	if finish == protocol.Finish_FINISH_NONE { // the ring first: it is what the next token waits for
		back := &protocol.Step{Epoch: w.step.epoch, Base: uint32(at), Rows: 1, Tokens: []int32{d.ID}, Sample: true}
		if sess.next != nil {
			sess.send(sess.next, &protocol.Frame{Kind: &protocol.Frame_Step{Step: back}}, nil)
		} else if queued, err := sess.queue(&step{epoch: back.Epoch, base: at, rows: 1, sample: true, tokens: back.Tokens}); err != nil || !queued {
			sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "more steps than the answer has room for"))
			return
		}
	}
	sess.idle.Reset(s.cfg.Idle)
	sess.send(sess.client, &protocol.Frame{Kind: &protocol.Frame_Token{Token: &protocol.Token{
		Epoch: w.step.epoch, Index: uint32(index), Id: d.ID, Logprob: d.Logprob, Top: d.Top,
		Finish: finish, UsCompute: uint32(compute.Microseconds()),
	}}}, nil)
}

func (sess *session) send(to *sender, f *protocol.Frame, payload []byte) {
	b, err := protocol.AppendFrame(make([]byte, 0, 64+len(payload)), f, payload)
	if err != nil {
		sess.fail(asError(err))
		return
	}
	to.push(b)
}
