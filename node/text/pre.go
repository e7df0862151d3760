package text

// preType is a way of splitting text into words.
type preType struct {
	exprs        []string
	ignoreMerges bool
	addBOS       bool // unless the file says otherwise
}

// Parts that several expressions share.
const (
	contractions = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`
	spaces       = `\s*[\r\n]+|\s+(?!\S)|\s+`
	gpt2Words    = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
	upperLower   = `((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+`
	uppersLower  = `((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*`
	han          = `[一-龥ࠀ-一가-퟿]+`
	kana         = `[一-龥぀-ゟ゠-ヿ]+`
	marked       = `[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_` + "`" + `{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|` + spaces
	notPunct     = ` ?[^(\s|.,!?…。，、।۔،)]+`
)

// llama3Like is the pattern of Llama 3 with digits in the given way.
func llama3Like(digits string) string {
	return contractions + `|[^\r\n\p{L}\p{N}]?\p{L}+|` + digits + `| ?[^\s\p{L}\p{N}]+[\r\n]*|` + spaces
}

var (
	llama3      = preType{exprs: []string{llama3Like(`\p{N}{1,3}`)}, ignoreMerges: true, addBOS: true}
	chatglm     = preType{exprs: []string{llama3Like(`\p{N}{1,3}`)}}
	qwen2       = preType{exprs: []string{llama3Like(`\p{N}`)}}
	gpt2        = preType{exprs: []string{gpt2Words}}
	digitsFirst = preType{exprs: []string{`\p{N}`, gpt2Words}}
	deepseekLLM = preType{exprs: []string{
		`[\r\n]`,
		`\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+`,
		`\s?[!-/:-~！-／：-～‘-‟　-。]+`,
		`\s+$`,
		han,
		`\p{N}+`,
	}}
	deepseekCoder = preType{exprs: []string{`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, han, `\p{N}`}}
	deepseekV3    = preType{exprs: []string{`\p{N}{1,3}`, kana, marked}}
	falcon        = preType{exprs: []string{`[\p{P}\$\+<=>\^~\|` + "`" + `]+`, gpt2Words, `[0-9][0-9][0-9]`}}
	poro          = preType{exprs: []string{notPunct}}
	gpt4o         = preType{exprs: []string{
		`[^\r\n\p{L}\p{N}]?` + upperLower + contractions + `?|[^\r\n\p{L}\p{N}]?` + uppersLower + contractions +
			`?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|` + spaces,
	}}
	tekken = preType{ignoreMerges: true, addBOS: true, exprs: []string{
		`[^\r\n\p{L}\p{N}]?` + upperLower + `|[^\r\n\p{L}\p{N}]?` + uppersLower + `|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|` + spaces,
	}}
	kimi = preType{exprs: []string{
		`[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}-[\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}-[\p{Han}]]+` + contractions +
			`?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}-[\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}-[\p{Han}]]*` + contractions +
			`?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|` + spaces,
	}}
	bailing = preType{exprs: []string{
		`'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`,
	}}
	seedCoder = preType{exprs: []string{
		contractions + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|` + spaces,
	}}
	chameleon = preType{addBOS: true, exprs: []string{
		`<sentinel:[0-9]+>`, `(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z`, `([\t\n]|    |  )`, `\p{N}`, `[\p{P}!-/:-@\[-` + "`" + `{-~]`, gpt2Words,
	}}
	exaoneMoE = preType{exprs: []string{
		contractions + `|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+`,
	}}
	qwen35 = preType{exprs: []string{
		contractions + `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|` + spaces,
	}}
)

// preTypes names them as tokenizer.ggml.pre does.
var preTypes = map[string]preType{
	"": defaultPre, "default": defaultPre,
	"llama3": llama3, "llama-v3": llama3, "llama-bpe": llama3, "falcon3": llama3, "falcon-h1": llama3, "pixtral": llama3, "midm-2.0": llama3, "lfm2": llama3,
	"dbrx": chatglm, "smaug-bpe": chatglm, "glm4": chatglm, "chatglm-bpe": chatglm,
	"deepseek-llm": deepseekLLM, "deepseek-coder": deepseekCoder,
	"deepseek-v3": deepseekV3, "hunyuan-dense": deepseekV3, "joyai-llm": deepseekV3,
	"falcon":    falcon,
	"starcoder": digitsFirst, "refact": digitsFirst, "command-r": digitsFirst, "smollm": digitsFirst, "codeshell": digitsFirst,
	"exaone": digitsFirst, "minerva-7b": digitsFirst, "mellum2": digitsFirst,
	"gpt-2": gpt2, "phi-2": gpt2, "jina-es": gpt2, "jina-de": gpt2, "gigachat": gpt2, "jina-v1-en": gpt2, "jina-v2-es": gpt2,
	"jina-v2-de": gpt2, "jina-v2-code": gpt2, "a.x-4.0": gpt2, "mellum": gpt2, "roberta-bpe": gpt2, "mpt": gpt2, "olmo": gpt2,
	"jais": gpt2, "trillion": gpt2, "granite-docling": gpt2, "exaone4": gpt2, "modern-bert": gpt2,
	"qwen2": qwen2, "deepseek-r1-qwen": qwen2, "kormo": qwen2, "stablelm2": qwen2, "hunyuan": qwen2, "solar-open": qwen2,
	"megrez": qwen2, "grok-2": qwen2, "qwen35": qwen35,
	"poro-chat": poro, "bloom": poro, "gpt3-finnish": poro,
	"viking": {exprs: []string{notPunct, `\p{N}`}},
	"tekken": tekken,
	"gpt-4o": gpt4o, "llama4": gpt4o, "minimax-m2": gpt4o,
	"superbpe":   {exprs: []string{`\p{N}+`, `(?=(\d{3})+(?!\d))`}},
	"bailingmoe": bailing, "bailingmoe2": bailing, "llada-moe": bailing,
	"seed-coder": seedCoder, "kimi-k2": kimi, "chameleon": chameleon, "exaone-moe": exaoneMoE,
}

// defaultPre is what llama.cpp does for files that name no pre-tokenizer.
var defaultPre = preType{exprs: []string{`[\p{P}\$\+<=>\^~\|]+`, gpt2Words, `\p{N}+`, `[0-9][0-9][0-9]`}}
