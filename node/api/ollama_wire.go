package api

import (
	"encoding/json"
	"time"
)

// What crosses the wire under /api. Names and shapes are those of Ollama's API
// (its docs/api.md and its Go package api), as far as clients use them.

// ollamaVersion is the version of Ollama whose API this is. Clients ask for it
// to know what they may send.
const ollamaVersion = "0.17.4"

// ollamaCommon is what chat and generate share.
type ollamaCommon struct {
	Model       string          `json:"model"`
	Stream      *bool           `json:"stream"` // unless false
	Format      json.RawMessage `json:"format"` // "", "json" or a JSON schema
	Options     ollamaOptions   `json:"options"`
	Think       json.RawMessage `json:"think"` // true, false, or how hard
	Logprobs    bool            `json:"logprobs"`
	TopLogprobs int             `json:"top_logprobs"`
	KeepAlive   json.RawMessage `json:"keep_alive"` // see keepAlive
}

// ollamaOptions are those that say what an answer is like. The rest (num_ctx,
// num_gpu, ...) says how Ollama is to run it, which is not for the caller here.
type ollamaOptions struct {
	Sampling
	NumPredict *int            `json:"num_predict"` // negative: no limit
	Seed       json.RawMessage `json:"seed"`
	Stop       json.RawMessage `json:"stop"`

	RepeatLastN *int `json:"repeat_last_n"`
}

type ollamaChatRequest struct {
	ollamaCommon
	Messages []ollamaMessage   `json:"messages"`
	Tools    []json.RawMessage `json:"tools"`
}

type ollamaGenerateRequest struct {
	ollamaCommon
	Prompt   string          `json:"prompt"`
	Suffix   string          `json:"suffix"`
	System   string          `json:"system"`
	Template string          `json:"template"`
	Context  json.RawMessage `json:"context"`
	Images   json.RawMessage `json:"images"`
	Raw      bool            `json:"raw"`
}

type ollamaMessage struct {
	Role       string          `json:"role"`
	Content    string          `json:"content"`
	Thinking   string          `json:"thinking,omitempty"`
	Images     json.RawMessage `json:"images,omitempty"`
	ToolCalls  []ollamaCall    `json:"tool_calls,omitempty"`
	ToolName   string          `json:"tool_name,omitempty"`
	ToolCallID string          `json:"tool_call_id,omitempty"`
}

type ollamaCall struct {
	ID       string         `json:"id,omitempty"`
	Function ollamaFunction `json:"function"`
}

type ollamaFunction struct {
	Index     int             `json:"index"`
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"` // an object
}

// ollamaAnswer is a piece of an answer, or all of it: to chat with a Message, to
// generate with a Response.
type ollamaAnswer struct {
	Model     string         `json:"model"`
	CreatedAt time.Time      `json:"created_at"`
	Message   *ollamaMessage `json:"message,omitempty"`
	Response  *string        `json:"response,omitempty"`
	Thinking  string         `json:"thinking,omitempty"` // of a Response
	Logprobs  []chatLogprob  `json:"logprobs,omitempty"`
	Done      bool           `json:"done"`
	ollamaMetrics
}

// ollamaMetrics come with the end. Durations are nanoseconds.
type ollamaMetrics struct {
	DoneReason         string        `json:"done_reason,omitempty"`
	TotalDuration      time.Duration `json:"total_duration,omitempty"`
	LoadDuration       time.Duration `json:"load_duration,omitempty"` // until a route was found
	PromptEvalCount    int           `json:"prompt_eval_count,omitempty"`
	PromptEvalDuration time.Duration `json:"prompt_eval_duration,omitempty"`
	EvalCount          int           `json:"eval_count,omitempty"`
	EvalDuration       time.Duration `json:"eval_duration,omitempty"`
}

type ollamaDetails struct {
	ParentModel       string   `json:"parent_model"`
	Format            string   `json:"format"`
	Family            string   `json:"family,omitempty"`
	Families          []string `json:"families,omitempty"`
	ParameterSize     string   `json:"parameter_size,omitempty"`
	QuantizationLevel string   `json:"quantization_level,omitempty"`
}

// ollamaModel is a model in /api/tags, and in /api/ps with the last three.
type ollamaModel struct {
	Name       string        `json:"name"`
	Model      string        `json:"model"`
	ModifiedAt *time.Time    `json:"modified_at,omitempty"`
	Size       int64         `json:"size"`
	Digest     string        `json:"digest"` // the CID
	Details    ollamaDetails `json:"details"`

	ExpiresAt     *time.Time `json:"expires_at,omitempty"`
	SizeVRAM      *int64     `json:"size_vram,omitempty"`
	ContextLength int        `json:"context_length,omitempty"`
}

type ollamaModels struct {
	Models []ollamaModel `json:"models"`
}

type ollamaNamed struct {
	Model  string `json:"model"`
	Name   string `json:"name"` // its older name
	Stream *bool  `json:"stream"`
}

type ollamaShown struct {
	License      string         `json:"license,omitempty"`
	Modelfile    string         `json:"modelfile,omitempty"`
	Parameters   string         `json:"parameters,omitempty"`
	Template     string         `json:"template,omitempty"` // the model's own, in Jinja
	Details      ollamaDetails  `json:"details"`
	ModelInfo    map[string]any `json:"model_info"`
	Capabilities []string       `json:"capabilities"`
	ModifiedAt   time.Time      `json:"modified_at"`
}

type ollamaProgress struct {
	Status    string `json:"status"`
	Digest    string `json:"digest,omitempty"`
	Total     int64  `json:"total,omitempty"`     // bytes
	Completed int64  `json:"completed,omitempty"` // bytes
}

// ollamaError is an error, as an answer or as the last line of one.
type ollamaError struct {
	Error string `json:"error"`
}
