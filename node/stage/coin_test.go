package stage_test

import (
	"slices"
	"time"

	"github.com/shoalnet/shoal/node/stage"
)

// coin guesses the tokens of a session of the arena, every third one wrong.
type coin struct {
	most  int
	known []int32
	line  []int32
	said  int
}

func (c *coin) Prompt(tokens []int32) { c.known = append(c.known, tokens...) }
func (c *coin) Expect([]int32)        {}

func (c *coin) Token(id int32, _ time.Time, _ stage.Measures) {
	c.known = append(c.known, id)
	if len(c.line) > 0 && c.line[0] == id {
		c.line = c.line[1:]
	} else {
		c.line = nil
	}
}

func (c *coin) Next(_ time.Time, full bool) (int32, bool) {
	if full || len(c.line) >= c.most {
		return 0, false
	}
	id := answer(slices.Concat(c.known, c.line), 1)[0]
	if c.said++; c.said%3 == 0 {
		id = (id + 1) % fuzzVocab
	}
	c.line = append(c.line, id)
	return id, true
}
