package api

import (
	"context"

	"github.com/shoalnet/shoal/protocol"
)

// Generator computes answers. Client implements it too, over HTTP, so that a
// command cannot tell a daemon from a node of its own.
//
// Generate calls emit with one Start, then a Token each, then one Done, in this
// order and from one goroutine at a time, and returns after the last call. An
// error of emit ends the generation and comes back. When ctx ends, the stages
// are told at once and an error of kind Cancelled comes back. Errors before
// Start become an HTTP status; those after it end the stream. What is refused
// or has failed is an *Error; anything else counts as Internal.
type Generator interface {
	Generate(ctx context.Context, req *GenerateRequest, emit func(Event) error) error
}

// Library lists the models that this node holds, in part or whole, and those
// that it knows to be served by peers. A name is any that Model.Names lists, or
// the CID. Unknown ones are an *Error of kind UnknownModel.
type Library interface {
	List(ctx context.Context) ([]Model, error)
	Show(ctx context.Context, name string) (*Model, error)
	Remove(ctx context.Context, name string) error
}

// Transfers move models in and out. progress is called from one goroutine at a
// time, as often as the implementation likes, and may be nil for none of its
// callers. A cancelled transfer leaves what was verified, and can be resumed.
type Transfers interface {
	Add(ctx context.Context, req *AddRequest, progress func(Progress)) (*Model, error)
	Pull(ctx context.Context, req *PullRequest, progress func(Progress)) (*Model, error)
	Export(ctx context.Context, req *ExportRequest, progress func(Progress)) (*Exported, error)
}

// Tokenizer turns text into token ids.
type Tokenizer interface {
	Tokenize(ctx context.Context, req *TokenizeRequest) (*Tokenized, error)
}

// Observer says how this node and its peers are.
type Observer interface {
	Status(ctx context.Context) (*Status, error)
	Peers(ctx context.Context) ([]Peer, error)
}

// GenerateRequest asks for one answer. Exactly one of Messages, Prompt and
// PromptTokens is the input.
type GenerateRequest struct {
	Model        string    // name or CID; "": the node's only or first model
	Messages     []Message // a conversation, through the model's chat template
	Prompt       string    // as is, without a template; the tokenizer adds BOS if the model wants one, and special tokens in the text are read as such
	PromptTokens []int32   // as is, nothing added
	Input        Input     // which of the three it is

	MaxTokens int      // of the answer; 0: until the context ends
	Stop      []string // sequences that end the answer and are not part of it; at most MaxStops
	Sampling  Sampling

	Logprobs    bool // fill Token.Logprob and Token.Bytes
	TopLogprobs int  // alternatives a token, at most MaxTopLogprobs; needs Logprobs

	Route     []Hop // take exactly this route; nil: the node plans one
	MaxStages int   // plan a route of at most so many stages; 0: no limit
}

// Input says what a request's input is.
type Input int

// The inputs.
const (
	InputMessages Input = iota
	InputPrompt
	InputTokens
)

// Limits of a request.
const (
	MaxStops       = 16
	MaxTopLogprobs = 20
	MaxChoices     = 16 // n times the number of prompts
	MaxMessages    = 16384
)

// Message is one turn of a conversation. Text only: what else OpenAI's content
// parts may carry is refused before it gets here.
type Message struct {
	Role    string `json:"role"` // system, developer, user, assistant or tool
	Content string `json:"content"`
	Name    string `json:"name,omitempty"`
}

// Sampling tells how a token is drawn. nil means: as the model's metadata says
// (general.sampling.* in the GGUF), and where that is silent DefaultSampling.
// OpenAI's own default is temperature 1 without cuts; the models that run here
// are smaller and derail with that, so the defaults are those that users of
// local runners know. A caller who sets a value gets it.
type Sampling struct {
	Temperature      *float32 // 0: greedy
	TopK             *int     // 0: all
	TopP             *float32 // 1: all
	MinP             *float32 // 0: all
	RepeatPenalty    *float32 // 1: off
	PresencePenalty  *float32 // 0: off
	FrequencyPenalty *float32 // 0: off
	Seed             *uint64  // nil: drawn by the Generator
}

// DefaultSampling is what holds where neither the request nor the model says
// otherwise: temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, no penalties.
// The seed stays nil.
func DefaultSampling() Sampling {
	return Sampling{
		Temperature: Ptr[float32](0.8), TopK: Ptr(40), TopP: Ptr[float32](0.95), MinP: Ptr[float32](0.05),
		RepeatPenalty: Ptr[float32](1), PresencePenalty: Ptr[float32](0), FrequencyPenalty: Ptr[float32](0),
	}
}

