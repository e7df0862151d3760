package stage

import (
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// maxScoredRows is of how many rows per pass the log probabilities are computed: each
// takes the engine memory for a number per token of the vocabulary.
const maxScoredRows = protocol.MaxLinkRows

// scores reports whether the session's client wants log probabilities of its prompt.
func (sess *session) scores() bool { return sess.sampling != nil && len(sess.open.Sampling.Scored) > 0 }

// scoredIn returns after how many of a step's rows a token of the prompt follows whose
// log probability is wanted. They are the step's first rows.
func (sess *session) scoredIn(st *step) int {
	if !sess.stage.cfg.last() || !sess.scores() {
		return 0
	}
	return max(0, min(st.rows, len(sess.open.Sampling.Scored)-st.base))
}

// scoring asks for the tokens of the prompt that follow a step's rows. To the engine,
// a token that is known is one that is drawn where nothing else is allowed: its log
// probability is that among all.
func (w work) scoring() (outputs []engine.Output) {
	p := w.sess.open.Sampling
	for i := range w.sess.scoredIn(w.step) {
		id := p.Scored[w.step.base+i]
		only := make([]uint64, id/64+1)
		only[id/64] = 1 << (id % 64)
		outputs = append(outputs, engine.Output{
			Row: w.at + i, Position: uint64(w.step.base + i + 1), Allowed: only,
			Sampling: &protocol.Sampling{Logprobs: true, TopLogprobs: p.TopLogprobs},
		})
	}
	return outputs
}

// scored sends log probabilities to the client.
func (s *Stage) scored(w work, tokens []sample.Token) {
	if len(tokens) == 0 {
		return
	}
	f := &protocol.Scores{Epoch: w.step.epoch, Base: uint32(w.step.base + 1)}
	for _, t := range tokens {
		f.Scores = append(f.Scores, &protocol.Score{Logprob: t.Logprob, Top: topOf(t)})
	}
	s.mu.Lock()
	client := w.sess.client
	s.mu.Unlock()
	w.sess.send(client, &protocol.Frame{Kind: &protocol.Frame_Scores{Scores: f}}, nil, w.step.phase())
}

// topOf returns a token's alternatives as the wire has them.
func topOf(t sample.Token) (top []*protocol.TopToken) {
	for _, a := range t.Top {
		top = append(top, &protocol.TopToken{Id: a.ID, Logprob: a.Logprob})
	}
	return top
}
