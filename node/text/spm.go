package text

import (
	"container/heap"
	"fmt"
	"unicode/utf8"
)

// spm is SentencePiece's BPE: neighbours merge in the order of the scores of
// what they make, and what is in no token falls back to bytes.
type spm struct {
	t      *Tokenizer
	scores []float32
}

func (t *Tokenizer) setSPM(md Metadata) error {
	s := &spm{t: t, scores: make([]float32, len(t.tokens))}
	scores, _ := md.Value("tokenizer.ggml.scores").([]float32)
	if len(scores) == 0 {
		return fmt.Errorf("%w: the file has no scores (tokenizer.ggml.scores)", ErrVocabulary)
	}
	copy(s.scores, scores)
	for i := range t.bytes {
		t.bytes[i] = -1
		if id, ok := t.ids[fmt.Sprintf("<0x%02X>", i)]; ok {
			t.bytes[i] = id
		} else if id, ok := t.ids[string([]byte{byte(i)})]; ok {
			t.bytes[i] = id
		}
	}
	t.spm, t.addSpace, t.addBOS = true, true, true
	flag(md, "tokenizer.ggml.add_space_prefix", &t.addSpace)
	if len(t.tokens) > 2 { // SentencePiece's own numbering, for files that name none
		t.bos, t.eos = 1, 2
	}
	t.algorithm = s
	return nil
}

type scored struct {
	left, right int
	score       float32
	size        int
}

// bests is a heap: the highest score first, of equals the leftmost.
type bests []scored

func (p bests) Len() int { return len(p) }
func (p bests) Less(i, j int) bool {
	return p[i].score > p[j].score || p[i].score == p[j].score && p[i].left < p[j].left
}
func (p bests) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *bests) Push(x any)   { *p = append(*p, x.(scored)) }
func (p *bests) Pop() any {
	old := *p
	x := old[len(old)-1]
	*p = old[:len(old)-1]
	return x
}

func (s *spm) split(out []int32, text string) []int32 {
	type sym struct{ at, n, prev, next int }
	var syms []sym
	for at := 0; at < len(text); {
		_, n := utf8.DecodeRuneInString(text[at:])
		syms = append(syms, sym{at, n, len(syms) - 1, len(syms) + 1})
		at += n
	}
	if len(syms) == 0 {
		return out
	}
	syms[len(syms)-1].next = -1
	var queue bests
	add := func(l, r int) {
		if l < 0 || r < 0 {
			return
		}
		a, b := syms[l], syms[r]
		if id, ok := s.t.ids[text[a.at:b.at+b.n]]; ok {
			heap.Push(&queue, scored{l, r, s.scores[id], a.n + b.n})
		}
	}
	for i := 1; i < len(syms); i++ {
		add(i-1, i)
	}
	for queue.Len() > 0 {
		p := heap.Pop(&queue).(scored)
		l, r := &syms[p.left], &syms[p.right]
		if l.n == 0 || r.n == 0 || l.n+r.n != p.size {
			continue // one of them has merged otherwise since
		}
		l.n += r.n
		r.n = 0
		l.next = r.next
		if r.next >= 0 {
			syms[r.next].prev = p.left
		}
		add(l.prev, p.left)
		add(p.left, l.next)
	}
	for i := 0; i >= 0; i = syms[i].next {
		word := text[syms[i].at:][:syms[i].n]
		if id, ok := s.t.ids[word]; ok {
			out = append(out, id)
			continue
		}
		for _, c := range []byte(word) {
			if id := s.t.bytes[c]; id >= 0 {
				out = append(out, id)
			} else if id, ok := s.t.ids["<unk>"]; ok {
				out = append(out, id)
			}
		}
	}
	return out
}
