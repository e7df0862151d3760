package api

import (
	"encoding/json"
	"fmt"
	"regexp"
)

// Functions that a model may call, and the format that an answer must follow.

const (
	maxTools  = 512
	maxSchema = 1 << 20 // bytes
)

// functionName matches the names that OpenAI and Anthropic allow.
var functionName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)

// useTools reads tools and tool_choice.
func (r *chatRequest) useTools(g *GenerateRequest) error {
	names, err := toolNames(r.Tools)
	if err != nil {
		return err
	}
	for _, raw := range r.Tools {
		g.Tools = append(g.Tools, plainTool(raw))
	}
	choice, err := readToolChoice(r.ToolChoice)
	if err != nil {
		return err
	}
	if names, err = choice.limit(names, g); err != nil {
		return err
	}
	all := g.Tools
	g.OneCall = r.ParallelToolCalls != nil && !*r.ParallelToolCalls && len(r.Tools) > 0
	only := choice.only
	switch choice.mode {
	case "none":
		g.Tools, g.OneCall = nil, false
	case "required":
		g.MustCall = true
	}
	if !g.MustCall {
		return nil
	}
	if len(g.Tools) == 0 {
		return badParam("tool_choice", "needs tools")
	}
	if only == "" {
		return nil
	}
	for i, name := range names {
		if name == only {
			g.Tools = all[i : i+1]
			return nil
		}
	}
	return badParam("tool_choice.function.name", "is none of the tools'")
}

// toolNames checks tools and returns their names. One without a type is a function.
func toolNames(tools []json.RawMessage) ([]string, error) {
	if len(tools) > maxTools {
		return nil, badParam("tools", "holds %d: %d is the most", len(tools), maxTools)
	}
	names, seen := make([]string, len(tools)), map[string]bool{}
	for i, raw := range tools {
		param := fmt.Sprintf("tools[%d]", i)
		var t struct {
			Type     string `json:"type"`
			Function struct {
				Name       string          `json:"name"`
				Parameters json.RawMessage `json:"parameters"`
			} `json:"function"`
		}
		if first(raw) != '{' {
			return nil, badParam(param, "must be an object")
		}
		if err := decodeAt(param, raw, &t); err != nil {
			return nil, err
		}
		name := t.Function.Name
		switch {
		case t.Type != "function" && t.Type != "":
			return nil, badParam(param+".type", "%.32q is not supported: use function", t.Type)
		case !functionName.MatchString(name):
			return nil, badParam(param+".function.name", "must be 1 to 128 letters, digits, underscores, dots and dashes")
		case seen[name]:
			return nil, badParam(param+".function.name", "is that of another tool, too")
		case present(t.Function.Parameters) && first(t.Function.Parameters) != '{':
			return nil, badParam(param+".function.parameters", "must be a JSON schema, an object")
		}
		seen[name], names[i] = true, name
	}
	return names, nil
}

// plainJSON rewrites valid JSON in the form of encoding/json.
func plainJSON(raw json.RawMessage) json.RawMessage {
	out, err := json.Marshal(raw)
	if err != nil {
		return raw
	}
	return out
}

// effort translates a reasoning effort into the values of GenerateRequest.Think.
func effort(param, word string) (string, error) {
	switch word {
	case "none":
		return "off", nil
	case "default":
		return "", nil
	case "minimal":
		return "low", nil
	case "xhigh", "max":
		return "high", nil
	case "", "low", "medium", "high":
		return word, nil
	}
	return "", badParam(param, "%.32q is unknown: use none, low, medium or high", word)
}
