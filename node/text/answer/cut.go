package answer

import (
	"encoding/json"
	"strings"
)

// Cut returns the calls of an answer that has the format of Calls and was cut off: first
// those that are whole, then the one that is not, with as much of its arguments as there
// is, if it is certain which function it calls. prompt is what the answer continues.
func (s *Syntax) Cut(answer string, functions []string, prompt string) (calls []Call) {
	rest := s.afterReasoning(answer, prompt)
	if strings.TrimSpace(rest) == "" {
		return nil
	}
	for {
		_, after, begun := strings.Cut(rest, s.writes.open)
		if !begun && len(calls) == 0 && len(functions) == 1 {
			return []Call{{functions[0], ""}}
		}
		name, arguments, ok := s.writes.called(after, functions)
		if !begun || !ok {
			return calls
		}
		d := json.NewDecoder(strings.NewReader(arguments))
		var whole json.RawMessage
		if d.Decode(&whole) != nil {
			return append(calls, Call{name, arguments})
		}
		calls = append(calls, Call{name, string(whole)})
		rest = arguments[d.InputOffset():]
	}
}

// afterReasoning returns the answer from the end of its reasoning on; "" if that has not
// ended.
func (s *Syntax) afterReasoning(answer, prompt string) string {
	open, shut := s.think.open, s.think.shut
	if s.harmony {
		open, shut = "<|channel|>analysis", "<|end|>"
	}
	if i := strings.LastIndex(answer, shut); i >= 0 {
		return answer[i+len(shut):]
	}
	if s.begun(prompt) || strings.HasPrefix(strings.TrimLeft(answer, space), open) {
		return ""
	}
	return answer
}

// called returns the function that a call names and what has been written of its
// arguments. A name that is not complete is certain if only one function begins so.
func (w *writing) called(text string, functions []string) (name, arguments string, ok bool) {
	fits := 0
	for _, f := range functions {
		head := w.quote(f) + w.arguments
		if rest, whole := strings.CutPrefix(text, head); whole {
			return f, rest, true
		}
		if strings.HasPrefix(head, text) {
			name = f
			fits++
		}
	}
	return name, "", fits == 1
}
