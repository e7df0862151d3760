package texts

import "regexp"

// Vocabulary are the tokens of texts: all bytes, and pieces of words of at most five
// letters. A text is cut from its beginning into the longest tokens that there are.
type Vocabulary struct {
	Pieces []string // by token; the first 256 are the bytes
	ids    map[string]int32
	most   int // bytes of a piece
}

var piece = regexp.MustCompile(`\s?[A-Za-z]{1,5}|\s?\d{1,3}|\n[ \t]*|[ \t]+|\s?[^\sA-Za-z\d]`)

// NewVocabulary makes the vocabulary of texts.
func NewVocabulary(kinds []Kind) *Vocabulary {
	v := &Vocabulary{ids: map[string]int32{}}
	add := func(p string) {
		if _, ok := v.ids[p]; !ok {
			v.ids[p] = int32(len(v.Pieces))
			v.Pieces = append(v.Pieces, p)
			v.most = max(v.most, len(p))
		}
	}
	for b := range 256 {
		add(string([]byte{byte(b)}))
	}
	for _, k := range kinds {
		for _, t := range k.Texts {
			for _, s := range []string{t.Prompt, t.Expected, t.Answer} {
				for _, p := range piece.FindAllString(s, -1) {
					add(p)
				}
			}
		}
	}
	return v
}

// Tokens are the tokens of a text.
func (v *Vocabulary) Tokens(text string) (out []int32) {
	for len(text) > 0 {
		for n := min(v.most, len(text)); ; n-- {
			if id, ok := v.ids[text[:n]]; ok {
				out, text = append(out, id), text[n:]
				break
			}
		}
	}
	return out
}
