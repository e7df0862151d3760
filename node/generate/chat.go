package generate

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
)

// tool is a function that the model may call, as the caller describes it.
type tool struct {
	Function struct {
		Name       string          `json:"name"`
		Parameters json.RawMessage `json:"parameters"`
	} `json:"function"`
}

// render writes the chat as the model was trained to read it, and sets the answer's
// format and reader. The errors are BadInput.
func (g *generation) render() (string, error) {
	tools, err := readTools(g.req.Tools)
	if err != nil {
		return "", err
	}
	in := text.RenderInput{AddGenerationPrompt: !g.req.Continue, Now: time.Now(), Tools: g.req.Tools, Extra: g.thinking()}
	for _, m := range g.req.Messages {
		out := text.Message{Role: m.Role, Content: m.Content, Reasoning: m.Reasoning, Name: m.Name, ToolCallID: m.ToolCallID}
		for _, c := range m.ToolCalls {
			out.ToolCalls = append(out.ToolCalls, text.ToolCall{ID: c.ID, Name: c.Function.Name, Arguments: c.Function.Arguments})
		}
		in.Messages = append(in.Messages, out)
	}
	if usesTools(g.req) {
		if traits := g.tools.Template.Traits(); !traits.Tools || !traits.ToolCalls {
			explainTools(&in, traits)
		}
	}
	g.explainFormat(&in)
	prompt, err := g.write(&in)
	if err != nil {
		return "", api.Errorf(api.BadInput, "the chat template: %s", err)
	}
	g.setFormat(prompt, tools)
	opt := answer.Options{Prompt: prompt, Format: g.free != nil}
	g.functions = nil
	for _, t := range tools {
		g.functions = append(g.functions, t.Function.Name)
		opt.Tools = append(opt.Tools, answer.Tool{Name: t.Function.Name, Types: t.types()})
	}
	g.newReader = func() *answer.Reader { return g.tools.Syntax.NewReader(opt) }
	g.rendered = prompt
	return prompt, nil
}

// thinking returns the variables by which templates are told how hard to reason.
func (g *generation) thinking() map[string]any {
	switch think := g.req.Think; {
	case think == "off":
		// gpt-oss cannot do without thinking.
		return map[string]any{"enable_thinking": false, "thinking": false, "reasoning_effort": "low"}
	case think == "on":
		return map[string]any{"enable_thinking": true, "thinking": true}
	case think != "":
		return map[string]any{"enable_thinking": true, "thinking": true, "reasoning_effort": think}
	}
	return nil
}

// beginReading prepares for the answer's tokens.
func (g *generation) beginReading() {
	g.stops = text.NewStops(g.req.Stop)
	g.said.Reset()
	if g.newReader == nil {
		g.decoder = g.tools.NewDecoder()
		return
	}
	g.decoder, g.reader = g.tools.NewDecoder(g.tools.Syntax.Marks()...), g.newReader()
}

// parse takes new text of the answer apart; last says that it is the end. Stop
// sequences are sought in shown text alone.
func (g *generation) parse(s string, last bool) (shown, reasoning string, calls []api.ToolCall) {
	part := answer.Part{Text: s}
	if g.req.MustCall {
		g.said.WriteString(s)
	}
	if g.reader != nil {
		part = g.reader.Push(s)
		if last {
			rest := g.reader.Flush()
			part.Text += rest.Text
			part.Reasoning += rest.Reasoning
			part.Calls = append(part.Calls, rest.Calls...)
		}
	}
	if shown, g.stopped = g.stops.Push(part.Text); g.stopped {
		return shown, part.Reasoning, nil
	}
	for _, c := range part.Calls {
		g.calls++
		calls = append(calls, newCall(c))
		if g.req.OneCall {
			g.stopped = true
			break
		}
	}
	return shown, part.Reasoning, calls
}

func readTools(raw []json.RawMessage) ([]tool, error) {
	tools := make([]tool, len(raw))
	for i := range raw {
		if err := json.Unmarshal(raw[i], &tools[i]); err != nil || tools[i].Function.Name == "" {
			return nil, &api.Error{Kind: api.BadInput, Param: "tools", Message: "tools: each must be a function with a name"}
		}
	}
	return tools, nil
}

// types of the parameters, as far as the schema names them.
func (t *tool) types() map[string]string {
	var schema struct {
		Properties map[string]struct {
			Type any `json:"type"`
		} `json:"properties"`
	}
	_ = json.Unmarshal(t.Function.Parameters, &schema) // what cannot be read names no types
	types := map[string]string{}
	for name, p := range schema.Properties {
		if s, ok := p.Type.(string); ok {
			types[name] = s
		}
	}
	return types
}

// usesTools reports whether a chat offers tools or has calls in it.
func usesTools(req *api.GenerateRequest) bool {
	return len(req.Tools) > 0 || slices.ContainsFunc(req.Messages, func(m api.Message) bool { return len(m.ToolCalls) > 0 || m.Role == "tool" })
}

// explainTools writes tools, calls and their results into the messages, for templates
// that have no place for them.
func explainTools(in *text.RenderInput, traits text.Traits) {
	if !traits.ToolCalls {
		for i := range in.Messages {
			tell(&in.Messages[i])
		}
	}
	if traits.Tools || len(in.Tools) == 0 {
		return
	}
	var b strings.Builder
	b.WriteString("These functions can be called:\n")
	for _, raw := range in.Tools {
		b.Write(raw)
		b.WriteByte('\n')
	}
	b.WriteString(`To call one, answer with nothing but JSON: {"name": ..., "arguments": {...}}. Its result comes next. If none is of use, answer in words.`)
	in.Tools = nil
	instruct(in, traits, b.String())
}

// instruct puts an instruction before all others: into the system message, or into the
// first of the user's where the template has no place for one.
func instruct(in *text.RenderInput, traits text.Traits, words string) {
	role := "system"
	if !traits.System {
		role = "user"
	}
	at := slices.IndexFunc(in.Messages, func(m text.Message) bool { return m.Role == role })
	switch {
	case at >= 0:
		in.Messages[at].Content = words + "\n\n" + in.Messages[at].Content
	case traits.System:
		in.Messages = append([]text.Message{{Role: role, Content: words}}, in.Messages...)
	}
}

var shortID = regexp.MustCompile(`^[a-zA-Z0-9]{9}$`)

// shortenIDs makes the ids of calls nine letters and digits long, and reports whether
// it changed any.
func shortenIDs(messages []text.Message) (changed bool) {
	short := func(id *string) {
		if *id != "" && !shortID.MatchString(*id) {
			sum := sha256.Sum256([]byte(*id))
			*id, changed = base32.StdEncoding.EncodeToString(sum[:])[:9], true
		}
	}
	for i := range messages {
		short(&messages[i].ToolCallID)
		for k := range messages[i].ToolCalls {
			short(&messages[i].ToolCalls[k].ID)
		}
	}
	return changed
}
