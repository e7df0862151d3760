package api

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

// Generator answers prompts. It is safe for concurrent use.
type Generator interface {
	// Generate emits a Start, Tokens with Repairs among them, and a Done, or fails.
	Generate(ctx context.Context, req *GenerateRequest, emit func(Event) error) error
}

// Counter counts the tokens of prompts. It is safe for concurrent use.
type Counter interface {
	// Count returns how many tokens the model reads for a request. It answers nothing.
	Count(ctx context.Context, req *GenerateRequest) (int, error)
}

// Library manages the models of this node.
type Library interface {
	List(ctx context.Context) ([]Model, error)
	Show(ctx context.Context, name string) (*Model, error)
	Add(ctx context.Context, req AddRequest, progress func(Progress)) (*Model, error)
	Pull(ctx context.Context, req PullRequest, progress func(Progress)) (*Model, error)
	Remove(ctx context.Context, name string) error
	Export(ctx context.Context, req ExportRequest, progress func(Progress)) error
	Tokenize(ctx context.Context, name, text string, special bool) ([]int32, error)
}

// Observer reports the state of the node and its peers.
type Observer interface {
	Status(ctx context.Context) (*Status, error)
	Peers(ctx context.Context) ([]Peer, error)
	Health(ctx context.Context) (*Health, error)
	// Drain starts handing over sessions and leaving, and returns.
	Drain(ctx context.Context) error
}

// Message of a chat.
type Message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	Reasoning  string     `json:"reasoning_content,omitempty"`
	Name       string     `json:"name,omitempty"`
	ToolCalls  []ToolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

// ToolCall is a model's call of a function, in OpenAI's format.
type ToolCall struct {
	ID       string       `json:"id"`
	Type     string       `json:"type"` // function
	Function FunctionCall `json:"function"`
}

// FunctionCall names a function. Arguments are a JSON object in a string.
type FunctionCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// GenerateRequest asks for one answer: to Messages through the model's chat
// template, or with Raw to Prompt as it is.
type GenerateRequest struct {
	Model     string // "": the only one there is
	Messages  []Message
	Prompt    string
	Raw       bool
	PromptIDs []int32           // instead of Prompt, with Raw: these tokens and no other
	Tools     []json.RawMessage // available to the model, in OpenAI's format: {"type": "function", "function": {"name": ...}}
	MustCall  bool              // the answer must be a call of one of Tools
	OneCall   bool              // and ends after one call
	Continue  bool              // the answer continues the last message, which is the assistant's
	Think     string            // "": the model's default; off, on, or an effort: low, medium, high
	Format    json.RawMessage   // JSON schema that the answer must follow; nil: free text
	Pattern   string            // or a regular expression that all of it matches; "": free text
	Grammar   string            // or a grammar in GBNF; "": free text

	// Prediction is a text that most of the answer is expected to repeat; "": none. It
	// changes how soon the answer comes, and not the answer.
	Prediction string

	// FormatField is the request's field that has the format; "": response_format.
	FormatField string

	MaxTokens int // 0: until the context ends
	Sampling  Sampling
	// PromptLogprobs asks for Start.Prompt, with as many alternatives as Sampling
	// says. The prompt is then computed as a whole, whatever of it is cached.
	PromptLogprobs bool

	Stop      []string
	StopIDs   []int32 // tokens that end the answer besides the model's own
	IgnoreEOS bool    // the model's own do not end it
	Route     []Hop   // if not empty, use exactly this route
	MaxStages int
	Exact     bool   // use only stages that compute the same in any company, to the last bit
	Ahead     string // "off": no rows of guesses are sent ahead; "auto" or "": as the node is set
	Trace     string // W3C traceparent of the caller; "": none

	Shared *Shared // by all choices of one prompt; nil: there is only one choice
}

// Shared is what the choices of one prompt have in common. The Generator computes it
// once.
type Shared struct {
	once sync.Once
	made any
	err  error
}

// Do runs how for the first caller; the others wait for it and get the same
// result and error.
func (s *Shared) Do(how func() (any, error)) (any, error) {
	if s == nil {
		return how()
	}
	s.once.Do(func() {
		s.err = Errorf(Internal, "reading the prompt failed") // replaced if how returns
		s.made, s.err = how()
	})
	return s.made, s.err
}

// Event is one of Start, Token, Repair and Done.
type Event struct {
	Start  *Start
	Token  *Token
	Repair *Repair
	Done   *Done
}

