package answer

import "strings"

// Call is a call of a function.
type Call struct {
	Name      string
	Arguments string // a JSON object, with its keys in the model's order
}

// Part is the output for a piece of an answer.
type Part struct {
	Text      string
	Reasoning string
	Calls     []Call
}

// Syntax is how a model marks the parts of its answers. It is safe for
// concurrent use.
type Syntax struct {
	harmony bool
	think   pair
	marks   []mark
	bare    bool // calls may be JSON objects without marks
	thinks  bool // the template marks reasoning
	writes  writing
}

// pair is the marks around a text.
type pair struct{ open, shut string }

// mark begins a part that is not text.
type mark struct {
	pair // shut "": the part ends at the same mark, or with the answer
	read func(body string, tools Tools) ([]Call, bool)
}

// DeepSeek's marks.
const (
	deepCalls, deepCallsEnd = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
	deepCall, deepCallEnd   = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
	deepSep                 = "<｜tool▁sep｜>"
)

// drop returns a mark that is removed and has no meaning.
func drop(text string) mark { return mark{pair: pair{open: text}} }

// Detect finds the marks that a model uses from its chat template. Each syntax
// is one that the models' authors document and that their templates use for
// earlier calls.
func Detect(template string) *Syntax {
	has := func(s string) bool { return strings.Contains(template, s) }
	s := &Syntax{think: pair{"<think>", "</think>"}, bare: true}
	if has("[THINK]") { // Mistral's
		s.think = pair{"[THINK]", "[/THINK]"}
	}
	s.thinks = has(s.think.open) || has(s.think.shut)
	s.writes = plainJSON("arguments")
	hermes := mark{pair{"<tool_call>", "</tool_call>"}, readTagged}
	switch {
	case has("<|channel|>") && has("<|message|>"): // gpt-oss
		s.harmony, s.bare, s.thinks = true, false, true
		s.writes = writing{open: "<|channel|>commentary to=functions.", arguments: " <|constrain|>json<|message|>", bare: true}
	case has("[TOOL_CALLS]"): // Mistral
		s.marks = []mark{{pair{open: "[TOOL_CALLS]"}, readMistral}}
		if s.writes = plainJSON("arguments"); has("[ARGS]") {
			s.writes = writing{open: "[TOOL_CALLS]", arguments: "[ARGS]", bare: true}
		} else {
			s.writes.before, s.writes.between, s.writes.after = "[TOOL_CALLS][", ", ", "]"
		}
		s.writes.several = true
	case has(deepCall):
		s.marks = []mark{{pair{deepCall, deepCallEnd}, readDeepSeek}, drop(deepCalls), drop(deepCallsEnd)}
		s.writes = writing{before: deepCalls, after: deepCallsEnd, open: deepCall, arguments: deepSep, shut: deepCallEnd, bare: true, several: true}
		if has("```json") {
			s.writes.open += "function" + deepSep
			s.writes.arguments, s.writes.shut, s.writes.between = "\n```json\n", "\n```"+deepCallEnd, "\n"
		}
	case has("<function_calls>"): // Olmo, whose Python is not JSON; calls in JSON are accepted too
		s.marks = []mark{{pair{"<function_calls>", "</function_calls>"}, readPython}}
	case has("<tool_call>"): // Hermes, Qwen
		s.marks = []mark{hermes}
		s.writes.open, s.writes.shut = "<tool_call>\n"+s.writes.open, s.writes.shut+"\n</tool_call>"
		s.writes.between, s.writes.several = "\n", true
	case has("<|python_tag|>"), has("ipython"): // Llama 3
		s.marks = []mark{{pair{open: "<|python_tag|>"}, readJSON}}
		s.writes = plainJSON("parameters")
	default: // what models without a trained syntax tend to write
		s.marks = []mark{hermes, {pair{"```json", "```"}, readJSON}}
	}
	return s
}

// Thinks reports whether a model with this template marks its reasoning.
func Thinks(template string) bool { return Detect(template).thinks }

// begun reports whether a prompt ends inside reasoning that it has begun.
func (s *Syntax) begun(prompt string) bool {
	return !s.harmony && strings.HasSuffix(strings.TrimRight(prompt, space), s.think.open)
}

// Marks returns the control tokens that a Reader must receive as text.
func (s *Syntax) Marks() []string {
	if s.harmony {
		return harmonyMarks
	}
	out := []string{s.think.open, s.think.shut, deepSep, "[ARGS]", "[CALL_ID]"}
	for _, m := range s.marks {
		out = append(out, m.open)
		if m.shut != "" {
			out = append(out, m.shut)
		}
	}
	return out
}

// Tools are the functions that may be called.
type Tools []Tool

// Tool is a function; Types is the JSON schema type of each parameter that has
// one.
type Tool struct {
	Name  string
	Types map[string]string
}

// find returns a tool by name.
func (t Tools) find(name string) (Tool, bool) {
	for _, tool := range t {
		if tool.Name == name {
			return tool, true
		}
	}
	return Tool{}, false
}
