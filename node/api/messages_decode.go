package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A request of Anthropic's API is converted into a chat request and then handled as such.

// messageJob is a job with what the answer depends on besides.
type messageJob struct {
	*job
	asked    messagesRequest // with the messages of earlier answers
	old      int             // how many messages are of earlier answers
	thoughts bool            // the caller wants to see the model's reasoning
	from     []int           // which of the messages asked each of the chat is from; -1: system
	tools    []int           // which of the request's tools each of the chat is
}

// decodeMessages reads a body of /v1/messages, or with count of
// /v1/messages/count_tokens. Earlier answers come from past, which may be nil: there are
// none.
func decodeMessages(body []byte, past *recollection, count bool) (*messageJob, error) {
	j := &messageJob{}
	r := &j.asked
	if err := decode(body, r); err != nil {
		return nil, err
	}
	if r.Thread != nil {
		switch r.Thread.Type {
		case "create":
		case "continue":
			var err error
			if j.old, err = r.resume(past); err != nil {
				return nil, err
			}
		default:
			return nil, fieldError("thread.type", "%.32q is unknown: use create or continue", r.Thread.Type)
		}
	}
	switch {
	case r.MaxTokens == nil && !count:
		return nil, fieldError("max_tokens", "Field required")
	case r.MaxTokens != nil && *r.MaxTokens < 1:
		return nil, fieldError("max_tokens", "must be at least 1")
	case len(r.Messages) == 0:
		return nil, fieldError("messages", "at least one message is required")
	case len(r.Messages) > maxMessages:
		return nil, fieldError("messages", "holds %d messages: %d is the most", len(r.Messages), maxMessages)
	}
	chat := chatRequest{}
	chat.Model, chat.Stream, chat.MaxTokens = r.Model, r.Stream, r.MaxTokens
	chat.Sampling = Sampling{Temperature: r.Temperature, TopP: r.TopP, TopK: deref(r.TopK, 0)}
	if len(r.StopSequences) > 0 {
		var err error
		if chat.Stop, err = json.Marshal(r.StopSequences); err != nil {
			return nil, fieldError("stop_sequences", "cannot be read")
		}
	}
	if err := j.reason(&chat); err != nil {
		return nil, err
	}
	if err := r.format(&chat); err != nil {
		return nil, err
	}
	if err := j.offer(&chat); err != nil {
		return nil, err
	}
	c := &messageChat{j: j, chat: &chat}
	if err := c.read(r, count); err != nil {
		return nil, err
	}
	var err error
	if j.job, err = chat.job(); err != nil {
		return nil, j.asAsked(err)
	}
	return j, nil
}

// reason converts how hard the model is to think. Callers that do not ask for reasoning
// get none, as at Anthropic: many take the first block for the answer.
func (j *messageJob) reason(chat *chatRequest) error {
	r := &j.asked
	switch r.Thinking.Type {
	case "", "disabled":
		chat.ChatTemplateKwargs.EnableThinking = new(bool)
	case "enabled", "adaptive", "between_tools":
		j.thoughts = r.Thinking.Display != "omitted"
		if r.OutputConfig.Effort == "" && r.Thinking.Type == "enabled" {
			chat.ChatTemplateKwargs.EnableThinking = new(true)
		}
		chat.ReasoningEffort = r.OutputConfig.Effort
	default:
		return fieldError("thinking.type", "%.32q is unknown: use enabled, adaptive or disabled", r.Thinking.Type)
	}
	_, err := effort("output_config.effort", r.OutputConfig.Effort)
	return err
}

// format converts the schema that the answer must follow.
func (r *messagesRequest) format(chat *chatRequest) error {
	f, param := r.OutputConfig.Format, "output_config.format"
	if f == nil {
		f, param = r.OutputFormat, "output_format"
	}
	if f == nil {
		return nil
	}
	if f.Type != "json_schema" {
		return fieldError(param+".type", "%.32q is unknown: use json_schema", f.Type)
	}
	chat.ResponseFormat = &responseFormat{Type: f.Type, JSONSchema: &jsonSchema{Name: "output", Schema: f.Schema}}
	return nil
}

