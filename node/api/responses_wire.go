package api

import "encoding/json"

// What crosses the wire at /v1/responses. Names and shapes are OpenAI's.

type responseRequest struct {
	Model           string          `json:"model"`
	Input           json.RawMessage `json:"input"` // string or items
	Instructions    string          `json:"instructions"`
	MaxOutputTokens *int            `json:"max_output_tokens"`
	Sampling
	TopLogprobs       *int              `json:"top_logprobs"`
	Include           []string          `json:"include"`
	Tools             []json.RawMessage `json:"tools"`
	ToolChoice        json.RawMessage   `json:"tool_choice"` // a word, or a tool
	ParallelToolCalls *bool             `json:"parallel_tool_calls"`
	Stream            bool              `json:"stream"`
	Metadata          json.RawMessage   `json:"metadata"`

	PreviousResponseID string          `json:"previous_response_id"`
	Conversation       json.RawMessage `json:"conversation"` // an id, or an object with one
	Store              *bool           `json:"store"`        // nil: true
	Truncation         string          `json:"truncation"`   // auto, or disabled ("")

	Reasoning struct {
		Effort string `json:"effort"`
	} `json:"reasoning"`
	Text struct {
		Format *responseTextFormat `json:"format"`
	} `json:"text"`
}

// responseTextFormat is a responseFormat with one level less.
type responseTextFormat struct {
	Type   string          `json:"type"`
	Name   string          `json:"name,omitempty"`
	Schema json.RawMessage `json:"schema,omitempty"`
	Strict *bool           `json:"strict,omitempty"`
}

// responseInput is an item of the input. One without a type is a message.
type responseInput struct {
	Type    string          `json:"type"`
	ID      string          `json:"id"`
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"` // of a message or of reasoning

	CallID    string          `json:"call_id"` // of a call and its output
	Name      string          `json:"name"`
	Namespace string          `json:"namespace"`
	Arguments json.RawMessage `json:"arguments"`
	Input     string          `json:"input"`  // of a custom tool's call
	Output    json.RawMessage `json:"output"` // string or parts

	Action      json.RawMessage   `json:"action"`    // of a shell's call
	Operation   json.RawMessage   `json:"operation"` // of a patch
	Status      string            `json:"status"`
	ServerLabel string            `json:"server_label"` // of an MCP server's call
	Tools       []json.RawMessage `json:"tools"`        // of items that bring tools
}

// response is an answer, complete or so far.
type response struct {
	ID                 string             `json:"id"`
	Object             string             `json:"object"`
	CreatedAt          int64              `json:"created_at"` // Unix seconds
	Status             string             `json:"status"`     // in_progress, completed, incomplete or failed
	Background         bool               `json:"background"`
	Error              *responseError     `json:"error"`
	IncompleteDetails  *incompleteDetails `json:"incomplete_details"`
	Instructions       *string            `json:"instructions"`
	MaxOutputTokens    *int               `json:"max_output_tokens"`
	Metadata           json.RawMessage    `json:"metadata"`
	Model              string             `json:"model"`
	Output             []*responseItem    `json:"output"`
	ParallelToolCalls  bool               `json:"parallel_tool_calls"`
	PreviousResponseID *string            `json:"previous_response_id"`
	Conversation       *conversationRef   `json:"conversation,omitempty"`
	Reasoning          responseReasoning  `json:"reasoning"`
	Store              bool               `json:"store"`
	Temperature        *float64           `json:"temperature"`
	Text               responseText       `json:"text"`
	ToolChoice         json.RawMessage    `json:"tool_choice"`
	Tools              []json.RawMessage  `json:"tools"`
	TopP               *float64           `json:"top_p"`
	Truncation         string             `json:"truncation"`
	Usage              *responseUsage     `json:"usage"` // null: not finished
}

type conversationRef struct {
	ID string `json:"id"`
}

type responseError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

type incompleteDetails struct {
	Reason string `json:"reason"`
}

type responseReasoning struct {
	Effort  *string `json:"effort"`
	Summary *string `json:"summary"`
}

type responseText struct {
	Format responseTextFormat `json:"format"`
}

type responseUsage struct {
	InputTokens  int `json:"input_tokens"`
	InputDetails struct {
		CachedTokens     int `json:"cached_tokens"`
		CacheWriteTokens int `json:"cache_write_tokens"` // that are charged for: none are here
	} `json:"input_tokens_details"`
	OutputTokens  int `json:"output_tokens"`
	OutputDetails struct {
		ReasoningTokens int `json:"reasoning_tokens"`
	} `json:"output_tokens_details"`
	TotalTokens int `json:"total_tokens"`
}

// responseItem is an item of an answer: a message, reasoning, or a call of a function or
// a custom tool.
type responseItem struct {
	ID      string         `json:"id"`
	Type    string         `json:"type"`
	Status  string         `json:"status"`
	Role    string         `json:"role,omitempty"`
	Summary []struct{}     `json:"summary,omitzero"` // of reasoning: always empty
	Content []responsePart `json:"content,omitzero"`

	CallID    string  `json:"call_id,omitempty"`
	Name      string  `json:"name,omitempty"`
	Namespace string  `json:"namespace,omitempty"`
	Arguments *string `json:"arguments,omitempty"` // of a function
	Input     *string `json:"input,omitempty"`     // of a custom tool
}

type responsePart struct {
	Type        string        `json:"type"`
	Text        string        `json:"text"`
	Annotations []struct{}    `json:"annotations,omitzero"`
	Logprobs    []chatLogprob `json:"logprobs,omitzero"`
}

// responseEvent is an event of a stream.
type responseEvent struct {
	Type         string        `json:"type"`
	Sequence     int           `json:"sequence_number"`
	Response     *response     `json:"response,omitempty"`
	OutputIndex  *int          `json:"output_index,omitempty"`
	ItemID       string        `json:"item_id,omitempty"`
	ContentIndex *int          `json:"content_index,omitempty"`
	Item         *responseItem `json:"item,omitempty"`
	Part         *responsePart `json:"part,omitempty"`
	Delta        *string       `json:"delta,omitempty"`
	Text         *string       `json:"text,omitempty"`
	Name         string        `json:"name,omitempty"`
	Arguments    *string       `json:"arguments,omitempty"`
	Input        *string       `json:"input,omitempty"`
	Logprobs     []chatLogprob `json:"logprobs,omitzero"`

	// Of an error: as the endpoint's documentation specifies it, and as OpenAI's own
	// clients expect it.
	Code    Kind       `json:"code,omitempty"`
	Message string     `json:"message,omitempty"`
	Error   *wireError `json:"error,omitempty"`
}
