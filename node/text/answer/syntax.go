package answer

import (
	"slices"
	"strings"
)

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
	inner   []string // control tokens within calls
	bare    bool     // calls may be JSON objects without marks
	lists   bool     // or lists of calls in Python
	thinks  bool     // the template marks reasoning
	writes  writing
}

// pair is the marks around a text.
type pair struct{ open, shut string }

// mark begins a part that is not text.
type mark struct {
	pair // shut "": the part ends at the same mark, or with the answer
	read func(body string, tools Tools) ([]Call, bool)
	free bool // the body need not be JSON: its quotation marks do not hide the end
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
	f, known := familyOf(has)
	if known && f.think.open != "" {
		s.think = f.think
	}
	s.thinks = has(s.think.open) || has(s.think.shut) || known && f.think.open != ""
	s.writes = plainJSON("arguments")
	hermes := mark{pair: pair{"<tool_call>", "</tool_call>"}, read: readTagged}
	defer func() { s.marks = append(s.marks, wrappers(has)...) }()
	switch {
	case has("<|channel|>") && has("<|message|>"): // gpt-oss
		s.harmony, s.bare, s.thinks = true, false, true
		s.writes = writing{open: "<|channel|>commentary to=functions.", arguments: " <|constrain|>json<|message|>", bare: true}
	case known:
		s.marks, s.inner, s.lists, s.writes = slices.Clone(f.marks), f.inner, f.bare, f.writing()
	case has("[TOOL_CALLS]"): // Mistral
		s.marks = []mark{{pair: pair{open: "[TOOL_CALLS]"}, read: readMistral}}
		if s.writes = plainJSON("arguments"); has("[ARGS]") {
			s.writes = writing{open: "[TOOL_CALLS]", arguments: "[ARGS]", bare: true}
		} else {
			s.writes.before, s.writes.between, s.writes.after = "[TOOL_CALLS][", ", ", "]"
		}
		s.writes.several = true
	case has(deepCall):
		s.marks = []mark{{pair: pair{deepCall, deepCallEnd}, read: readDeepSeek}, drop(deepCalls), drop(deepCallsEnd)}
		s.writes = writing{before: deepCalls, after: deepCallsEnd, open: deepCall, arguments: deepSep, shut: deepCallEnd, bare: true, several: true}
		if has("```json") {
			s.writes.open += "function" + deepSep
			s.writes.arguments, s.writes.shut, s.writes.between = "\n```json\n", "\n```"+deepCallEnd, "\n"
		}
	case has("<function_calls>"): // Olmo, whose Python is not JSON; calls in JSON are accepted too
		s.marks = []mark{{pair: pair{"<function_calls>", "</function_calls>"}, read: readPython}}
	case has("<tool_call>"): // Hermes, Qwen
		s.marks = []mark{hermes}
		s.writes.open, s.writes.shut = "<tool_call>\n"+s.writes.open, s.writes.shut+"\n</tool_call>"
		s.writes.between, s.writes.several = "\n", true
	case has("<|python_tag|>"), has("ipython"): // Llama 3
		s.marks = []mark{{pair: pair{open: "<|python_tag|>"}, read: readJSON}}
		s.writes = plainJSON("parameters")
	default: // what models without a trained syntax tend to write
		s.marks = []mark{hermes, {pair: pair{"```json", "```"}, read: readJSON}}
	}
	return s
}

// Thinks reports whether a model with this template marks its reasoning.
func Thinks(template string) bool { return Detect(template).thinks }

// wrappers are the marks that are removed and have no meaning.
func (s *Syntax) wrappers() (list []mark) {
	for _, m := range s.marks {
		if m.read == nil {
			list = append(list, m)
		}
	}
	return list
}

// begun reports whether a prompt ends inside reasoning that it has begun.
func (s *Syntax) begun(prompt string) bool {
	return !s.harmony && strings.HasSuffix(strings.TrimRight(prompt, space), s.think.open)
}

// AnswerAt returns a prompt up to where the answer itself begins, if the model does not
// reason. It returns false if the prompt ends inside reasoning that it has begun.
func (s *Syntax) AnswerAt(prompt string) (string, bool) {
	if s.harmony {
		return prompt + "<|channel|>final<|message|>", true
	}
	return prompt, !s.begun(prompt)
}

// Marks returns the control tokens that a Reader must receive as text.
func (s *Syntax) Marks() []string {
	if s.harmony {
		return harmonyMarks
	}
	out := append([]string{s.think.open, s.think.shut, deepSep, "[ARGS]", "[CALL_ID]"}, s.inner...)
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
