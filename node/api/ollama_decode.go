package api

import (
	"cmp"
	"encoding/json"
	"fmt"
)

// ollamaJob is a decoded request for an answer.
type ollamaJob struct {
	req    *GenerateRequest
	chat   bool
	stream bool
	load   bool // there is no prompt: only load the model
}

func decodeOllamaChat(body []byte) (*ollamaJob, error) {
	var r ollamaChatRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if err := refuseOptions(body); err != nil {
		return nil, err
	}
	g, err := r.base()
	if err != nil {
		return nil, err
	}
	j := &ollamaJob{req: g, chat: true, stream: deref(r.Stream, true)}
	if len(r.Messages) == 0 {
		j.load = true
		return j, nil
	}
	if _, err := toolNames(r.Tools); err != nil {
		return nil, err
	}
	for _, raw := range r.Tools {
		g.Tools = append(g.Tools, plainJSON(raw))
	}
	g.Messages, err = ollamaMessages(r.Messages)
	return j, err
}

func decodeOllamaGenerate(body []byte) (*ollamaJob, error) {
	var r ollamaGenerateRequest
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if err := refuseOptions(body); err != nil {
		return nil, err
	}
	g, err := r.base()
	if err != nil {
		return nil, err
	}
	switch {
	case given(r.Images):
		return nil, badParam("images", "are not supported: models here read text only")
	case r.Suffix != "":
		return nil, badParam("suffix", "is not supported")
	case r.Template != "":
		return nil, badParam("template", "is not supported: the model's own is used; send a raw prompt to go without")
	case given(r.Context):
		return nil, badParam("context", "is not supported: send the conversation to /api/chat")
	case r.Raw && r.System != "":
		return nil, badParam("system", "cannot be combined with raw")
	}
	j := &ollamaJob{req: g, stream: deref(r.Stream, true), load: r.Prompt == ""}
	if g.Raw = r.Raw; r.Raw {
		g.Prompt = r.Prompt
		return j, nil
	}
	if r.System != "" {
		g.Messages = append(g.Messages, Message{Role: "system", Content: r.System})
	}
	g.Messages = append(g.Messages, Message{Role: "user", Content: r.Prompt})
	return j, nil
}

// base returns what both kinds of request share.
func (r *ollamaCommon) base() (*GenerateRequest, error) {
	o := &r.Options
	if r.Model == "" {
		return nil, badParam("model", "is missing")
	}
	c := commonRequest{Model: r.Model, Stop: o.Stop, Seed: o.Seed, Sampling: o.Sampling, RepeatLastN: o.RepeatLastN}
	if o.NumPredict != nil && *o.NumPredict > 0 {
		c.MaxTokens = o.NumPredict
	}
	g, err := c.base()
	if err != nil {
		return nil, err
	}
	if g.Format, err = ollamaFormat(r.Format); err != nil {
		return nil, err
	}
	g.FormatField = "format"
	if g.Think, err = ollamaThink(r.Think); err != nil {
		return nil, err
	}
	if err := within("top_logprobs", r.TopLogprobs, 0, maxTopLogprobs); err != nil {
		return nil, err
	}
	g.Sampling.Logprobs = r.Logprobs
	if r.Logprobs {
		g.Sampling.TopLogprobs = r.TopLogprobs
	}
	return g, nil
}

func ollamaFormat(raw json.RawMessage) (json.RawMessage, error) {
	switch first(raw) {
	case 0, 'n':
		return nil, nil
	case '"':
		switch word := string(plainJSON(raw)); word {
		case `""`:
			return nil, nil
		case `"json"`:
			return anyObject, nil
		}
		return nil, badParam("format", `must be "json" or a JSON schema`)
	}
	c, err := schemaOf("format", raw)
	return c.schema, err
}

func ollamaThink(raw json.RawMessage) (string, error) {
	switch first(raw) {
	case 0, 'n':
		return "", nil
	case 't':
		return "on", nil
	case 'f':
		return "off", nil
	}
	var word string
	if err := decodeAt("think", raw, &word); err != nil {
		return "", badParam("think", "must be true, false, low, medium or high")
	}
	return effort("think", word)
}

// ollamaMessages adds ids to calls that have none: the results that follow name the
// function, or come in the order of the calls.
func ollamaMessages(in []ollamaMessage) ([]Message, error) {
	if len(in) > maxMessages {
		return nil, badParam("messages", "holds %d messages: %d is the most", len(in), maxMessages)
	}
	out := make([]Message, len(in))
	var open []ToolCall // without a result yet
	for i, m := range in {
		param := fmt.Sprintf("messages[%d]", i)
		if given(m.Images) {
			return nil, badParam(param+".images", "are not supported: models here read text only")
		}
		out[i] = Message{Role: m.Role, Content: m.Content, Reasoning: m.Thinking, ToolCallID: m.ToolCallID, Name: m.ToolName}
		switch m.Role {
		case "system", "user":
		case "assistant":
			open = nil
			for k, c := range m.ToolCalls {
				args := c.Function.Arguments
				if !present(args) {
					args = json.RawMessage("{}")
				}
				if !functionName.MatchString(c.Function.Name) || first(args) != '{' {
					return nil, badParam(fmt.Sprintf("%s.tool_calls[%d].function", param, k), "must have a name, and arguments that are an object")
				}
				id := cmp.Or(c.ID, fmt.Sprintf("call_%d_%d", i, k))
				open = append(open, ToolCall{ID: id, Type: "function", Function: FunctionCall{Name: c.Function.Name, Arguments: string(args)}})
			}
			out[i].ToolCalls = open
		case "tool":
			at := 0
			for k, c := range open {
				if m.ToolCallID != "" && c.ID == m.ToolCallID || m.ToolCallID == "" && c.Function.Name == m.ToolName {
					at = k
					break
				}
			}
			if len(open) == 0 {
				return nil, badParam(param, "is the result of no call in a message before it")
			}
			out[i].ToolCallID, out[i].Name = open[at].ID, open[at].Function.Name
			rest := append([]ToolCall(nil), open[:at]...)
			open = append(rest, open[at+1:]...)
		default:
			return nil, badParam(param+".role", "%.32q is unknown: use system, user, assistant or tool", m.Role)
		}
	}
	return out, nil
}
