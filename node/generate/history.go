package generate

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
)

// Chats whose history a template has no place for as it is, answers that continue a
// message, and calls that were cut off.

// write renders a chat. What the template refuses is written in other words first.
func (g *generation) write(in *text.RenderInput) (string, error) {
	prompt, err := g.tools.Template.Render(*in)
	for _, mend := range []func([]text.Message) bool{shortenIDs, tellOdd} { // Mistral's templates take ids of one length only
		if err == nil || !mend(in.Messages) {
			continue
		}
		if again, e := g.tools.Template.Render(*in); e == nil {
			prompt, err = again, nil
		}
	}
	if err == nil && g.req.Continue {
		return upTo(prompt, in.Messages[len(in.Messages)-1].Content)
	}
	return prompt, err
}

// upTo cuts a prompt off after the last message, so that the answer continues it.
// Templates may leave out white space around a message.
func upTo(prompt, message string) (string, error) {
	bare := strings.TrimSpace(message)
	at := strings.LastIndex(prompt, bare)
	if at < 0 {
		return "", errors.New("it does not write the last message as it is, so no answer can continue that")
	}
	at += len(bare)
	tail := message[len(strings.TrimRight(message, " \t\r\n")):]
	if strings.HasPrefix(prompt[at:], tail) {
		at += len(tail)
	}
	return prompt[:at], nil
}

// tell writes a message's calls, or the result of one, as text.
func tell(m *text.Message) {
	switch {
	case m.Role == "tool":
		what := "A function"
		if m.Name != "" {
			what = "The function " + m.Name
		}
		m.Role, m.Content = "user", what+" gave: "+m.Content
		m.Name, m.ToolCallID = "", ""
	case len(m.ToolCalls) > 0:
		for _, c := range m.ToolCalls {
			name, _ := json.Marshal(c.Name)
			arguments := c.Arguments
			if !json.Valid([]byte(arguments)) {
				quoted, _ := json.Marshal(arguments)
				arguments = string(quoted)
			}
			m.Content = strings.TrimSpace(m.Content + "\n" + `{"name": ` + string(name) + `, "arguments": ` + arguments + "}")
		}
		m.ToolCalls = nil
	}
}

// tellOdd tells what many templates refuse: calls whose arguments are no JSON object,
// and results without a call before them. It reports whether there was any.
func tellOdd(messages []text.Message) (changed bool) {
	called := map[string]bool{} // ids
	for i := range messages {
		m := &messages[i]
		odd := m.Role == "tool" && !called[m.ToolCallID]
		for _, c := range m.ToolCalls {
			var object map[string]json.RawMessage
			odd = odd || json.Unmarshal([]byte(c.Arguments), &object) != nil
		}
		if odd {
			tell(m)
			changed = true
			continue
		}
		for _, c := range m.ToolCalls {
			called[c.ID] = true
		}
	}
	return changed
}

// cutCalls returns the calls of a forced answer that were not read because it was cut
// off: whole ones without their closing mark, and the last one with a part of its
// arguments.
func (g *generation) cutCalls() (calls []api.ToolCall) {
	all := g.tools.Syntax.Cut(g.said.String(), g.functions, g.rendered)
	for _, c := range all[min(g.calls, len(all)):] {
		g.calls++
		calls = append(calls, newCall(c))
	}
	return calls
}

func newCall(c answer.Call) api.ToolCall {
	return api.ToolCall{ID: "call_" + strings.ToLower(rand.Text()), Type: "function",
		Function: api.FunctionCall{Name: c.Name, Arguments: c.Arguments}}
}
