package text

import (
	"errors"
	"slices"
	"strings"
	"unicode"
)

// blankless is byte-level BPE over a text's words without the blanks between them
// (jina-embeddings-v2-base-zh).
type blankless struct {
	*bpe
	lower bool
}

func (t *Tokenizer) setBlankless(md Metadata, pre string) error {
	s := &blankless{lower: pre != "whitespace"}
	err := errors.Join(t.setBPE(md, pre), flag(md, "tokenizer.ggml.normalizer.lowercase", &s.lower))
	s.bpe, _ = t.algorithm.(*bpe)
	t.algorithm = s
	return err
}

func (s *blankless) split(out []int32, text string, on *patience) ([]int32, error) {
	if s.lower {
		text = strings.Map(unicode.ToLower, text)
	}
	var err error
	for _, word := range strings.Fields(text) {
		if out, err = s.bpe.split(out, word, on); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// dna is byte-level BPE in which what stands between <dna> and </dna> is written with
// tokens of six bases.
type dna struct {
	*bpe
	begin, end, other int32 // other: what is not six bases
}

// Bases per token, and what marks such tokens among the others in a file's list.
const (
	dnaBases  = 6
	dnaMarker = "\ue000"
)

func (t *Tokenizer) setDNA(md Metadata, pre string) error {
	if err := t.setBPE(md, pre); err != nil {
		return err
	}
	b := t.algorithm.(*bpe)
	d := &dna{b, t.find("<dna>"), t.find("</dna>"), t.find("<oov>")}
	if d.begin < 0 || d.end < 0 || d.other < 0 {
		return nil
	}
	t.tokens = slices.Clone(t.tokens)
	for i := int(d.other) + 1; i < len(t.tokens); i++ {
		t.tokens[i] = strings.TrimSuffix(t.tokens[i], dnaMarker)
	}
	t.algorithm = d
	return nil
}

func (d *dna) split(out []int32, text string, on *patience) ([]int32, error) {
	for text != "" {
		before, rest, found := strings.Cut(text, "<dna>")
		var err error
		if before != "" {
			if out, err = d.bpe.split(out, before, on); err != nil {
				return nil, err
			}
		}
		if !found {
			break
		}
		inside, rest, closed := strings.Cut(rest, "</dna>")
		out = d.bases(append(out, d.begin), inside)
		if closed {
			out = append(out, d.end)
		}
		text = rest
	}
	return out, nil
}

// bases appends the tokens of a sequence of bases; the last one is filled up with A.
func (d *dna) bases(out []int32, sequence string) []int32 {
	for sequence != "" {
		n := min(dnaBases, len(sequence))
		six := []byte(sequence[:n] + strings.Repeat("A", dnaBases-n))
		for i, c := range six {
			if 'a' <= c && c <= 'z' {
				six[i] = c - 'a' + 'A'
			}
		}
		id := d.t.find(string(six) + dnaMarker)
		if id < 0 {
			id = d.other
		}
		out, sequence = append(out, id), sequence[n:]
	}
	return out
}

// spaced cuts words before each ▁, and puts one before a word that has none.
func spaced(words []string) (out []string) {
	for _, word := range words {
		if strings.Trim(word, "\n") == "" {
			out = append(out, word)
			continue
		}
		word = strings.TrimPrefix(word, "▁")
		for _, part := range strings.Split(word, "▁") {
			out = append(out, "▁"+part)
		}
	}
	return out
}
