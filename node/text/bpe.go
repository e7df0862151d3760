package text

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// bpe is byte-level BPE: text is split into words, each byte of a word is
// written as a character of its own, and adjacent symbols merge in the order of
// the list of merges. With raw set, words are used as they are.
type bpe struct {
	t      *Tokenizer
	rules  []rule
	ids    map[string]int32 // of tokens and, from len(t.tokens) on, of halves of merges that are not tokens
	merges map[[2]int32]merge
	chars  [256]int32 // the id of each byte's character; -1: none

	ignoreMerges bool
	raw          bool
	spaced       bool
}

// merge is the result of merging two symbols, and the rank in the list of
// merges.
type merge struct{ id, rank int32 }

// rule splits a text into words: each match is a word, and so is the text
// between two matches. A cutter does so without a regular expression.
type rule struct {
	expr *regexp2.Regexp
	cut  func([]rune) []int
}

// matchTime bounds a single match of an expression. No known text needs more
// than a moment; one that does is refused rather than split wrongly.
const matchTime = 10 * time.Second

func (t *Tokenizer) setBPE(md Metadata, pre string) error {
	list, err := texts(md, "tokenizer.ggml.merges")
	if err != nil {
		return err
	}
	if len(list) == 0 && pre != "kimi-k2" {
		return fmt.Errorf("%w: the file has no merges (tokenizer.ggml.merges)", ErrVocabulary)
	}
	kind, known := preTypes[pre]
	if !known { // Doubts says so
		kind = defaultPre
	}
	b := &bpe{t: t, ignoreMerges: kind.ignoreMerges, raw: kind.raw, spaced: kind.spaced}
	b.readMerges(list)
	for _, expr := range kind.exprs {
		if cut := cutters[expr]; cut != nil {
			b.rules = append(b.rules, rule{cut: cut})
			continue
		}
		re, err := regexp2.Compile(expr, regexp2.None)
		if err != nil {
			return fmt.Errorf("pre-tokenizer %q: %w", pre, err)
		}
		re.MatchTimeout = matchTime
		b.rules = append(b.rules, rule{expr: re})
	}
	t.escape, t.verbatim = kind.raw && !kind.blanks, kind.raw
	t.addBOS, t.alwaysBOS, t.addSEP = kind.addBOS, kind.alwaysBOS, kind.addSEP
	for i := range t.bytes {
		name := byteText[i]
		if kind.raw {
			name = fmt.Sprintf("<0x%02X>", i)
		}
		t.bytes[i] = t.find(name)
	}
	// GPT-2's token IDs as in llama.cpp, for files that name none.
	if len(t.tokens) > 11 && !kind.raw {
		t.eos = 11
		if !kind.noBOS {
			t.bos = 11
		}
	}
	t.algorithm = b
	return nil
}

// readMerges numbers the strings that occur in merges, so that merging compares
// numbers.
func (b *bpe) readMerges(list []string) {
	b.ids = make(map[string]int32, len(b.t.ids)+64)
	for s, id := range b.t.ids {
		b.ids[s] = id
	}
	next := int32(len(b.t.tokens))
	number := func(s string) int32 {
		id, ok := b.ids[s]
		if !ok {
			id = next
			b.ids[s] = id
			next++
		}
		return id
	}
	b.merges = make(map[[2]int32]merge, len(list))
	for rank, m := range list {
		if m == "" {
			continue
		}
		at := strings.IndexByte(m[1:], ' ') // the first space may be part of the left half
		if at < 0 {
			continue
		}
		left, right := m[:at+1], m[at+2:]
		if right == "" {
			continue
		}
		pair := [2]int32{number(left), number(right)}
		if _, twice := b.merges[pair]; !twice {
			b.merges[pair] = merge{number(left + right), int32(rank)}
		}
	}
	for i, s := range byteText {
		b.chars[i] = number(s)
	}
}

func (b *bpe) split(out []int32, text string, on *patience) ([]int32, error) {
	words, err := b.words(text, on)
	if err != nil {
		return nil, err
	}
	if b.spaced {
		words = spaced(words)
	}
	m := &merger{join: func(l, r symbol) (int32, float64, bool) {
		made, ok := b.merges[[2]int32{l.id, r.id}]
		return made.id, float64(made.rank), ok
	}}
	// Most words of a text occur again and again.
	type span struct{ from, to int }
	seen := map[string]span{}
	for _, word := range words {
		if s, ok := seen[word]; ok {
			out = append(out, out[s.from:s.to]...)
			continue
		}
		from := len(out)
		if out, err = b.encode(out, m, word, on); err != nil {
			return nil, err
		}
		seen[word] = span{from, len(out)}
	}
	return out, nil
}

