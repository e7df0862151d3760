package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A request for a response is converted into a chat request and then handled as such.

var responseUnsupported = []unsupported{
	{"prompt", isEmpty, "is not supported: no templates are stored here, use instructions and input"},
	{"background", isOneOf("false"), "is not supported: wait for the answer, or stream it"},
}

// responseJob is a job with the parts of the request that its answer repeats.
type responseJob struct {
	*job
	asked responseRequest
	tools toolbox
	input []json.RawMessage // the whole conversation, as items; those of earlier answers first
	old   int               // how many items of input are of earlier answers
	conv  string            // id of the conversation that the answer extends; "": none
	from  []source          // of the messages
}

// source is where a message of the chat is from.
type source struct {
	item  int    // of the request's input; -1: the instructions; -2: an earlier answer
	field string // of the item, that became the content
	calls []int  // the items that became the message's calls
}

const (
	fromInstructions = -1
	fromEarlier      = -2
)

// decodeResponse reads a body of /v1/responses. Earlier answers come from past, which
// may be nil: there are none.
func decodeResponse(body []byte, past *recollection) (*responseJob, error) {
	j := &responseJob{}
	r := &j.asked
	if err := decode(body, r); err != nil {
		return nil, err
	}
	if err := refuse(body, responseUnsupported, chatAlone, answerWords); err != nil {
		return nil, err
	}
	if r.Truncation != "" && r.Truncation != "auto" && r.Truncation != "disabled" {
		return nil, badParam("truncation", "%.32q is unknown: use auto or disabled", r.Truncation)
	}
	chat := chatRequest{MaxCompletionTokens: r.MaxOutputTokens, ParallelToolCalls: r.ParallelToolCalls, ReasoningEffort: r.Reasoning.Effort, TopLogprobs: r.TopLogprobs}
	chat.Model, chat.Stream, chat.Sampling = r.Model, r.Stream, r.Sampling
	chat.Logprobs = r.TopLogprobs != nil || slices.Contains(r.Include, "message.output_text.logprobs")
	if f := r.Text.Format; f != nil {
		chat.ResponseFormat = &responseFormat{Type: f.Type, JSONSchema: &jsonSchema{Name: f.Name, Schema: f.Schema}}
	}
	if err := decode(body, &chat.constraintWords); err != nil {
		return nil, err
	}
	if err := j.tools.add("tools", r.Tools); err != nil {
		return nil, err
	}
	if err := j.readInput(past); err != nil {
		return nil, err
	}
	if err := j.messages(&chat); err != nil {
		return nil, err
	}
	var err error
	if chat.ToolChoice, err = j.tools.choose(r.ToolChoice); err != nil {
		return nil, err
	}
	chat.Tools = j.tools.chat
	if j.job, err = chat.job(); err != nil {
		return nil, j.asAsked(err)
	}
	return j, nil
}

// readInput reads the list of items: those of earlier answers, then the request's own,
// in which references are replaced by what they mean.
func (j *responseJob) readInput(past *recollection) error {
	var own []json.RawMessage
	switch raw := j.asked.Input; first(raw) {
	case '"':
		var text string
		if err := decodeAt("input", raw, &text); err != nil {
			return err
		}
		own = []json.RawMessage{fmt.Appendf(nil, `{"type":"message","role":"user","content":[{"type":"input_text","text":%s}]}`, quoted(text))}
	case '[':
		if err := decodeAt("input", raw, &own); err != nil {
			return err
		}
	case 0, 'n':
		return badParam("input", "is missing")
	default:
		return badParam("input", "must be a string or a list of items")
	}
	var err error
	if j.conv, err = conversationID(j.asked.Conversation); err != nil {
		return err
	}
	if j.conv != "" {
		if j.asked.PreviousResponseID != "" {
			return badParam("conversation", "cannot be combined with previous_response_id")
		}
		a := past.answer("conv_", j.conv)
		if a == nil {
			return noConversation(j.conv).renamed("conversation")
		}
		j.input, j.old = slices.Clone(a.input), len(a.input)
	}
	if id := j.asked.PreviousResponseID; id != "" {
		earlier, err := past.conversation(id)
		if err != nil {
			return err
		}
		j.input, j.old = earlier, len(earlier)
	}
	if n := len(own) + j.old; n == 0 || n > maxMessages {
		return badParam("input", "holds %d items: from 1 to %d may be", n, maxMessages)
	}
	for i, raw := range own {
		var in struct {
			Type    string          `json:"type"`
			ID      string          `json:"id"`
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		}
		at := fmt.Sprintf("input[%d]", i)
		if first(raw) != '{' {
			return badParam(at, "must be an object")
		}
		if err := decodeAt(at, raw, &in); err != nil {
			return err
		}
		if in.Type == "item_reference" || in.Type == "" && in.ID != "" && in.Role == "" && in.Content == nil {
			found, err := past.item(at, in.ID)
			if err != nil {
				return err
			}
			raw = found
		}
		j.input = append(j.input, raw)
	}
	return nil
}

