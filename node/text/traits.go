package text

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/text/jinja"
)

// Traits are the ways in which templates differ. They are found by rendering
// small chats and looking for their words in the output.
type Traits struct {
	System    bool // it accepts a system message
	Tools     bool // it writes the available tools
	ToolCalls bool // it writes earlier calls and their results

	stringArguments bool // a call's arguments must be JSON in a string, not an object
	nullContent     bool // the content of a message with calls must be null
}

// Traits returns the traits that chats with tools meet.
func (t *Template) Traits() Traits { return t.forTools().traits() }

// Source returns the template's text, and that of the one for chats with tools: an
// answer may have the marks of either.
func (t *Template) Source() string {
	if t.toolUse != nil {
		return t.source + "\n" + t.toolUse.source
	}
	return t.source
}

// Words that no template contains.
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
	// A dict written as text has Python's quotation marks; an object's keys may
	// also be written one by one.
	for _, words := range []string{
		`"` + probeKey + `"`, "<parameter=" + probeKey, probeKey + "=", "<arg_key>" + probeKey, "<arg_key:opensource>" + probeKey, "{" + probeKey + ":", "<" + probeKey + ">",
	} {
		for _, try := range []Traits{{}, {nullContent: true}, {stringArguments: true}, {nullContent: true, stringArguments: true}} {
			// Tools are left out of this chat: their schema has the same words.
			if shows(try, nil, chat, probeTool, words, probeResult) {
				traits.ToolCalls, traits.nullContent, traits.stringArguments = true, try.nullContent, try.stringArguments
				return traits
			}
		}
	}
	return traits
}

// dict returns a message in the form that the template expects.
func (m Message) dict(traits Traits) any {
	pairs := []any{"role", m.Role}
	if traits.nullContent && m.Content == "" && len(m.ToolCalls) > 0 {
		pairs = append(pairs, "content", nil)
	} else {
		pairs = append(pairs, "content", m.Content)
	}
	if m.Reasoning != "" {
		pairs = append(pairs, "reasoning_content", m.Reasoning, "thinking", m.Reasoning) // the names that most templates use, and gpt-oss's
	}
	if m.Name != "" {
		pairs = append(pairs, "name", m.Name)
	}
	if len(m.ToolCalls) > 0 {
		calls := make([]any, len(m.ToolCalls))
		for i, c := range m.ToolCalls {
			var args any = c.Arguments // as it is, if a model has written something else
			if raw := json.RawMessage(c.Arguments); !traits.stringArguments && json.Valid(raw) && strings.HasPrefix(strings.TrimSpace(c.Arguments), "{") {
				args = raw
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
