package stage

import (
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// Sessions of readings. They draw nothing: after some of their rows, the last stage sends
// the client the log probabilities of tokens that Open has named. A step may begin before
// the session's end, which is taken back to the step's base in the order of the steps, so
// that many questions share the rows of what they are about, and follow each other through
// the ring without a word from the client in between. An epoch would take back as well, but
// would drop the steps still on their way.
//
// Such a session has one epoch, and another with which it begins where all stages have its
// prefix, or two, if the client has tried that too early (early.go). It ends with the first
// stage that is lost: the client asks for the readings that are missing elsewhere.

// reads reports whether the session's client wants readings, and no tokens.
func (sess *session) reads() bool { return sess.open.Readings > 0 }

// checkReadings checks what an Open says of readings.
func (s *Stage) checkReadings(o *protocol.Open) error {
	asked := o.Sampling.GetReadings()
	switch {
	case o.Readings == 0 && len(asked) == 0:
		return nil
	case o.Readings == 0 || o.Readings > protocol.MaxReadings:
		return fmt.Errorf("%d readings, where 1 to %d are taken", o.Readings, protocol.MaxReadings)
	case o.Wait || o.Again:
		return errors.New("a session of readings cannot be resumed")
	case !s.cfg.last():
		return nil
	case len(asked) != int(o.Readings):
		return fmt.Errorf("the labels of %d readings, of %d", len(asked), o.Readings)
	case len(o.Sampling.Scored) > 0 || len(o.Sampling.Format) > 0 || len(o.Sampling.Sampled) > 0:
		return errors.New("readings of a session that draws tokens")
	}
	for _, l := range asked {
		if n := len(l.GetIds()); n == 0 || n > protocol.MaxLabels {
			return fmt.Errorf("a reading of %d labels, where 1 to %d are taken", n, protocol.MaxLabels)
		}
		if !inVocabulary(l.Ids, s.cfg.Vocab) {
			return errors.New("a label is not in the vocabulary")
		}
	}
	return nil
}

// mostReadEpochs is how many epochs a session of readings may have after that of its Open.
const mostReadEpochs = 2

// countReading counts a step of a session of readings. It returns an error if there are
// more than were announced: taking back must not let a session go on for ever. Called with
// stage.mu held.
func (sess *session) countReading(st *step) error {
	if !sess.reads() {
		return nil
	}
	if sess.epoch > sess.open.Epoch+mostReadEpochs {
		return fmt.Errorf("epoch %d of a session of readings, which began with epoch %d", sess.epoch, sess.open.Epoch)
	}
	sess.rows += st.rows
	if st.sample {
		sess.asked++
	}
	if most := sess.reserved + protocol.MaxReadRows; sess.asked > int(sess.open.Readings) || sess.rows > most {
		return fmt.Errorf("%d readings after %d rows, where %d were announced and %d rows are taken", sess.asked, sess.rows, sess.open.Readings, most)
	}
	return nil
}

// reading returns what the engine is asked for at the next reading: the most probable
// token, and the log probabilities of the labels.
func (sess *session) reading() *protocol.Sampling {
	return &protocol.Sampling{Readings: sess.open.Sampling.Readings[sess.read:][:1]}
}

// sendReading sends a reading to the client.
func (s *Stage) sendReading(w work, t sample.Token) {
	sess := w.sess
	index := sess.read
	sess.read++
	sess.idle.Reset(s.cfg.Idle)
	s.mu.Lock()
	client := sess.client
	s.mu.Unlock()
	sess.send(client, &protocol.Frame{Kind: &protocol.Frame_Reading{Reading: &protocol.Reading{
		Index: uint32(index), Logprobs: t.Labels, Top: t.ID,
	}}}, nil, Prefill)
}