// leftOut are the items that say nothing to a model here: calls of tools that OpenAI runs,
// and what only OpenAI's servers can read.
var leftOut = map[string]bool{
	"web_search_call": true, "file_search_call": true, "code_interpreter_call": true, "image_generation_call": true,
	"computer_call": true, "computer_call_output": true, "mcp_list_tools": true, "mcp_approval_request": true, "mcp_approval_response": true,
	"compaction": true, "compaction_trigger": true, "compaction_summary": true, "context_compaction": true,
	"tool_search_call": true, "program": true, "program_output": true, "configuration_update": true, "ghost_snapshot": true, "agent_message": true,
}

// conversion makes a chat's messages of items.
type conversion struct {
	j       *responseJob
	chat    *chatRequest
	thought string                    // reasoning before a message or a call
	calls   map[int][]json.RawMessage // of the chat's messages
}

// messages fills in the chat's messages, and adds to the tools those that items bring.
func (j *responseJob) messages(chat *chatRequest) error {
	c := &conversion{j: j, chat: chat, calls: map[int][]json.RawMessage{}}
	if text := j.asked.Instructions; text != "" {
		c.add(source{item: fromInstructions}, chatMessage{Role: "system", Content: quoted(text)})
	}
	for i, raw := range j.input {
		item, at := i-j.old, fmt.Sprintf("input[%d]", i-j.old)
		if i < j.old {
			item, at = fromEarlier, j.inputParam(fromEarlier)
		}
		var in responseInput
		if err := decodeAt(at, raw, &in); err != nil {
			return err
		}
		if err := c.item(item, at, &in); err != nil {
			return err
		}
	}
	for i, list := range c.calls {
		var err error
		if chat.Messages[i].ToolCalls, err = json.Marshal(list); err != nil {
			return badParam("input", "has calls that cannot be read")
		}
	}
	if len(chat.Messages) == 0 {
		return badParam("input", "holds nothing that a model here can read: send at least one message")
	}
	return nil
}

func (c *conversion) add(from source, m chatMessage) {
	c.chat.Messages = append(c.chat.Messages, m)
	c.j.from = append(c.j.from, from)
}

// item converts an item.
func (c *conversion) item(item int, at string, in *responseInput) (err error) {
	switch in.Type {
	case "", "message":
		m := chatMessage{Role: in.Role, Content: in.Content}
		if in.Role == "assistant" {
			m.ReasoningContent, c.thought = c.thought, ""
		}
		c.add(source{item: item}, m)
	case "reasoning":
		c.thought, err = reasoningText(at, in)
	case "function_call":
		args := in.Arguments
		if args == nil {
			args = quoted("")
		}
		c.call(item, in.CallID, flatName(in.Namespace, in.Name), args)
	case "custom_tool_call":
		c.call(item, in.CallID, flatName(in.Namespace, in.Name), fmt.Appendf(nil, `{"input":%s}`, quoted(in.Input)))
	case "local_shell_call", "shell_call", "apply_patch_call":
		what := in.Action
		if in.Type == "apply_patch_call" {
			what = in.Operation
		}
		if first(what) != '{' {
			what = json.RawMessage("{}")
		}
		c.call(item, cmp.Or(in.CallID, in.ID), strings.TrimSuffix(in.Type, "_call"), what)
	case "mcp_call":
		name := flatName(in.ServerLabel, in.Name)
		if !functionName.MatchString(name) || !present(in.Output) {
			return nil
		}
		c.call(item, in.ID, name, in.Arguments)
		c.add(source{item: item, field: "output"}, chatMessage{Role: "tool", ToolCallID: in.ID, Content: in.Output})
	case "function_call_output", "custom_tool_call_output":
		c.add(source{item: item, field: "output"}, chatMessage{Role: "tool", ToolCallID: in.CallID, Content: in.Output})
	case "local_shell_call_output", "shell_call_output", "apply_patch_call_output":
		c.add(source{item: item, field: "output"}, chatMessage{Role: "tool", ToolCallID: cmp.Or(in.CallID, in.ID), Content: outputText(in)})
	case "additional_tools", "tool_search_output":
		return c.j.tools.add(at+".tools", in.Tools)
	default:
		if !leftOut[in.Type] {
			return badParam(at+".type", "%.32q is unknown: use message, reasoning, function_call, function_call_output, custom_tool_call or custom_tool_call_output", in.Type)
		}
	}
	return err
}

