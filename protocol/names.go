package protocol

import (
	"slices"
	"strings"
	"unicode"

	"github.com/ipfs/go-cid"
)

// Match is how a word fits a model.
type Match int

// From not at all to exactly.
const (
	MatchNone   Match = iota
	MatchBegin        // a name begins with it, or the CID begins or ends with it
	MatchTagged       // it is a name in Ollama's manner
	MatchExact        // it is a name, or the CID
)

// MatchModel says how word fits a model of these names. Names know no case;
// the shortest part of a CID is 8 characters.
//
// Ollama's clients write a name with a tag: NAME:latest is NAME, and for another tag the
// letters and digits count, so that smollm2:135m-instruct-q4_1 is
// SmolLM2-135M-Instruct.Q4_1.
//
// A model with an adapter is named MODEL+ADAPTER, and goes by no beginning of the
// model's own name.
func MatchModel(word string, id cid.Cid, names []string) Match {
	if _, _, adapted := CutAdapter(word); !adapted {
		names = slices.DeleteFunc(slices.Clone(names), func(n string) bool {
			_, _, adapted := CutAdapter(n)
			return adapted
		})
	}
	best := matchPlain(word, id, names)
	base, tag, tagged := strings.Cut(word, ":")
	switch {
	case best == MatchExact || !tagged || base == "":
		return best
	case strings.EqualFold(tag, "latest"):
		return max(best, min(matchPlain(base, id, names), MatchTagged))
	}
	letters := lettersOf(word)
	for _, n := range names {
		switch n = lettersOf(n); {
		case n == "" || letters == "":
		case n == letters:
			return MatchTagged
		case strings.HasPrefix(n, letters):
			best = max(best, MatchBegin)
		}
	}
	return best
}

// CutAdapter returns the two parts of a name of the form MODEL+ADAPTER.
func CutAdapter(name string) (model, adapter string, ok bool) {
	i := strings.LastIndexByte(name, '+')
	if i < 1 || i == len(name)-1 {
		return name, "", false
	}
	return name[:i], name[i+1:], true
}

// lettersOf returns the letters and digits of a name, in lower case.
func lettersOf(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

func matchPlain(word string, id cid.Cid, names []string) Match {
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
