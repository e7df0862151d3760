package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Calls in a chat's history, and which calls the caller wants.

// toolCalls reads the calls of an assistant's message.
func toolCalls(param string, raw json.RawMessage) ([]ToolCall, error) {
	var in []struct {
		ID       string `json:"id"`
		Type     string `json:"type"`
		Function struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"`
		} `json:"function"`
	}
	if err := decodeAt(param, raw, &in); err != nil {
		return nil, err
	}
	out := make([]ToolCall, len(in))
	for i, c := range in {
		param := fmt.Sprintf("%s[%d]", param, i)
		if c.Type != "function" && c.Type != "" {
			return nil, badParam(param+".type", "%.32q is not supported: use function", c.Type)
		}
		if err := pastName(param+".function.name", c.Function.Name); err != nil {
			return nil, err
		}
		args, err := callArguments(param+".function.arguments", c.Function.Arguments)
		if err != nil {
			return nil, err
		}
		out[i] = ToolCall{ID: c.ID, Type: "function", Function: FunctionCall{Name: c.Function.Name, Arguments: args}}
	}
	return out, nil
}

// maxPastName is the most bytes of the name of a function that was called, or that is
// offered through Ollama's API, which has no rules for names.
const maxPastName = 256

func pastName(param, name string) error {
	if name == "" {
		return badParam(param, "is missing")
	}
	if len(name) > maxPastName {
		return badParam(param, "is longer than %d bytes", maxPastName)
	}
	return nil
}

// callArguments returns the arguments of a call in the history: an object in a string,
// or, as some clients send it, the object itself. Whatever else a model has written is
// kept as it is.
func callArguments(param string, raw json.RawMessage) (string, error) {
	args := string(bytes.TrimSpace(raw))
	switch first(raw) {
	case 0, 'n':
		args = ""
	case '"':
		if err := decodeAt(param, raw, &args); err != nil {
			return "", err
		}
	}
	if strings.TrimSpace(args) == "" {
		return "{}", nil
	}
	return args, nil
}

// toolChoice is what tool_choice asks for.
type toolChoice struct {
	mode    string   // auto, none or required
	only    string   // the one function that must be called; "": any
	allowed []string // the functions that may be called; nil: all
}

// readToolChoice reads a word, OpenAI's objects that name one function or several, or
// what Anthropic and Mistral call them.
func readToolChoice(raw json.RawMessage) (c toolChoice, err error) {
	const param = "tool_choice"
	switch first(raw) {
	case 0, 'n':
		return toolChoice{mode: "auto"}, nil
	case '"':
		var word string
		if err := decodeAt(param, raw, &word); err != nil {
			return c, err
		}
		return choiceWord(param, word)
	case '{':
	default:
		return c, badParam(param, "must be none, auto, required, or name a function")
	}
	type function struct {
		Name string `json:"name"`
	}
	var o struct {
		Type     string   `json:"type"`
		Name     string   `json:"name"`
		Function function `json:"function"`
		Allowed  struct {
			Mode  string `json:"mode"`
			Tools []struct {
				Type     string   `json:"type"`
				Function function `json:"function"`
			} `json:"tools"`
		} `json:"allowed_tools"`
	}
	if err := decodeAt(param, raw, &o); err != nil {
		return c, err
	}
	switch {
	case o.Type == "allowed_tools":
		if c, err = choiceWord(param+".allowed_tools.mode", o.Allowed.Mode); err != nil {
			return c, err
		}
		c.allowed = []string{}
		for i, t := range o.Allowed.Tools {
			if t.Function.Name == "" {
				return c, badParam(fmt.Sprintf("%s.allowed_tools.tools[%d].function.name", param, i), "is missing")
			}
			c.allowed = append(c.allowed, t.Function.Name)
		}
		return c, nil
	case o.Type != "function" && o.Function.Name == "":
		return choiceWord(param+".type", o.Type)
	case o.Function.Name != "":
		return toolChoice{mode: "required", only: o.Function.Name}, nil
	}
	return c, badParam(param+".function.name", `is missing: a function is named as {"type": "function", "function": {"name": "NAME"}}`)
}

func choiceWord(param, word string) (c toolChoice, err error) {
	switch word {
	case "auto", "none", "required":
		return toolChoice{mode: word}, nil
	case "any":
		return toolChoice{mode: "required"}, nil
	}
	return c, badParam(param, "%.32q is unknown: use none, auto, required, or name a function", word)
}

// limit leaves those of the request's tools that may be called, and returns their names.
func (c *toolChoice) limit(names []string, g *GenerateRequest) ([]string, error) {
	if c.allowed == nil {
		return names, nil
	}
	for i, name := range c.allowed {
		if !slices.Contains(names, name) {
			return nil, badParam(fmt.Sprintf("tool_choice.allowed_tools.tools[%d].function.name", i), "is none of the tools'")
		}
	}
	all := g.Tools
	g.Tools = nil
	var left []string
	for i, name := range names {
		if slices.Contains(c.allowed, name) {
			left, g.Tools = append(left, name), append(g.Tools, all[i])
		}
	}
	return left, nil
}

// plainTool returns a tool in the form of encoding/json, with its type, for which
// templates ask.
func plainTool(raw json.RawMessage) json.RawMessage {
	raw = plainJSON(raw)
	var t struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(raw, &t) != nil || t.Type != "" {
		return raw
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) == nil && fields["type"] != nil { // null, or ""
		fields["type"] = json.RawMessage(`"function"`)
		typed, err := json.Marshal(fields)
		if err != nil {
			return raw
		}
		return typed
	}
	return append([]byte(`{"type":"function",`), raw[1:]...)
}
