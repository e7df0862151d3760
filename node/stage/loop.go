package stage

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// work is a step in a pass.
type work struct {
	sess *session
	step *step
	at   int // its first row in the pass
	owed int // rows that the session is to be charged for, once the pass is over

	allowed []uint64 // tokens that may be drawn; nil: all
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
			s.doOps()
			if s.cfg.embeds() {
				if !s.turnTexts() {
					break
				}
				continue
			}
			batch, dead, yield, bad := s.gather()
			for _, sess := range bad {
				sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "%s", errTag))
			}
			s.bury(dead)
			for _, w := range batch {
				w.sess.guessOn()
			}
			for _, sess := range yield {
				sess.fail(s.busy("the stage is full, and others need the room of this session"))
			}
			if len(batch)+len(yield)+len(bad) == 0 {
				break
			}
			if batch = s.constrain(batch); len(batch) > 0 {
				s.pass(batch)
			}
		}
	}
}

// bury frees what sessions that have ended hold.
func (s *Stage) bury(dead []*session) {
	for _, sess := range dead {
		s.release(sess)
		close(sess.gone)
	}
}

func (s *Stage) doOps() {
	s.mu.Lock()
	ops := s.ops
	s.ops = nil
	s.mu.Unlock()
	for _, o := range ops {
		err := o.run()
		if o.done != nil {
			o.done <- err
		} else if err != nil {
			s.cfg.Log.Warn("forgetting a sequence", "error", err)
		}
	}
}

// gather returns the steps of the next pass, and the sessions that have ended. The class
// whose turn it is (turns.go) leads it, and steps of others join as far as their turn
// allows. Decodes come first, those of known tokens before guesses, then prefill chunks, up
// to the most rows per pass; a session has one step in a pass. Within each kind the groups
// of a class take turns, and within a group the longest-waiting step comes first. A session
// short of KV cells waits, and a guess for such as nobody has; yield are the sessions to be evicted so that others can go on;
// bad are those that violate the protocol.
func (s *Stage) gather() (batch []work, dead, yield, bad []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bad = s.weed() // with mu held from here on, or a guess could come between that nobody has checked
	now := time.Now()
	list, dead := s.ready(now)
	var starved []*session
	s.spares = false
	for ; len(list) > 0 && len(batch) == 0; list = list[1:] { // one whose sessions are all starved keeps its turn
		var more []*session
		batch, more = s.compose(list, now)
		starved = append(starved, more...)
	}
	if s.starved = len(starved) > 0; s.starved && len(dead) == 0 {
		yield = s.relieve(starved, now)
	}
	return batch, dead, yield, bad
}

// compose takes the steps of the next pass from the classes with work. Those in starved
// have no KV cells for theirs. Called with mu held.
func (s *Stage) compose(list []*backlog, now time.Time) (batch []work, starved []*session) {
	most, convoy := s.lead(list), s.convoy()
	rows, scored := 0, 0
	// take adds a session's next step, unless the pass has no room for it.
	take := func(sess *session) {
		st := sess.pending[0]
		outputs := sess.scoredIn(st)
		if rows+st.rows > most || scored+outputs > maxScoredRows {
			return
		}
		if s.unsure(sess, now) {
			if !s.spare(sess, st.base+st.rows) {
				s.spares = true
				return
			}
		} else if !s.grow(sess, st.base+st.rows, now) {
			starved = append(starved, sess)
			return
		}
		batch = append(batch, work{sess: sess, step: s.taken(sess), at: rows})
		rows, scored = rows+st.rows, scored+outputs
	}
	lead := list[0]
	decodes := lead.decodes[:min(len(lead.decodes), convoy)]
	if len(decodes) > 0 { // a long chunk would delay all of them
		most = min(most, len(decodes)+mixedRows)
	}
	for _, sess := range slices.Concat(decodes, lead.prefills) {
		take(sess)
	}
	if len(batch) == 0 {
		return nil, starved
	}
	until := lead.clock + s.estimate(rows).Seconds()/lead.grant.Share
	for _, w := range list[1:] {
		for _, sess := range slices.Concat(w.decodes[:min(len(w.decodes), max(0, convoy-len(decodes)))], w.prefills) {
			if n := sess.pending[0].rows; rows+n <= most && s.joins(w, n, until) {
				take(sess)
			}
		}
	}
	return batch, starved
}

// taken takes a session's next step for a pass. Called with mu held.
func (s *Stage) taken(sess *session) *step {
	st := sess.pending[0]
	sess.pending, sess.running, sess.reach = sess.pending[1:], st, st.base+st.rows
	s.left(st)
	s.takes++
	s.served[sess.group] = s.takes
	if len(sess.given) > 0 {
		sess.sampled, sess.given = append(sess.sampled, sess.given...), nil
	}
	select {
	case sess.room <- struct{}{}:
	default:
	}
	return st
}

