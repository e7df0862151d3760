package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/node/api"
)

// history is what was said in a chat, and which of it still fits into the model's
// context.
type history struct {
	system string
	turns  []turn // all of them
	skip   int    // of turns: the oldest, which are not sent any more
	limit  int    // the model's context, in tokens; 0: not known
	used   int    // tokens of the last prompt and its answer
	told   bool   // that turns are left out
}

// turn is a message and its answer.
type turn struct {
	user, answer string
	tokens       int // of both, about
}

// reset begins a new conversation.
func (h *history) reset(system string) {
	*h = history{system: system, limit: h.limit}
}

// messages returns the conversation without its first skip turns.
func (h *history) messages(skip int) (out []api.Message) {
	if h.system != "" {
		out = append(out, api.Message{Role: "system", Content: h.system})
	}
	for _, t := range h.turns[skip:] {
		out = append(out, api.Message{Role: "user", Content: t.user}, api.Message{Role: "assistant", Content: t.answer})
	}
	return out
}

// add appends a turn. total is how many tokens it took with all that was sent.
func (h *history) add(t turn, total int) {
	before := 0
	for _, t := range h.turns[h.skip:] {
		before += t.tokens
	}
	t.tokens = max(total-before, 1)
	h.turns, h.used = append(h.turns, t), total
}

// makeRoom leaves out the oldest turns until a message and an answer fit, going by the
// tokens of earlier turns. An answer is given a quarter of the context, or what the
// person asked for.
func (h *history) makeRoom(text string, answer int) {
	if h.limit == 0 {
		return
	}
	room := h.limit / 4
	if answer > 0 {
		room = min(answer, h.limit/2)
	}
	need := h.used + len(text)/3 + room
	for need > h.limit && h.skip < len(h.turns) {
		need -= h.turns[h.skip].tokens
		h.skip++
	}
}

// skipOne leaves out one turn more; false: there is none.
func (h *history) skipOne() bool {
	if h.skip == len(h.turns) {
		return false
	}
	h.skip++
	return true
}

func tooLong(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Kind == api.TooLong
}

// learnLimit asks once how long the model's context is.
func (h *history) learnLimit(ctx context.Context, cl *api.Client, model string) {
	if h.limit > 0 {
		return
	}
	m, err := cl.Show(ctx, model)
	if err != nil {
		return
	}
	h.limit = m.Context
	st, err := cl.Status(ctx)
	if err != nil {
		return
	}
	for _, v := range st.Serving { // a node may have room for less
		if v.Model == model && v.KVTokens > 0 {
			h.limit = min(cmp.Or(h.limit, v.KVTokens), v.KVTokens)
		}
	}
}

// fullness says how full the context is.
func (h *history) fullness() string {
	text := fmt.Sprintf("%d tokens", h.used)
	if h.limit > 0 {
		text = fmt.Sprintf("%d of %d tokens (%d %%)", h.used, h.limit, 100*h.used/h.limit)
	}
	if h.skip > 0 {
		text += fmt.Sprintf("; the oldest %s left out", count(h.skip, "turn"))
	}
	return text
}

// mark is what stands at the beginning of a line to type in: how full the context is
// once that matters.
func (h *history) mark() string {
	if h.limit > 0 && 4*h.used >= 3*h.limit {
		return fmt.Sprintf("(%d %% full) > ", min(100, 100*h.used/h.limit))
	}
	return "> "
}
