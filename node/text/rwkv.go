package text

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// rwkv is the tokenizer of RWKV's World models: the longest token from left to right.
// Tokens are of any bytes, which the file writes with escapes.
type rwkv struct {
	tokens  prefixes
	unknown int32 // -1: none
}

func (t *Tokenizer) setRWKV(md Metadata) {
	list := make([]entry, len(t.tokens))
	t.tokens = slices.Clone(t.tokens)
	for i, s := range t.tokens {
		t.tokens[i] = unescaped(s)
		if k := t.types[i]; k != typeControl && k != typeUnknown {
			list[i] = entry{t.tokens[i], int32(i)}
		}
	}
	t.verbatim = true
	t.algorithm = &rwkv{newPrefixes(list), t.special(md, "unknown", -1)}
}

// unescaped reads \t, \n, \r, \x and two hexadecimal digits, and a backslash before
// anything else.
func unescaped(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '\\' || i+1 == len(s) {
			b.WriteByte(c)
			continue
		}
		i++
		switch s[i] {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 'x':
			var v byte
			if i+2 < len(s) {
				if _, err := fmt.Sscanf(s[i+1:i+3], "%02x", &v); err == nil {
					b.WriteByte(v)
					i += 2
				}
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func (r *rwkv) split(out []int32, text string, on *patience) ([]int32, error) {
	for text != "" {
		if err := on.err(); err != nil {
			return nil, err
		}
		id, size := r.tokens.longest(text)
		switch {
		case size > 0:
			out = append(out, id)
		case r.unknown >= 0:
			out = append(out, r.unknown)
		}
		text = text[max(1, size):]
	}
	return out, nil
}

// plamo is the tokenizer of PLaMo 2: of all ways to write a text with tokens, the one
// with the highest sum of scores, where a character that is in no token is written as
// bytes.
type plamo struct {
	t      *Tokenizer
	tokens prefixes
	scores []int64 // in ten-thousandths
}

// Scores of PLaMo 2, in ten-thousandths.
const (
	plamoInvalid = -20_000_000 // a token with no more is not used
	plamoUnknown = -10_000_000 // of a character as bytes
)

func (t *Tokenizer) setPlamo(md Metadata) error {
	scores, err := perToken(md, "tokenizer.ggml.scores", len(t.tokens), score)
	if err != nil {
		return err
	}
	p := &plamo{t: t, tokens: t.entries(), scores: make([]int64, len(t.tokens))}
	for i := range p.scores {
		p.scores[i] = plamoInvalid
		if scores != nil {
			if s := math.Round(float64(scores[i]) * 1e4); s > plamoInvalid && s < -2*plamoInvalid {
				p.scores[i] = int64(s)
			}
		}
	}
	for i := range t.bytes {
		if t.bytes[i] = t.find(fmt.Sprintf("<0x%02X>", i)); t.bytes[i] < 0 {
			return fmt.Errorf("%w: the file has no token for the byte %#02x", ErrVocabulary, i)
		}
	}
	t.bos, t.eos = t.special(md, "bos", 1), t.special(md, "eos", 2)
	t.verbatim, t.algorithm = true, p
	return nil
}

func (p *plamo) split(out []int32, text string, on *patience) ([]int32, error) {
	text = strings.TrimPrefix(text, "\ufeff")
	type best struct {
		cost int64
		size int32
		id   int32 // -1: bytes
	}
	ways := make([]best, len(text)+1)
	for at := len(text) - 1; at >= 0; at-- {
		if err := on.err(); err != nil {
			return nil, err
		}
		w := &ways[at]
		w.cost = math.MaxInt64
		if text[at] >= utf8.RuneSelf && !utf8.RuneStart(text[at]) && inside(text, at) {
			continue // no token begins within a character
		}
		var found []best
		p.tokens.each(text[at:], func(id int32, size int) bool {
			if rest := ways[at+size].cost; p.scores[id] > plamoInvalid && rest < math.MaxInt64 {
				found = append(found, best{rest - p.scores[id], int32(size), id})
			}
			return true
		})
		for i := len(found) - 1; i >= 0; i-- { // of equally good ones, the longest
			if found[i].cost < w.cost {
				*w = found[i]
			}
		}
		_, size := utf8.DecodeRuneInString(text[at:])
		if cost := ways[at+size].cost - plamoUnknown; cost < w.cost {
			*w = best{cost, int32(size), -1}
		}
	}
	for at := 0; at < len(text); at += int(ways[at].size) {
		if id := ways[at].id; id >= 0 {
			out = append(out, id)
			continue
		}
		for _, c := range []byte(text[at : at+int(ways[at].size)]) {
			out = append(out, p.t.bytes[c])
		}
	}
	return out, nil
}

// inside reports that a byte continues a valid character.
func inside(text string, at int) bool {
	for back := 1; back < utf8.UTFMax && back <= at; back++ {
		if utf8.RuneStart(text[at-back]) {
			_, size := utf8.DecodeRuneInString(text[at-back:])
			return size > back
		}
	}
	return false
}
