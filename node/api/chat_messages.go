package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
)

// The messages of a chat under /v1. Histories are written by clients and by other
// models, and whoever has one cannot mend it: so what another server has taken or
// written is taken here, too, as long as nothing of it is lost.

func messages(in []chatMessage) ([]Message, error) {
	if len(in) == 0 {
		return nil, badParam("messages", "must hold at least one message")
	}
	if len(in) > maxMessages {
		return nil, badParam("messages", "holds %d messages: %d is the most", len(in), maxMessages)
	}
	out := make([]Message, len(in))
	called := map[string]string{} // function names by call id
	for i := range in {
		param := fmt.Sprintf("messages[%d]", i)
		m, err := in[i].message(param)
		if err != nil {
			return nil, err
		}
		if m.Role == "tool" { // its call may have been cut off the history
			m.Name = cmp.Or(called[m.ToolCallID], m.Name)
		}
		for _, c := range m.ToolCalls {
			called[c.ID] = c.Function.Name
		}
		out[i] = m
	}
	return out, nil
}

// message reads one message.
func (m *chatMessage) message(param string) (out Message, err error) {
	out = Message{Role: m.Role, Name: m.Name, ToolCallID: m.ToolCallID, Reasoning: cmp.Or(m.ReasoningContent, m.Reasoning)}
	switch m.Role {
	case "system", "user", "assistant", "tool":
	case "developer": // OpenAI's newer name of system; templates do not know it
		out.Role = "system"
	case "function":
		return out, badParam(param+".role", "%.32q is not supported: use tool, which replaced it", m.Role)
	default:
		return out, badParam(param+".role", "%.32q is unknown: use system, user, assistant or tool", m.Role)
	}
	if given(m.FunctionCall) {
		return out, badParam(param+".function_call", "is not supported: use tool_calls, which replaced it")
	}
	if given(m.ToolCalls) {
		if m.Role != "assistant" {
			return out, badParam(param+".tool_calls", "are the assistant's alone")
		}
		if out.ToolCalls, err = toolCalls(param+".tool_calls", m.ToolCalls); err != nil {
			return out, err
		}
	}
	if len(m.Content) == 0 && m.Role == "user" {
		return out, badParam(param+".content", "is missing")
	}
	text, reasoning, err := messageText(param+".content", m.Content)
	out.Content = cmp.Or(text, m.Refusal)
	if m.Role == "assistant" {
		out.Reasoning = cmp.Or(out.Reasoning, reasoning)
	}
	return out, err
}

// messagePart is a part of a message's content.
type messagePart struct {
	Type     string          `json:"type"`
	Text     string          `json:"text"`
	Refusal  string          `json:"refusal"`
	Thinking json.RawMessage `json:"thinking"` // a string, or Mistral's list of text parts
}

// messageText returns a message's text, from a string or parts that are all text, and
// the reasoning that is among them. No content, which is null, is an empty text.
func messageText(param string, raw json.RawMessage) (text, reasoning string, err error) {
	switch first(raw) {
	case 0, 'n':
		return "", "", nil
	case '"':
		err = decodeAt(param, raw, &text)
		return text, "", err
	case '[':
	default:
		return "", "", badParam(param, "must be a string or a list of text parts")
	}
	var parts []json.RawMessage
	if err := decodeAt(param, raw, &parts); err != nil {
		return "", "", err
	}
	var said, thought strings.Builder
	for i, part := range parts {
		at := fmt.Sprintf("%s[%d]", param, i)
		var p messagePart
		if err := decodeAt(at, part, &p); err != nil {
			return "", "", err
		}
		switch p.Type {
		case "text", "input_text", "output_text":
			said.WriteString(p.Text)
		case "refusal":
			said.WriteString(p.Refusal)
		case "thinking", "reasoning", "reasoning_text":
			more, err := p.thoughts(at + ".thinking")
			if err != nil {
				return "", "", err
			}
			thought.WriteString(cmp.Or(more, p.Text))
		case "redacted_thinking": // nobody can read it
		default:
			return "", "", badParam(at+".type", "%.32q is not supported: models here read text only", p.Type)
		}
	}
	return said.String(), thought.String(), nil
}

// thoughts returns the text of Thinking.
func (p *messagePart) thoughts(param string) (text string, err error) {
	if first(p.Thinking) != '[' {
		if present(p.Thinking) {
			err = decodeAt(param, p.Thinking, &text)
		}
		return text, err
	}
	var parts []struct {
		Text string `json:"text"`
	}
	err = decodeAt(param, p.Thinking, &parts)
	for _, part := range parts {
		text += part.Text
	}
	return text, err
}

// goOn reads vLLM's fields by which an answer continues the last message.
func (r *chatRequest) goOn(g *GenerateRequest) error {
	last := g.Messages[len(g.Messages)-1]
	switch {
	case !r.ContinueFinalMessage && !deref(r.AddGenerationPrompt, true):
		return badParam("add_generation_prompt", "must be true unless continue_final_message is")
	case !r.ContinueFinalMessage:
		return nil
	case deref(r.AddGenerationPrompt, false):
		return badParam("continue_final_message", "cannot be combined with add_generation_prompt")
	case last.Role != "assistant" || len(last.ToolCalls) > 0 || strings.TrimSpace(last.Content) == "":
		return badParam("continue_final_message", "needs a last message of the assistant with text and no calls")
	}
	g.Continue = true
	return nil
}