// ready reports whether a step is queued and there is space for its output. Called
// with stage.mu held.
func (sess *session) ready() bool {
	return len(sess.pending) > 0 && !sess.replaying && sess.client.room() && (sess.next == nil || sess.next.room())
}

// takeTurns sorts sessions with a ready step by turn: the first of each group, then
// the second of each, and so on; within a round, the groups served longest ago come
// first. Called with mu held.
func (s *Stage) takeTurns(list []*session) {
	slices.SortFunc(list, func(a, b *session) int { return cmp.Compare(a.pending[0].turn, b.pending[0].turn) })
	if !slices.ContainsFunc(list, func(sess *session) bool { return sess.group != list[0].group }) {
		return
	}
	round, seen := make(map[*session]int, len(list)), map[string]int{}
	for _, sess := range list {
		round[sess] = seen[sess.group]
		seen[sess.group]++
	}
	slices.SortFunc(list, func(a, b *session) int {
		return cmp.Or(cmp.Compare(round[a], round[b]), cmp.Compare(s.served[a.group], s.served[b.group]), cmp.Compare(a.pending[0].turn, b.pending[0].turn))
	})
}

// mixedRows is the most rows of prefill in a pass with decodes: one chunk.
const mixedRows = 64

// convoy returns how many decodes go into one pass. If all ready ones went, all
// sessions would soon travel around the ring together: one stage would work while the
// others wait. So a pass takes the share that keeps every stage busy, as long as rows
// cost enough for that to matter. Called with mu held.
func (s *Stage) convoy() int {
	active, stages := 0, 1
	for _, sess := range s.sessions {
		if sess.decoding && !sess.ended {
			active++
			stages = max(stages, sess.stages)
		}
	}
	s.stats.share(active)
	row, lap := s.stats.costs()
	if stages == 1 || row*time.Duration(active*(stages-1)) < lap/20 {
		return active + 1
	}
	return max(1, (active+stages-1)/stages)
}

// constrain sets the tokens allowed next for the sessions whose answers have a
// format. A session that cannot continue is ended and left out.
func (s *Stage) constrain(batch []work) (left []work) {
	rows := 0
	for _, w := range batch {
		if w.sess.format != nil && w.step.sample {
			var err error
			if w.allowed, err = w.sess.format.Allowed(w.sess.sampled[:w.drawn()]); err != nil {
				w.sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "the answer cannot go on: %s", err))
				continue
			}
		}
		w.at = rows
		rows += w.step.rows
		left = append(left, w)
	}
	return left
}

// pass runs a batch through the engine and sends on the results.
func (s *Stage) pass(batch []work) {
	res, err := s.run(batch)
	switch {
	case err == nil:
		for _, w := range batch {
			s.scatter(w, res, batch)
		}
	case errors.Is(err, engine.ErrLost):
		s.cancel(err)
		for _, w := range batch {
			w.sess.fail(asError(err))
		}
	case len(batch) > 1: // one of them may be at fault: run each alone to find it
		for _, w := range batch {
			w.at = 0
			s.pass([]work{w})
		}
	default:
		s.cfg.Log.Warn("a pass failed", "rows", batch[0].step.rows, "error", err)
		batch[0].sess.fail(protocol.Errorf(protocol.Code_CODE_ENGINE, "the engine refused the step"))
	}
}

func (s *Stage) run(batch []work) (*engine.Result, error) {
	p := &engine.Batch{}
	decodes := 0
	for _, w := range batch {
		if w.step.truncate {
			if err := s.takeBack(w); err != nil {
				return nil, err
			}
		}
		for i := range w.step.rows {
			p.Rows = append(p.Rows, engine.Row{Seq: w.sess.seq, Pos: int32(w.step.base + i)})
		}
		p.Tokens = append(p.Tokens, w.step.tokens...)
		p.Hidden = append(p.Hidden, w.step.hidden...)
		p.Outputs = append(p.Outputs, w.scoring()...)
		if s.cfg.last() && w.step.sample {
			out := engine.Output{
				Row: w.at + w.step.rows - 1, Sampling: w.sess.sampling, Sampled: w.sess.sampled[:w.drawn()],
				Position: uint64(w.step.base + w.step.rows), Allowed: w.allowed,
			}
			if w.sess.reads() {
				out.Sampling = w.sess.reading()
			}
			p.Outputs = append(p.Outputs, out)
		}
		if w.step.rows == 1 {
			decodes++
		}
	}
	return s.compute(batch, p, decodes)
}