// words splits a text by all rules in turn. Each byte that is not valid UTF-8
// counts as a character of no class.
func (b *bpe) words(text string, on *patience) ([]string, error) {
	runes := make([]rune, 0, len(text))
	starts := make([]int32, 0, len(text)+1) // of the runes, in bytes
	for i, r := range text {
		runes = append(runes, r)
		starts = append(starts, int32(i))
	}
	starts = append(starts, int32(len(text)))
	ends := []int{len(runes)}
	for _, r := range b.rules {
		var next []int
		from := 0
		for _, end := range ends {
			cuts, err := r.cuts(runes[from:end], on)
			if err != nil {
				return nil, err
			}
			for _, c := range cuts {
				if at := from + c; at > 0 && at < end && (len(next) == 0 || next[len(next)-1] < at) {
					next = append(next, at)
				}
			}
			next = append(next, end)
			from = end
		}
		ends = next
	}
	words := make([]string, 0, len(ends))
	from := 0
	for _, end := range ends {
		if end > from {
			words = append(words, text[starts[from]:starts[end]])
		}
		from = end
	}
	return words, nil
}

// cuts returns the ends of the words in a piece, in order.
func (r rule) cuts(piece []rune, on *patience) ([]int, error) {
	if err := on.err(); err != nil {
		return nil, err
	}
	if r.cut != nil {
		return r.cut(piece), nil
	}
	var cuts []int
	m, err := r.expr.FindRunesMatch(piece)
	for ; err == nil && m != nil; m, err = r.expr.FindNextMatch(m) {
		cuts = append(cuts, m.Index, m.Index+m.Length)
		if err := on.err(); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, fmt.Errorf("the text takes too long to split into words: %w", err)
	}
	return cuts, nil
}

// encode appends the tokens of a word.
func (b *bpe) encode(out []int32, m *merger, word string, on *patience) ([]int32, error) {
	written := word
	if !b.raw {
		written = bytesWritten(word)
	}
	// Merges contain no newlines, because the list has one merge per line.
	if b.ignoreMerges || b.raw && strings.Trim(word, "\n") == "" {
		if id, ok := b.t.ids[written]; ok {
			return append(out, id), nil
		}
	}
	m.reset()
	if b.raw {
		for at := 0; at < len(word); {
			_, n := utf8.DecodeRuneInString(word[at:])
			id, ok := b.ids[word[at:at+n]]
			if !ok {
				id = math.MaxInt32
			}
			m.add(n, id)
			at += n
		}
	} else {
		for i := range len(word) {
			m.add(1, b.chars[word[i]])
		}
	}
	if err := m.merge(on); err != nil {
		return nil, err
	}
	m.each(func(s symbol) {
		if int(s.id) < len(b.t.tokens) {
			out = append(out, s.id)
			return
		}
		for _, c := range []byte(word[s.at : s.at+s.size]) {
			if id := b.t.bytes[c]; id >= 0 {
				out = append(out, id)
			}
		}
	})
	return out, nil
}

// byteText writes each byte as a character, as GPT-2 does: printable Latin-1
// characters as themselves, other bytes as characters from U+0100 on.
var byteText, textByte = func() (to [256]string, from map[rune]byte) {
	from = map[rune]byte{}
	next := rune(256)
	for i := range 256 {
		r := rune(i)
		if !(r >= '!' && r <= '~' || r >= 0xa1 && r <= 0xac || r >= 0xae && r <= 0xff) {
			r = next
			next++
		}
		to[i] = string(r)
		from[r] = byte(i)
	}
	return to, from
}()

// bytesWritten writes a word's bytes as characters.
func bytesWritten(s string) string {
	var b strings.Builder
	b.Grow(2 * len(s))
	for i := range len(s) {
		b.WriteString(byteText[s[i]])
	}
	return b.String()
}

// bytesOf reverses bytesWritten; other characters stay as they are.
func bytesOf(s string) string {
	var b strings.Builder
	for _, r := range s {
		if c, ok := textByte[r]; ok {
			b.WriteByte(c)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