// offer converts the tools and the choice among them. Tools with a type of their own run
// on Anthropic's servers, or need models trained for them, and are left out.
func (j *messageJob) offer(chat *chatRequest) error {
	r := &j.asked
	leftOut := map[string]string{} // types by name
	for i, raw := range r.Tools {
		var t struct {
			Type        string          `json:"type"`
			Name        string          `json:"name"`
			Description string          `json:"description"`
			InputSchema json.RawMessage `json:"input_schema"`
		}
		param := fmt.Sprintf("tools.%d", i)
		if first(raw) != '{' {
			return fieldError(param, "must be an object")
		}
		if err := decodeAt(param, raw, &t); err != nil {
			return err
		}
		if t.Type != "" && t.Type != "custom" {
			leftOut[t.Name] = t.Type
			continue
		}
		if !present(t.InputSchema) {
			return fieldError(param+".input_schema", "Field required")
		}
		tool := struct {
			Name        string          `json:"name"`
			Description string          `json:"description,omitempty"`
			Parameters  json.RawMessage `json:"parameters"`
		}{t.Name, t.Description, t.InputSchema}
		inner, err := json.Marshal(tool)
		if err != nil {
			return fieldError(param, "cannot be read")
		}
		chat.Tools = append(chat.Tools, slices.Concat(json.RawMessage(`{"type":"function","function":`), inner, json.RawMessage("}")))
		j.tools = append(j.tools, i)
	}
	choice := r.ToolChoice
	if choice == nil {
		return nil
	}
	if choice.NoParallel && len(chat.Tools) > 0 {
		chat.ParallelToolCalls = new(bool)
	}
	switch choice.Type {
	case "auto", "none":
		chat.ToolChoice = quoted(choice.Type)
	case "any":
		chat.ToolChoice = quoted("required")
		if len(chat.Tools) == 0 {
			return fieldError("tool_choice", "demands a call, and none of the tools can be called here")
		}
	case "tool":
		if kind, ok := leftOut[choice.Name]; ok {
			return fieldError("tool_choice", "demands %.64q of type %.64q, which this server does not have", choice.Name, kind)
		}
		chat.ToolChoice = fmt.Appendf(nil, `{"type":"function","function":{"name":%s}}`, quoted(choice.Name))
	default:
		return fieldError("tool_choice.type", "%.32q is unknown: use auto, any, tool or none", choice.Type)
	}
	return nil
}

// messageChat makes a chat's messages of the request's.
type messageChat struct {
	j      *messageJob
	chat   *chatRequest
	words  [][]string      // of each message: the blocks that become its content
	called map[string]bool // ids of the calls so far
}

// read converts the system prompt and all messages.
func (c *messageChat) read(r *messagesRequest, count bool) error {
	c.called = map[string]bool{}
	if present(r.System) {
		text, err := blocksText("system", r.System, 0)
		if err != nil {
			return err
		}
		if text != "" {
			c.add(-1, "system", text)
		}
	}
	for i, m := range r.Messages {
		param := c.j.param(i)
		var err error
		switch m.Role {
		case "user":
			err = c.user(i, param+".content", m.Content)
		case "assistant":
			err = c.assistant(i, param+".content", m.Content)
		case "system":
			var text string
			if text, err = blocksText(param+".content", m.Content, 0); err == nil {
				c.add(i, "system", text)
			}
		default:
			err = fieldError(param+".role", "%.32q is unknown: use user or assistant", m.Role)
		}
		if err != nil {
			return err
		}
	}
	for i := range c.words {
		c.chat.Messages[i].Content = quoted(joined(c.words[i]...))
	}
	if last := r.Messages[len(r.Messages)-1]; last.Role == "assistant" && !count {
		return &Error{Kind: BadInput, Param: "messages", Message: "This model does not support assistant message prefill. The conversation must end with a user message."}
	}
	return nil
}

