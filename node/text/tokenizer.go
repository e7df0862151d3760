package text

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Metadata of a GGUF file.
type Metadata interface {
	Value(key string) any // nil if there is none
}

// ErrVocabulary is wrapped when the metadata holds no tokenizer that works.
var ErrVocabulary = errors.New("no usable tokenizer")

// Token types of GGUF.
const (
	typeNormal = iota + 1
	typeUnknown
	typeControl
	typeUser
	typeUnused
	typeByte
)

// splitter makes tokens of a piece of text in which there are no special ones.
type splitter interface {
	split(out []int32, text string) []int32
}

// Tokenizer of one vocabulary. It is safe for use by many at once.
type Tokenizer struct {
	tokens  []string
	types   []int32
	ids     map[string]int32
	bytes   [256]int32 // of a byte alone; -1: none
	special []int32    // tokens that text is searched for, the longest first
	rstrip  map[int32]bool
	eog     map[int32]bool

	spm            bool
	bos, eos       int32 // -1: none
	addBOS, addEOS bool
	addSpace       bool
	algorithm      splitter
	unknownPre     string
}

// EncodeOptions of Encode.
type EncodeOptions struct {
	AddSpecial   bool // begin and end the sequence as the model expects
	ParseSpecial bool // take control tokens written out in the text as such
}

// New makes a tokenizer of a GGUF file's metadata, which may hold nothing but
// the vocabulary.
func New(md Metadata) (*Tokenizer, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrVocabulary, fmt.Sprintf(format, args...))
	}
	t := &Tokenizer{ids: map[string]int32{}, rstrip: map[int32]bool{}, eog: map[int32]bool{}, bos: -1, eos: -1}
	t.tokens, _ = md.Value("tokenizer.ggml.tokens").([]string)
	if len(t.tokens) == 0 {
		return nil, bad("the file has no vocabulary (tokenizer.ggml.tokens)")
	}
	t.types = make([]int32, len(t.tokens))
	for i := range t.types {
		t.types[i] = typeNormal
	}
	for i, k := range ints(md.Value("tokenizer.ggml.token_type")) {
		if i < len(t.types) {
			t.types[i] = int32(k)
		}
	}
	for i, s := range t.tokens {
		if _, twice := t.ids[s]; !twice {
			t.ids[s] = int32(i)
		}
	}
	model, _ := md.Value("tokenizer.ggml.model").(string)
	pre, _ := md.Value("tokenizer.ggml.pre").(string)
	var err error
	switch model {
	case "gpt2":
		err = t.setBPE(md, pre)
	case "llama":
		err = t.setSPM(md)
	case "":
		return nil, bad("the file names no tokenizer (tokenizer.ggml.model)")
	default:
		return nil, bad("tokenizer %q; known are gpt2 (byte-level BPE) and llama (SentencePiece)", model)
	}
	if err != nil {
		return nil, err
	}
	flag(md, "tokenizer.ggml.add_bos_token", &t.addBOS)
	flag(md, "tokenizer.ggml.add_eos_token", &t.addEOS)
	t.setSpecial(md)
	return t, nil
}

func flag(md Metadata, key string, to *bool) {
	if v, ok := md.Value(key).(bool); ok {
		*to = v
	}
}

// id reads a token ID, -1 if there is none or it is out of range.
func (t *Tokenizer) id(md Metadata, key string) int32 {
	for _, v := range ints([]any{md.Value(key)}) {
		if v >= 0 && v < int64(len(t.tokens)) {
			return int32(v)
		}
	}
	return -1
}

// ints reads a list of integers of any width.
func ints(v any) []int64 {
	var out []int64
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			switch x := x.(type) {
			case uint32:
				out = append(out, int64(x))
			case int32:
				out = append(out, int64(x))
			case uint64:
				out = append(out, int64(min(x, 1<<62)))
			case int64:
				out = append(out, x)
			case uint16:
				out = append(out, int64(x))
			case uint8:
				out = append(out, int64(x))
			}
		}
	case []int32:
		for _, x := range v {
			out = append(out, int64(x))
		}
	case []uint32:
		for _, x := range v {
			out = append(out, int64(x))
		}
	case []int64:
		out = v
	}
	return out
}

// endings are texts of tokens that end an answer, whatever the metadata says.
var endings = []string{
	"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
	"<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "< EOT >", "_<EOT>", "<EOT>", "[EOT]", "[EOS]",
	"<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|END_OF_TURN_TOKEN|>", "<turn|>",
}

