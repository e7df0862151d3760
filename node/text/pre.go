package text

import "unicode"

// preType is a way of splitting text into words.
type preType struct {
	exprs        []string
	ignoreMerges bool // a word that is a token needs no merges
	addBOS       bool // unless the file says otherwise
	alwaysBOS    bool // whatever the file says
	addSEP       bool // unless the file says otherwise
	noBOS        bool // no token begins a sequence unless the file names one
	raw          bool // words are merged as they are, with spaces as ▁, instead of byte by byte
	blanks       bool // spaces are not written as ▁
	spaced       bool // each ▁ begins a word, and so does a text
}

// Parts that several expressions share. Non-ASCII characters are escaped: an
// editor or tool that normalizes them would change the bounds of ranges.
const (
	contractions = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`
	notNewline   = `[^\r\n\p{L}\p{N}]?` // what may precede the letters of a word
	spaces       = `\s*[\r\n]+|\s+(?!\S)|\s+`
	others       = ` ?[^\s\p{L}\p{N}]+[\r\n]*|` + spaces
	othersSlash  = ` ?[^\s\p{L}\p{N}]+[\r\n/]*|` + spaces
	gpt2Words    = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
	upper        = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
	lower        = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	noHanUpper   = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}-[\p{Han}]]`
	noHanLower   = `[\p{Ll}\p{Lm}\p{Lo}\p{M}-[\p{Han}]]`
	ascii        = `[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_` + "`" + `{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+`
	symbolRuns   = ` ?[\p{P}\p{S}]+[\r\n]*|` + spaces
	lines        = `[^\n]+|\n+`
	kana         = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
	notPunct     = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

	// llama.cpp excludes Unicode spaces from these two ranges.
	han       = "[\u0800-\u9fa5\uac00-\ud7ff-[\\s]]+"
	fullPunct = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002-[\u3000]]+"
	// cased are the letters of scripts with upper and lower case.
	cased = "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af" +
		"\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556" +
		"\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d" +
		"\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc" +
		"\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128" +
		"\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3" +
		"\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a" +
		"\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]+"
	// eastAsian are the scripts that AFMoE separates from the others.
	eastAsian = "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff" +
		"\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
	youtuScripts = "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|" + kana
)

// Expressions that a Go function implements in one pass, where a backtracking
// search takes time quadratic in the length of a run of digits.
const (
	triplesToEnd  = `(?=(\d{3})+(?!\d))`
	triplesToWord = `\d{1,3}(?=(?:\d{3})*\b)`
	triples       = `triples of numbers, the first the shortest`
)

var cutters = map[string]func(piece []rune) []int{
	triplesToEnd:  func(r []rune) []int { return cutTriples(r, isDigit, false, nil) },
	triplesToWord: func(r []rune) []int { return cutTriples(r, unicode.IsDigit, true, isWord) },
	triples:       func(r []rune) []int { return cutTriples(r, unicode.IsNumber, true, nil) },
}

func isDigit(r rune) bool { return '0' <= r && r <= '9' }
func isWord(r rune) bool  { return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Pc) }

// cutTriples returns where to cut a piece so that the digits of a run form
// groups of three, counted from its end. With alone set, no other characters
// share a word with the first or last group. A run before a character of class
// unlessBefore is left whole.
func cutTriples(piece []rune, digit func(rune) bool, alone bool, unlessBefore func(rune) bool) []int {
	var cuts []int
	for at := 0; at < len(piece); at++ {
		if !digit(piece[at]) {
			continue
		}
		from := at
		for at < len(piece) && digit(piece[at]) {
			at++
		}
		if at < len(piece) && unlessBefore != nil && unlessBefore(piece[at]) {
			continue
		}
		if alone {
			cuts = append(cuts, from)
		}
		for i := from + (at-from)%3; i < at; i += 3 {
			cuts = append(cuts, i)
		}
		if alone {
			cuts = append(cuts, at)
		}
	}
	return cuts
}

// llama3Like returns the pattern of Llama 3 with the given pattern for digits.
func llama3Like(digits string) string {
	return contractions + `|` + notNewline + `\p{L}+|` + digits + `|` + others
}

// o200kLike returns the pattern of GPT-4o, in which capitals begin words.
// llama.cpp cannot distinguish marks or the capitals of other scripts, and
// calls its version an approximation; this is what the models' own tokenizers
// do.
func o200kLike(upper, lower, tail, rest string) string {
	return notNewline + upper + `*` + lower + `+` + tail + `|` + notNewline + upper + `+` + lower + `*` + tail + `|` + rest
}

