package answer

import (
	"bytes"
	"strings"
)

// Limits.
const (
	maxBody  = 1 << 20 // bytes of a call; longer ones are text
	maxSpace = 4096    // bytes of white space held back, to be dropped if a mark follows
)

// Options are the options of a Reader.
type Options struct {
	Tools  Tools  // empty: calls are not recognized
	Prompt string // the prompt that the answer continues: it may have begun the reasoning
	Format bool   // the text follows a format: JSON without arguments is text, whatever it is named
}

// Reader splits an answer into its parts. It is not safe for concurrent use.
//
//	begin -> [think ->] text <-> body of a call
type Reader struct {
	syntax *Syntax
	opt    Options
	at     func(r *Reader, out *sink, last bool) bool // the current state: consumes from held; false: needs more text
	held   []byte

	mark  mark // of the body being read
	scan  int  // bytes of held that were already searched
	quote quoting
	fresh bool // nothing precedes in this text: a bare call may begin
	trim  bool // leading white space is dropped
	calls int
	plain bool // the rest is text

	message message // state of gpt-oss's format
}

// sink collects the output.
type sink struct {
	text, reasoning []byte
	calls           []Call
}

func (s *sink) part() Part {
	return Part{Text: string(s.text), Reasoning: string(s.reasoning), Calls: s.calls}
}

// NewReader starts an answer.
func (s *Syntax) NewReader(opt Options) *Reader {
	r := &Reader{syntax: s, opt: opt, fresh: true}
	end := strings.TrimRight(opt.Prompt, " \t\r\n")
	switch {
	case s.harmony:
		r.at = (*Reader).harmony
		r.resume(end)
	case s.begun(end):
		r.at, r.trim = (*Reader).think, true
	default:
		r.at = (*Reader).begin
	}
	return r
}

// Push adds the next piece of the answer and returns what is now certain.
func (r *Reader) Push(text string) Part {
	r.held = append(r.held, text...)
	var out sink
	for r.at(r, &out, false) {
	}
	return out.part()
}

// Flush returns the rest when the answer has ended.
func (r *Reader) Flush() Part {
	var out sink
	for r.at(r, &out, true) {
	}
	out.text = append(out.text, r.held...)
	r.held = nil
	return out.part()
}

// take removes n bytes from the front of held.
func (r *Reader) take(n int) []byte {
	b := r.held[:n:n]
	r.held, r.scan = r.held[n:], 0
	return b
}

const space = " \t\r\n"

// trimEnd removes trailing white space, at most as much as is held back.
func trimEnd(b []byte) []byte {
	return b[:max(len(bytes.TrimRight(b, space)), len(b)-maxSpace)]
}

// tail returns how many bytes at the end of b could begin one of the marks.
func tail(b []byte, marks ...string) int {
	keep := 0
	for _, m := range marks {
		for n := min(len(m)-1, len(b)); n > keep; n-- {
			if string(b[len(b)-n:]) == m[:n] {
				keep = n
				break
			}
		}
	}
	return keep
}

// begin checks whether the answer begins with reasoning.
func (r *Reader) begin(_ *sink, last bool) bool {
	lead := bytes.TrimLeft(r.held, space)
	open := r.syntax.think.open
	switch n := len(r.held) - len(lead); {
	case bytes.HasPrefix(lead, []byte(open)) && n <= maxSpace:
		r.take(n + len(open))
		r.at, r.trim = (*Reader).think, true
	case !last && n <= maxSpace && len(lead) < len(open) && string(lead) == open[:len(lead)]:
		return false
	default:
		r.at = (*Reader).text
	}
	return true
}

// think returns reasoning up to its closing mark, without white space at both
// ends.
func (r *Reader) think(out *sink, last bool) bool {
	shut := r.syntax.think.shut
	r.trimLead()
	if i := bytes.Index(r.held, []byte(shut)); i >= 0 {
		out.reasoning = append(out.reasoning, trimEnd(r.take(i))...)
		r.take(len(shut))
		r.at, r.trim = (*Reader).text, true
		return true
	}
	if last {
		out.reasoning = append(out.reasoning, r.take(len(r.held))...)
		return false
	}
	n := len(trimEnd(r.held[:len(r.held)-tail(r.held, shut)]))
	out.reasoning = append(out.reasoning, r.take(n)...)
	return false
}

// trimLead drops leading white space if trim is set.
func (r *Reader) trimLead() {
	if !r.trim {
		return
	}
	r.take(len(r.held) - len(bytes.TrimLeft(r.held, space)))
	r.trim = len(r.held) == 0
}

