package ahead

const (
	rooted = 8  // tokens in a row after which a place is home
	strays = 32 // tokens that may come between a place that was lost and its continuation
	nearby = 8  // tokens around the expected continuation that are looked at
)

// cursor is a place in a text from which the answer's next tokens may be copied.
type cursor struct {
	text  *table // nil: there is none, or it is a hint
	at    int    // index in the text of the next token
	match int    // tokens before it that are the same as the session's last
	from  source
}

// next is the cursor one token further, after its token turned out right or is taken to be.
func (c cursor) next() cursor {
	c.at++
	c.match++
	return c
}

// thread follows the place in one text from which an answer seems to be copied.
type thread struct {
	text        *table
	found, join source // what a match anywhere is called, and one around home

	best   cursor    // the guess for the next token
	others [2]cursor // what it was preferred to: scored, too

	// home is where the answer would go on if it were a copy since it was last lost: the
	// index after the last token of a run of some length; -1: there is none. away counts
	// the final tokens since then.
	home, away int
}

// step takes a final token, of which the session's last tokens are tail, and chooses a
// guess for the next one. It reports its guesses for this token to the trust first.
func (t *thread) step(y int32, tail []int32, trust *trust) {
	hit := t.score(t.best, y, trust)
	for _, c := range t.others {
		if t.score(c, y, trust) && !hit {
			t.best, hit = c, true
		}
	}
	t.others = [2]cursor{}
	if hit {
		t.best = t.best.next()
	}
	if t.away++; hit && (t.best.match >= rooted || t.best.at == t.home+t.away) {
		t.home, t.away = t.best.at, 0
	}
	if hit && t.best.at < len(t.text.text) {
		return
	}
	t.best = cursor{}
	if at, m := t.text.find(tail); m > 0 {
		t.best = cursor{t.text, at, m, t.found}
	}
	for i, c := range t.resume(tail) {
		if c.text != nil && (t.best.text == nil || trust.of(c) > trust.of(t.best)) {
			c, t.best = t.best, c
		}
		t.others[i] = c
	}
}

// score tells the trust whether the guess of c was y.
func (t *thread) score(c cursor, y int32, trust *trust) bool {
	if c.text == nil {
		return false
	}
	right := c.text.text[c.at] == y
	trust.learn(c, right)
	return right
}

// resume looks for the continuation around home: where the last tokens match most, then
// nearest to where it is if as many tokens were replaced as have come; and at home itself,
// if they were inserted.
func (t *thread) resume(tail []int32) (out [2]cursor) {
	if t.home < 0 || t.away > strays {
		t.home = -1
		return out
	}
	want := t.home + t.away
	best := cursor{t.text, want, 0, t.join}
	off := 0
	for at := max(0, t.home-nearby); at <= want+t.away+nearby && at < len(t.text.text); at++ {
		m := t.text.match(at, tail)
		if d := max(at-want, want-at); m > best.match || m == best.match && m > 0 && d < off {
			best.at, best.match, off = at, m, d
		}
	}
	if best.at < len(t.text.text) {
		out[0] = best
	}
	if best.at != t.home && t.home < len(t.text.text) {
		out[1] = cursor{t.text, t.home, t.away, inserted}
	}
	return out
}