var (
	llama3        = preType{exprs: []string{llama3Like(`\p{N}{1,3}`)}, ignoreMerges: true, addBOS: true}
	dbrx          = preType{exprs: llama3.exprs}
	chatglm       = preType{exprs: llama3.exprs, noBOS: true}
	glm4          = preType{exprs: llama3.exprs, noBOS: true, ignoreMerges: true}
	qwen2         = preType{exprs: []string{llama3Like(`\p{N}`)}}
	gpt2          = preType{exprs: []string{gpt2Words}}
	digitsFirst   = preType{exprs: []string{`\p{N}`, gpt2Words}}
	deepseekLLM   = preType{exprs: []string{`[\r\n]`, cased, fullPunct, `(?<!\s)\s+\z`, han, `\p{N}+`}}
	deepseekCoder = preType{exprs: []string{`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, han, `\p{N}`}}
	deepseekV3    = preType{exprs: []string{`\p{N}{1,3}`, kana, ascii + `|` + symbolRuns}}
	falcon        = preType{exprs: []string{`[\p{P}\$\+<=>\^~\|` + "`" + `]+`, gpt2Words, `[0-9][0-9][0-9]`}}
	poro          = preType{exprs: []string{notPunct}}
	gpt4o         = preType{exprs: []string{o200kLike(upper, lower, contractions+`?`, `\p{N}{1,3}|`+othersSlash)}}
	tekken        = preType{exprs: []string{o200kLike(upper, lower, ``, `\p{N}|`+othersSlash)}, ignoreMerges: true, addBOS: true}
	bailing       = preType{exprs: []string{contractions + `|` + notNewline + `\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`}}
	gemma4        = preType{exprs: []string{lines}, raw: true, alwaysBOS: true}
	roberta       = preType{exprs: gpt2.exprs, addSEP: true}
)

// preTypes are keyed by their names in tokenizer.ggml.pre.
var preTypes = map[string]preType{
	"": defaultPre, "default": defaultPre,
	"llama3": llama3, "llama-v3": llama3, "llama-bpe": llama3, "falcon3": llama3, "falcon-h1": llama3, "pixtral": llama3, "midm-2.0": llama3,
	"lfm2": llama3, "jina-v5-nano": llama3,
	"dbrx": dbrx, "smaug-bpe": dbrx, "chatglm-bpe": chatglm, "glm4": glm4, "glm5": glm4,
	"deepseek-llm": deepseekLLM, "deepseek-coder": deepseekCoder,
	"deepseek-v3": deepseekV3, "hunyuan-dense": deepseekV3, "joyai-llm": deepseekV3, "hy_v4": deepseekV3,
	"falcon":    falcon,
	"starcoder": digitsFirst, "refact": digitsFirst, "command-r": digitsFirst, "smollm": digitsFirst, "codeshell": digitsFirst,
	"exaone": digitsFirst, "minerva-7b": digitsFirst, "mellum2": digitsFirst,
	"gpt-2": gpt2, "phi-2": gpt2, "jina-es": gpt2, "jina-de": gpt2, "gigachat": gpt2, "jina-v1-en": roberta, "jina-v2-es": gpt2,
	"jina-v2-de": gpt2, "jina-v2-code": roberta, "a.x-4.0": gpt2, "mellum": gpt2, "roberta-bpe": roberta, "mpt": gpt2, "olmo": gpt2,
	"jais": gpt2, "trillion": gpt2, "granite-docling": gpt2, "exaone4": gpt2, "modern-bert": gpt2,
	"qwen2": qwen2, "deepseek-r1-qwen": qwen2, "kormo": qwen2, "stablelm2": qwen2, "hunyuan": qwen2, "solar-open": qwen2,
	"megrez": qwen2, "grok-2": qwen2, "f2llmv2": qwen2,
	"qwen35":    {exprs: []string{contractions + `|` + notNewline + `[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|` + spaces}},
	"poro-chat": poro, "bloom": poro, "gpt3-finnish": poro,
	"viking": {exprs: []string{notPunct, `\p{N}`}},
	"tekken": tekken,
	"gpt-4o": gpt4o, "llama4": gpt4o, "minimax-m2": gpt4o, "kanana2": gpt4o, "talkie": gpt4o,
	"granite-embed-multi-97m": {exprs: gpt4o.exprs, ignoreMerges: true},
	"tiny_aya":                {exprs: []string{triplesToWord, gpt4o.exprs[0]}},
	"cohere2moe":              {exprs: []string{triplesToWord, gpt4o.exprs[0]}},
	"youtu":                   {exprs: []string{youtuScripts, o200kLike(upper, lower, contractions+`?`, `\p{N}|`+othersSlash)}, ignoreMerges: true},
	"kimi-k2":                 {exprs: []string{`\p{Han}+|` + o200kLike(noHanUpper, noHanLower, contractions+`?`, `\p{N}{1,3}|`+others)}},
	"superbpe":                {exprs: []string{`\p{N}+`, triplesToEnd}},
	"bailingmoe":              bailing, "bailingmoe2": bailing, "llada-moe": bailing,
	"seed-coder": {exprs: []string{contractions + `|` + notNewline + `\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|` + spaces}},
	"ufakzeka":   {exprs: []string{notNewline + `\p{L}+|\p{N}|` + others}},
	"afmoe":      {exprs: []string{triples, eastAsian, ascii + `|` + symbolRuns}},
	"laguna":     {exprs: []string{lines, llama3Like(`\p{N}`)}},
	"minicpm5":   {exprs: []string{`\p{N}{1,3}`, llama3Like(`\p{N}+`)}, ignoreMerges: true},
	"spark2_5":   {exprs: []string{`\p{N}{1,3}`, kana, ascii + `| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+`, `\p{N}`}},
	// In a run of spaces that contains no newline, the search for one is not
	// repeated.
	"jais-2": {exprs: []string{contractions + `|` + notNewline + `\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|(?<![^\S\r\n])\s*[\r\n]+|` +
		`\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s`}},
	"exaone-moe": {exprs: []string{
		contractions + `|` + notNewline + `(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+`,
	}},
	"chameleon": {addBOS: true, exprs: []string{
		`<sentinel:[0-9]+>`, `(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z`, `([\t\n]|    |  )`, `\p{N}`, `[\p{P}!-/:-@\[-` + "`" + `{-~]`, gpt2Words,
	}},
	"gemma4": gemma4, "granite-embed-multi-311m": gemma4, "sarvam-moe": {exprs: []string{lines}, raw: true},
	"mmbert":     {exprs: []string{lines}, raw: true, spaced: true},
	"whitespace": {exprs: []string{`\S+`}, raw: true, blanks: true},
}

// defaultPre is llama.cpp's choice for files that name no pre-tokenizer.
var defaultPre = preType{exprs: []string{`[\p{P}\$\+<=>\^~\|]+`, gpt2Words, `\p{N}+`, `[0-9][0-9][0-9]`}}
