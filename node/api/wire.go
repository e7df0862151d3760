package api

import (
	"encoding/json"
	"math"
	"slices"
)

// The wire format under /v1. Names and structure are OpenAI's; "shoal" holds extensions.
// Fields that may have several types stay raw until decode.go reads them, so that an
// error can name the element at fault.

// commonRequest holds the fields that chat and plain completions share.
type commonRequest struct {
	Model         string          `json:"model,omitempty"`
	Stream        bool            `json:"stream,omitempty"`
	StreamOptions *streamOptions  `json:"stream_options,omitempty"`
	N             *int            `json:"n,omitempty"`
	Stop          json.RawMessage `json:"stop,omitempty"` // string or strings
	MaxTokens     *int            `json:"max_tokens,omitempty"`
	Sampling
	Seed              json.RawMessage `json:"seed,omitempty"`               // any integer of 64 bits
	RepetitionPenalty *float64        `json:"repetition_penalty,omitempty"` // vLLM's name for repeat_penalty
	ResponseFormat    *responseFormat `json:"response_format,omitempty"`
	constraintWords
	StopTokenIDs json.RawMessage `json:"stop_token_ids,omitempty"` // vLLM's
	IgnoreEOS    bool            `json:"ignore_eos,omitempty"`     // vLLM's and llama.cpp's
	RepeatLastN  *int            `json:"repeat_last_n,omitempty"`  // llama.cpp's
	Shoal        *Extension      `json:"shoal,omitempty"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// Extension holds options for shoal's own clients.
type Extension struct {
	Details   bool  `json:"details,omitempty"`    // answer with a Details
	Route     []Hop `json:"route,omitempty"`      // take this route
	MaxStages int   `json:"max_stages,omitempty"` // plan a route of at most this many stages
	Exact     bool  `json:"exact,omitempty"`      // use only stages that compute the same in any company

	Ahead string `json:"ahead,omitempty"` // off: send no rows of guesses ahead; auto: as the node is set
}

type chatRequest struct {
	commonRequest
	Messages            []chatMessage     `json:"messages"`
	MaxCompletionTokens *int              `json:"max_completion_tokens,omitempty"`
	Logprobs            bool              `json:"logprobs,omitempty"`
	TopLogprobs         *int              `json:"top_logprobs,omitempty"`
	Tools               []json.RawMessage `json:"tools,omitempty"`
	ToolChoice          json.RawMessage   `json:"tool_choice,omitempty"` // a word, or a function by name
	ParallelToolCalls   *bool             `json:"parallel_tool_calls,omitempty"`
	ReasoningEffort     string            `json:"reasoning_effort,omitempty"`
	ChatTemplateKwargs  struct {
		EnableThinking *bool `json:"enable_thinking,omitempty"`
	} `json:"chat_template_kwargs,omitzero"` // extension, as in vLLM and llama.cpp
	ContinueFinalMessage bool            `json:"continue_final_message,omitempty"` // vLLM's, like the next
	AddGenerationPrompt  *bool           `json:"add_generation_prompt,omitempty"`
	Prediction           json.RawMessage `json:"prediction,omitempty"` // see predictedText
}

type chatMessage struct {
	Role             string          `json:"role"`
	Content          json.RawMessage `json:"content"` // string, parts or null
	ReasoningContent string          `json:"reasoning_content,omitempty"`
	Reasoning        string          `json:"reasoning,omitempty"` // the same, under its other name
	Name             string          `json:"name,omitempty"`
	ToolCalls        json.RawMessage `json:"tool_calls,omitempty"`
	ToolCallID       string          `json:"tool_call_id,omitempty"`
	Refusal          string          `json:"refusal,omitempty"`
	FunctionCall     json.RawMessage `json:"function_call,omitempty"`
}

type completionRequest struct {
	commonRequest
	Prompt   json.RawMessage `json:"prompt"` // string, strings, tokens or lists of tokens
	Echo     bool            `json:"echo,omitempty"`
	Logprobs *int            `json:"logprobs,omitempty"`
	BestOf   *int            `json:"best_of,omitempty"`
}

// completion is a whole answer or a chunk of one. The two differ in Object, and in
// whether choices carry a message or a delta.
type completion struct {
	ID                string     `json:"id"`
	Object            string     `json:"object"`
	Created           int64      `json:"created"` // Unix seconds
	Model             string     `json:"model"`
	SystemFingerprint string     `json:"system_fingerprint,omitempty"` // of the model's content
	Choices           []choice   `json:"choices"`
	Usage             usageField `json:"usage,omitzero"`
	Shoal             *Details   `json:"shoal,omitempty"`
}

// Details of an answer, in its "shoal" field. In a stream, each chunk has one of the
// four.
type Details struct {
	Start  *Start  `json:"start,omitempty"`
	Tokens []Token `json:"tokens,omitempty"`
	Repair *Repair `json:"repair,omitempty"` // of a stream
	Done   *Done   `json:"done,omitempty"`
}

type choice struct {
	Index        int      `json:"index"`
	Message      *message `json:"message,omitempty"` // chat: of a whole answer
	Delta        *delta   `json:"delta,omitempty"`   // chat: of a chunk
	Text         *string  `json:"text,omitempty"`    // completions
	Logprobs     any      `json:"logprobs"`          // *chatLogprobs, *textLogprobs or nil
	FinishReason *string  `json:"finish_reason"`
}

type message struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"` // null: there are only calls
	ToolCalls []ToolCall `json:"tool_calls,omitempty"`
	reasoning
}

