package stage

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
)

// Sessions of texts. Their rows are texts, one after another, each computed in one pass
// as a sequence of its own, whose embedding the last stage sends to the client. Rows are
// numbered through the whole session, so steps, credits and links are those of other
// sessions; a step says where texts end in it. Nothing of a text stays in the engine, so
// these sessions take no KV cells, have nothing to replay, and end with the first stage
// that is lost: the client asks for the texts that are missing elsewhere.

// embeds reports whether the span makes embeddings, and nothing else.
func (c *Config) embeds() bool { return c.Pooling != engine.NoPooling }

// embeds reports whether the session's rows are texts.
func (sess *session) embeds() bool { return sess.open.Embed > 0 }

// checkTexts checks an Open of a session of texts, or for a span that only takes those.
func (s *Stage) checkTexts(o *protocol.Open) *protocol.Error {
	bad := func(format string, args ...any) *protocol.Error {
		return protocol.Errorf(protocol.Code_CODE_BAD_REQUEST, format, args...)
	}
	switch {
	case o.Embed == 0:
		return bad("this model makes embeddings, and draws no tokens")
	case !s.cfg.embeds():
		return bad("this model draws tokens, and makes no embeddings")
	case o.Embed > protocol.MaxEmbedText || int(o.Embed) > s.cfg.MaxContext:
		return protocol.Errorf(protocol.Code_CODE_TOO_LONG, "a text of %d tokens, where %d are accepted", o.Embed, min(s.cfg.MaxContext, protocol.MaxEmbedText))
	case o.MaxTokensTotal < o.Embed || o.MaxTokensTotal > protocol.MaxEmbedRows:
		return bad("texts of %d tokens together, where %d are accepted", o.MaxTokensTotal, protocol.MaxEmbedRows)
	case o.Wait || o.Again:
		return bad("a session of texts cannot be resumed")
	case len(o.Prefix) > 0 || o.Sampling != nil:
		return bad("texts have neither a prefix nor sampling parameters")
	case !s.cfg.last() && o.Next == nil:
		return bad("no successor named")
	}
	return nil
}

// queueTexts takes a step of a session of texts apart, and queues the texts that are
// complete with it. It returns an error if the step does not fit the session.
func (sess *session) queueTexts(st *step) error {
	s := sess.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case sess.ended:
		s.left(st)
		return nil
	case st.epoch != sess.epoch:
		return fmt.Errorf("epoch %d in a session of texts, which has one", st.epoch)
	case st.base != sess.length:
		return fmt.Errorf("a step at row %d, where %d was due", st.base, sess.length)
	}
	sess.length += st.rows
	sess.stepped, sess.worked = true, time.Now()
	at := 0
	for _, end := range st.ends {
		sess.text = join(sess.text, st.part(at, end, s.cfg.Width))
		text := sess.text
		s.turn++
		text.turn, text.queued = s.turn, sess.worked
		sess.pending, sess.text = append(sess.pending, text), nil
		if sess.texts++; text.rows > int(sess.open.Embed) || sess.texts > protocol.MaxEmbedTexts {
			return fmt.Errorf("text %d, of %d tokens, where %d of at most %d were announced", sess.texts, text.rows, protocol.MaxEmbedTexts, sess.open.Embed)
		}
		at = end
	}
	if at < st.rows {
		sess.text = join(sess.text, st.part(at, st.rows, s.cfg.Width))
	}
	if sess.text != nil && sess.text.rows > int(sess.open.Embed) {
		return fmt.Errorf("a text of more than the %d tokens that were announced", sess.open.Embed)
	}
	return nil
}

// resumable returns an error for sessions that end with the first stage that is lost.
func (sess *session) resumable() error {
	switch {
	case sess.embeds():
		return errors.New("a session of texts cannot be halted or resumed")
	case sess.reads():
		return errors.New("a session of readings cannot be halted or resumed")
	}
	return nil
}

// parseEnds reads where texts end in a step.
func (sess *session) parseEnds(p *protocol.Step, st *step) error {
	if len(p.Ends) > 0 && !sess.embeds() || sess.embeds() && p.Sample {
		return errors.New("texts and sequences do not mix")
	}
	last := uint32(0)
	for _, end := range p.Ends {
		if end <= last || end > p.Rows {
			return fmt.Errorf("a text that ends after row %d of %d", end, p.Rows)
		}
		last = end
		st.ends = append(st.ends, int(end))
	}
	return nil
}