// text returns text until a call begins. White space before and between calls
// is the model's layout, and is dropped.
func (r *Reader) text(out *sink, last bool) bool {
	r.trimLead()
	marks := r.syntax.marks
	if r.opt.Tools == nil {
		marks = r.syntax.wrappers()
	}
	if len(marks) == 0 || r.plain {
		out.text = append(out.text, r.take(len(r.held))...)
		return false
	}
	if r.syntax.bare && r.fresh && r.opt.Tools != nil {
		lead := bytes.TrimLeft(r.held, space)
		n := len(r.held) - len(lead)
		switch {
		case n > maxSpace:
			r.fresh = false
		case len(lead) == 0 && !last:
			return false
		case len(lead) == 0:
		case r.calls > 0 && lead[0] == ';': // Llama's separator of calls
			r.take(n + 1)
			return true
		case lead[0] == '{':
			r.quote = quoting{}
			r.scan = n
			r.at = (*Reader).object
			return true
		case r.syntax.lists && lead[0] == '[':
			r.scan = n
			r.at = (*Reader).list
			return true
		}
	}
	at, best := -1, mark{}
	open := make([]string, len(marks))
	for k, m := range marks {
		open[k] = m.open
		if i := bytes.Index(r.held, []byte(m.open)); i >= 0 && (at < 0 || i < at) {
			at, best = i, m
		}
	}
	if at >= 0 {
		r.say(out, trimEnd(r.take(at)))
		r.take(len(best.open))
		if best.read == nil {
			r.trim = true
			return true
		}
		r.mark, r.quote, r.at = best, quoting{begun: best.free, off: best.free}, (*Reader).body
		return true
	}
	if last {
		// White space after the last call is layout, too.
		if r.calls == 0 || len(bytes.Trim(r.held, space)) > 0 {
			r.say(out, r.held)
		}
		r.held = nil
		return false
	}
	r.say(out, r.take(len(trimEnd(r.held[:len(r.held)-tail(r.held, open...)]))))
	return false
}

// say outputs text.
func (r *Reader) say(out *sink, text []byte) {
	if len(text) > 0 {
		r.fresh = false
	}
	out.text = append(out.text, text...)
}

// called outputs calls.
func (r *Reader) called(out *sink, calls []Call) {
	r.calls += len(calls)
	out.calls = append(out.calls, calls...)
	r.at, r.trim, r.fresh = (*Reader).text, true, true
}

// body reads a marked call to its end.
func (r *Reader) body(out *sink, last bool) bool {
	shut := r.mark.shut
	if shut == "" {
		shut = r.mark.open
	}
	for ; r.scan+len(shut) <= len(r.held) && r.scan <= maxBody; r.scan++ {
		if !r.quote.inside && string(r.held[r.scan:r.scan+len(shut)]) == shut {
			body := r.take(r.scan)
			if r.mark.shut != "" {
				r.take(len(shut))
			}
			r.judge(out, body, r.mark.shut)
			return true
		}
		r.quote.next(r.held[r.scan])
	}
	switch {
	case r.scan > maxBody: // no real call is that long
		r.plain = true
		r.say(out, []byte(r.mark.open))
		r.at = (*Reader).text
		return true
	case last:
		r.judge(out, r.take(len(r.held)), "")
		return true
	}
	return false
}

// judge outputs the calls in a body; if there are none, the body is text.
func (r *Reader) judge(out *sink, body []byte, shut string) {
	if calls, ok := r.mark.read(string(body), r.opt.Tools); ok {
		r.called(out, calls)
		return
	}
	r.at = (*Reader).text
	r.say(out, []byte(r.mark.open))
	r.say(out, body)
	r.say(out, []byte(shut))
}

// object reads a JSON object without marks. It is a call only if it names a
// known function.
func (r *Reader) object(out *sink, last bool) bool {
	for ; r.scan < len(r.held) && r.scan <= maxBody; r.scan++ {
		r.quote.next(r.held[r.scan])
		if r.quote.depth > 0 || r.quote.inside {
			continue
		}
		body := r.take(r.scan + 1)
		calls, ok := readJSON(string(body), r.opt.Tools)
		for _, c := range calls {
			_, known := r.opt.Tools.find(c.Name)
			ok = ok && known && (!r.opt.Format || passes(body))
		}
		if ok {
			r.called(out, calls)
			return true
		}
		r.at = (*Reader).text
		r.say(out, body)
		return true
	}
	if last || r.scan > maxBody {
		r.plain, r.at = true, (*Reader).text
		return true
	}
	return false
}

// list reads a list of calls in Python without marks, which ends with the answer. It is
// one only if all its functions are known.
func (r *Reader) list(out *sink, last bool) bool {
	if !last && len(r.held) <= maxBody {
		return false
	}
	body := r.take(len(r.held))
	calls, ok := readPython(string(body), r.opt.Tools)
	for _, c := range calls {
		_, known := r.opt.Tools.find(c.Name)
		ok = ok && known && !r.opt.Format
	}
	if ok {
		r.called(out, calls)
		return false
	}
	r.at, r.plain = (*Reader).text, true
	r.say(out, body)
	return true
}

// quoting tracks a JSON text's nesting depth and whether a string is open. A
// text that does not begin like JSON has no strings.
type quoting struct {
	begun, off      bool
	depth           int
	inside, escaped bool
}

func (q *quoting) next(c byte) {
	if !q.begun && strings.IndexByte(space, c) < 0 {
		q.begun, q.off = true, c != '{' && c != '['
	}
	switch {
	case q.off:
	case q.escaped:
		q.escaped = false
	case q.inside && c == '\\':
		q.escaped = true
	case c == '"' && q.depth > 0:
		q.inside = !q.inside
	case q.inside:
	case c == '{' || c == '[':
		q.depth++
	case c == '}' || c == ']':
		q.depth = max(0, q.depth-1)
	}
}
