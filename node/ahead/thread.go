package ahead

const (
	rooted = 8  // tokens in a row after which a place is home
	strays = 32 // tokens that may come between a place that was lost and its continuation
	nearby = 8  // tokens around the expected continuation that are looked at
)

// cursor is a place in a text from which the answer's next tokens may be copied.
type cursor struct {
	text  *table // nil: there is none
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

	best  cursor // the guess for the next token
	other cursor // what it was preferred to, scored, too

	home int // the index after the last token of a copied run of some length; -1: none
	away int // final tokens since then
}

// step takes a final token, of which the session's last tokens are tail, and chooses a
// guess for the next one. It reports its guesses for this token to the trust first.
func (t *thread) step(y int32, tail []int32, trust *trust) {
	hit := t.score(t.best, y, trust)
	other := t.score(t.other, y, trust)
	if !hit && other {
		t.best, hit = t.other, true
	}
	t.other = cursor{}
	t.away++
	if hit {
		if t.best = t.best.next(); t.best.match >= rooted || t.home == t.best.at-1 {
			t.home, t.away = t.best.at, 0
		}
		if t.best.at < len(t.text.text) {
			return
		}
	}
	t.best = cursor{}
	if at, m := t.text.find(tail); m > 0 {
		t.best = cursor{t.text, at, m, t.found}
	}
	if c, ok := t.rejoin(tail); ok {
		if t.other = c; t.best.text == nil || trust.of(c) > trust.of(t.best) {
			t.best, t.other = t.other, t.best
		}
	}
}

// score tells the trust whether the guess of c was y.
func (t *thread) score(c cursor, y int32, trust *trust) bool {
	if c.text == nil || c.at >= len(c.text.text) {
		return false
	}
	right := c.text.text[c.at] == y
	trust.learn(c, right)
	return right
}

// rejoin looks for the continuation around home: after tokens that were inserted, replaced
// or left out. It prefers the place before which most tokens match, then the nearest to
// where it would be if as many tokens were replaced.
func (t *thread) rejoin(tail []int32) (cursor, bool) {
	if t.home < 0 || t.away > strays {
		t.home = -1
		return cursor{}, false
	}
	want := t.home + t.away
	best := cursor{t.text, want, 0, t.join}
	if t.away > 2 {
		best.at = t.home // too long for a replacement: inserted
	}
	off := 0
	for at := t.home; at <= want+t.away+nearby && at < len(t.text.text); at++ {
		m := t.text.match(at, tail)
		if d := max(at-want, want-at); m > best.match || m == best.match && m > 0 && d < off {
			best.at, best.match, off = at, m, d
		}
	}
	return best, best.at < len(t.text.text)
}