// compute makes a pass of a batch, and counts it. decodes is how many of its rows are
// single ones.
func (s *Stage) compute(batch []work, p *engine.Batch, decodes int) (*engine.Result, error) {
	s.mu.Lock()
	for _, w := range batch {
		w.sess.computing = true
	}
	s.mu.Unlock()
	begin := time.Now()
	for _, w := range batch {
		w.sess.spent(w.step.phase(), Wait, begin.Sub(w.step.queued))
	}
	res, err := s.engine.Run(context.WithoutCancel(s.ctx), p)
	now := time.Now()
	s.mu.Lock()
	for i, w := range batch {
		if w.sess.computing = false; err == nil {
			batch[i].owed = s.count(w, now)
		}
	}
	s.charge(batch, begin, now.Sub(begin))
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.stats.pass(len(p.Rows), decodes, now.Sub(begin), s.row(), now)
	s.cfg.Observer.Pass(len(p.Rows))
	for _, w := range batch {
		w.sess.tally.passes.Add(1)
		w.sess.tally.rows.Add(int64(w.step.rows))
		w.sess.spent(w.step.phase(), Compute, now.Sub(begin))
		if e := s.charged(w.sess, w.owed); e != nil {
			w.sess.fail(e)
		}
	}
	return res, nil
}

// count records a computed step, and returns how many rows the session is to be charged
// for. Called with mu held.
func (s *Stage) count(w work, now time.Time) (owed int) {
	sess := w.sess
	sess.computed, sess.worked = w.step.base+w.step.rows, now
	again := sess.decoding
	if sess.decoding = w.step.rows == 1; sess.decoding && again {
		if sess.lapAt == w.step.base-1 && !w.step.guessed() && !w.step.right {
			s.stats.lap(now.Sub(sess.lap))
		}
		s.stats.settled(sess.sure()-sess.counted, now)
	}
	sess.lap, sess.lapAt, sess.counted = now, w.step.base, sess.sure()
	if sess.embeds() { // it has no cache, and so no guesses
		return w.step.rows
	}
	return sess.owed()
}

// takeBack removes a session's positions from a step's base on. If the engine cannot, it
// has none left, and what the session computed is not kept for another.
func (s *Stage) takeBack(w work) error {
	left := w.step.base
	s.mu.Lock()
	nothing := w.step.line > 0 && w.sess.computed <= left // only rows that were not computed are void
	if nothing {
		w.restored()
	}
	s.mu.Unlock()
	if nothing {
		return nil
	}
	err := s.engine.Remove(w.sess.seq, int32(left))
	if err != nil {
		left = 0
	}
	w.step.truncate = err != nil
	if w.sess.buf != nil {
		w.sess.buf.truncate(left)
	}
	s.mu.Lock()
	w.sess.takenBack(left)
	w.sess.computed = min(w.sess.computed, left)
	w.restored()
	s.mu.Unlock()
	return err
}

// restored records that the cache holds nothing of lines before the step's. Called with
// stage.mu held.
func (w work) restored() {
	if !w.stale() { // else a line or an epoch has begun since
		w.sess.sound = math.MaxInt
	}
}

// drawn returns how many tokens of the answer precede the one that a step asks for.
func (w work) drawn() int {
	return max(0, min(w.step.base+w.step.rows-int(w.sess.promptTokens()), len(w.sess.sampled)))
}

func (sess *session) promptTokens() uint32 {
	if sess.open.Sampling == nil {
		return 0
	}
	return sess.open.Sampling.PromptTokens
}

// scatter sends a step's result on: activations to the successor, or a sampled
// token to the client and, unless it was the last, to stage 0.
func (s *Stage) scatter(w work, res *engine.Result, batch []work) {
	sess := w.sess
	if !s.cfg.last() {
		s.forward(w, res.Hidden[w.at*s.cfg.Width:][:w.step.rows*s.cfg.Width])
		return
	}
	scored := sess.scoredIn(w.step)
	if !w.step.sample && scored == 0 || s.stale(w) {
		return
	}
	i := 0 // the tokens are in the batch's order
	for _, other := range batch {
		if other.sess == sess {
			break
		}
		i += other.sess.scoredIn(other.step)
		if other.step.sample {
			i++
		}
	}
	s.scored(w, res.Tokens[i:i+scored])
	switch {
	case !w.step.sample:
	case sess.reads():
		s.sendReading(w, res.Tokens[i+scored])
	default:
		s.token(w, res.Tokens[i+scored], res.Compute)
	}
}

// stale reports whether a step's epoch ended while it was computed.
func (s *Stage) stale(w work) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.stale()
}

// stale is called with stage.mu held.
func (w work) stale() bool { return w.sess.ended || w.sess.epoch != w.step.epoch || w.step.void }