// Or fills what s leaves open from t.
func (s Sampling) Or(t Sampling) Sampling {
	or(&s.Temperature, t.Temperature)
	or(&s.TopK, t.TopK)
	or(&s.TopP, t.TopP)
	or(&s.MinP, t.MinP)
	or(&s.RepeatPenalty, t.RepeatPenalty)
	or(&s.PresencePenalty, t.PresencePenalty)
	or(&s.FrequencyPenalty, t.FrequencyPenalty)
	or(&s.Seed, t.Seed)
	return s
}

func or[T any](p **T, q *T) {
	if *p == nil {
		*p = q
	}
}

// Ptr is a pointer to v, for the optional fields above.
func Ptr[T any](v T) *T { return &v }

// Hop is one stage of a route: a peer and its span of blocks [From, To).
type Hop struct {
	Peer string `json:"peer"` // libp2p peer ID, as text
	From int    `json:"from"`
	To   int    `json:"to"`
}

// Event is a Start, a Token or a Done.
type Event interface{ event() }

func (Start) event() {}
func (Token) event() {}
func (Done) event()  {}

// Start says how the answer will be computed, before its first token.
type Start struct {
	Model               string  `json:"model"`         // CID
	Name                string  `json:"name"`          // for people
	PromptTokens        []int32 `json:"prompt_tokens"` // ids, as the model sees them
	Route               []Hop   `json:"route"`
	PredictedTokensPerS float64 `json:"predicted_tokens_per_s"`
	PredictedTTFTMs     float64 `json:"predicted_ttft_ms"`
	Note                string  `json:"note,omitempty"` // what people should know, e.g. what a forced split costs
}

// Token is one token of the answer.
type Token struct {
	ID      int32        `json:"id"`
	Text    string       `json:"-"`                 // what can be shown now: valid UTF-8; "" while bytes or the start of a stop sequence are held back
	Bytes   []byte       `json:"-"`                 // the token's own bytes, whatever Text shows; with Logprobs only
	Logprob float32      `json:"logprob,omitempty"` // natural logarithm; with Logprobs only
	Top     []TopLogprob `json:"top,omitempty"`     // most likely first
}

// TopLogprob is a token that could have been drawn.
type TopLogprob struct {
	ID      int32   `json:"id"`
	Logprob float32 `json:"logprob"`
	Bytes   []byte  `json:"-"` // as Token.Bytes
}

// Done closes an answer.
type Done struct {
	FinishReason string  `json:"finish_reason"` // FinishStop, FinishLength
	Text         string  `json:"-"`             // what was held back and is let go now
	Tokens       int     `json:"tokens"`        // computed for the answer, one that ended it included
	TokensPerS   float64 `json:"tokens_per_s"`  // after the first token; 0: fewer than two
	TTFTMs       float64 `json:"ttft_ms"`       // from the call of Generate to the first token
	Note         string  `json:"note,omitempty"`
}

// Why an answer ended.
const (
	FinishStop   = "stop"
	FinishLength = "length"
)

// Model is what is known of a model.
type Model struct {
	ID           string          `json:"id"` // the manifest's CID
	Name         string          `json:"name"`
	Names        []string        `json:"names,omitempty"` // all that it goes by here
	Architecture string          `json:"architecture,omitempty"`
	Quantization string          `json:"quantization,omitempty"`
	Parameters   int64           `json:"parameters,omitempty"`
	Context      int             `json:"context,omitempty"` // tokens
	Blocks       int             `json:"blocks,omitempty"`
	Width        int             `json:"width,omitempty"`
	Size         int64           `json:"size,omitempty"` // bytes of the original file(s)
	Licence      string          `json:"licence,omitempty"`
	Added        int64           `json:"added,omitempty"` // Unix seconds; 0: not held here
	Local        bool            `json:"local"`           // this node holds its header at least
	Complete     bool            `json:"complete"`        // this node holds all of it
	Allocated    int64           `json:"allocated"`       // bytes on this node's disk
	Pinned       bool            `json:"pinned"`
	Held         []protocol.Span `json:"held,omitempty"`      // blocks held here
	Serving      []protocol.Span `json:"serving,omitempty"`   // blocks served here
	Network      []protocol.Span `json:"network,omitempty"`   // blocks that known peers serve
	Uncovered    []protocol.Span `json:"uncovered,omitempty"` // blocks that nobody known serves, this node included
	Shards       []Shard         `json:"shards,omitempty"`    // with Show only
	Origins      []string        `json:"origins,omitempty"`
}

// Shard is one shard of a model on this node.
type Shard struct {
	Kind  string `json:"kind"` // as protocol.Shard* name them
	Block int    `json:"block"`
	Root  string `json:"root"` // CID
	Size  int64  `json:"size"`
	Held  bool   `json:"held"`
}

