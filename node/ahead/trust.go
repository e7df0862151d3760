package ahead

import "math/bits"

// source is how a place to copy from was found.
type source uint8

const (
	copied   source = iota // the longest match in the session's own text
	expected               // the longest match in what the client expects, or its beginning
	resumed                // around the place in the session's own text that was just lost
	rejoined               // the same in what the client expects
	inserted               // at the place that was lost; the match is how many tokens ago
	hinted                 // by a drafter; the match is how many of its guesses in a row were right
	sources
)

const (
	lengths = 7    // matches of 0, 1, 2-3, 4-7, 8-15, 16-31, 32 and more tokens
	memory  = 0.98 // of each count, per further one: about the last 50 guesses decide
)

// share counts the guesses of one kind, older ones less.
type share struct{ right, all float64 }

// trust has the share of right guesses per source and length of match.
type trust [sources][lengths]share

// newTrust begins with what edits of files, quoting answers, JSON and prose have shown.
func newTrust() trust {
	return trust{
		copied:   {{0, 4}, {0.5, 4}, {1.6, 4}, {2.6, 4}, {7, 8}, {15, 16}, {19, 20}},
		expected: {{2, 4}, {2, 4}, {3, 5}, {4, 5}, {7, 8}, {15, 16}, {19, 20}},
		resumed:  {{0.8, 4}, {1.5, 4}, {2.5, 4}, {3, 4}, {7, 8}, {15, 16}, {19, 20}},
		rejoined: {{1, 4}, {2, 4}, {3, 4}, {3.5, 4}, {7, 8}, {15, 16}, {19, 20}},
		inserted: {{1, 4}, {1, 4}, {0.5, 4}, {0.3, 4}, {0.2, 4}, {0.2, 4}, {0.2, 4}},
		hinted:   {{2, 4}, {2, 4}, {2, 4}, {2, 4}, {2, 4}, {2, 4}, {2, 4}},
	}
}

func bucket(match int) int { return min(bits.Len(uint(match)), lengths-1) }

// of returns the share of c's kind of guesses that was right, from 0 to 1.
func (t *trust) of(c cursor) float64 { return t[c.from][bucket(c.match)].of() }

// learn scores a guess.
func (t *trust) learn(c cursor, right bool) { t[c.from][bucket(c.match)].learn(right) }

// of returns the share itself.
func (s share) of() float64 { return s.right / s.all }

// learn counts one more guess.
func (s *share) learn(right bool) {
	s.right *= memory
	s.all = s.all*memory + 1
	if right {
		s.right++
	}
}