// part returns some of a step's rows as a step.
func (st *step) part(from, to, width int) *step {
	p := &step{epoch: st.epoch, base: st.base + from, rows: to - from, link: st.link}
	if st.tokens != nil {
		p.tokens = st.tokens[from:to:to] // join must not write over what follows
	} else {
		p.hidden = st.hidden[from*width : to*width : to*width]
	}
	return p
}

// join appends the rows of a step to those of a text; text may be nil.
func join(text, more *step) *step {
	if text == nil {
		return more
	}
	text.rows += more.rows
	text.tokens = append(text.tokens, more.tokens...)
	text.hidden = append(text.hidden, more.hidden...)
	return text
}

// sharedRows is how many rows texts have in a pass that they share: more would be no
// faster, and would let the short ones wait. A longer text goes alone.
const sharedRows = 2048

// gatherTexts returns the texts of the next pass, those of one session one after another,
// and the sessions that have ended. Those of the class whose turn it is take turns text by
// text, as in gather.
func (s *Stage) gatherTexts() (batch []work, dead []*session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, dead := s.ready(time.Now())
	if len(list) == 0 {
		return nil, dead
	}
	s.lead(list)
	ready := append(list[0].decodes, list[0].prefills...)
	s.takeTurns(ready)
	taken, rows, texts := make([]int, len(ready)), 0, 0
	for more := true; more; {
		more = false
		for i, sess := range ready {
			if taken[i] == len(sess.pending) || texts == s.cfg.Texts || texts > 0 && rows+sess.pending[taken[i]].rows > min(s.cfg.MaxBatch, sharedRows) {
				continue
			}
			rows += sess.pending[taken[i]].rows
			taken[i]++
			texts++
			more = true
		}
	}
	at := 0
	for i, sess := range ready {
		for _, st := range sess.pending[:taken[i]] {
			s.left(st)
			batch = append(batch, work{sess: sess, step: st, at: at})
			at += st.rows
		}
		if sess.pending = sess.pending[taken[i]:]; taken[i] > 0 {
			s.takes++
			s.served[sess.group] = s.takes
		}
	}
	return batch, dead
}

// turnTexts makes a pass of texts; it returns false if there are none.
func (s *Stage) turnTexts() bool {
	batch, dead := s.gatherTexts()
	s.bury(dead)
	if len(batch) == 0 {
		return false
	}
	s.passTexts(batch)
	return true
}

// passTexts runs texts through the engine and sends on the results.
func (s *Stage) passTexts(batch []work) {
	p := &engine.Batch{Embed: true}
	for i, w := range batch {
		for pos := range w.step.rows {
			p.Rows = append(p.Rows, engine.Row{Seq: i, Pos: int32(pos)})
		}
		p.Tokens = append(p.Tokens, w.step.tokens...)
		p.Hidden = append(p.Hidden, w.step.hidden...)
	}
	res, err := s.compute(batch, p, 0)
	if err == nil {
		err = s.checkResult(p, res)
	}
	switch {
	case err == nil:
		s.scatterTexts(batch, res)
	case errors.Is(err, engine.ErrLost):
		s.cancel(err)
		for _, w := range batch {
			w.sess.fail(asError(err))
		}
	case batch[0].sess != batch[len(batch)-1].sess: // one session's may be at fault: run those of each alone
		for some := range bySession(batch) {
			for i, at := 0, 0; i < len(some); i++ {
				some[i].at = at
				at += some[i].step.rows
			}
			s.passTexts(some)
		}
	default:
		s.cfg.Log.Warn("a pass of texts failed", "texts", len(batch), "rows", len(p.Rows), "error", err)
		batch[0].sess.fail(protocol.Errorf(protocol.Code_CODE_ENGINE, "the engine refused the texts"))
	}
}