// AddRequest imports a GGUF file. Source is an absolute path, an http(s) URL, or
// hf:OWNER/REPO/FILE.
type AddRequest struct {
	Source string `json:"source"`
	Name   string `json:"name,omitempty"` // "": the file's
	Span   string `json:"span,omitempty"` // keep these blocks: "FROM-TO"; "" or "all": all
}

// PullRequest fetches a model's shards from peers and origins.
type PullRequest struct {
	Model string `json:"model"`          // a name that peers know, or the CID
	Name  string `json:"name,omitempty"` // what to call it here; "": as the manifest does
	Span  string `json:"span,omitempty"` // "FROM-TO"; "" or "all": all; "header": no block
}

// ExportRequest writes the original file again.
type ExportRequest struct {
	Model string `json:"model"`
	Path  string `json:"path"` // absolute; must not exist. Of a split model: the first part's
}

// Exported says what an export wrote.
type Exported struct {
	Model string         `json:"model"` // CID
	Files []ExportedFile `json:"files"`
}

// ExportedFile is one file of an export.
type ExportedFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// Progress of a transfer.
type Progress struct {
	Phase string `json:"phase"`          // "read", "download", "verify", "fetch", "write", ...: a word for people
	Done  int64  `json:"done"`           // bytes
	Total int64  `json:"total"`          // bytes; 0: unknown
	Note  string `json:"note,omitempty"` // e.g. how many peers give
}

// TokenizeRequest names a model, or an absolute path of a GGUF file, which may
// hold no more than a vocabulary.
type TokenizeRequest struct {
	Model   string `json:"model,omitempty"`
	File    string `json:"file,omitempty"`
	Text    string `json:"text"`
	Special bool   `json:"special,omitempty"` // add BOS/EOS as the model says, and read special tokens in the text
}

// Tokenized is what a text became.
type Tokenized struct {
	IDs []int32 `json:"ids"`
}

// Status of this node.
type Status struct {
	Peer        string       `json:"peer"`
	Version     string       `json:"version"`
	Addrs       []string     `json:"addrs"`
	API         string       `json:"api,omitempty"` // base URL
	Dir         string       `json:"dir"`
	PID         int          `json:"pid"`
	UptimeS     float64      `json:"uptime_s"`
	Client      bool         `json:"client"` // light: holds no weights, serves nothing
	Peers       int          `json:"peers"`  // connected
	Spans       []ServedSpan `json:"spans"`
	Models      []Model      `json:"models"`
	Allocated   int64        `json:"allocated"`        // bytes on disk, all models
	Quota       int64        `json:"quota,omitempty"`  // bytes; 0: no limit
	Memory      int64        `json:"memory,omitempty"` // bytes lent
	Reachable   string       `json:"reachable,omitempty"`
	Generations int          `json:"generations"` // answers in the making, through this API
	Warnings    []string     `json:"warnings,omitempty"`
}

// ServedSpan is a span that this node serves or is about to.
type ServedSpan struct {
	Model      string  `json:"model"` // CID
	Name       string  `json:"name"`
	From       int     `json:"from"`
	To         int     `json:"to"`
	State      string  `json:"state"` // "fetching", "loading", "probing", "ready", "failed": a word for people
	Ready      bool    `json:"ready"`
	Error      string  `json:"error,omitempty"` // why not
	Done       int64   `json:"done,omitempty"`  // bytes fetched, of Total
	Total      int64   `json:"total,omitempty"`
	EnginePID  int     `json:"engine_pid,omitempty"`
	Restarts   int     `json:"restarts"` // of the engine
	Sessions   int     `json:"sessions"`
	KVTokens   int     `json:"kv_tokens"`
	KVFree     int     `json:"kv_free"`
	TokensPerS float64 `json:"tokens_per_s"`
	MsPerBlock float64 `json:"ms_per_block"`
	Threads    int     `json:"threads"`
	Device     string  `json:"device,omitempty"`
}

// Peer is a peer that this node knows.
type Peer struct {
	Peer      string     `json:"peer"`
	Addrs     []string   `json:"addrs"`
	Connected bool       `json:"connected"`
	RTTMs     float64    `json:"rtt_ms,omitempty"`    // 0: not measured
	Transport string     `json:"transport,omitempty"` // "quic", "tcp", "relay"
	Version   string     `json:"version,omitempty"`
	Spans     []PeerSpan `json:"spans,omitempty"`
}

// PeerSpan is a span that a peer offers.
type PeerSpan struct {
	Model      string  `json:"model"` // CID
	Name       string  `json:"name,omitempty"`
	From       int     `json:"from"`
	To         int     `json:"to"`
	Blocks     int     `json:"blocks,omitempty"` // of the model
	Ready      bool    `json:"ready"`
	MsPerBlock float64 `json:"ms_per_block,omitempty"`
	KVFree     int     `json:"kv_free"`
	MaxContext int     `json:"max_context,omitempty"`
}
