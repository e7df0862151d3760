package text

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Metadata is the metadata of a GGUF file.
type Metadata interface {
	Value(key string) any // nil: no such key
}

// ErrVocabulary is wrapped when the metadata has no usable tokenizer.
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

// splitter tokenizes a piece of text that contains no special tokens.
type splitter interface {
	split(out []int32, text string, on *patience) ([]int32, error)
}

// patience ends work on a text when its context ends: it is called at every
// step, and checks the context only now and then.
type patience struct {
	ctx   context.Context
	steps int
}

func (p *patience) err() error {
	if p.steps++; p.steps%1024 != 0 {
		return nil
	}
	return p.ctx.Err()
}

// Tokenizer is the tokenizer of one vocabulary. It is safe for concurrent use.
type Tokenizer struct {
	tokens    []string
	types     []int32
	ids       map[string]int32
	bytes     [256]int32 // the token of a single byte; -1: none
	user, all trie       // tokens to search for in text: user-defined ones; those and control tokens
	lstrip    map[int32]bool
	rstrip    map[int32]bool
	eog       map[int32]bool

	bos, eos, sep        int32 // -1: none
	addBOS, addEOS       bool
	alwaysBOS, alwaysEOS bool // whatever the file says
	addSEP               bool // between the two texts of a pair
	escape               bool // a text's spaces are written as ▁, and tokens, too
	unescape             bool // tokens write a space as ▁
	verbatim             bool // tokens are written as they are
	addSpace             bool // a space that is not shown is put before a text
	trim                 bool // a text's first space is not shown
	squeeze              bool // spaces at a text's ends, and repeated ones, are removed
	algorithm            splitter
	longest              int // bytes of the longest token
}

// EncodeOptions are the options of Encode.
type EncodeOptions struct {
	AddSpecial   bool // begin and end the sequence as the model expects
	ParseSpecial bool // recognize control tokens that are written out in the text
}

// New makes a tokenizer from a GGUF file's metadata, of which it uses only the
// vocabulary. Errors wrap ErrVocabulary.
func New(md Metadata) (*Tokenizer, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrVocabulary, fmt.Sprintf(format, args...))
	}
	t := &Tokenizer{ids: map[string]int32{}, lstrip: map[int32]bool{}, rstrip: map[int32]bool{}, eog: map[int32]bool{}, bos: -1, eos: -1, sep: -1}
	var err error
	if t.tokens, err = texts(md, "tokenizer.ggml.tokens"); err != nil {
		return nil, err
	}
	if none := md.Value("tokenizer.ggml.model"); none == "none" || none == "no_vocab" {
		return nil, bad("the file says that the model has no vocabulary (tokenizer.ggml.model), so it can read no text")
	}
	if len(t.tokens) == 0 {
		return nil, bad("the file has no vocabulary (tokenizer.ggml.tokens)")
	}
	if t.types, err = perToken(md, "tokenizer.ggml.token_type", len(t.tokens), tokenType); err != nil {
		return nil, err
	}
	if t.types == nil {
		t.types = slices.Repeat([]int32{typeNormal}, len(t.tokens))
	}
	for i, s := range t.tokens {
		if _, twice := t.ids[s]; !twice {
			t.ids[s] = int32(i)
		}
	}
	model, err := textOf(md, "tokenizer.ggml.model")
	if err != nil {
		return nil, err
	}
	pre, err := textOf(md, "tokenizer.ggml.pre")
	if err != nil {
		return nil, err
	}
	switch model {
	case "gpt2":
		err = t.setBPE(md, pre)
	case "gemma4": // SentencePiece's handling of spaces and bytes, with a list of merges
		err = t.setBPE(md, model)
	case "llama":
		err = t.setSPM(md)
	case "bert":
		err = t.setWPM(md)
	case "t5":
		err = t.setUGM(md)
	case "rwkv":
		t.setRWKV(md)
	case "plamo2":
		err = t.setPlamo(md)
	case "whitespace":
		err = t.setBlankless(md, pre)
	case "hybriddna":
		err = t.setDNA(md, pre)
	case "":
		return nil, bad("the file names no tokenizer (tokenizer.ggml.model)")
	default:
		return nil, bad("tokenizer %q; known are bert (WordPiece), gemma4 (BPE), gpt2 (byte-level BPE), hybriddna, llama (SentencePiece), plamo2, rwkv, t5 (unigrams) and whitespace", model)
	}
	if err != nil {
		return nil, err
	}
	err = errors.Join(flag(md, "tokenizer.ggml.add_bos_token", &t.addBOS), flag(md, "tokenizer.ggml.add_eos_token", &t.addEOS), flag(md, "tokenizer.ggml.add_sep_token", &t.addSEP))
	if err != nil {
		return nil, err
	}
	t.addBOS, t.addEOS = t.addBOS || t.alwaysBOS, t.addEOS || t.alwaysEOS
	if err := t.setSpecial(md); err != nil {
		return nil, err
	}
	for id := range t.tokens {
		t.longest = max(t.longest, len(t.raw(int32(id), true)))
	}
	return t, nil
}