// checkResult returns an error unless the engine has given what was asked for: a vector
// per text of finite numbers, or a row per row.
func (s *Stage) checkResult(p *engine.Batch, res *engine.Result) error {
	if !s.cfg.last() {
		if len(res.Hidden) != len(p.Rows)*s.cfg.Width {
			return fmt.Errorf("%d activations for %d rows", len(res.Hidden), len(p.Rows))
		}
		return nil
	}
	if n := p.Texts(); len(res.Embeddings) != n {
		return fmt.Errorf("%d embeddings for %d texts", len(res.Embeddings), n)
	}
	for _, e := range res.Embeddings {
		if len(e) != s.cfg.Embedded || slices.ContainsFunc(e, func(v float32) bool { return v-v != 0 }) {
			return fmt.Errorf("an embedding that is not %d finite numbers", s.cfg.Embedded)
		}
	}
	return nil
}

// bySession yields the runs of a batch that are of one session.
func bySession(batch []work) func(yield func([]work) bool) {
	return func(yield func([]work) bool) {
		for len(batch) > 0 {
			n := 1
			for n < len(batch) && batch[n].sess == batch[0].sess {
				n++
			}
			if !yield(batch[:n]) {
				return
			}
			batch = batch[n:]
		}
	}
}

// scatterTexts sends each session's part of a pass on: activations to its successor, or
// embeddings to its client.
func (s *Stage) scatterTexts(batch []work, res *engine.Result) {
	i := 0
	for texts := range bySession(batch) {
		if s.cfg.last() {
			s.embedded(texts[0].sess, res.Embeddings[i:i+len(texts)])
		} else {
			s.forwardTexts(texts, res.Hidden)
		}
		i += len(texts)
	}
}

// forwardTexts sends activations of texts to the successor, in steps that may hold
// several texts, or a part of one.
func (s *Stage) forwardTexts(texts []work, hidden []float32) {
	sess, codec, width := texts[0].sess, texts[0].sess.open.Codec, s.cfg.Width
	base, first, rows := texts[0].step.base, texts[0].at, 0
	var ends []int
	for _, w := range texts {
		rows += w.step.rows
		ends = append(ends, rows)
	}
	s.mu.Lock()
	next, ended := sess.next, sess.ended
	s.mu.Unlock()
	if next == nil || ended {
		return
	}
	for at := 0; at < rows; at += protocol.MaxLinkRows {
		end := min(at+protocol.MaxLinkRows, rows)
		st := &protocol.Step{Epoch: texts[0].step.epoch, Base: uint32(base + at), Rows: uint32(end - at), Codec: codec}
		for ; len(ends) > 0 && ends[0] <= end; ends = ends[1:] {
			st.Ends = append(st.Ends, uint32(ends[0]-at))
		}
		x := hidden[(first+at)*width : (first+end)*width]
		payload := protocol.AppendTensor(make([]byte, 0, protocol.TensorSize(codec, len(x))), codec, x)
		sess.send(next, &protocol.Frame{Kind: &protocol.Frame_Step{Step: st}}, payload, Prefill)
	}
}

// embedBytes is how many bytes of embeddings a frame to a client has, about.
const embedBytes = 256 << 10

// embedded sends embeddings to the client.
func (s *Stage) embedded(sess *session, list [][]float32) {
	width := s.cfg.Embedded
	s.mu.Lock()
	client := sess.client
	s.mu.Unlock()
	for per := max(1, embedBytes/(4*width)); len(list) > 0; {
		n := min(per, len(list))
		var payload []byte
		for _, e := range list[:n] {
			if s.cfg.Pooling != engine.PoolRanking {
				normalize(e)
			}
			payload = protocol.AppendTensor(payload, protocol.TensorCodec_TENSOR_CODEC_F32, e)
		}
		sess.send(client, &protocol.Frame{Kind: &protocol.Frame_Embeddings{Embeddings: &protocol.Embeddings{
			First: uint32(sess.embedded), Count: uint32(n), Width: uint32(width),
		}}}, payload, Prefill)
		sess.embedded += n
		list = list[n:]
	}
	sess.idle.Reset(s.cfg.Idle)
}

// normalize gives a vector the length 1, unless all of it is 0.
func normalize(x []float32) {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	if sum == 0 {
		return
	}
	scale := 1 / math.Sqrt(sum)
	for i, v := range x {
		x[i] = float32(float64(v) * scale)
	}
}