func (t *Tokenizer) setSpecial(md Metadata) {
	if id := t.id(md, "tokenizer.ggml.bos_token_id"); id >= 0 {
		t.bos = id
	}
	if id := t.id(md, "tokenizer.ggml.eos_token_id"); id >= 0 {
		t.eos = id
	}
	for _, k := range []string{"eos", "eot", "eom"} {
		if id := t.id(md, "tokenizer.ggml."+k+"_token_id"); id >= 0 {
			t.eog[id] = true
		}
	}
	for _, id := range ints(md.Value("tokenizer.ggml.eos_token_ids")) {
		if id >= 0 && id < int64(len(t.tokens)) {
			t.eog[int32(id)] = true
		}
	}
	for _, s := range endings {
		if id, ok := t.ids[s]; ok {
			t.eog[id] = true
			if t.types[id] == typeNormal { // some files forget to mark them
				t.types[id] = typeControl
			}
		}
	}
	// gpt-oss ends messages, not answers, with <|end|>.
	if end, ok := t.ids["<|end|>"]; ok {
		_, ret := t.ids["<|return|>"]
		_, call := t.ids["<|call|>"]
		if ret && call {
			delete(t.eog, end)
		}
	}
	for i, k := range t.types {
		if (k == typeControl || k == typeUser || k == typeUnknown) && t.tokens[i] != "" {
			t.special = append(t.special, int32(i))
		}
	}
	slices.SortStableFunc(t.special, func(a, b int32) int { return len(t.tokens[b]) - len(t.tokens[a]) })
	name, _ := md.Value("general.name").(string)
	if name = strings.ToLower(name); strings.Contains(name, "phi-3") || strings.Contains(name, "phi3") {
		for _, id := range t.special {
			t.rstrip[id] = true
		}
		for _, s := range []string{"<unk>", "<s>", "<|endoftext|>"} {
			if id, ok := t.ids[s]; ok {
				t.rstrip[id] = false
			}
		}
	}
}

// piece is a run of plain text, or a token that stood in it.
type piece struct {
	text  string
	token int32 // -1: text
}

// partition finds special tokens in a text, the longest first, as llama.cpp
// does: control tokens only if asked to, user-defined ones always.
func (t *Tokenizer) partition(text string, control bool) []piece {
	pieces := []piece{{text, -1}}
	if text == "" {
		return pieces
	}
	for _, id := range t.special {
		if k := t.types[id]; !control && (k == typeControl || k == typeUnknown) {
			continue
		}
		word := t.tokens[id]
		if !strings.Contains(text, word) {
			continue
		}
		var next []piece
		for _, p := range pieces {
			if p.token >= 0 {
				next = append(next, p)
				continue
			}
			rest := p.text
			for {
				i := strings.Index(rest, word)
				if i < 0 {
					break
				}
				if i > 0 {
					next = append(next, piece{rest[:i], -1})
				}
				next = append(next, piece{"", id})
				rest = rest[i+len(word):]
				if t.rstrip[id] {
					rest = strings.TrimLeft(rest, " \t\n\v\f\r")
				}
			}
			if rest != "" {
				next = append(next, piece{rest, -1})
			}
		}
		pieces = next
	}
	return pieces
}

// maxText is the longest text that is tokenized at once, in bytes.
const maxText = 64 << 20

// Encode gives a text's tokens.
func (t *Tokenizer) Encode(text string, opt EncodeOptions) ([]int32, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("a text of %d MiB; %d are possible", len(text)>>20, maxText>>20)
	}
	var out []int32
	if opt.AddSpecial && t.addBOS && t.bos >= 0 {
		out = append(out, t.bos)
	}
	afterSpecial := true
	for _, p := range t.partition(text, opt.ParseSpecial) {
		if p.token >= 0 {
			out = append(out, p.token)
			afterSpecial = true
			continue
		}
		if p.text == "" {
			continue
		}
		s := p.text
		if t.spm {
			if t.addSpace && afterSpecial {
				s = " " + s
			}
			s = strings.ReplaceAll(s, " ", "▁")
		}
		out = t.algorithm.split(out, s)
		afterSpecial = false
	}
	if opt.AddSpecial && t.addEOS && t.eos >= 0 {
		out = append(out, t.eos)
	}
	return out, nil
}

// VocabSize is the number of tokens.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// IsEOG says that a token ends an answer.
func (t *Tokenizer) IsEOG(id int32) bool { return t.eog[id] }