// tokenType converts a token's type; one that is unknown counts as normal, as in
// llama.cpp.
func tokenType(v any) (int32, bool) {
	n, ok := integer(v)
	if n < typeNormal || n > typeByte {
		n = typeNormal
	}
	return int32(n), ok
}

// find returns the token with a text, or -1.
func (t *Tokenizer) find(text string) int32 {
	if id, ok := t.ids[text]; ok {
		return id
	}
	return -1
}

// endings are the texts of tokens that end an answer, whatever the metadata
// says. In some vocabularies those in the last line are ordinary words, which
// end nothing.
var endings = []string{
	"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
	"<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "< EOT >", "_<EOT>", "<EOT>", "[EOT]", "[EOS]",
	"<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|END_OF_TURN_TOKEN|>", "<turn|>", "<|tool_response>", "[e~[",
	"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
	"</s>", "<eos>",
}

// markers are the texts of further control tokens that some files fail to mark.
var markers = []string{
	"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>",
	"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>",
	"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>",
}

// enders are the metadata keys of tokens that end an answer, without their prefix.
var enders = []string{"eos_token_id", "eos_token_ids", "eot_token_id", "eom_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"}

func (t *Tokenizer) setSpecial(md Metadata) error {
	for key, to := range map[string]*int32{"bos": &t.bos, "eos": &t.eos, "seperator": &t.sep} { // GGUF's spelling
		if key == "eos" && t.alwaysEOS { // what ends a text is not what ends an answer
			continue
		}
		id, err := firstID(md, "tokenizer.ggml."+key+"_token_id", len(t.tokens))
		if err != nil {
			return err
		}
		if id >= 0 {
			*to = id
		}
	}
	if err := t.setEndings(md); err != nil {
		return err
	}
	for _, s := range markers {
		t.mark(t.find(s))
	}
	for i, k := range t.types {
		switch s := t.tokens[i]; k {
		case typeUser:
			t.user.add(s, int32(i))
			t.all.add(s, int32(i))
		case typeControl, typeUnknown:
			t.all.add(s, int32(i))
		}
	}
	t.setStrips(md)
	return nil
}

// mark makes a token a control token.
func (t *Tokenizer) mark(id int32) {
	if id >= 0 && t.types[id] != typeUnknown {
		t.types[id] = typeControl
	}
}

func (t *Tokenizer) setEndings(md Metadata) error {
	for _, k := range enders {
		ids, err := tokenIDs(md, "tokenizer.ggml."+k, len(t.tokens))
		if err != nil {
			return err
		}
		for _, id := range ids {
			t.eog[id] = true
		}
	}
	switch t.algorithm.(type) {
	case *spm, *ugm, *plamo:
		if t.eos >= 0 {
			t.eog[t.eos] = true
		}
	}
	for _, s := range endings {
		id := t.find(s)
		if id < 0 || t.types[id] == typeNormal && (s == "</s>" || s == "<eos>") {
			continue
		}
		t.eog[id] = true
		t.mark(id)
	}
	// Some models end messages, not answers, with <|end|>.
	has := func(s string) bool { return t.find(s) >= 0 }
	if has("<|return|>") && has("<|call|>") || has("<|flush|>") && (has("<|call|>") || has("<|calls|>")) {
		delete(t.eog, t.find("<|end|>"))
	}
	if has("<|tool_response>") || has("<|plamo:eos|>") {
		delete(t.eog, t.find("</s>"))
	}
	return nil
}