// forward keeps activations for replay and sends them to the successor, except for
// positions that it already has.
func (s *Stage) forward(w work, x []float32) {
	sess := w.sess
	all := sess.encode(w.step.base, x)
	for _, rows := range all {
		sess.buf.put(rows, w.step.guessed())
	}
	head := &protocol.Step{Epoch: w.step.epoch, Line: w.step.line, Guesses: w.step.guesses}
	s.mu.Lock()
	stale := w.stale()
	next, from := sess.next, max(w.step.base, sess.forward)
	settled, runs := s.aheadOf(w, head)
	s.mu.Unlock()
	sess.buf.settle(settled)
	if stale || next == nil {
		return
	}
	if runs {
		s.sum(w.step.sums, head)
	}
	for _, rows := range all {
		for at := max(rows.base, from); at < rows.end; at += protocol.MaxLinkRows {
			end := min(at+protocol.MaxLinkRows, rows.end)
			head.Codec, head.Base, head.Rows = rows.codec, uint32(at), uint32(end-at)
			head.Sample, head.Back = w.step.sample && end == w.step.base+w.step.rows, w.step.back && at == from
			o, err := frameFor(&protocol.Frame{Kind: &protocol.Frame_Step{Step: head}}, rows.part(at, end), w.step.phase())
			if err != nil {
				sess.fail(asError(err))
				return
			}
			s.mu.Lock()
			if !w.stale() { // with mu held, or a line that begins now would be sent before the end of this one
				next.push(o)
			}
			s.mu.Unlock()
		}
	}
}

func (s *Stage) token(w work, d sample.Token, compute time.Duration) {
	sess, p := w.sess, w.sess.open.Sampling
	at := w.step.base + w.step.rows // the token's own position
	finish := protocol.Finish_FINISH_NONE
	index := w.drawn()
	sess.sampled = append(sess.sampled[:index], d.ID)
	switch {
	case slices.Contains(p.StopIds, d.ID):
		finish = protocol.Finish_FINISH_STOP
	case p.MaxTokens > 0 && len(sess.sampled) >= int(p.MaxTokens), at >= sess.reserved:
		finish = protocol.Finish_FINISH_LENGTH
	}
	s.stats.tokens.Add(1)
	if finish != protocol.Finish_FINISH_NONE {
		s.over(w)
	}
	if finish == protocol.Finish_FINISH_NONE { // the ring first, since the next token depends on it
		back := &protocol.Step{Epoch: w.step.epoch, Line: w.step.line, Base: uint32(at), Rows: 1, Tokens: []int32{d.ID}, Sample: true}
		if w.step.sums != (sums{}) {
			s.sum(w.step.sums, back)
		}
		s.mu.Lock()
		next := sess.next
		s.mu.Unlock()
		if next != nil {
			sess.send(next, &protocol.Frame{Kind: &protocol.Frame_Step{Step: back}}, nil, w.step.phase())
		} else if queued, err := sess.queue(&step{epoch: back.Epoch, base: at, rows: 1, sample: true, tokens: back.Tokens}); err != nil || !queued {
			sess.fail(protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, "more steps than the answer has room for"))
			return
		}
	}
	if sess.format != nil && finish == protocol.Finish_FINISH_NONE { // computed ahead, while the token goes around the ring
		sampled := slices.Clone(sess.sampled)
		go func() { _, _ = sess.format.Allowed(sampled) }()
	}
	sess.idle.Reset(s.cfg.Idle)
	s.mu.Lock()
	stale := w.stale() // the client may have reconnected without receiving the tokens before
	client := sess.client
	s.mu.Unlock()
	if stale {
		return
	}
	sess.send(client, &protocol.Frame{Kind: &protocol.Frame_Token{Token: &protocol.Token{
		Epoch: w.step.epoch, Index: uint32(index), Id: d.ID, Logprob: d.Logprob, Top: topOf(d),
		Finish: finish, UsCompute: uint32(compute.Microseconds()), Line: w.step.line, Guessed: w.step.right, Guesses: w.step.guesses,
	}}}, nil, w.step.phase())
}

// over drops what comes after the last token of an answer: rows of guesses, of which the
// first may be right.
func (s *Stage) over(w work) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess := w.sess; !w.stale() {
		sess.drop()
		sess.dead, sess.length = true, w.step.base+w.step.rows
	}
}

func (sess *session) send(to *sender, f *protocol.Frame, payload []byte, phase Phase) {
	o, err := frameFor(f, payload, phase)
	if err != nil {
		sess.fail(asError(err))
		return
	}
	to.push(o)
}

// frameFor encodes a frame for a sender.
func frameFor(f *protocol.Frame, payload []byte, phase Phase) (outgoing, error) {
	b, err := protocol.AppendFrame(make([]byte, 0, 64+len(payload)), f, payload)
	st := f.GetStep()
	return outgoing{frame: b, phase: phase, kind: kindOf(f), rows: uint64(st.GetRows()), guess: st.GetTag() != 0, base: int(st.GetBase())}, err
}