// Start comes before the first token.
type Start struct {
	Model           string  `json:"model"` // the CID
	Name            string  `json:"name"`
	PromptTokens    []int32 `json:"prompt_tokens"`
	Prompt          []Token `json:"prompt,omitempty"` // the prompt's tokens with their log probabilities, but for the first, if they were asked for
	Route           []Hop   `json:"route"`
	Costs           []Cost  `json:"costs,omitempty"` // of the route's stages
	PredictedRate   float64 `json:"predicted_tokens_per_s"`
	PredictedTTFTMs float64 `json:"predicted_ttft_ms"`
	Note            string  `json:"note,omitempty"`    // remarks, such as what a forced split costs
	Warning         string  `json:"warning,omitempty"` // which model was chosen if the request's name was ambiguous
}

// Hop is one stage of a route.
type Hop struct {
	Peer string `json:"peer"`
	From int    `json:"from"`
	To   int    `json:"to"`

	// In answers, the ID of the private swarm in which the stage is, or of the bridge over
	// which another swarm lends it, and what that swarm is called; empty: the open network.
	Swarm     string `json:"swarm,omitempty"`
	SwarmName string `json:"swarm_name,omitempty"`
	// In answers, the node's relation to the peer: own (the node itself), trusted, known,
	// or new.
	Trust string `json:"trust,omitempty"`
	// In answers, the name of the peer's machine, if that and the node trust each other.
	Name string `json:"name,omitempty"`
	// In answers, what computes the stage, as in EngineChange.
	Engine string `json:"engine,omitempty"`

	// At an answer's end, in what the stage sent the prompt's rows on: f16 or q8_0; empty: as
	// they were computed.
	Wire string `json:"wire,omitempty"`
	// At an answer's end, whether the node reached the peer over a relay, and whether the
	// peer reached the next of the ring so.
	Relayed     bool `json:"relayed,omitempty"`
	LinkRelayed bool `json:"link_relayed,omitempty"`
}

// Cost is the predicted time that a stage adds to each token.
type Cost struct {
	ComputeMs float64 `json:"compute_ms"`
	NextMs    float64 `json:"next_ms"` // one way to the next stage; for the last stage, to the first
}

// Token is a token of an answer. Text may be empty while a character is incomplete or
// could begin a stop sequence.
type Token struct {
	Index     int        `json:"index"` // in the answer, from 0
	ID        int32      `json:"id"`
	Text      string     `json:"text"`
	Reasoning string     `json:"reasoning,omitempty"` // if the model marks it
	Calls     []ToolCall `json:"tool_calls,omitempty"`
	Logprob   float64    `json:"logprob"`
	Top       []Top      `json:"top,omitempty"`
	first     bool       // of a prompt: it follows nothing, and has no log probability
	Bytes     []byte     `json:"bytes,omitempty"` // the token's bytes, for logprobs; empty: those of Text
}

// Top is an alternative to a token.
type Top struct {
	ID      int32   `json:"id"`
	Text    string  `json:"text"`
	Logprob float64 `json:"logprob"`
	Bytes   []byte  `json:"bytes,omitempty"` // as in Token
}

// Done ends an answer.
type Done struct {
	Text         string     `json:"text,omitempty"` // held back until now, like the next two
	Reasoning    string     `json:"reasoning,omitempty"`
	Calls        []ToolCall `json:"tool_calls,omitempty"`
	FinishReason string     `json:"finish_reason"`           // stop, length, tool_calls
	StopSequence string     `json:"stop_sequence,omitempty"` // that ended the answer
	Tokens       int        `json:"tokens"`
	TokensPerS   float64    `json:"tokens_per_s"`   // after the first
	TTFTMs       float64    `json:"ttft_ms"`        // from the request to the first token
	Note         string     `json:"note,omitempty"` // where the time was spent

	Cached     int        `json:"prompt_tokens_kept,omitempty"` // reused from earlier sessions
	Ahead      *Ahead     `json:"ahead,omitempty"`              // absent: no guesses were sent
	Route      []Hop      `json:"route,omitempty"`              // the final route, if it was repaired, moved, crosses a relay, or was not exact (Wire)
	Recoveries []Recovery `json:"recoveries,omitempty"`         // repairs of the route
	Moves      []Move     `json:"moves,omitempty"`              // changes of a stage's path that needed no repair
}

