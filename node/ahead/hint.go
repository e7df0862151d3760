package ahead

// Hint offers guesses of a drafter that is slower than a table, such as a small model:
// the tokens that it expects after the first final ones of the answer (as many calls of
// Token). What the answer has disproved since is ignored, so a hint may come late; a
// newer hint replaces an older one. Tables go first where they are more often right.
func (r *Runner) Hint(final int, tokens []int32) {
	r.drafting.heard = r.drafting.on
	past := r.final - final
	if final < 0 || past < 0 || past >= len(tokens) {
		return
	}
	for i, y := range r.own.text[len(r.own.text)-past:] {
		if tokens[i] != y {
			return
		}
	}
	tokens = tokens[past:]
	r.draft = append(r.draft[:0], tokens[:min(len(tokens), r.cfg.MaxInFlight)]...)
}

// drafted returns the drafter's guess behind the line, and what it may be trusted like.
func (r *Runner) drafted() (token int32, place cursor, ok bool) {
	n := len(r.line)
	if n >= len(r.draft) {
		return 0, cursor{}, false
	}
	for i, g := range r.line {
		if r.draft[i] != g.token {
			return 0, cursor{}, false
		}
	}
	return r.draft[n], cursor{match: r.run + n, from: hinted}, true
}

// scoreDraft takes a final token.
func (r *Runner) scoreDraft(y int32) {
	if len(r.draft) == 0 {
		return
	}
	right := r.draft[0] == y
	r.trust.learn(cursor{match: r.run, from: hinted}, right)
	if !right {
		r.draft, r.run = r.draft[:0], 0
		return
	}
	r.draft = append(r.draft[:0], r.draft[1:]...)
	r.run++
}