// call adds a call. A turn's text and its calls are one message.
func (c *conversion) call(item int, id, name string, args json.RawMessage) {
	if first(args) == '{' { // chat has it in a string
		args = quoted(string(args))
	}
	call := fmt.Appendf(nil, `{"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}`, quoted(id), quoted(name), args)
	last := len(c.chat.Messages) - 1
	if last < 0 || c.chat.Messages[last].Role != "assistant" || c.thought != "" {
		c.add(source{item: item}, chatMessage{Role: "assistant", ReasoningContent: c.thought})
		last, c.thought = last+1, ""
	}
	c.calls[last] = append(c.calls[last], call)
	c.j.from[last].calls = append(c.j.from[last].calls, item)
}

// outputText returns the output of a shell or a patch as a message's content: text as it
// is, anything else as the JSON that it is.
func outputText(in *responseInput) json.RawMessage {
	switch {
	case first(in.Output) == '"':
		return in.Output
	case present(in.Output):
		return quoted(string(in.Output))
	}
	return quoted(in.Status)
}

// reasoningText returns a model's reasoning, in the form that our answers have. The
// summaries and the encrypted content of other servers are not the reasoning itself.
func reasoningText(at string, in *responseInput) (string, error) {
	if !present(in.Content) {
		return "", nil
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := decodeAt(at+".content", in.Content, &parts); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.Text)
	}
	return b.String(), nil
}

// asAsked translates the field names in an error of chat to those of this endpoint.
func (j *responseJob) asAsked(err error) *Error {
	e := AsError(err)
	param := e.Param
	var i, k int
	switch _, rest, _ := strings.Cut(param, "]"); {
	case scans(param, "messages[%d].tool_calls[%d]", &i, &k) && i < len(j.from) && k < len(j.from[i].calls):
		_, rest, _ = strings.Cut(rest, "]")
		param = j.inputParam(j.from[i].calls[k]) + strings.Replace(rest, ".function.", ".", 1)
	case scans(param, "messages[%d]", &i) && i < len(j.from):
		from := j.from[i]
		if inner, ok := strings.CutPrefix(rest, ".content"); ok && from.field != "" {
			rest = "." + from.field + inner
		}
		param = j.inputParam(from.item)
		if from.item >= 0 {
			param += strings.ReplaceAll(rest, "tool_call_id", "call_id")
		}
	case scans(param, "tools[%d]", &i) && i < len(j.tools.params):
		param = j.tools.params[i] + rest
	case param == "messages":
		param = "input"
	}
	for _, r := range [][2]string{
		{"response_format.json_schema", "text.format"}, {"response_format", "text.format"}, {"max_completion_tokens", "max_output_tokens"},
		{"reasoning_effort", "reasoning.effort"}, {"tool_choice.function", "tool_choice"}, {".function.", "."},
	} {
		param = strings.Replace(param, r[0], r[1], 1)
	}
	return e.renamed(param)
}

// inputParam names an item of the request; see source.
func (j *responseJob) inputParam(item int) string {
	switch item {
	case fromInstructions:
		return "instructions"
	case fromEarlier:
		if j.conv != "" {
			return "conversation"
		}
		return "previous_response_id"
	}
	return fmt.Sprintf("input[%d]", item)
}

// scans reports whether text begins with numbers in a format's places, and reads them.
func scans(text, format string, to ...any) bool {
	n, _ := fmt.Sscanf(text, format, to...)
	return n == len(to)
}

// renamed returns the error with another name of the field at fault.
func (e *Error) renamed(param string) *Error {
	if param == e.Param {
		return e
	}
	out := *e
	out.Param = param
	if rest, ok := strings.CutPrefix(e.Message, e.Param); ok && e.Param != "" {
		out.Message = param + rest
	}
	return &out
}

// quoted returns a string as JSON.
func quoted(s string) json.RawMessage {
	out, err := json.Marshal(s)
	if err != nil {
		return json.RawMessage(`""`) // never: every string has a form in JSON
	}
	return out
}