// Ahead sums up the guesses of an answer: rows that its first stage sent before their
// tokens were known.
type Ahead struct {
	Sent int     `json:"sent"`
	Kept int     `json:"kept"`           // of them, those that were right: each saved a trip round the ring
	Gain float64 `json:"gain,omitempty"` // how many times faster the tokens came for it; 0: unknown
}

// Move is a change of the path of a stage's stream during an answer, without a pause: to
// a direct connection, or to another circuit before a relay cut this one.
type Move struct {
	Peer    string  `json:"peer"`
	From    int     `json:"from"`
	To      int     `json:"to"`
	Link    bool    `json:"link,omitempty"`    // of the peer's link to the next stage, else of the node's own stream
	Token   int     `json:"token"`             // tokens before it; of a link, up to a quarter of a second late
	Relayed bool    `json:"relayed,omitempty"` // the new path crosses a relay, too
	TookMs  float64 `json:"took_ms,omitempty"` // until the new stream was in use, while tokens went on; of a link: not known
}

// Recovery describes a repair of the route during an answer.
type Recovery struct {
	Why      string  `json:"why"`
	Token    int     `json:"token"` // tokens before the repair
	StallMs  float64 `json:"stall_ms"`
	Replayed int     `json:"replayed"`       // positions computed again
	Lost     []Hop   `json:"lost,omitempty"` // stages replaced

	// Blocks that another engine computes from here on. Its results differ in the last
	// bits, so that the words after Token may, now and then.
	Engines []EngineChange `json:"engines,omitempty"`
}

// EngineChange says what computes some blocks from now on. Engines are named like
// "llama v0.5.0, CPU, f16": name, version, kind of device, format of the KV cache.
type EngineChange struct {
	From int    `json:"from"`
	To   int    `json:"to"`
	Was  string `json:"was"`
	Now  string `json:"now"` // "": its peer does not tell
}

// Repair reports that the route broke during an answer: first with the stages that seem
// lost and no Route, then with the result.
type Repair struct {
	Recovery
	Route []Hop  `json:"route,omitempty"` // from here on
	Costs []Cost `json:"costs,omitempty"` // of its stages
}

// AddRequest imports a model from a path or URL.
type AddRequest struct {
	Source string `json:"source"`
	Name   string `json:"name,omitempty"`
	Span   string `json:"span,omitempty"` // FROM-TO; "": all
	Base   string `json:"base,omitempty"` // the model that Source, an adapter (LoRA), adds to; "": Source is a model

	// Quantize is for a directory of safetensors: q8_0, q4_K_M, f16, or "" to
	// keep the numbers as they are.
	Quantize string `json:"quantize,omitempty"`
}

// PullRequest fetches a model's shards from peers and its origins.
type PullRequest struct {
	Model string `json:"model"`
	Span  string `json:"span,omitempty"`

	Import bool `json:"-"` // Model may be a file or address to import, since the caller has the token
}

// ExportRequest writes a model's original file, or a split model's files. If parts of
// the model are missing here, it is refused with an Error that has a Lack.
type ExportRequest struct {
	Model string `json:"model"`
	Path  string `json:"path"`            // on this machine
	Fetch bool   `json:"fetch,omitempty"` // fetch what is missing first
}

// Progress reports how far long work has got.
type Progress struct {
	Done    int64  `json:"done"`  // bytes
	Total   int64  `json:"total"` // bytes; 0: unknown
	Sources int    `json:"sources,omitempty"`
	What    string `json:"what,omitempty"`

	// Of a fetch: how many sources are peers and how many are origins, the recent
	// rate, the time left, and the sources that were dropped, each with the reason.
	Peers   int      `json:"peers,omitempty"`
	Origins int      `json:"origins,omitempty"`
	Rate    float64  `json:"bytes_per_s,omitempty"`
	Left    float64  `json:"seconds_left,omitempty"` // at that rate
	Trouble []string `json:"trouble,omitempty"`
}