// EOG lists the tokens that end an answer.
func (t *Tokenizer) EOG() []int32 {
	out := make([]int32, 0, len(t.eog))
	for id := range t.eog {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// BOS is the token that begins a sequence, if the model has one.
func (t *Tokenizer) BOS() (int32, bool) { return t.bos, t.bos >= 0 }

// IsControl says that a token is not text.
func (t *Tokenizer) IsControl(id int32) bool {
	return id >= 0 && int(id) < len(t.types) && (t.types[id] == typeControl || t.types[id] == typeUnknown)
}

// UnknownPre is the name of a pre-tokenizer that is not known, for which
// llama.cpp's default stands in; "" if all is well.
func (t *Tokenizer) UnknownPre() string { return t.unknownPre }

// raw is a token's bytes; those of a control token only if asked for.
func (t *Tokenizer) raw(id int32, special bool) string {
	if id < 0 || int(id) >= len(t.tokens) {
		return ""
	}
	s := t.tokens[id]
	switch t.types[id] {
	case typeControl, typeUnknown:
		if !special {
			return ""
		}
		return s
	case typeUser:
		if t.spm {
			return strings.ReplaceAll(s, "▁", " ")
		}
		return s
	case typeByte:
		if b, ok := hexByte(s); ok {
			return string([]byte{b})
		}
	}
	if t.spm {
		return strings.ReplaceAll(s, "▁", " ")
	}
	return bytesOf(s)
}

// hexByte reads "<0x0A>".
func hexByte(s string) (byte, bool) {
	var b byte
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	_, err := fmt.Sscanf(s[3:5], "%02X", &b)
	return b, err == nil
}

// Token is a token's text; bytes that are no text come as U+FFFD.
func (t *Tokenizer) Token(id int32) string { return strings.ToValidUTF8(t.raw(id, true), "�") }

// Bytes are a token's own, which need not be whole characters.
func (t *Tokenizer) Bytes(id int32) []byte { return []byte(t.raw(id, true)) }

// Decode gives the text of tokens, without the space that the tokenizer puts
// in front.
func (t *Tokenizer) Decode(ids []int32, special bool) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(t.raw(id, special))
	}
	s := b.String()
	if t.spm && t.addSpace {
		s = strings.TrimPrefix(s, " ")
	}
	return strings.ToValidUTF8(s, "�")
}

// Decoder makes text of tokens as they come, and never gives half a
// character. The text goes on from a prompt, so its first space stays.
type Decoder struct {
	t    *Tokenizer
	held []byte
}

// NewDecoder begins an answer.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t} }

// Push gives the text that is whole with one more token.
func (d *Decoder) Push(id int32) string {
	d.held = append(d.held, d.t.raw(id, false)...)
	n := len(d.held)
	// At most three bytes at the end can be the beginning of a character.
	for i := 1; i <= 3 && i <= n; i++ {
		if b := d.held[n-i]; utf8.RuneStart(b) {
			if b >= utf8.RuneSelf && !utf8.FullRune(d.held[n-i:]) {
				n -= i
			}
			break
		}
	}
	out := strings.ToValidUTF8(string(d.held[:n]), "�")
	d.held = append(d.held[:0], d.held[n:]...)
	return out
}

// Flush gives what is left when the answer ends.
func (d *Decoder) Flush() string {
	out := strings.ToValidUTF8(string(d.held), "�")
	d.held = nil
	return out
}

// Stops looks for stop sequences in text that comes in pieces.
type Stops struct {
	stops []string
	held  string
	done  bool
}

// NewStops makes a search for the given sequences.
func NewStops(stops []string) *Stops {
	return &Stops{stops: slices.DeleteFunc(slices.Clone(stops), func(s string) bool { return s == "" })}
}

// Push gives the text that can be no part of a stop sequence any more, and
// whether one was met, of which nothing is given.
func (s *Stops) Push(text string) (out string, stopped bool) {
	if s.done {
		return "", true
	}
	s.held += text
	at := -1
	for _, stop := range s.stops {
		if i := strings.Index(s.held, stop); i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at >= 0 {
		out, s.held, s.done = s.held[:at], "", true
		return out, true
	}
	keep := 0
	for _, stop := range s.stops {
		for n := min(len(stop)-1, len(s.held)); n > keep; n-- {
			if strings.HasSuffix(s.held, stop[:n]) {
				keep = n
				break
			}
		}
	}
	out, s.held = s.held[:len(s.held)-keep], s.held[len(s.held)-keep:]
	return out, false
}

// Flush gives what was held back when no more comes.
func (s *Stops) Flush() string {
	out := s.held
	s.held = ""
	return out
}