// setStrips sets which tokens absorb the blanks beside them. Files do not say,
// so llama.cpp decides by the model's name.
func (t *Tokenizer) setStrips(md Metadata) {
	text := func(key string) string { s, _ := md.Value(key).(string); return strings.ToLower(s) }
	among := func(s string, words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s, w) })
	}
	switch name := text("general.name"); {
	case among(text("tokenizer.ggml.pre"), "jina-v2-de", "jina-v2-es", "jina-v2-code", "mmbert"), among(text("general.architecture"), "nomic-bert-moe", "jina-bert-v3"):
		t.lstrip[t.find("<mask>")] = true
	case among(name, "phi-3", "phi3"):
		for i, k := range t.types {
			switch k {
			case typeControl, typeUser, typeUnknown:
				t.rstrip[int32(i)] = true
			}
		}
		for _, s := range []string{"<unk>", "<s>", "<|endoftext|>"} {
			delete(t.rstrip, t.find(s))
		}
	case among(name, "modern-bert"):
		t.lstrip[t.find("[MASK]")] = true
	}
}

// maxText is the longest text that is tokenized at once, in bytes.
const maxText = 16 << 20

// Longest returns the length of the longest token in bytes, so that n tokens
// stand for at most n times as many bytes.
func (t *Tokenizer) Longest() int { return t.longest }

// Encode returns a text's tokens. It stops soon after ctx ends. Errors are a
// text over 16 MiB or one that takes too long to split, and ctx's.
func (t *Tokenizer) Encode(ctx context.Context, text string, opt EncodeOptions) ([]int32, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("a text of %d MiB; %d are possible", len(text)>>20, maxText>>20)
	}
	var out []int32
	if opt.AddSpecial && t.addBOS && t.bos >= 0 {
		out = append(out, t.bos)
	}
	afterSpecial := true
	search := &t.user
	if opt.ParseSpecial {
		search = &t.all
	}
	on := &patience{ctx: ctx}
	for _, p := range t.partition(text, search) {
		if err := on.err(); err != nil {
			return nil, err
		}
		if p.token >= 0 {
			out = append(out, p.token)
			afterSpecial = true
			continue
		}
		s := p.text
		if t.squeeze {
			if s = squeezed(s); s == "" {
				continue
			}
		}
		if t.addSpace && afterSpecial {
			s = " " + s
		}
		if t.escape {
			s = strings.ReplaceAll(s, " ", "▁")
		}
		var err error
		if out, err = t.algorithm.split(out, s, on); err != nil {
			return nil, err
		}
		afterSpecial = false
	}
	if opt.AddSpecial && t.addEOS && t.eos >= 0 {
		out = append(out, t.eos)
	}
	return out, nil
}

// VocabSize returns the number of tokens.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// EOG lists the tokens that end an answer.
func (t *Tokenizer) EOG() []int32 {
	out := make([]int32, 0, len(t.eog))
	for id := range t.eog {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// BOS returns the token that begins a sequence, if the model has one.
func (t *Tokenizer) BOS() (int32, bool) { return t.bos, t.bos >= 0 }

// SEP returns the token that stands between the two texts of a pair, beside those that
// end them, if the model expects one.
func (t *Tokenizer) SEP() (int32, bool) { return t.sep, t.addSEP && t.sep >= 0 }

// IsControl reports whether a token is a control token and not text.
func (t *Tokenizer) IsControl(id int32) bool {
	return id >= 0 && int(id) < len(t.types) && (t.types[id] == typeControl || t.types[id] == typeUnknown)
}

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
	case typeByte:
		if b, ok := hexByte(s); ok {
			return string([]byte{b})
		}
	}
	if t.escape || t.unescape && t.types[id] != typeUser {
		return strings.ReplaceAll(s, "▁", " ")
	}
	if t.verbatim || t.types[id] == typeUser {
		return s
	}
	return bytesOf(s)
}