// add adds text; messages of one role that follow each other become one.
func (c *messageChat) add(from int, role, text string) {
	if last := len(c.chat.Messages) - 1; last >= 0 && c.chat.Messages[last].Role == role {
		c.words[last] = append(c.words[last], text)
		return
	}
	c.put(from, chatMessage{Role: role}, text)
}

// put adds a message whose content are the blocks.
func (c *messageChat) put(from int, m chatMessage, blocks ...string) {
	c.chat.Messages = append(c.chat.Messages, m)
	c.words = append(c.words, blocks)
	c.j.from = append(c.j.from, from)
}

// joined puts blocks of text together, those that hold any.
func joined(blocks ...string) string {
	return strings.Join(slices.DeleteFunc(blocks, func(b string) bool { return b == "" }), "\n")
}

// user converts a user's message: the results of calls, and text.
func (c *messageChat) user(i int, param string, raw json.RawMessage) error {
	blocks, err := contentBlocks(param, raw)
	if err != nil {
		return err
	}
	if len(blocks) == 0 {
		return fieldError(param, "must not be empty")
	}
	for k, b := range blocks {
		at := fmt.Sprintf("%s.%d", param, k)
		if b.Type != "tool_result" {
			text, err := b.words(at, 0)
			if err != nil {
				return err
			}
			if text != "" || len(blocks) == 1 {
				c.add(i, "user", text)
			}
			continue
		}
		if !c.called[b.ToolUseID] {
			return fieldError(at, "unexpected `tool_use_id` found in `tool_result` blocks: %.64s. Each `tool_result` block must have a corresponding `tool_use` block in the previous message.", b.ToolUseID)
		}
		text := ""
		if present(b.Content) {
			if text, err = blocksText(at+".content", b.Content, 1); err != nil {
				return err
			}
		}
		if b.IsError {
			text = joined("Error:", text)
		}
		c.put(i, chatMessage{Role: "tool", ToolCallID: b.ToolUseID}, text)
	}
	return nil
}

// assistant converts an assistant's message: reasoning, text and calls. Turns of the
// assistant that follow each other stay apart, since each has reasoning of its own.
func (c *messageChat) assistant(i int, param string, raw json.RawMessage) error {
	blocks, err := contentBlocks(param, raw)
	if err != nil {
		return err
	}
	var text, thought []string
	var calls []json.RawMessage
	for k, b := range blocks {
		at := fmt.Sprintf("%s.%d", param, k)
		switch b.Type {
		case "thinking":
			thought = append(thought, b.Thinking)
		case "tool_use":
			args := b.Input
			if !present(args) {
				args = json.RawMessage("{}")
			}
			if first(args) != '{' {
				return fieldError(at+".input", "must be an object")
			}
			c.called[b.ID] = true
			calls = append(calls, fmt.Appendf(nil, `{"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}`, quoted(b.ID), quoted(b.Name), quoted(string(args))))
		default:
			words, err := b.words(at, 0)
			if err != nil {
				return err
			}
			text = append(text, words)
		}
	}
	m := chatMessage{Role: "assistant", ReasoningContent: joined(thought...)}
	if len(calls) > 0 {
		if m.ToolCalls, err = json.Marshal(calls); err != nil {
			return fieldError(param, "cannot be read")
		}
	}
	c.put(i, m, text...)
	return nil
}