type delta struct {
	Role      string      `json:"role,omitempty"`
	Content   *string     `json:"content,omitempty"`
	ToolCalls []callDelta `json:"tool_calls,omitempty"`
	reasoning
}

// callDelta is a complete call: an incomplete one may turn out to be plain text.
type callDelta struct {
	Index int `json:"index"`
	ToolCall
}

// reasoning has two names: DeepSeek's, which vLLM and llama.cpp adopted, and
// OpenRouter's, which later versions of vLLM use.
type reasoning struct {
	ReasoningContent string `json:"reasoning_content,omitempty"`
	Reasoning        string `json:"reasoning,omitempty"`
}

type chatLogprobs struct {
	Content []chatLogprob `json:"content"`
}

type chatLogprob struct {
	Token   string           `json:"token"`
	Logprob float64          `json:"logprob"`
	Bytes   []int            `json:"bytes"` // numbers, not base64
	Top     []chatTopLogprob `json:"top_logprobs"`
}

type chatTopLogprob struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

type textLogprobs struct {
	Tokens        []string             `json:"tokens"`
	TokenLogprobs []*float64           `json:"token_logprobs"` // null: the first token of a prompt, which follows nothing
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"` // characters
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
	PromptDetails    struct {
		CachedTokens int `json:"cached_tokens"` // tokens of the prompts, reused from earlier sessions
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		AcceptedPrediction int `json:"accepted_prediction_tokens"` // guesses sent ahead that were right
		RejectedPrediction int `json:"rejected_prediction_tokens"` // those that were not
	} `json:"completion_tokens_details"`
}

// usageField is absent, null or an object: a stream with usage has null in all chunks
// except the last.
type usageField struct {
	shown bool
	value *usage
}

func (u usageField) IsZero() bool                 { return !u.shown }
func (u usageField) MarshalJSON() ([]byte, error) { return json.Marshal(u.value) }

type modelObject struct {
	ID      string `json:"id"` // a name, or the CID if names clash
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	Shoal   *Model `json:"shoal,omitempty"`
}

type modelList struct {
	Object string        `json:"object"`
	Data   []modelObject `json:"data"`
}

// leastLogprob stands for minus infinity, which JSON cannot express. OpenAI uses the same
// value.
const leastLogprob = -9999

// sendable returns t with numbers that JSON can express.
func (t Token) sendable() Token {
	t.Logprob = logprob(t.Logprob)
	if len(t.Top) > 0 {
		top := make([]Top, len(t.Top))
		for i, x := range t.Top {
			x.Logprob = logprob(x.Logprob)
			top[i] = x
		}
		t.Top = top
	}
	return t
}

func (s Start) sendable() Start {
	s.PredictedRate, s.PredictedTTFTMs = finite(s.PredictedRate), finite(s.PredictedTTFTMs)
	s.Prompt = slices.Clone(s.Prompt)
	for i := range s.Prompt {
		s.Prompt[i] = s.Prompt[i].sendable()
	}
	return s
}

func (d Done) sendable() Done {
	d.TokensPerS, d.TTFTMs = finite(d.TokensPerS), finite(d.TTFTMs)
	return d
}

func logprob(x float64) float64 {
	if !(x > leastLogprob) { // NaN too
		return leastLogprob
	}
	return min(x, 0)
}

func finite(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}
