package text

import (
	"errors"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// wpm is BERT's WordPiece: a text is cleaned and split at blanks, punctuation and
// Chinese characters, and each word is covered by the longest tokens from left to right.
// Tokens that begin a word begin with ▁.
type wpm struct {
	t               *Tokenizer
	tokens          prefixes
	lower, unaccent bool
	unknown         int32 // -1: none
}

func (t *Tokenizer) setWPM(md Metadata) error {
	w := &wpm{t: t, tokens: t.entries(), lower: true}
	err := flag(md, "tokenizer.ggml.normalizer.lowercase", &w.lower)
	w.unaccent = w.lower
	err = errors.Join(err, flag(md, "tokenizer.ggml.normalizer.strip_accents", &w.unaccent))
	w.unknown = t.special(md, "unknown", 100)
	t.bos = t.special(md, "cls", 101)
	t.eos = t.special(md, "seperator", 102) // GGUF's spelling
	t.unescape, t.trim, t.alwaysBOS, t.alwaysEOS, t.algorithm = true, true, true, true, w
	return err
}

// special returns a token that a file names, or else the one of its usual number.
func (t *Tokenizer) special(md Metadata, name string, usual int32) int32 {
	if id, err := firstID(md, "tokenizer.ggml."+name+"_token_id", len(t.tokens)); err == nil && id >= 0 {
		return id
	}
	if usual >= 0 && int(usual) < len(t.tokens) {
		return usual
	}
	return -1
}

// entries are all tokens as prefixes, but for those that a text cannot name.
func (t *Tokenizer) entries() prefixes {
	list := make([]entry, 0, len(t.tokens))
	for i, s := range t.tokens {
		if k := t.types[i]; k != typeControl && k != typeUnknown && k != typeByte {
			list = append(list, entry{s, int32(i)})
		}
	}
	return newPrefixes(list)
}

func (w *wpm) split(out []int32, text string, on *patience) ([]int32, error) {
	for _, word := range w.words(text) {
		before, rest := len(out), "▁"+word
		for rest != "" {
			if err := on.err(); err != nil {
				return nil, err
			}
			id, size := w.tokens.longest(rest)
			if size == 0 {
				out = out[:before]
				break
			}
			out, rest = append(out, id), rest[size:]
		}
		if rest != "" && w.unknown >= 0 {
			out = append(out, w.unknown)
		}
	}
	return out, nil
}

// words cleans a text and splits it.
func (w *wpm) words(text string) (words []string) {
	if w.unaccent {
		text = norm.NFD.String(text)
	}
	var word strings.Builder
	end := func() {
		if word.Len() > 0 {
			words = append(words, word.String())
			word.Reset()
		}
	}
	for _, r := range text {
		switch {
		case unicode.IsSpace(r):
			end()
			continue
		case r == 0, r == unicode.ReplacementChar, unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs), w.unaccent && unicode.Is(unicode.Mn, r):
			continue
		}
		if w.lower {
			r = unicode.ToLower(r)
		}
		if unicode.Is(unicode.P, r) || r < 0x7f && unicode.Is(unicode.S, r) || ideograph(r) {
			end()
			word.WriteRune(r)
			end()
			continue
		}
		word.WriteRune(r)
	}
	end()
	return words
}

// ideograph reports that BERT makes a character a word of its own: those of Chinese.
func ideograph(r rune) bool {
	for _, of := range [][2]rune{
		{0x4e00, 0x9fff}, {0x3400, 0x4dbf}, {0x20000, 0x2a6df}, {0x2a700, 0x2b73f}, {0x2b740, 0x2b81f}, {0x2b920, 0x2ceaf}, {0xf900, 0xfaff}, {0x2f800, 0x2fa1f},
	} {
		if of[0] <= r && r <= of[1] {
			return true
		}
	}
	return false
}