// hexByte parses "<0x0A>".
func hexByte(s string) (byte, bool) {
	var b byte
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	_, err := fmt.Sscanf(s[3:5], "%02X", &b)
	return b, err == nil
}

// Token returns a token's text, with U+FFFD for bytes that are not valid UTF-8.
func (t *Tokenizer) Token(id int32) string { return valid(t.raw(id, true)) }

// Bytes returns a token's own bytes, which may be incomplete characters.
func (t *Tokenizer) Bytes(id int32) []byte { return []byte(t.raw(id, true)) }

// Decode returns the text of tokens, without the space that the tokenizer puts
// before a text.
func (t *Tokenizer) Decode(ids []int32, special bool) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(t.raw(id, special))
	}
	s := b.String()
	if t.trim {
		s = strings.TrimPrefix(s, " ")
	}
	return valid(s)
}

// valid replaces invalid UTF-8 by U+FFFD, once per beginning of a character
// that is not completed, so that the result does not depend on the pieces in
// which a text arrives.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 {
			n = broken(s)
		}
		b.WriteRune(r)
		s = s[n:]
	}
	return b.String()
}

// broken returns the length of the incomplete character that s begins with.
func broken(s string) int {
	n := 1
	for n < min(3, len(s)) && !utf8.FullRuneInString(s[:n+1]) {
		n++
	}
	return n
}

// Decoder turns tokens into text as they arrive, and never returns part of a
// character. The text continues a prompt, so its first space is kept. It is not
// safe for concurrent use.
type Decoder struct {
	t     *Tokenizer
	held  []byte
	shown map[int32]bool // control tokens to show
}

// NewDecoder starts an answer. Of the control tokens, only those with the given
// texts are shown.
func (t *Tokenizer) NewDecoder(show ...string) *Decoder {
	d := &Decoder{t: t, shown: map[int32]bool{}}
	for _, s := range show {
		if id := t.find(s); id >= 0 {
			d.shown[id] = true
		}
	}
	return d
}

// Push adds a token and returns the text that is now complete.
func (d *Decoder) Push(id int32) string {
	d.held = append(d.held, d.t.raw(id, d.shown[id])...)
	n := len(d.held)
	// Only the last three bytes can be part of an incomplete character.
	for i := 1; i <= 3 && i <= n; i++ {
		if b := d.held[n-i]; utf8.RuneStart(b) {
			if b >= utf8.RuneSelf && !utf8.FullRune(d.held[n-i:]) {
				n -= i
			}
			break
		}
	}
	out := valid(string(d.held[:n]))
	d.held = append(d.held[:0], d.held[n:]...)
	return out
}

// Flush returns the remaining text when the answer ends.
func (d *Decoder) Flush() string {
	out := valid(string(d.held))
	d.held = nil
	return out
}

// Stops searches for stop sequences in text that arrives in pieces. It is not
// safe for concurrent use.
type Stops struct {
	stops []string
	held  string
	done  bool
	met   string
}

// NewStops starts a search for the given sequences.
func NewStops(stops []string) *Stops {
	return &Stops{stops: slices.DeleteFunc(slices.Clone(stops), func(s string) bool { return s == "" })}
}

// Push adds text and returns the part that can no longer belong to a stop
// sequence, and whether a stop sequence was found. The sequence itself is not
// returned.
func (s *Stops) Push(text string) (out string, stopped bool) {
	if s.done {
		return "", true
	}
	s.held += text
	at := -1
	for _, stop := range s.stops {
		if i := strings.Index(s.held, stop); i >= 0 && (at < 0 || i < at) {
			at, s.met = i, stop
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

// Met returns the stop sequence that was found; "": none yet.
func (s *Stops) Met() string { return s.met }

// Flush returns the text held back, when no more will arrive.
func (s *Stops) Flush() string {
	out := s.held
	s.held = ""
	return out
}