// contentBlocks returns the blocks of a content; a string is one of text.
func contentBlocks(param string, raw json.RawMessage) ([]blockIn, error) {
	switch first(raw) {
	case '"':
		out := []blockIn{{Type: "text"}}
		return out, decodeAt(param, raw, &out[0].Text)
	case '[':
		var list []json.RawMessage
		if err := decodeAt(param, raw, &list); err != nil {
			return nil, err
		}
		out := make([]blockIn, len(list))
		for i, block := range list {
			at := fmt.Sprintf("%s.%d", param, i)
			if first(block) != '{' {
				return nil, fieldError(at, "must be an object")
			}
			if err := decodeAt(at, block, &out[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case 0, 'n':
		return nil, fieldError(param, "Field required")
	}
	return nil, fieldError(param, "must be a string or a list of blocks")
}

// maxDepth is how deep blocks may lie within blocks: a result of a call, in which is a
// document, whose content is text. It bounds the work, since each level is read again.
const maxDepth = 3

// blocksText returns the text of a content that may hold nothing else, at a depth within
// other blocks.
func blocksText(param string, raw json.RawMessage, depth int) (string, error) {
	if depth > maxDepth {
		return "", fieldError(param, "lies too deep within other blocks")
	}
	blocks, err := contentBlocks(param, raw)
	if err != nil {
		return "", err
	}
	text := make([]string, len(blocks))
	for i, b := range blocks {
		if text[i], err = b.words(fmt.Sprintf("%s.%d", param, i), depth); err != nil {
			return "", err
		}
	}
	return joined(text...), nil
}

// words returns what a block says in words: "" for those that only Anthropic's servers
// can read.
func (b *blockIn) words(param string, depth int) (string, error) {
	switch b.Type {
	case "text":
		return b.Text, nil
	case "document":
		return b.document(param, depth)
	case "search_result":
		text, err := blocksText(param+".content", b.Content, depth+1)
		var title string
		_ = json.Unmarshal(b.Title, &title) // may be absent
		return joined(title, text), err
	case "image":
		return "", fieldError(param+".type", "image is not supported: models here read text only")
	case "redacted_thinking", "server_tool_use", "mcp_tool_use", "tool_reference", "container_upload", "compaction":
		return "", nil
	case "thinking", "tool_use", "tool_result":
		return "", fieldError(param+".type", "%s has no place here", b.Type)
	}
	if strings.HasSuffix(b.Type, "_tool_result") { // of the servers' tools
		return "", nil
	}
	return "", fieldError(param+".type", "%.32q is unknown: use text, tool_use, tool_result or thinking", b.Type)
}

// document returns the text of a document that has any.
func (b *blockIn) document(param string, depth int) (string, error) {
	var source struct {
		Type    string          `json:"type"`
		Data    string          `json:"data"`
		Content json.RawMessage `json:"content"`
	}
	if first(b.Source) != '{' {
		return "", fieldError(param+".source", "must be an object")
	}
	if err := decodeAt(param+".source", b.Source, &source); err != nil {
		return "", err
	}
	var title string
	_ = json.Unmarshal(b.Title, &title) // may be absent
	switch source.Type {
	case "text":
		return joined(title, source.Data), nil
	case "content":
		text, err := blocksText(param+".source.content", source.Content, depth+1)
		return joined(title, text), err
	}
	return "", fieldError(param+".source.type", "%.32q is not supported: models here read text only", source.Type)
}

// fieldError is the error for a bad field of a request in Anthropic's form.
func fieldError(param, format string, args ...any) *Error {
	return &Error{Kind: BadInput, Param: param, Message: param + ": " + fmt.Sprintf(format, args...)}
}

// param names one of the messages asked.
func (j *messageJob) param(i int) string {
	switch {
	case i < 0:
		return "system"
	case i < j.old:
		return "thread"
	}
	return fmt.Sprintf("messages.%d", i-j.old)
}

// asAsked translates the field names in an error of chat to those of this endpoint.
func (j *messageJob) asAsked(err error) *Error {
	e := AsError(err)
	param := e.Param
	var i int
	switch _, rest, _ := strings.Cut(param, "]"); {
	case scans(param, "messages[%d]", &i) && i < len(j.from):
		param = j.param(j.from[i])
	case scans(param, "tools[%d]", &i) && i < len(j.tools):
		param = fmt.Sprintf("tools.%d", j.tools[i]) + strings.NewReplacer(".function.", ".", "parameters", "input_schema").Replace(rest)
	case strings.HasPrefix(param, "response_format"):
		param = "output_config.format" + strings.TrimPrefix(strings.TrimPrefix(param, "response_format"), ".json_schema")
	case strings.HasPrefix(param, "stop"):
		param = "stop_sequences" + strings.TrimPrefix(param, "stop")
	case strings.HasPrefix(param, "tool_choice"):
		param = strings.Replace(param, ".function", "", 1)
	}
	return e.renamed(param)
}