// Model of this node, or one that peers serve.
type Model struct {
	ID           string   `json:"id"`
	Name         string   `json:"name"`
	Names        []string `json:"names,omitempty"`
	Architecture string   `json:"architecture,omitempty"`
	Quantization string   `json:"quantization,omitempty"`
	Licence      string   `json:"licence,omitempty"`
	Parameters   int64    `json:"parameters,omitempty"`
	Context      int      `json:"context,omitempty"`
	Blocks       int      `json:"blocks"`
	Width        int      `json:"width,omitempty"`
	Size         int64    `json:"size,omitempty"`
	Allocated    int64    `json:"allocated"` // bytes on this disk
	Held         []string `json:"held"`      // shards that are complete here, as spans and names
	HeldBytes    int64    `json:"held_bytes,omitempty"`
	Partial      []string `json:"partial,omitempty"` // shards held in part: header, embedding, "blocks 4-6", "block 9", output
	Damaged      []Damage `json:"damaged,omitempty"` // damaged parts that were dropped and not fetched again
	Pinned       bool     `json:"pinned,omitempty"`  // all of it
	Pins         []string `json:"pins,omitempty"`    // pinned shards, in the form of Partial, if not all
	Origins      []string `json:"origins,omitempty"`
	Remote       bool     `json:"remote,omitempty"`    // peers serve it, and nothing of it is here
	Complete     bool     `json:"complete"`            // all of it is here
	Served       bool     `json:"served,omitempty"`    // the connected peers and this node together serve all of it
	Abilities    []string `json:"abilities,omitempty"` // only from Show, like Template and Facts: tools, thinking; or embedding, rerank, without which the model generates text
	Warnings     []string `json:"warnings,omitempty"`  // only from Show, Add and Pull: why its answers may be worse than its makers', a sentence each

	Cuts     *protocol.Cuts `json:"cuts,omitempty"`     // only from Show, Add and Pull: where it can be cut; none: anywhere
	Template string         `json:"template,omitempty"` // chat template
	Facts    map[string]any `json:"facts,omitempty"`    // the header's entries that are single values
}

// Status of a node.
type Status struct {
	Peer    string   `json:"peer"`
	Name    string   `json:"name,omitempty"` // of the machine, which only peers that it trusts are told
	Version string   `json:"version"`
	Reach   string   `json:"reach"` // how peers elsewhere reach this node: public, private, local (it listens only on loopback), unknown
	Addrs   []string `json:"addrs"`
	API     string   `json:"api,omitempty"`  // host:port that can be dialled
	URLs    []string `json:"urls,omitempty"` // of the page: on this machine first, then for others if they can reach it
	// Fingerprint is the SHA-256 of the API's certificate; "": it has no TLS.
	Fingerprint string        `json:"tls_fingerprint,omitempty"`
	Ahead       *Ahead        `json:"ahead,omitempty"`      // of this node's answers since its start, added up; absent: no guesses were sent
	APIOpen     bool          `json:"api_open,omitempty"`   // the operator lets anyone who can reach it use it
	APIClosed   bool          `json:"api_closed,omitempty"` // other machines can reach the API, and are refused until there is a key
	Home        string        `json:"home"`
	Uptime      time.Duration `json:"uptime_ns"`
	UptimeS     int64         `json:"uptime_s"` // the same, in seconds
	Peers       int           `json:"peers"`    // connected, in all networks
	Networks    []Network     `json:"networks"` // that the node is in; Peer and Addrs are of the first; none: nobody else can connect
	Open        bool          `json:"open"`     // the node is in the open network: strangers may use it, and it uses theirs
	Light       bool          `json:"light,omitempty"`
	Serving     []Serving     `json:"serving"`
	Memory      int64         `json:"memory"`          // bytes lent
	Allocated   int64         `json:"allocated"`       // bytes of models on disk
	Quota       int64         `json:"quota,omitempty"` // bytes for unpinned shards; 0: no limit
	QuotaUsed   int64         `json:"quota_used"`
	Given       uint64        `json:"bytes_given"`
	Taken       uint64        `json:"bytes_taken"`
	GivenAll    uint64        `json:"ledger_bytes_given"` // in total over restarts, including origins
	TakenAll    uint64        `json:"ledger_bytes_taken"`
	Up          int64         `json:"up_bytes_per_s,omitempty"` // limit for model transfers; 0: none
	Down        int64         `json:"down_bytes_per_s,omitempty"`
	Warnings    []string      `json:"warnings,omitempty"`
}

