package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Tools of /v1/responses. The model is offered functions only:
//
//	function            as it is
//	custom              a function with one string, input
//	namespace           its functions and custom tools, as NAMESPACE__NAME
//	web_search, mcp, …  left out: they run on OpenAI's servers, or need models trained for them
//
// A call is given back as what the caller offered.

// offeredTool is a tool as the caller knows it.
type offeredTool struct {
	namespace, name string
	custom          bool
}

// toolbox holds the tools of a request.
type toolbox struct {
	chat   []json.RawMessage      // as chat has them
	names  []string               // of chat, as the model sees them
	params []string               // where in the request each of chat is from
	known  map[string]offeredTool // by the name that the model sees
	hosted []string               // types that were left out
}

// customParameters is the schema of a custom tool's arguments.
const customParameters = `{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}`

// maxNested is how many tools all namespaces of a request may have together. It bounds
// the work; the tools that chat takes are fewer.
const maxNested = 4 * maxTools

// add adds the tools of a list that is at param in the request.
func (b *toolbox) add(param string, list []json.RawMessage) error {
	for i, raw := range list {
		if err := b.tool(fmt.Sprintf("%s[%d]", param, i), "", raw); err != nil {
			return err
		}
	}
	return nil
}

// tool adds one tool, of a namespace if that is not "".
func (b *toolbox) tool(param, namespace string, raw json.RawMessage) error {
	if first(raw) != '{' {
		return badParam(param, "must be an object")
	}
	var t struct {
		Type        string            `json:"type"`
		Name        string            `json:"name"`
		Description string            `json:"description"`
		Tools       []json.RawMessage `json:"tools"`
		Format      struct {
			Syntax     string `json:"syntax"`
			Definition string `json:"definition"`
		} `json:"format"`
	}
	var fields map[string]json.RawMessage
	if err := decodeAt(param, raw, &fields); err != nil {
		return err
	}
	if kind := fields["type"]; present(kind) { // alone, for nothing else is asked of hosted tools
		if err := decodeAt(param+".type", kind, &t.Type); err != nil {
			return err
		}
	}
	switch t.Type {
	case "function", "custom", "namespace":
	case "":
		return badParam(param+".type", "is missing")
	default:
		b.hosted = append(b.hosted, t.Type)
		return nil
	}
	if err := decodeAt(param, raw, &t); err != nil {
		return err
	}
	if t.Type == "namespace" {
		if namespace != "" {
			return badParam(param+".type", "is namespace: a namespace cannot hold another")
		}
		for i, inner := range t.Tools {
			if err := b.tool(fmt.Sprintf("%s.tools[%d]", param, i), t.Name, inner); err != nil {
				return err
			}
		}
		return nil
	}
	if len(b.chat) >= maxNested {
		return badParam(param, "is one too many: %d tools are the most", maxTools)
	}
	name := flatName(namespace, t.Name)
	fields["name"] = quoted(name)
	delete(fields, "type")
	if t.Type == "custom" {
		text := t.Description
		if t.Format.Definition != "" {
			text = strings.TrimSpace(text + fmt.Sprintf("\n\nThe input must follow this grammar (%s):\n%s", t.Format.Syntax, t.Format.Definition))
		}
		fields["description"], fields["parameters"] = quoted(text), json.RawMessage(customParameters)
		delete(fields, "format")
	}
	inner, err := json.Marshal(fields)
	if err != nil {
		return badParam(param, "cannot be read")
	}
	b.chat = append(b.chat, slices.Concat(json.RawMessage(`{"type":"function","function":`), inner, json.RawMessage("}")))
	b.names, b.params = append(b.names, name), append(b.params, param)
	if b.known == nil {
		b.known = map[string]offeredTool{}
	}
	b.known[name] = offeredTool{namespace, t.Name, t.Type == "custom"}
	return nil
}

// flatName is the name by which the model knows a namespace's tool.
func flatName(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return strings.TrimRight(namespace, "_") + "__" + strings.TrimLeft(name, "_")
}

// offered returns the tool that a call is of. A model may leave out the namespace.
func (b *toolbox) offered(name string) offeredTool {
	if t, ok := b.known[name]; ok {
		return t
	}
	found, n := offeredTool{name: name}, 0
	for _, t := range b.known {
		if t.name == name {
			found, n = t, n+1
		}
	}
	if n != 1 {
		return offeredTool{name: name}
	}
	return found
}

// choose converts tool_choice to chat's, and drops the tools that it does not allow.
func (b *toolbox) choose(raw json.RawMessage) (json.RawMessage, error) {
	const param = "tool_choice"
	if first(raw) != '{' {
		if string(raw) == `"required"` && len(b.chat) == 0 && len(b.hosted) > 0 {
			return nil, badParam(param, "demands a call, and none of the tools can be called here: %.64q is OpenAI's own", b.hosted[0])
		}
		return raw, nil
	}
	var choice responseChoice
	if err := decodeAt(param, raw, &choice); err != nil {
		return nil, err
	}
	switch choice.Type {
	case "function", "custom":
		name := flatName(choice.Namespace, choice.Name)
		for at, t := range b.known {
			if choice.Namespace == "" && !slices.Contains(b.names, name) && t.name == choice.Name {
				name = at
			}
		}
		return fmt.Appendf(nil, `{"type":"function","function":{"name":%s}}`, quoted(name)), nil
	case "allowed_tools":
		return b.allow(&choice)
	case "":
		return nil, badParam(param+".type", "is missing")
	}
	return nil, badParam(param, "demands %.64q, which this server does not have: use auto, or name a function", choice.Type)
}

type responseChoice struct {
	Type      string           `json:"type"`
	Name      string           `json:"name"`
	Namespace string           `json:"namespace"`
	Mode      string           `json:"mode"`  // of allowed_tools: auto or required
	Tools     []responseChoice `json:"tools"` // of allowed_tools
}

// allow keeps only the tools that the choice names.
func (b *toolbox) allow(choice *responseChoice) (json.RawMessage, error) {
	if choice.Mode != "auto" && choice.Mode != "required" {
		return nil, badParam("tool_choice.mode", "must be auto or required")
	}
	allowed := map[string]bool{}
	for _, t := range choice.Tools {
		allowed[flatName(t.Namespace, t.Name)] = true
	}
	kept := toolbox{known: b.known, hosted: b.hosted}
	for i, name := range b.names {
		if t := b.known[name]; allowed[name] || allowed[t.name] {
			kept.chat, kept.names, kept.params = append(kept.chat, b.chat[i]), append(kept.names, name), append(kept.params, b.params[i])
		}
	}
	if choice.Mode == "required" && len(kept.chat) == 0 {
		return nil, badParam("tool_choice.tools", "demands a call, and names no function of the tools")
	}
	*b = kept
	return quoted(choice.Mode), nil
}

// customInput returns the text of a custom tool's call. What is no object with the text
// is taken as the text.
func customInput(arguments string) string {
	var args struct {
		Input *string `json:"input"`
	}
	if json.Unmarshal([]byte(arguments), &args) != nil || args.Input == nil {
		return arguments
	}
	return *args.Input
}
