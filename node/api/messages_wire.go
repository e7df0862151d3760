package api

import (
	"encoding/json"
	"time"
)

// What crosses the wire at /v1/messages. Names and shapes are Anthropic's.

type messagesRequest struct {
	Model         string            `json:"model"`
	MaxTokens     *int              `json:"max_tokens"` // not null, except to count
	Messages      []messageIn       `json:"messages"`
	System        json.RawMessage   `json:"system"` // string or text blocks
	StopSequences []string          `json:"stop_sequences"`
	Stream        bool              `json:"stream"`
	Temperature   *float64          `json:"temperature"`
	TopK          *int              `json:"top_k"`
	TopP          *float64          `json:"top_p"`
	Tools         []json.RawMessage `json:"tools"`
	ToolChoice    *struct {
		Type       string `json:"type"` // auto, any, tool or none
		Name       string `json:"name"`
		NoParallel bool   `json:"disable_parallel_tool_use"`
	} `json:"tool_choice"`
	Thinking struct {
		Type    string `json:"type"`    // enabled, adaptive, between_tools, disabled or ""
		Display string `json:"display"` // omitted: without the text
	} `json:"thinking"`
	OutputConfig struct {
		Effort string         `json:"effort"`
		Format *messageFormat `json:"format"`
	} `json:"output_config"`
	OutputFormat *messageFormat `json:"output_format"` // the older place of output_config.format
	Thread       *struct {
		Type     string `json:"type"` // create or continue
		Previous string `json:"previous_message_id"`
	} `json:"thread"`
}

type messageFormat struct {
	Type   string          `json:"type"` // json_schema
	Schema json.RawMessage `json:"schema"`
}

// messageIn is a message of the request.
type messageIn struct {
	Role    string          `json:"role"`    // user, assistant or system
	Content json.RawMessage `json:"content"` // string or blocks
}

// blockIn is a block of content in the request. Which fields it has depends on Type.
type blockIn struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	Thinking  string          `json:"thinking"`
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Input     json.RawMessage `json:"input"` // an object
	ToolUseID string          `json:"tool_use_id"`
	IsError   bool            `json:"is_error"`
	Content   json.RawMessage `json:"content"` // string or blocks
	Title     json.RawMessage `json:"title"`
	Source    json.RawMessage `json:"source"` // of a document: an object; of a search result: a string
}

// messageAnswer is an answer, complete or so far.
type messageAnswer struct {
	ID           string          `json:"id"`
	Type         string          `json:"type"` // message
	Role         string          `json:"role"` // assistant
	Model        string          `json:"model"`
	Content      []*messageBlock `json:"content"`
	StopReason   *string         `json:"stop_reason"` // end_turn, max_tokens, stop_sequence or tool_use
	StopSequence *string         `json:"stop_sequence"`
	Usage        messageUsage    `json:"usage"`
}

// messageUsage counts tokens. Those of the prompt are the sum of the first three.
type messageUsage struct {
	InputTokens   int `json:"input_tokens"` // that had to be computed
	CacheCreation int `json:"cache_creation_input_tokens"`
	CacheRead     int `json:"cache_read_input_tokens"` // reused from earlier sessions
	OutputTokens  int `json:"output_tokens"`
}

// messageBlock is a block of an answer.
type messageBlock struct {
	Type      string          `json:"type"` // text, thinking or tool_use
	Text      *string         `json:"text,omitempty"`
	Thinking  *string         `json:"thinking,omitempty"`
	Signature *string         `json:"signature,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"` // an object
}

// messageEvent is an event of a stream.
type messageEvent struct {
	Type    string         `json:"type"`
	Message *messageAnswer `json:"message,omitempty"`
	Index   *int           `json:"index,omitempty"`
	Block   *messageBlock  `json:"content_block,omitempty"`
	Delta   *messageDelta  `json:"delta,omitempty"`
	Usage   *messageUsage  `json:"usage,omitempty"`
}

// messageDelta is what was added to a block, or, without a type, how the message ended.
type messageDelta struct {
	Type      string  `json:"type,omitempty"`
	Text      *string `json:"text,omitempty"`
	Thinking  *string `json:"thinking,omitempty"`
	Signature *string `json:"signature,omitempty"`
	JSON      *string `json:"partial_json,omitempty"`
	*messageEnd
}

type messageEnd struct {
	StopReason   *string `json:"stop_reason"`
	StopSequence *string `json:"stop_sequence"`
}

// messageError is Anthropic's error object, as a whole answer or an event of a stream.
type messageError struct {
	Type  string `json:"type"` // error
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Details any    `json:"details,omitempty"` // with error_code, where clients look for one
	} `json:"error"`
	RequestID string `json:"request_id"`
}

// messageModel is a model as Anthropic's list has it.
type messageModel struct {
	Type        string    `json:"type"` // model
	ID          string    `json:"id"`
	DisplayName string    `json:"display_name"`
	CreatedAt   time.Time `json:"created_at"`
	Lifecycle   string    `json:"lifecycle"` // active
	Context     *int      `json:"max_input_tokens"`
	MaxTokens   *int      `json:"max_tokens"`
}
