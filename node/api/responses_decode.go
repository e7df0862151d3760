package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A request for a response is converted into a chat request and then handled as such.

var responseUnsupported = []unsupported{
	{"previous_response_id", isOneOf(`""`), "is not supported: nothing is stored here, send the whole conversation in input"},
	{"conversation", isOneOf(`""`), "is not supported: nothing is stored here, send the whole conversation in input"},
	{"prompt", isEmpty, "is not supported: no templates are stored here, use instructions and input"},
	{"background", isOneOf("false"), "is not supported: wait for the answer, or stream it"},
	{"truncation", isOneOf(`"disabled"`), "is not supported: shorten the input"},
}

// responseJob is a job with the parts of the request that its answer repeats.
type responseJob struct {
	*job
	asked responseRequest
}

// decodeResponse reads a body of /v1/responses.
func decodeResponse(body []byte) (*responseJob, error) {
	var r responseRequest
	if err := decode(body, &r); err != nil {
		return nil, err
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
	if err := refuse(body, responseUnsupported, answerWords); err != nil {
		return nil, err
	}
	var err error
	if chat.Tools, err = responseTools(r.Tools); err != nil {
		return nil, err
	}
	if chat.ToolChoice, err = responseToolChoice(r.ToolChoice); err != nil {
		return nil, err
	}
	items, err := r.messages(&chat)
	if err != nil {
		return nil, err
	}
	j, err := chat.job()
	if err != nil {
		return nil, asAsked(err, items)
	}
	return &responseJob{j, r}, nil
}

// messages returns the messages of a chat and, for each, the item it is from; -1: from
// the instructions.
func (r *responseRequest) messages(chat *chatRequest) (items []int, err error) {
	add := func(item int, m chatMessage) {
		chat.Messages = append(chat.Messages, m)
		items = append(items, item)
	}
	if r.Instructions != "" {
		add(-1, chatMessage{Role: "system", Content: quoted(r.Instructions)})
	}
	var list []json.RawMessage
	switch first(r.Input) {
	case '"':
		add(0, chatMessage{Role: "user", Content: r.Input})
		return items, nil
	case '[':
		if err := decodeAt("input", r.Input, &list); err != nil {
			return nil, err
		}
	case 0, 'n':
		return nil, badParam("input", "is missing")
	default:
		return nil, badParam("input", "must be a string or a list of items")
	}
	if len(list) == 0 || len(list) > maxMessages {
		return nil, badParam("input", "holds %d items: from 1 to %d may be", len(list), maxMessages)
	}
	thought := ""                        // reasoning before a message or a call
	calls := map[int][]json.RawMessage{} // of the chat's messages
	for i, raw := range list {
		at := fmt.Sprintf("input[%d]", i)
		var in responseInput
		if err := decodeAt(at, raw, &in); err != nil {
			return nil, err
		}
		switch in.Type {
		case "", "message":
			m := chatMessage{Role: in.Role, Content: in.Content}
			if in.Role == "assistant" {
				m.ReasoningContent, thought = thought, ""
			}
			add(i, m)
		case "reasoning":
			if thought, err = reasoningText(at, &in); err != nil {
				return nil, err
			}
		case "function_call":
			args := in.Arguments
			if args == nil {
				args = quoted("")
			}
			call := fmt.Appendf(nil, `{"id":%s,"type":"function","function":{"name":%s,"arguments":%s}}`, quoted(in.CallID), quoted(in.Name), args)
			// A turn's text and its calls are one message.
			last := len(chat.Messages) - 1
			if last < 0 || chat.Messages[last].Role != "assistant" || thought != "" {
				add(i, chatMessage{Role: "assistant", ReasoningContent: thought})
				last, thought = last+1, ""
			}
			calls[last] = append(calls[last], call)
		case "function_call_output":
			add(i, chatMessage{Role: "tool", ToolCallID: in.CallID, Content: in.Output})
		case "item_reference":
			return nil, badParam(at, "refers to an earlier answer: nothing is stored here, set store to false and send the items themselves")
		default:
			return nil, badParam(at+".type", "%.32q is not supported: use message, reasoning, function_call or function_call_output", in.Type)
		}
	}
	for i, list := range calls {
		if chat.Messages[i].ToolCalls, err = json.Marshal(list); err != nil {
			return nil, badParam("input", "has calls that cannot be read")
		}
	}
	return items, nil
}

// reasoningText returns a model's reasoning, in the form that our answers have. The
// summaries of other servers are not the reasoning itself.
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

// responseTools converts tools to the format of chat, which has one more level.
func responseTools(in []json.RawMessage) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, len(in))
	for i, raw := range in {
		at := fmt.Sprintf("tools[%d]", i)
		if first(raw) != '{' {
			return nil, badParam(at, "must be an object")
		}
		var t map[string]json.RawMessage
		if err := decodeAt(at, raw, &t); err != nil {
			return nil, err
		}
		kind := t["type"]
		delete(t, "type")
		inner, err := json.Marshal(t)
		if err != nil {
			return nil, badParam(at, "cannot be read")
		}
		if kind == nil {
			kind = json.RawMessage("null")
		}
		out[i] = slices.Concat(json.RawMessage(`{"type":`), kind, json.RawMessage(`,"function":`), inner, json.RawMessage("}"))
	}
	return out, nil
}

func responseToolChoice(raw json.RawMessage) (json.RawMessage, error) {
	if first(raw) != '{' {
		return raw, nil
	}
	var choice struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}
	if err := decodeAt("tool_choice", raw, &choice); err != nil {
		return nil, err
	}
	return json.RawMessage(fmt.Sprintf(`{"type":%s,"function":{"name":%s}}`, quoted(choice.Type), quoted(choice.Name))), nil
}

// asAsked translates the field names in an error of chat to those of this endpoint.
func asAsked(err error, items []int) *Error {
	e := AsError(err)
	param := e.Param
	var i int
	if n, _ := fmt.Sscanf(param, "messages[%d]", &i); n == 1 && i < len(items) {
		_, rest, _ := strings.Cut(param, "]")
		if strings.HasPrefix(rest, ".tool_call") && !strings.HasPrefix(rest, ".tool_call_id") { // which of them is no longer known
			rest = ""
		}
		param = fmt.Sprintf("input[%d]%s", items[i], strings.ReplaceAll(rest, "tool_call_id", "call_id"))
		if items[i] < 0 {
			param = "instructions"
		}
	}
	for _, r := range [][2]string{
		{"response_format.json_schema", "text.format"}, {"response_format", "text.format"}, {"max_completion_tokens", "max_output_tokens"},
		{"reasoning_effort", "reasoning.effort"}, {"tool_choice.function", "tool_choice"}, {".function.", "."},
	} {
		param = strings.Replace(param, r[0], r[1], 1)
	}
	if param == e.Param {
		return e
	}
	renamed := *e
	renamed.Param = param
	if rest, ok := strings.CutPrefix(e.Message, e.Param); ok {
		renamed.Message = param + rest
	}
	return &renamed
}

// quoted returns a string as JSON.
func quoted(s string) json.RawMessage {
	out, err := json.Marshal(s)
	if err != nil {
		return json.RawMessage(`""`) // never: every string has a form in JSON
	}
	return out
}
