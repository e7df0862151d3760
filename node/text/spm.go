package text

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// spm is SentencePiece's BPE: neighbours merge in the order of their results'
// scores, and text that is in no token falls back to bytes.
type spm struct {
	t      *Tokenizer
	scores []float32
}

func (t *Tokenizer) setSPM(md Metadata) error {
	scores, err := perToken(md, "tokenizer.ggml.scores", len(t.tokens), score)
	if err != nil {
		return err
	}
	if scores == nil { // as llama.cpp does; see Doubts
		scores = make([]float32, len(t.tokens))
	}
	s := &spm{t: t, scores: scores}
	for i := range t.bytes {
		if t.bytes[i] = t.find(fmt.Sprintf("<0x%02X>", i)); t.bytes[i] < 0 {
			t.bytes[i] = t.find(string([]byte{byte(i)}))
		}
	}
	t.escape, t.addSpace, t.addBOS = true, true, true
	if err := errors.Join(flag(md, "tokenizer.ggml.add_space_prefix", &t.addSpace), flag(md, "tokenizer.ggml.remove_extra_whitespaces", &t.squeeze)); err != nil {
		return err
	}
	t.trim = t.addSpace
	if len(t.tokens) > 2 { // SentencePiece's own numbering, for files that name no IDs
		t.bos, t.eos = 1, 2
		t.eog[t.eos] = true
	}
	t.algorithm = s
	return nil
}

func score(v any) (float32, bool) {
	f, ok := number(v)
	return float32(f), ok
}

func (s *spm) split(out []int32, text string, on *patience) ([]int32, error) {
	m := &merger{join: func(l, r symbol) (int32, float64, bool) {
		id, ok := s.t.ids[text[l.at:r.at+r.size]]
		if !ok {
			return 0, 0, false
		}
		key := -float64(s.scores[id])
		if math.IsNaN(key) { // NaN cannot be ordered
			key = math.Inf(1)
		}
		return id, key, true
	}}
	for at := 0; at < len(text); {
		_, n := utf8.DecodeRuneInString(text[at:])
		m.add(n, s.t.find(text[at:at+n]))
		at += n
	}
	if err := m.merge(on); err != nil {
		return nil, err
	}
	unk, unknown := s.t.find("<unk>"), false // unknown: the symbol before was
	m.each(func(y symbol) {
		if y.id >= 0 {
			out, unknown = append(out, y.id), false
			return
		}
		written := []byte(text[y.at : y.at+y.size])
		if slices.ContainsFunc(written, func(c byte) bool { return s.t.bytes[c] < 0 }) { // a vocabulary without bytes
			if unk >= 0 && !unknown {
				out = append(out, unk)
			}
			unknown = true
			return
		}
		unknown = false
		for _, c := range written {
			out = append(out, s.t.bytes[c])
		}
	})
	return out, nil
}

// squeezed removes blanks at a text's ends and repeated ones, as SentencePiece does
// where a model asks for it.
func squeezed(s string) string {
	s = strings.TrimRight(strings.TrimLeft(s, " "), " ▁")
	var b strings.Builder
	for i := range len(s) {
		if s[i] != ' ' || s[i-1] != ' ' {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
