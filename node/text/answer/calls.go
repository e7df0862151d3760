package answer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
)

// object returns a JSON object without white space between its parts.
func object(s string) (string, bool) {
	var b bytes.Buffer
	if t := strings.TrimLeft(s, space); t == "" || t[0] != '{' || json.Compact(&b, []byte(s)) != nil {
		return "", false
	}
	return b.String(), true
}

// arguments accepts an object, an object in a string, or nothing.
func arguments(raw json.RawMessage) (string, bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return "{}", true
	}
	if raw[0] == '"' {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return "", false
		}
		if strings.Trim(s, space) == "" {
			return "{}", true
		}
		return object(s)
	}
	return object(string(raw))
}

// spoken is a call as models write it in JSON.
type spoken struct {
	Name       string          `json:"name"`
	ToolName   string          `json:"tool_name"` // Cohere's
	Arguments  json.RawMessage `json:"arguments"`
	Parameters json.RawMessage `json:"parameters"` // Llama's name for arguments
	Function   json.RawMessage `json:"function"`   // OpenAI's form, or the name
}

func (s *spoken) call() (Call, bool) {
	s.Name = cmp.Or(s.Name, s.ToolName)
	if s.Name == "" && len(s.Function) > 0 {
		var inner spoken
		switch {
		case json.Unmarshal(s.Function, &s.Name) == nil:
		case json.Unmarshal(s.Function, &inner) == nil && inner.Name != "":
			return inner.call()
		}
	}
	raw := s.Arguments
	if len(raw) == 0 {
		raw = s.Parameters
	}
	args, ok := arguments(raw)
	return Call{s.Name, args}, ok && s.Name != ""
}

// passes reports whether an object has the arguments of a call, and nothing but a call.
func passes(body []byte) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || len(fields) != 2 {
		return false
	}
	return fields["arguments"] != nil || fields["parameters"] != nil
}

// readJSON reads a sequence of objects that are each a call, or lists of such
// objects.
func readJSON(body string, _ Tools) ([]Call, bool) {
	var calls []Call
	for d := json.NewDecoder(strings.NewReader(body)); ; {
		var raw json.RawMessage
		switch err := d.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return calls, len(calls) > 0
		case err != nil:
			return nil, false
		}
		list := []spoken{{}}
		var err error
		if raw[0] == '[' {
			err = json.Unmarshal(raw, &list)
		} else {
			err = json.Unmarshal(raw, &list[0])
		}
		if err != nil {
			return nil, false
		}
		for i := range list {
			c, ok := list[i].call()
			if !ok {
				return nil, false
			}
			calls = append(calls, c)
		}
		// Llama separates calls by semicolons.
		if rest := body[d.InputOffset():]; strings.HasPrefix(strings.TrimLeft(rest, space), ";") {
			body = strings.TrimLeft(rest, space)[1:]
			d = json.NewDecoder(strings.NewReader(body))
		}
	}
}

// readTagged reads what Hermes and Qwen write: JSON, or of Qwen's coders
//
//	<function=NAME>
//	<parameter=KEY>
//	VALUE
//	</parameter>
//	</function>
//
// or of GLM what readKeyed reads.
func readTagged(body string, tools Tools) ([]Call, bool) {
	body = strings.Trim(body, space)
	rest, ok := strings.CutPrefix(body, "<function=")
	if !ok {
		return readKeyed("")(body, tools)
	}
	name, rest, ok := strings.Cut(rest, ">")
	if !ok || name == "" {
		return nil, false
	}
	tool, _ := tools.find(name)
	var args objectWriter
	for {
		rest = strings.TrimLeft(rest, space)
		after, more := strings.CutPrefix(rest, "<parameter=")
		if !more {
			break
		}
		key, value, ok := strings.Cut(after, ">")
		if !ok {
			return nil, false
		}
		value, after, ok = strings.Cut(value, "</parameter>")
		if !ok {
			return nil, false
		}
		value = strings.TrimSuffix(strings.TrimPrefix(value, "\n"), "\n")
		args.add(key, typed(value, tool.Types[key]))
		rest = after
	}
	if rest = strings.Trim(rest, space); rest != "</function>" && rest != "" {
		return nil, false
	}
	return []Call{{name, args.String()}}, true
}

// typed returns the JSON of a value that was written without its type: in JSON or, of
// some models, as Python writes it.
func typed(value, kind string) json.RawMessage {
	if raw := bytes.Trim([]byte(value), space); kind != "string" {
		if json.Valid(raw) {
			return raw
		}
		var b bytes.Buffer
		p := python{string(raw)}
		if len(raw) > 0 && strings.IndexByte("[{(TFN", raw[0]) >= 0 && p.value(&b, 0) && p.s == "" {
			return b.Bytes()
		}
	}
	raw, _ := json.Marshal(value) // a string can always be encoded
	return raw
}

// objectWriter builds a JSON object whose keys are in the order of insertion.
type objectWriter struct{ b bytes.Buffer }

func (o *objectWriter) add(key string, value json.RawMessage) {
	if o.b.Len() > 0 {
		o.b.WriteByte(',')
	}
	k, _ := json.Marshal(key)
	o.b.Write(k)
	o.b.WriteByte(':')
	_ = json.Compact(&o.b, value) // already known to be valid
}

func (o *objectWriter) String() string { return "{" + o.b.String() + "}" }

