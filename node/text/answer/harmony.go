package answer

import (
	"bytes"
	"strings"
)

// The format of gpt-oss, as published
// (https://cookbook.openai.com/articles/openai-harmony). An answer is a
// sequence of messages,
//
//	<|channel|>analysis<|message|>reasoning<|end|>
//	<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{...}<|call|>
//	<|start|>assistant<|channel|>final<|message|>text<|return|>
//
// the first of which is begun by the prompt.

var harmonyMarks = []string{"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"}

const (
	maxHeader = 1024 // bytes; what exceeds this is ignored
	longMark  = len("<|constrain|>")
)

// message is the message being read.
type message struct {
	header    []byte
	heading   bool   // its header is being read
	opening   bool   // the prompt has begun its header, and may have completed it
	reasoning bool   // it is not for the user
	function  string // the function it calls, or ""
	begun     bool   // part of it has been returned

	reasoned, spoke bool // part of an earlier one has been returned
}

// resume continues a header that the prompt has begun.
func (r *Reader) resume(prompt string) {
	i := strings.LastIndex(prompt, "<|start|>")
	if i >= 0 && strings.Contains(prompt[i:], "<|channel|>") {
		r.held = append(r.held, prompt[i:]...)
		return
	}
	r.message.opening = i >= 0
}

func (r *Reader) harmony(out *sink, last bool) bool {
	m := &r.message
	if m.opening { // a call may precede the channel: <|start|>assistant to=functions.f<|channel|>
		if to := " to="; !last && len(r.held) < len(to) && string(r.held) == to[:len(r.held)] {
			return false
		} else if bytes.HasPrefix(r.held, []byte(to)) {
			m.heading = true
		}
		m.opening = false
	}
	at, mark := -1, ""
	from := max(0, r.scan-longMark)
	for _, s := range harmonyMarks {
		if i := bytes.Index(r.held[from:], []byte(s)); i >= 0 && (at < 0 || from+i < at) {
			at, mark = from+i, s
		}
	}
	if at < 0 {
		n := len(r.held)
		if !last {
			n -= tail(r.held, harmonyMarks...)
			if m.function != "" && n <= maxBody { // a call is parsed when it is complete
				r.scan = n
				return false
			}
		}
		r.deliver(out, r.take(n))
		return false
	}
	r.deliver(out, r.take(at))
	r.take(len(mark))
	switch {
	case mark == "<|start|>", mark == "<|channel|>" && !m.heading:
		m.next()
		m.heading = true
	case mark == "<|message|>" && m.heading:
		r.readHeader()
	case mark == "<|end|>", mark == "<|call|>", mark == "<|return|>":
		m.next()
	}
	if m.heading && mark != "<|start|>" {
		r.deliver(out, []byte(mark))
	}
	return true
}

// next starts another message.
func (m *message) next() { *m = message{reasoned: m.reasoned, spoke: m.spoke} }

// deliver passes a piece of a message to its destination.
func (r *Reader) deliver(out *sink, b []byte) {
	m := &r.message
	if len(b) == 0 {
		return
	}
	if m.heading {
		m.header = append(m.header, b[:min(len(b), maxHeader-len(m.header))]...)
		return
	}
	if m.function != "" {
		args, ok := object(string(b))
		if ok && len(b) <= maxBody {
			out.calls = append(out.calls, Call{m.function, args})
			return
		}
		m.function = "" // not a function that can be called
	}
	to, earlier := &out.text, &m.spoke
	if m.reasoning {
		to, earlier = &out.reasoning, &m.reasoned
	}
	if *earlier && !m.begun { // messages of one kind are separated
		*to = append(*to, "\n\n"...)
	}
	*earlier, m.begun = true, true
	*to = append(*to, b...)
}

// readHeader parses "assistant to=NAME<|channel|>CHANNEL to=NAME
// <|constrain|>json".
func (r *Reader) readHeader() {
	m := &r.message
	header := string(m.header)
	m.next()
	if _, name, ok := strings.Cut(header, "to="); ok {
		if i := strings.IndexAny(name, space+"<"); i >= 0 {
			name = name[:i]
		}
		switch name = strings.TrimPrefix(name, "functions."); {
		case name == "", name == "assistant", name == "user":
		case r.opt.Tools == nil: // for a tool that was not offered
			m.reasoning = true
		default:
			m.function = name
		}
	}
	if _, channel, ok := strings.Cut(header, "<|channel|>"); ok && m.function == "" && strings.HasPrefix(channel, "analysis") {
		m.reasoning = true
	}
}
