package blocks

// kind says how an architecture's blocks attend and what may be cut.
type kind struct {
	whole     string // why the model is never cut; "": it is
	period    int    // of blocks, one attends to the whole text and the others to a window; 0: all attend to it all
	first     bool   // the one is the first of each period, not the last
	always    bool   // even if the file names no window
	interval  int    // of blocks, the last attends and the others are recurrent, unless the file says otherwise
	heads     bool   // blocks without key/value heads are recurrent
	recurrent bool   // all blocks are
	both      bool   // all blocks are, and attend, too
	phase     int    // spans begin at a multiple of this
}

// Reasons for not cutting a model.
const (
	encoder   = "it is an encoder, which reads a text as a whole"
	streams   = "its blocks pass on more than one state per token"
	earlier   = "its later blocks use what its first ones computed"
	repeated  = "its blocks are run several times per token"
	counted   = "what a block computes depends on how many blocks the model has"
	inputs    = "the library changes what enters the first block, and would do so in each part"
	images    = "the library takes states that it is given for those of images"
	diffusion = "it writes all of a text at once"
	hidden    = "the library does not show what its blocks pass on"
	noText    = "it is not a model that continues texts"
)

// kinds are the architectures with rules of their own, by their names in GGUF files.
var kinds = map[string]kind{
	"afmoe":         {period: 4, whole: inputs},
	"cohere2":       {period: 4, always: true},
	"cohere2moe":    {period: 4, always: true, first: true},
	"exaone-moe":    {period: 4, always: true},
	"gemma":         {whole: inputs},
	"gemma2":        {period: 2, always: true, whole: inputs},
	"gemma3":        {period: 6},
	"gemma4":        {period: 6, always: true},
	"gpt-oss":       {period: 2, always: true},
	"gptoss":        {period: 2, always: true},
	"granite_swa":   {period: 4, always: true},
	"laguna":        {period: 4, first: true},
	"llama4":        {period: 4, always: true, phase: 4},
	"maple":         {period: 4, always: true},
	"mellum":        {period: 4},
	"mimo2":         {period: 6, always: true},
	"muse-glimmer":  {period: 4, always: true, whole: inputs},
	"olmo2":         {period: 4},
	"olmo3":         {period: 4},
	"plamo3":        {period: 8},
	"smallthinker":  {period: 4, first: true, phase: 4},
	"spark2_5":      {period: 4, always: true},
	"step35":        {period: 4, always: true},
	"dots3note":     {period: 4, always: true},
	"smollm3":       {phase: 4},
	"exaone4":       {}, // see exaone4 below
	"qwen35":        {interval: 4},
	"qwen35moe":     {interval: 4},
	"qwen3next":     {interval: 4},
	"bailingmoe3":   {heads: true},
	"granitehybrid": {heads: true},
	"jamba":         {heads: true},
	"kimi-linear":   {heads: true},
	"lfm2":          {heads: true},
	"lfm2moe":       {heads: true},
	"nemotron_h":    {heads: true}, "nemotron_h_moe": {heads: true},
	"falcon-h1":  {both: true},
	"mamba":      {recurrent: true},
	"mamba2":     {recurrent: true},
	"rwkv6qwen2": {recurrent: true},

	"arwkv7": {recurrent: true, whole: earlier}, "rwkv7": {recurrent: true, whole: earlier},
	"rwkv6":  {recurrent: true, whole: inputs},
	"plamo2": {heads: true, whole: hidden},

	"bloom": {whole: inputs}, "gpt2": {whole: inputs}, "mpt": {whole: inputs}, "starcoder": {whole: inputs},
	"talkie": {whole: inputs}, "cogvlm": {whole: images}, "glm4": {whole: images}, "dream": {whole: diffusion}, "llada": {whole: diffusion}, "llada-moe": {whole: diffusion}, "rnd1": {whole: diffusion},
	"deepseek2-ocr": {whole: hidden},
	"deepseek4":     {whole: streams}, "hy_v4": {whole: streams}, "glm5-next": {heads: true, whole: streams}, "qwen4exp": {interval: 4, whole: streams},
	"gemma3n": {period: 5, always: true, whole: streams}, "kimi-k3": {heads: true, whole: earlier}, "graniteswitch": {whole: earlier},
	"minicpm3": {whole: counted}, "minimax-01": {interval: 8, whole: counted},
	"nanbeige": {whole: repeated}, "hrm_text": {whole: repeated},
	"bert": {whole: encoder}, "modern-bert": {period: 3, first: true, whole: encoder}, "nomic-bert": {whole: encoder}, "nomic-bert-moe": {whole: encoder},
	"neo-bert": {whole: encoder}, "jina-bert-v2": {whole: encoder}, "jina-bert-v3": {whole: encoder}, "eurobert": {whole: encoder},
	"gemma-embedding": {period: 6, always: true, whole: encoder}, "llama-embed": {whole: encoder}, "t5": {whole: encoder}, "t5encoder": {whole: encoder},
	"clip": {whole: noText}, "clef": {whole: noText}, "dflash": {whole: noText}, "eagle3": {whole: noText}, "gemma4-assistant": {whole: noText},
	"pockettts": {whole: noText}, "qwen3tts": {whole: noText}, "wavtokenizer-dec": {whole: noText},
}

// byCount are architectures in which a number of blocks changes what they compute: such
// a model is not cut, and no span of another one may have as many.
var byCount = map[string][]int{
	"gemma3":    {62},     // the scale of attention
	"exaone4":   {64},     // the window
	"baichuan":  {32, 40}, // the positions
	"deepseek2": {26, 27}, // the queries' form
}
