package text

import (
	"container/heap"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// bpe is byte-level BPE: text is split into words, each word's bytes are
// written as characters of their own, and neighbours merge in the order of the
// list of merges.
type bpe struct {
	t            *Tokenizer
	splits       []*regexp2.Regexp
	ranks        map[[2]string]int
	ignoreMerges bool // a word that is a token needs no merges
}

func (t *Tokenizer) setBPE(md Metadata, pre string) error {
	merges, _ := md.Value("tokenizer.ggml.merges").([]string)
	if len(merges) == 0 {
		return fmt.Errorf("%w: the file has no merges (tokenizer.ggml.merges)", ErrVocabulary)
	}
	b := &bpe{t: t, ranks: make(map[[2]string]int, len(merges))}
	for i, m := range merges {
		// The first space may be part of the left half.
		if len(m) == 0 {
			continue
		}
		at := strings.IndexByte(m[1:], ' ')
		if at < 0 {
			continue
		}
		key := [2]string{m[:at+1], m[at+2:]}
		if _, twice := b.ranks[key]; !twice {
			b.ranks[key] = i
		}
	}
	kind, known := preTypes[pre]
	if !known {
		kind = preTypes["default"]
		t.unknownPre = pre
	}
	for _, expr := range kind.exprs {
		re, err := regexp2.Compile(expr, regexp2.None)
		if err != nil {
			return fmt.Errorf("pre-tokenizer %q: %w", pre, err)
		}
		re.MatchTimeout = 10 * time.Second
		b.splits = append(b.splits, re)
	}
	b.ignoreMerges = kind.ignoreMerges
	t.addBOS = kind.addBOS
	for i := range t.bytes {
		t.bytes[i] = -1
		if id, ok := t.ids[byteText[i]]; ok {
			t.bytes[i] = id
		}
	}
	// Defaults of GPT-2's vocabulary, for files that name none.
	t.bos, t.eos = -1, -1
	if len(t.tokens) > 11 {
		t.bos, t.eos = 11, 11
	}
	t.algorithm = b
	return nil
}

func (b *bpe) split(out []int32, text string) []int32 {
	for _, word := range b.words(text) {
		out = b.merge(out, word)
	}
	return out
}

// words splits a text by all expressions in turn. Bytes that are not UTF-8
// stand alone, as characters of no class.
func (b *bpe) words(text string) []string {
	runes := make([]rune, 0, len(text))
	var invalid map[int]byte
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 {
			if invalid == nil {
				invalid = map[int]byte{}
			}
			invalid[len(runes)] = text[i]
		}
		runes = append(runes, r)
		i += n
	}
	type run struct{ from, to int }
	runs := []run{{0, len(runes)}}
	for _, re := range b.splits {
		var next []run
		for _, r := range runs {
			part := runes[r.from:r.to]
			at := 0
			m, err := re.FindRunesMatch(part)
			for ; err == nil && m != nil; m, err = re.FindNextMatch(m) {
				if m.Index > at {
					next = append(next, run{r.from + at, r.from + m.Index})
				}
				if m.Length > 0 {
					next = append(next, run{r.from + m.Index, r.from + m.Index + m.Length})
				}
				at = m.Index + m.Length
			}
			if at < len(part) {
				next = append(next, run{r.from + at, r.to})
			}
		}
		runs = next
	}
	words := make([]string, len(runs))
	var w strings.Builder
	for i, r := range runs {
		w.Reset()
		for j := r.from; j < r.to; j++ {
			if raw, ok := invalid[j]; ok {
				w.WriteByte(raw)
			} else {
				w.WriteRune(runes[j])
			}
		}
		words[i] = w.String()
	}
	return words
}

// symbol is a part of a word, in a list that merging shortens.
type symbol struct {
	text       string
	prev, next int
}

type pair struct {
	left, right int
	rank        int
	text        string
}

// pairs is a heap: the lowest rank first, of equals the leftmost.
type pairs []pair

func (p pairs) Len() int { return len(p) }
func (p pairs) Less(i, j int) bool {
	return p[i].rank < p[j].rank || p[i].rank == p[j].rank && p[i].left < p[j].left
}
func (p pairs) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *pairs) Push(x any)   { *p = append(*p, x.(pair)) }
func (p *pairs) Pop() any {
	old := *p
	x := old[len(old)-1]
	*p = old[:len(old)-1]
	return x
}

func (b *bpe) merge(out []int32, raw string) []int32 {
	var enc strings.Builder
	for i := range len(raw) {
		enc.WriteString(byteText[raw[i]])
	}
	word := enc.String()
	if b.ignoreMerges {
		if id, ok := b.t.ids[word]; ok {
			return append(out, id)
		}
	}
	syms := make([]symbol, 0, len(raw))
	for at := 0; at < len(word); {
		_, n := utf8.DecodeRuneInString(word[at:])
		syms = append(syms, symbol{word[at : at+n], len(syms) - 1, len(syms) + 1})
		at += n
	}
	if len(syms) == 0 {
		return out
	}
	syms[len(syms)-1].next = -1
	var queue pairs
	add := func(left, right int) {
		if left < 0 || right < 0 {
			return
		}
		if rank, ok := b.ranks[[2]string{syms[left].text, syms[right].text}]; ok {
			heap.Push(&queue, pair{left, right, rank, syms[left].text + syms[right].text})
		}
	}
	for i := 1; i < len(syms); i++ {
		add(i-1, i)
	}
	for queue.Len() > 0 {
		p := heap.Pop(&queue).(pair)
		l, r := &syms[p.left], &syms[p.right]
		if l.text == "" || r.text == "" || l.text+r.text != p.text {
			continue // one of them has merged otherwise since
		}
		l.text, r.text = p.text, ""
		l.next = r.next
		if r.next >= 0 {
			syms[r.next].prev = p.left
		}
		add(l.prev, p.left)
		add(p.left, l.next)
	}
	for i := 0; i >= 0; i = syms[i].next {
		if id, ok := b.t.ids[syms[i].text]; ok {
			out = append(out, id)
			continue
		}
		for _, c := range []byte(bytesOf(syms[i].text)) {
			if id := b.t.bytes[c]; id >= 0 {
				out = append(out, id)
			}
		}
	}
	return out
}

// byteText writes each byte as a character, as GPT-2 does: printable ones of
// Latin-1 as themselves, the others from U+0100 on.
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

// bytesOf undoes byteText; what is not of it stays.
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
