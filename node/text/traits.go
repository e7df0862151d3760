package text

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/text/jinja"
)

// Traits are what templates do differently. They are found by rendering small
// chats and looking for their words in what comes out.
type Traits struct {
	System    bool // it takes a system message
	Tools     bool // it writes the tools on offer
	ToolCalls bool // it writes calls that were made, and what they gave

	stringArguments bool // a call's arguments must be JSON in a string, not an object
	nullContent     bool // a message that calls must have null for its content
}

// Traits of the template.
func (t *Template) Traits() Traits { return t.traits() }

// Source is the template's text.
func (t *Template) Source() string { return t.source }

// Words that no template has of itself.
const (
	probeTool   = "probe_tool_q7"
	probeKey    = "probe_key_q7"
	probeResult = "probe_result_q7"
	probeSystem = "probe_system_q7"
)

func (t *Template) probe() (traits Traits) {
	shows := func(traits Traits, tools []json.RawMessage, messages []Message, words ...string) bool {
		text, err := t.render(RenderInput{Messages: messages, Tools: tools, AddGenerationPrompt: true, Now: time.Unix(1<<30, 0).UTC()}, traits)
		for _, w := range words {
			if err != nil || !strings.Contains(text, w) {
				return false
			}
		}
		return true
	}
	user := Message{Role: "user", Content: "hello"}
	traits.System = shows(traits, nil, []Message{{Role: "system", Content: probeSystem}, user}, probeSystem)
	tools := []json.RawMessage{json.RawMessage(`{"type": "function", "function": {"name": "` + probeTool +
		`", "description": "d", "parameters": {"type": "object", "properties": {"` + probeKey + `": {"type": "string", "description": "d"}}, "required": ["` + probeKey + `"]}}}`)}
	traits.Tools = shows(traits, tools, []Message{user}, probeTool)
	chat := []Message{user,
		{Role: "assistant", ToolCalls: []ToolCall{{ID: "abcdef123", Name: probeTool, Arguments: `{"` + probeKey + `": "x"}`}}},
		{Role: "tool", Content: probeResult, Name: probeTool, ToolCallID: "abcdef123"}}
	// A dict that is written as text has Python's quotation marks; an object's
	// keys may also be written one by one.
	for _, words := range []string{`"` + probeKey + `"`, "<parameter=" + probeKey, probeKey + "="} {
		for _, try := range []Traits{{}, {nullContent: true}, {stringArguments: true}, {nullContent: true, stringArguments: true}} {
			// Tools are left out where they are: their schema has the same words.
			if shows(try, nil, chat, probeTool, words, probeResult) {
				traits.ToolCalls, traits.nullContent, traits.stringArguments = true, try.nullContent, try.stringArguments
				return traits
			}
		}
	}
	return traits
}

// dict is a message as a template is given it.
func (m Message) dict(traits Traits) any {
	pairs := []any{"role", m.Role}
	if traits.nullContent && m.Content == "" && len(m.ToolCalls) > 0 {
		pairs = append(pairs, "content", nil)
	} else {
		pairs = append(pairs, "content", m.Content)
	}
	if m.Reasoning != "" {
		pairs = append(pairs, "reasoning_content", m.Reasoning, "thinking", m.Reasoning) // most templates', gpt-oss's
	}
	if m.Name != "" {
		pairs = append(pairs, "name", m.Name)
	}
	if len(m.ToolCalls) > 0 {
		calls := make([]any, len(m.ToolCalls))
		for i, c := range m.ToolCalls {
			var args any = json.RawMessage(c.Arguments)
			if traits.stringArguments {
				args = c.Arguments
			}
			calls[i] = jinja.Dict("id", c.ID, "type", "function", "function", jinja.Dict("name", c.Name, "arguments", args))
		}
		pairs = append(pairs, "tool_calls", calls)
	}
	if m.ToolCallID != "" {
		pairs = append(pairs, "tool_call_id", m.ToolCallID)
	}
	return jinja.Dict(pairs...)
}
