package protocol

import (
	"strings"

	"github.com/ipfs/go-cid"
)

// Match is how a word fits a model.
type Match int

// From not at all to exactly.
const (
	MatchNone  Match = iota
	MatchBegin       // a name begins with it, or the CID begins or ends with it
	MatchExact       // it is a name, or the CID
)

// MatchModel says how word fits a model of these names. Names know no case;
// the shortest part of a CID is 8 characters.
func MatchModel(word string, id cid.Cid, names []string) Match {
	full := id.String()
	if word == full {
		return MatchExact
	}
	word = strings.ToLower(strings.TrimSuffix(word, ".gguf"))
	best := MatchNone
	if len(word) >= 8 && (strings.HasPrefix(full, word) || strings.HasSuffix(full, word)) {
		best = MatchBegin
	}
	for _, n := range names {
		switch n = strings.ToLower(n); {
		case n == "" || word == "":
		case n == word:
			return MatchExact
		case strings.HasPrefix(n, word):
			best = MatchBegin
		}
	}
	return best
}
