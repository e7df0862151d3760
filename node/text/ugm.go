package text

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// ugm is SentencePiece's unigram model: of all ways to write a text with tokens, the one
// with the highest sum of scores.
type ugm struct {
	t        *Tokenizer
	tokens   prefixes
	scores   []float32
	charsmap charsmap
	least    float64 // score of a character that is in no token
	unknown  int32
	prefix   bool // a space is put before a text
	squeeze  bool // blanks between words count as one, and those around them not at all
}

// unknownPenalty is how much less an unknown character scores than the worst token.
const unknownPenalty = 10

func (t *Tokenizer) setUGM(md Metadata) error {
	scores, err := perToken(md, "tokenizer.ggml.scores", len(t.tokens), score)
	if err != nil {
		return err
	}
	if scores == nil {
		return fmt.Errorf("%w: the file has no scores (tokenizer.ggml.scores)", ErrVocabulary)
	}
	u := &ugm{t: t, tokens: t.entries(), scores: scores}
	worst := float32(math.MaxFloat32)
	for i, k := range t.types {
		if math.IsNaN(float64(scores[i])) {
			scores[i] = -math.MaxFloat32
		}
		if k == typeNormal {
			worst = min(worst, scores[i])
		}
	}
	u.least = float64(worst - unknownPenalty)
	if u.unknown = t.special(md, "unknown", 2); u.unknown < 0 {
		return fmt.Errorf("%w: the file has no token for what is unknown (tokenizer.ggml.unknown_token_id)", ErrVocabulary)
	}
	if u.charsmap, err = readCharsmap(md.Value("tokenizer.ggml.precompiled_charsmap")); err != nil {
		return err
	}
	t.eos, t.addEOS = t.special(md, "eos", 1), true
	t.unescape, t.algorithm = true, u
	err = errors.Join(flag(md, "tokenizer.ggml.add_space_prefix", &u.prefix), flag(md, "tokenizer.ggml.remove_extra_whitespaces", &u.squeeze))
	t.trim = u.prefix || u.squeeze
	return err
}

// normalized writes a text as the model was trained with: characters replaced by the
// file's table, a space as ▁, one before the text, and only one between words where the
// model asks for that. The table comes with the model: a text that it makes too long is
// an error.
func (u *ugm) normalized(text string, on *patience) (string, error) {
	var b strings.Builder
	b.Grow(len(text) + len(text)/4)
	begun, word := false, false // begun: there is a ▁ before the first word; word: inside one
	for len(text) > 0 {
		if err := on.err(); err != nil {
			return "", err
		}
		if b.Len() > 2*maxText {
			return "", fmt.Errorf("a text of more than %d MiB after the model's replacements", 2*maxText>>20)
		}
		from, size := u.charsmap.replace(text)
		if size == 0 {
			r, n := utf8.DecodeRuneInString(text)
			from, size = string(r), n
		}
		text = text[size:]
		for i := range len(from) {
			switch c := from[i]; {
			case c != ' ':
				if !word {
					if u.squeeze || u.prefix && !begun {
						b.WriteString("▁")
						begun = true
					}
					word = true
				}
				b.WriteByte(c)
			default:
				word = false
				if !u.squeeze {
					b.WriteString("▁")
				}
			}
		}
	}
	return b.String(), nil
}

func (u *ugm) split(out []int32, text string, on *patience) ([]int32, error) {
	text, err := u.normalized(text, on)
	if err != nil {
		return nil, err
	}
	type best struct {
		sum  float64
		from int32
		id   int32
	}
	ways := make([]best, len(text)+1)
	for i := range ways {
		ways[i].sum = -math.MaxFloat64
	}
	ways[0].sum = 0
	for at := 0; at < len(text); {
		if err := on.err(); err != nil {
			return nil, err
		}
		here := ways[at].sum
		_, char := utf8.DecodeRuneInString(text[at:])
		known := false
		take := func(id int32, size int, score float64) {
			if to := &ways[at+size]; here+score > to.sum {
				*to = best{here + score, int32(at), id}
			}
		}
		u.tokens.each(text[at:], func(id int32, size int) bool {
			score := float64(u.scores[id])
			if u.t.types[id] == typeUser {
				score = 0
			}
			known = known || size == char
			take(id, size, score)
			return true
		})
		if !known {
			take(u.unknown, char, u.least)
		}
		at += char
	}
	first := len(out)
	for at := len(text); at > 0; at = int(ways[at].from) {
		id := ways[at].id
		if id != u.unknown || len(out) == first || out[len(out)-1] != id { // several unknown characters are one token
			out = append(out, id)
		}
	}
	slices.Reverse(out[first:])
	return out, nil
}

// charsmap is SentencePiece's table of replacements: a trie of what to replace, as an
// XOR-compressed double array, and the texts to put in its place, each ended by a zero
// byte.
type charsmap struct {
	nodes []uint32
	texts string
}

func readCharsmap(v any) (charsmap, error) {
	var raw []byte
	switch v := v.(type) {
	case nil:
		return charsmap{}, nil
	case []uint8:
		raw = v
	case []int8:
		raw = make([]byte, len(v))
		for i, c := range v {
			raw[i] = byte(c)
		}
	default:
		if list, ok := v.([]string); ok && len(list) == 0 { // an empty list has any type
			return charsmap{}, nil
		}
		return charsmap{}, wrongType("tokenizer.ggml.precompiled_charsmap", "a list of bytes", v)
	}
	if len(raw) == 0 {
		return charsmap{}, nil
	}
	size := uint64(0)
	if len(raw) >= 4 {
		size = uint64(binary.LittleEndian.Uint32(raw))
	}
	if size+4 >= uint64(len(raw)) {
		return charsmap{}, fmt.Errorf("%w: tokenizer.ggml.precompiled_charsmap is cut off", ErrVocabulary)
	}
	m := charsmap{nodes: make([]uint32, size/4), texts: string(raw[4+size:])}
	for i := range m.nodes {
		m.nodes[i] = binary.LittleEndian.Uint32(raw[4+4*i:])
	}
	return m, nil
}

// replace returns what stands for the longest beginning of a text that the table has,
// and that beginning's length; 0: none.
func (m *charsmap) replace(text string) (by string, size int) {
	if len(m.nodes) == 0 {
		return "", 0
	}
	// A node has its offset in bits 10 to 30, shifted by eight if bit 9 is set; its
	// label in the lowest byte; and bit 8 set if a key ends there, whose value is the
	// node at the offset.
	offset := func(n uint32) uint32 { return n >> 10 << (n >> 6 & 8) }
	at, value := offset(m.nodes[0]), uint32(math.MaxUint32)
	for i := range len(text) {
		c := uint32(text[i])
		at ^= c
		if c == 0 || int(at) >= len(m.nodes) || m.nodes[at]&(1<<31|0xff) != c {
			break
		}
		n := m.nodes[at]
		at ^= offset(n)
		if n>>8&1 == 1 {
			if int(at) >= len(m.nodes) {
				break
			}
			value, size = m.nodes[at]&(1<<31-1), i+1
		}
	}
	if size == 0 || uint64(value) >= uint64(len(m.texts)) {
		return "", 0
	}
	by, _, ended := strings.Cut(m.texts[value:min(uint64(len(m.texts)), uint64(value)+1024)], "\x00")
	if !ended {
		return "", 0
	}
	return by, size
}
