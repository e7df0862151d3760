package generate

import (
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/session"
)

// hits remember which share of the tokens of this node's recent answers came from guesses
// sent ahead, model by model, so that the next answer's speed can be predicted. The zero
// value remembers nothing. They are safe for concurrent use.
type hits struct {
	mu sync.Mutex
	of map[cid.Cid]hit // at most mostHits

	// Since the start, of answers for which guesses were sent:
	sent, kept  int
	plain, took time.Duration // without guesses, and as it was; of answers whose gain is known
}

// hit sums up the recent answers of a model.
type hit struct{ tokens, kept float64 }

const (
	mostHits = 64
	// recentTokens is after how many more tokens an answer counts half of what it did.
	recentTokens = 1000
	// priorTokens are tokens without a guess that every model begins with: little is known
	// after a short answer.
	priorTokens = 16
)

// add counts an answer of so many tokens after its first, of which guesses brought kept.
func (h *hits) add(model cid.Cid, tokens, kept int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = map[cid.Cid]hit{}
	}
	old, known := h.of[model]
	for other := range h.of { // any one: it is soon learned again
		if known || len(h.of) < mostHits {
			break
		}
		delete(h.of, other)
	}
	left := recentTokens / float64(recentTokens+tokens)
	h.of[model] = hit{old.tokens*left + float64(tokens), old.kept*left + float64(min(kept, tokens))}
}

// share returns the share of a model's tokens that guesses bring, 0 to 1.
func (h *hits) share(model cid.Cid) float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.of[model]
	return s.kept / (s.tokens + priorTokens)
}

// sum adds up an answer for Ahead.
func (h *hits) sum(out *session.Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := out.Ahead
	h.sent, h.kept = h.sent+a.Sent, h.kept+a.Kept
	if a.Sent > 0 && a.Gain > 0 {
		h.plain += time.Duration(a.Gain * float64(out.Elapsed))
		h.took += out.Elapsed
	}
}

// Ahead sums up the guesses of this node's answers since its start; nil: none were sent.
func (g *Generator) Ahead() *api.Ahead {
	h := &g.hits
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sent == 0 {
		return nil
	}
	a := &api.Ahead{Sent: h.sent, Kept: h.kept}
	if h.took > 0 {
		a.Gain = float64(h.plain) / float64(h.took)
	}
	return a
}

// mayGuess reports whether the answer may have guesses sent ahead.
func (g *generation) mayGuess() bool { return !g.cfg.NoAhead && g.req.Ahead != "off" }

// guessed returns the share of the answer's tokens that guesses will bring, as far as
// recent answers tell.
func (g *generation) guessed() float64 {
	if !g.mayGuess() {
		return 0
	}
	return g.hits.share(g.model.ID())
}

// countGuesses counts an answer for the predictions of later ones. A route of one stage
// says nothing: it sends no guesses.
func (g *generation) countGuesses(out *session.Outcome) {
	if g.mayGuess() && len(out.Route) > 1 && out.Tokens > 1 {
		g.hits.add(g.model.ID(), out.Tokens-1, out.Ahead.Kept)
		g.hits.sum(out)
	}
}