// readMistral reads a JSON list of calls, or since the eleventh version of their
// tokenizer
//
//	NAME[CALL_ID]ID[ARGS]{...}
func readMistral(body string, tools Tools) ([]Call, bool) {
	body = strings.Trim(body, space)
	if strings.HasPrefix(body, "[") || strings.HasPrefix(body, "{") {
		return readJSON(body, tools)
	}
	i := strings.IndexByte(body, '{')
	if i < 0 {
		return nil, false
	}
	name := strings.TrimSuffix(body[:i], "[ARGS]")
	name, _, _ = strings.Cut(name, "[CALL_ID]")
	return named(name, body[i:])
}

// readDeepSeek reads, of R1 and the first V3,
//
//	function<｜tool▁sep｜>NAME
//	```json
//	{...}
//	```
//
// and of later ones NAME<｜tool▁sep｜>{...}
func readDeepSeek(body string, _ Tools) ([]Call, bool) {
	name, args, ok := strings.Cut(body, deepSep)
	if !ok {
		return nil, false
	}
	if before, fenced, ok := strings.Cut(args, "```json"); ok && !strings.Contains(before, "{") {
		name, args = before, strings.TrimSuffix(strings.TrimRight(fenced, space), "```")
	}
	return named(name, args)
}

func named(name, args string) ([]Call, bool) {
	name = strings.Trim(name, space)
	args, ok := object(args)
	if name == "" || strings.ContainsAny(name, space) || !ok {
		return nil, false
	}
	return []Call{{name, args}}, true
}

// readPython reads Olmo's calls, which are lines of Python: NAME(key="value",
// other=[1, None]), or a list of calls, as LFM2 and Llama 4 write it.
func readPython(body string, tools Tools) ([]Call, bool) {
	if calls, ok := readJSON(body, tools); ok {
		return calls, true
	}
	p := python{s: body}
	list := p.eat("[")
	var calls []Call
	for {
		if list && p.eat("]") {
			list = false
		}
		p.blank()
		if p.s == "" {
			return calls, len(calls) > 0
		}
		name := p.name(".")
		if name == "" || !p.eat("(") {
			return nil, false
		}
		var args objectWriter
		for !p.eat(")") {
			key := p.name("")
			if key == "" || !p.eat("=") {
				return nil, false
			}
			var v bytes.Buffer
			if !p.value(&v, 0) {
				return nil, false
			}
			args.add(key, v.Bytes())
			if !p.eat(",") && !strings.HasPrefix(p.s, ")") {
				return nil, false
			}
		}
		calls = append(calls, Call{name, args.String()})
		if !p.eat(";") {
			p.eat(",")
		}
	}
}

// python reads literals and writes them as JSON.
type python struct{ s string }

const maxNesting = 64

func (p *python) blank() { p.s = strings.TrimLeft(p.s, space) }

// eat consumes a word, with the blanks on both sides of it.
func (p *python) eat(word string) bool {
	p.blank()
	rest, ok := strings.CutPrefix(p.s, word)
	if ok {
		p.s = rest
		p.blank()
	}
	return ok
}

func (p *python) name(besides string) string {
	p.blank()
	i := 0
	for i < len(p.s) {
		c := p.s[i]
		if c != '_' && c != '-' && (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte(besides, c) < 0 {
			break
		}
		i++
	}
	name := p.s[:i]
	p.s = p.s[i:]
	return name
}

func (p *python) value(to *bytes.Buffer, depth int) bool {
	p.blank()
	if p.s == "" || depth > maxNesting {
		return false
	}
	switch c := p.s[0]; c {
	case '"', '\'':
		return p.text(to, c)
	case '[', '(', '{':
		return p.group(to, c, depth)
	}
	for _, w := range [][2]string{{"True", "true"}, {"False", "false"}, {"None", "null"}, {"true", "true"}, {"false", "false"}, {"null", "null"}} {
		if p.eat(w[0]) {
			to.WriteString(w[1])
			return true
		}
	}
	i := 0
	for i < len(p.s) && strings.IndexByte("+-.0123456789eE_", p.s[i]) >= 0 {
		i++
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(p.s[:i], "_", ""), 64)
	if err != nil {
		return false
	}
	raw, err := json.Marshal(f)
	if n, e := strconv.ParseInt(p.s[:i], 10, 64); e == nil {
		raw, err = json.Marshal(n)
	}
	to.Write(raw)
	p.s = p.s[i:]
	return err == nil
}

func (p *python) text(to *bytes.Buffer, quote byte) bool {
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == quote:
			raw, _ := json.Marshal(b.String())
			to.Write(raw)
			p.s = p.s[i+1:]
			return true
		case c == '\\' && i+1 < len(p.s):
			i++
			if at := strings.IndexByte("ntr0", p.s[i]); at >= 0 {
				b.WriteByte("\n\t\r\x00"[at])
			} else {
				b.WriteByte(p.s[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return false
}

func (p *python) group(to *bytes.Buffer, open byte, depth int) bool {
	shut, ends := map[byte]string{'[': "]", '(': ")", '{': "}"}[open], [2]byte{'[', ']'}
	if open == '{' {
		ends = [2]byte{'{', '}'}
	}
	p.s = p.s[1:]
	to.WriteByte(ends[0])
	for n := 0; !p.eat(shut); n++ {
		if n > 0 {
			to.WriteByte(',')
		}
		if open == '{' {
			if p.blank(); p.s == "" || p.s[0] != '"' && p.s[0] != '\'' || !p.text(to, p.s[0]) || !p.eat(":") {
				return false
			}
			to.WriteByte(':')
		}
		if !p.value(to, depth+1) || !p.eat(",") && !strings.HasPrefix(p.s, shut) {
			return false
		}
	}
	to.WriteByte(ends[1])
	return true
}
