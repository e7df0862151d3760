package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Ollama's messages and tools. Ollama checks next to nothing of them, and its clients
// keep what they once sent.

// ollamaTools returns the tools that are functions. Ollama takes others, too, and tells
// the model nothing of use about them; here they are left out.
func ollamaTools(tools []json.RawMessage) (out []json.RawMessage, err error) {
	if len(tools) > maxTools {
		return nil, badParam("tools", "holds %d: %d is the most", len(tools), maxTools)
	}
	seen := map[string]bool{}
	for i, raw := range tools {
		param := fmt.Sprintf("tools[%d]", i)
		var t struct {
			Type     string          `json:"type"`
			Function json.RawMessage `json:"function"`
		}
		var f struct {
			Name       string          `json:"name"`
			Parameters json.RawMessage `json:"parameters"`
		}
		if first(raw) != '{' {
			return nil, badParam(param, "must be an object")
		}
		if err := decodeAt(param, raw, &t); err != nil {
			return nil, err
		}
		if t.Type != "function" && t.Type != "" && !present(t.Function) {
			continue
		}
		if !present(t.Function) {
			return nil, badParam(param+".function", "is missing")
		}
		if err := decodeAt(param+".function", t.Function, &f); err != nil {
			return nil, err
		}
		if err := pastName(param+".function.name", f.Name); err != nil {
			return nil, err
		}
		if present(f.Parameters) && first(f.Parameters) != '{' {
			return nil, badParam(param+".function.parameters", "must be a JSON schema, an object")
		}
		if !seen[f.Name] { // of several the model could tell none apart
			seen[f.Name] = true
			out = append(out, plainTool(raw))
		}
	}
	return out, nil
}

// ollamaMessages adds ids to calls that have none: the results that follow name the
// function, or come in the order of the calls. A result whose call is not in the history
// stays as it is.
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
		case "developer":
			out[i].Role = "system"
		case "assistant":
			open = nil
			for k, c := range m.ToolCalls {
				at := fmt.Sprintf("%s.tool_calls[%d].function", param, k)
				if err := pastName(at+".name", c.Function.Name); err != nil {
					return nil, err
				}
				args, err := callArguments(at+".arguments", c.Function.Arguments)
				if err != nil {
					return nil, err
				}
				id := cmp.Or(c.ID, fmt.Sprintf("call_%d_%d", i, k))
				open = append(open, ToolCall{ID: id, Type: "function", Function: FunctionCall{Name: c.Function.Name, Arguments: args}})
			}
			out[i].ToolCalls = open
		case "tool":
			open = out[i].answers(open)
		default:
			return nil, badParam(param+".role", "%.32q is unknown: use system, user, assistant or tool", m.Role)
		}
	}
	return out, nil
}

// answers makes a tool's message the result of one of the open calls, and returns the
// others.
func (m *Message) answers(open []ToolCall) []ToolCall {
	if len(open) == 0 {
		return nil
	}
	at := max(0, slices.IndexFunc(open, func(c ToolCall) bool {
		return m.ToolCallID != "" && c.ID == m.ToolCallID || m.ToolCallID == "" && c.Function.Name == m.Name
	}))
	m.ToolCallID, m.Name = open[at].ID, open[at].Function.Name
	return slices.Delete(slices.Clone(open), at, at+1)
}

// goOn makes the answer continue a last message that is the assistant's, as Ollama's
// templates do. One without text has nothing that could be continued.
func goOn(g *GenerateRequest) {
	last := len(g.Messages) - 1
	m := g.Messages[last]
	if m.Role != "assistant" || len(m.ToolCalls) > 0 {
		return
	}
	if strings.TrimSpace(m.Content) == "" && m.Reasoning == "" {
		if last > 0 {
			g.Messages = g.Messages[:last]
		}
		return
	}
	g.Continue = strings.TrimSpace(m.Content) != ""
}