// Network is one of the networks that a node is in.
type Network struct {
	Swarm string   `json:"swarm"` // ID of a private swarm; "": the open network
	Name  string   `json:"name"`  // of the swarm, or open
	Peer  string   `json:"peer"`  // the node's ID there
	Addrs []string `json:"addrs,omitempty"`
	Peers int      `json:"peers"`           // connected
	Reach string   `json:"reach,omitempty"` // as in Health

	// Bridge says that members of two swarms meet there, and Swarm is the bridge's ID: lends,
	// if guests use this node, or uses, if this node uses the other swarm, called Name.
	Bridge  string `json:"bridge,omitempty"`
	Members int    `json:"members,omitempty"` // of a private swarm that are known, the node included
	Founder bool   `json:"founder,omitempty"` // its root key is in the node's home
}

// Serving is a span that this node serves, or is about to.
type Serving struct {
	Model     string `json:"model"`
	Name      string `json:"name"`
	From      int    `json:"from"`
	To        int    `json:"to"`
	Ready     bool   `json:"ready"`
	State     string `json:"state"`
	Unloaded  bool   `json:"unloaded,omitempty"` // nobody uses it; it is loaded again when somebody does
	Engine    string `json:"engine,omitempty"`   // what computes it, as in EngineChange; "": nothing yet
	EnginePID int    `json:"engine_pid,omitempty"`

	// EngineTrouble is why llama.cpp's library was given up for it, which the built-in
	// engine computes instead; "": it was not.
	EngineTrouble string `json:"engine_trouble,omitempty"`

	Devices    []string `json:"devices,omitempty"`
	Fence      []string `json:"fence,omitempty"`    // what its engine is kept from
	Unfenced   []string `json:"unfenced,omitempty"` // what it is not kept from, each with the reason
	Memory     uint64   `json:"memory"`             // bytes: weights, KV and graph
	Sessions   int      `json:"sessions"`
	KVTokens   int      `json:"kv_tokens"`
	KVFree     int      `json:"kv_free"`
	TokensPerS float64  `json:"tokens_per_s"`
	StepMs     float64  `json:"step_ms"` // per decode pass
	Queued     int      `json:"queued_rows"`
	Passes     int64    `json:"passes"` // since the span was loaded
	Rows       int64    `json:"rows"`   // computed in these passes

	// Draft is the model that guesses tokens for it; nil: none may.
	Draft *Draft `json:"draft,omitempty"`

	// ExpiresAt is when it is unloaded if nobody uses it meanwhile; nil: never, or it is
	// unloaded.
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

// Draft is a small model that guesses tokens for a span which begins a large one.
type Draft struct {
	Model     string  `json:"model,omitempty"` // its CID; "": none was found, or looked for yet
	Name      string  `json:"name,omitempty"`
	Loaded    bool    `json:"loaded"` // it is loaded only while guesses pay
	Memory    uint64  `json:"memory,omitempty"`
	EnginePID int     `json:"engine_pid,omitempty"`
	TokenMs   float64 `json:"token_ms,omitempty"` // per guess, as measured, or expected before
	Right     int     `json:"right"`              // guesses for tokens that have come since the span was loaded
	Wrong     int     `json:"wrong"`
	Trouble   string  `json:"trouble,omitempty"` // why it does not run; "": nothing is known to be wrong
}

// Peer of this node.
type Peer struct {
	Peer      string   `json:"peer"`
	Name      string   `json:"name,omitempty"` // of the machine, if that and this node trust each other
	Addr      string   `json:"addr"`
	Transport string   `json:"transport"`
	RTTMs     float64  `json:"rtt_ms"`
	Version   string   `json:"version"`
	Relayed   bool     `json:"relayed,omitempty"`
	Path      string   `json:"path"`                 // direct or relayed
	NotDirect string   `json:"not_direct,omitempty"` // of a relayed peer: not-tried, nat, symmetric, no-address or unsupported
	Relay     string   `json:"relay,omitempty"`      // of a relayed peer: the relay's peer ID
	Swarm     string   `json:"swarm,omitempty"`      // ID of the private swarm in which it is connected; "": the open network
	SwarmName string   `json:"swarm_name,omitempty"` // of that swarm
	Serves    []string `json:"serves,omitempty"`
	Engines   []string `json:"engines,omitempty"` // what computes each of Serves, as in EngineChange; "": unknown

	// Bytes of models sent to it and received from it, in total over restarts, and
	// until when it is ignored because it sent corrupt data.
	Given    uint64     `json:"bytes_given"`
	Taken    uint64     `json:"bytes_taken"`
	BadUntil *time.Time `json:"bad_until,omitempty"`
}
