package answer

import (
	"bytes"
	"encoding/json"
	"strings"
)

// family is a syntax that templates with certain words have.
type family struct {
	words [][]string // all of one of these lists
	think pair       // open "": the usual one
	marks []mark
	inner []string // control tokens within calls
	bare  bool     // a list of calls in Python may stand without marks
	own   *writing // how calls in a required format are written; nil: in JSON between the marks, which all read
}

// Marks of several families.
const (
	minimaxNS = "]<]minimax[>["
	kimiArgs  = "<|tool_call_argument_begin|>"
	gemmaText = `<|"|>`
)

// families are the syntaxes that are known by words of the template, in the order in
// which they are looked for.
var families = []family{
	{words: [][]string{{"<|tool_calls_section_begin|>"}}, // Kimi K2
		marks: []mark{{pair: pair{"<|tool_call_begin|>", "<|tool_call_end|>"}, read: readKimi}, drop("<|tool_calls_section_begin|>"), drop("<|tool_calls_section_end|>")},
		inner: []string{kimiArgs},
		own: &writing{before: "<|tool_calls_section_begin|>", after: "<|tool_calls_section_end|>", open: "<|tool_call_begin|>functions.",
			arguments: ":0" + kimiArgs, shut: "<|tool_call_end|>", bare: true, several: true}},
	{words: [][]string{{"<|open|>", "<|close|>", "<|sep|>"}}, // Kimi K3
		think: pair{"<|open|>think<|sep|>", "<|close|>think<|sep|>"},
		marks: []mark{{pair: pair{"<|open|>call ", "<|close|>call<|sep|>"}, read: readKimi3, free: true}, drop("<|open|>tools<|sep|>"), drop("<|close|>tools<|sep|>"),
			drop("<|open|>response<|sep|>"), drop("<|close|>response<|sep|>")},
		inner: []string{"<|open|>", "<|close|>", "<|sep|>"}, own: &unmarked},
	{words: [][]string{{"<|tool_call>", "<tool_call|>"}}, // Gemma 4
		think: pair{"<|channel>thought", "<channel|>"},
		marks: []mark{{pair: pair{"<|tool_call>", "<tool_call|>"}, read: readGemma, free: true}},
		inner: []string{"<|channel>", gemmaText}},
	{words: [][]string{{"<|tool_call_start|>"}, {"<|tool_list_start|>"}, {"<|tool_response_start|>"}}, // LFM2
		marks: []mark{{pair: pair{"<|tool_call_start|>", "<|tool_call_end|>"}, read: readPython, free: true}}},
	{words: [][]string{{"<|header_start|>", "<|header_end|>"}, {"<|python_start|>"}}, // Llama 4
		marks: []mark{{pair: pair{"<|python_start|>", "<|python_end|>"}, read: readPython, free: true}}, bare: true},
	{words: [][]string{{minimaxNS}}, // MiniMax M3
		think: pair{"<mm:think>", "</mm:think>"},
		marks: []mark{{pair: pair{minimaxNS + "<tool_call>", minimaxNS + "</tool_call>"}, read: readElements, free: true}},
		inner: []string{minimaxNS, "<tool_call>", "</tool_call>"}},
	{words: [][]string{{"<minimax:tool_call>"}}, // MiniMax M2
		marks: []mark{{pair: pair{"<minimax:tool_call>", "</minimax:tool_call>"}, read: readInvokes("invoke", "parameter"), free: true}}},
	{words: [][]string{{"｜DSML｜"}}, // DeepSeek V3.2 and V4
		marks: []mark{
			{pair: pair{"<｜DSML｜function_calls>", "</｜DSML｜function_calls>"}, read: readInvokes("｜DSML｜invoke", "｜DSML｜parameter"), free: true},
			{pair: pair{"<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"}, read: readInvokes("｜DSML｜invoke", "｜DSML｜parameter"), free: true}},
		inner: []string{"｜DSML｜"}},
	{words: [][]string{{"<atem:function_calls>"}},
		marks: []mark{{pair: pair{"<atem:function_calls>", "</atem:function_calls>"}, read: readInvokes("atem:invoke", "atem:parameter"), free: true}}},
	{words: [][]string{{"<seed:tool_call>"}}, // Seed-OSS
		think: pair{"<seed:think>", "</seed:think>"},
		marks: []mark{{pair: pair{"<seed:tool_call>", "</seed:tool_call>"}, read: readTagged}}},
	{words: [][]string{{"HYTK"}}, // Hunyuan 3, whose tags have a name behind them
		think: pair{"<think:opensource>", "</think:opensource>"},
		marks: []mark{{pair: pair{"<tool_call:opensource>", "</tool_call:opensource>"}, read: readKeyed(":opensource"), free: true},
			drop("<tool_calls:opensource>"), drop("</tool_calls:opensource>")}},
	{words: [][]string{{"<|START_ACTION|>"}}, // Cohere
		think: pair{"<|START_THINKING|>", "<|END_THINKING|>"},
		marks: []mark{{pair: pair{"<|START_ACTION|>", "<|END_ACTION|>"}, read: readJSON}, drop("<|START_RESPONSE|>"), drop("<|END_RESPONSE|>"), drop("<|START_TEXT|>"), drop("<|END_TEXT|>")}},
	{words: [][]string{{"<|tools_prefix|>"}}, // Apertus
		think: pair{"<|inner_prefix|>", "<|inner_suffix|>"},
		marks: []mark{{pair: pair{"<|tools_prefix|>", "<|tools_suffix|>"}, read: readByName}}},
	{words: [][]string{{"<|tool_call:begin|>"}}, // Solar Open
		think: pair{"<|think|>", "<|end|>"},
		marks: []mark{{pair: pair{"<|tool_call:begin|>", "<|tool_call:end|>"}, read: readSolar, free: true}, drop("<|tool_calls|>"), drop("<|content|>"), drop("<|begin|>assistant")},
		inner: []string{"<|begin|>", "<|tool_call:name|>", "<|tool_call:args|>"},
		own:   &writing{before: "<|tool_calls|>", open: "<|tool_call:begin|>call<|tool_call:name|>", arguments: "<|tool_call:args|>", shut: "<|tool_call:end|>", bare: true, several: true}},
	{words: [][]string{{`<function name="`, `<param name="`}}, // MiniCPM 5
		marks: []mark{{pair: pair{`<function name="`, "</function>"}, read: readMiniCPM, free: true}}, own: &unmarked},
	{words: [][]string{{"<|function_call|>"}}, // GigaChat
		marks: []mark{{pair: pair{open: "<|function_call|>"}, read: readJSON}}},
	{words: [][]string{{"<|tool_call|>"}}, // Granite 3
		marks: []mark{{pair: pair{open: "<|tool_call|>"}, read: readJSON}}},
	{words: [][]string{{"<tool_calls>"}}, // Hunyuan A13B, MiniMax M1, Apriel
		marks: []mark{{pair: pair{"<tool_calls>", "</tool_calls>"}, read: readJSON}}},
}

// familyOf returns the family that a template belongs to.
func familyOf(has func(string) bool) (*family, bool) {
	for i := range families {
		for _, words := range families[i].words {
			all := true
			for _, w := range words {
				all = all && has(w)
			}
			if all {
				return &families[i], true
			}
		}
	}
	return nil, false
}

// unmarked is for families behind whose marks nothing but their own form can stand.
var unmarked = plainJSON("arguments")

// writing returns how calls in a required format are written.
func (f *family) writing() writing {
	if f.own != nil {
		return *f.own
	}
	w, first := plainJSON("arguments"), f.marks[0]
	w.open, w.shut = first.open+w.open, w.shut+first.shut
	w.several = first.shut != ""
	return w
}

// wrappers are tags around a whole answer, which are left out.
func wrappers(has func(string) bool) (list []mark) {
	if has("<think></think>") && has("<response></response>") || has("</think>") && has("<response>\\n") && !has("minimax") { // Granite 3.3, ERNIE
		list = append(list, drop("<response>"), drop("</response>"))
	}
	if has("</think>\\n<answer>") || has("<answer>\\n") { // Hunyuan
		list = append(list, drop("<answer>"), drop("</answer>"))
	}
	return list
}

// readInvokes reads calls written as elements, in which all of a value that is not a
// string is JSON:
//
//	<invoke name="NAME">
//	<parameter name="KEY" string="true">VALUE</parameter>
//	</invoke>
func readInvokes(call, parameter string) func(string, Tools) ([]Call, bool) {
	return func(body string, tools Tools) (calls []Call, ok bool) {
		rest := strings.Trim(body, space)
		if strings.HasPrefix(rest, "{") || strings.HasPrefix(rest, "[") {
			return readJSON(rest, tools)
		}
		for rest != "" {
			name, _, inside, ok := opening(rest, call)
			if !ok {
				return nil, false
			}
			tool, _ := tools.find(name)
			var args objectWriter
			for {
				key, attributes, value, ok := opening(inside, parameter)
				if !ok {
					break
				}
				value, after, ok := strings.Cut(value, "</"+parameter+">")
				if !ok {
					return nil, false
				}
				inside = strings.TrimLeft(after, space)
				if text, ok := strings.CutPrefix(value, "<![CDATA["); ok {
					value = strings.TrimSuffix(text, "]]>")
				}
				kind := tool.Types[key]
				if strings.Contains(attributes, `string="true"`) {
					kind = "string"
				}
				args.add(key, typed(value, kind))
			}
			if rest, ok = strings.CutPrefix(inside, "</"+call+">"); !ok {
				return nil, false
			}
			rest = strings.TrimLeft(rest, space)
			calls = append(calls, Call{name, args.String()})
		}
		return calls, len(calls) > 0
	}
}

// opening reads <TAG name="NAME" ...> at a text's beginning.
func opening(s, tag string) (name, attributes, rest string, ok bool) {
	if s, ok = strings.CutPrefix(s, "<"+tag+` name="`); !ok {
		return "", "", "", false
	}
	if name, s, ok = strings.Cut(s, `"`); !ok || name == "" {
		return "", "", "", false
	}
	attributes, rest, ok = strings.Cut(s, ">")
	return name, attributes, strings.TrimLeft(rest, "\r\n"), ok
}

// readMiniCPM reads <function name="NAME"><param name="KEY">VALUE</param></function>,
// whose beginning and end are the marks.
func readMiniCPM(body string, tools Tools) ([]Call, bool) {
	return readInvokes("function", "param")(`<function name="`+body+"</function>", tools)
}

// readKeyed reads the calls of GLM and others:
//
//	NAME
//	<arg_key>KEY</arg_key>
//	<arg_value>VALUE</arg_value>
func readKeyed(suffix string) func(string, Tools) ([]Call, bool) {
	tag := func(name string) (open, shut string) { return "<" + name + suffix + ">", "</" + name + suffix + ">" }
	keyOpen, keyShut := tag("arg_key")
	valueOpen, valueShut := tag("arg_value")
	sep, _ := tag("tool_sep")
	return func(body string, tools Tools) ([]Call, bool) {
		body = strings.Trim(body, space)
		if strings.HasPrefix(body, "{") || strings.HasPrefix(body, "[") {
			return readJSON(body, tools)
		}
		at := strings.Index(body, keyOpen)
		if at < 0 {
			at = len(body)
		}
		name := strings.Trim(strings.TrimSuffix(strings.Trim(body[:at], space), sep), space)
		tool, known := tools.find(name)
		if !known && (at == len(body) || name == "" || strings.ContainsAny(name, space+"<>")) {
			return nil, false
		}
		var args objectWriter
		for rest := body[at:]; ; {
			if rest = strings.TrimLeft(rest, space); rest == "" {
				return []Call{{name, args.String()}}, true
			}
			key, after, ok := between(rest, keyOpen, keyShut)
			if !ok {
				return nil, false
			}
			value, after, ok := between(strings.TrimLeft(after, space), valueOpen, valueShut)
			if !ok {
				return nil, false
			}
			args.add(key, typed(value, tool.Types[key]))
			rest = after
		}
	}
}

// between returns what stands between two tags, the first of which begins the text.
func between(s, open, shut string) (inside, rest string, ok bool) {
	if s, ok = strings.CutPrefix(s, open); !ok {
		return "", "", false
	}
	return strings.Cut(s, shut)
}

// readKimi reads functions.NAME:INDEX<|tool_call_argument_begin|>{...}.
func readKimi(body string, tools Tools) ([]Call, bool) {
	name, args, ok := strings.Cut(body, kimiArgs)
	if !ok {
		return readJSON(body, tools)
	}
	name = strings.TrimPrefix(strings.Trim(name, space), "functions.")
	if at := strings.LastIndexByte(name, ':'); at > 0 {
		name = name[:at]
	}
	return named(name, args)
}

// readKimi3 reads tool="NAME" index="1"<|sep|> and arguments, each as
// <|open|>argument key="KEY" type="string"<|sep|>VALUE<|close|>argument<|sep|>.
func readKimi3(body string, _ Tools) ([]Call, bool) {
	head, rest, ok := strings.Cut(body, "<|sep|>")
	name, ok2 := attribute(head, "tool")
	if !ok || !ok2 {
		return nil, false
	}
	var args objectWriter
	for rest = strings.Trim(rest, space); rest != ""; rest = strings.Trim(rest, space) {
		head, after, ok := between(rest, "<|open|>argument ", "<|sep|>")
		key, ok2 := attribute(head, "key")
		value, after, ok3 := strings.Cut(after, "<|close|>argument<|sep|>")
		if !ok || !ok2 || !ok3 {
			return nil, false
		}
		kind, _ := attribute(head, "type")
		args.add(key, typed(value, kind))
		rest = after
	}
	return []Call{{name, args.String()}}, true
}

// attribute returns what KEY="..." names in a tag.
func attribute(head, key string) (string, bool) {
	_, rest, ok := strings.Cut(" "+head, " "+key+`="`)
	if !ok {
		return "", false
	}
	value, _, ok := strings.Cut(rest, `"`)
	return value, ok && value != ""
}

// readSolar reads ID<|tool_call:name|>NAME<|tool_call:args|>{...}.
func readSolar(body string, _ Tools) ([]Call, bool) {
	_, rest, ok := strings.Cut(body, "<|tool_call:name|>")
	name, args, ok2 := strings.Cut(rest, "<|tool_call:args|>")
	if !ok || !ok2 {
		return nil, false
	}
	return named(name, args)
}

// readByName reads Apertus' calls: [{"NAME": {...}}, ...], and lists of calls as others
// write them.
func readByName(body string, tools Tools) ([]Call, bool) {
	if calls, ok := readJSON(body, tools); ok {
		return calls, true
	}
	var list []map[string]json.RawMessage
	if json.Unmarshal([]byte(body), &list) != nil {
		return nil, false
	}
	var calls []Call
	for _, one := range list {
		if len(one) != 1 {
			return nil, false
		}
		for name, raw := range one {
			args, ok := arguments(raw)
			if !ok || name == "" {
				return nil, false
			}
			calls = append(calls, Call{name, args})
		}
	}
	return calls, len(calls) > 0
}

// readElements reads MiniMax M3's calls, in which each argument is an element of its
// name, and each element of a list an <item>, all with a mark before them.
func readElements(body string, tools Tools) ([]Call, bool) {
	e := elements{s: strings.Trim(strings.ReplaceAll(body, minimaxNS, ""), space)}
	if strings.HasPrefix(e.s, "{") || strings.HasPrefix(e.s, "[") {
		return readJSON(e.s, tools)
	}
	var calls []Call
	for e.s != "" {
		name, _, rest, ok := opening(e.s, "invoke")
		if !ok {
			return nil, false
		}
		e.s = strings.TrimLeft(rest, space)
		tool, _ := tools.find(name)
		var args objectWriter
		for !e.eat("</invoke>") {
			key, ok := e.tag()
			if !ok {
				return nil, false
			}
			raw, ok := e.value(key, tool.Types[key], 0)
			if !ok {
				return nil, false
			}
			args.add(key, raw)
		}
		calls = append(calls, Call{name, args.String()})
	}
	return calls, len(calls) > 0
}

// elements reads nested elements as JSON.
type elements struct{ s string }

// eat consumes a word with the blanks around it.
func (e *elements) eat(word string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(e.s, space), word)
	if ok {
		e.s = strings.TrimLeft(rest, space)
	}
	return ok
}

// tag reads an opening tag without attributes.
func (e *elements) tag() (string, bool) {
	rest, ok := strings.CutPrefix(strings.TrimLeft(e.s, space), "<")
	name, rest, closed := strings.Cut(rest, ">")
	if !ok || !closed || name == "" || strings.ContainsAny(name, "/<"+space) {
		return "", false
	}
	e.s = rest
	return name, true
}

// value reads what an element has in it, and its closing tag.
func (e *elements) value(name, kind string, depth int) (json.RawMessage, bool) {
	shut := "</" + name + ">"
	inner := *e
	first, nested := inner.tag()
	if !nested || kind == "string" || depth > maxNesting {
		text, rest, ok := strings.Cut(e.s, shut)
		e.s = rest
		return typed(text, kind), ok
	}
	var list []json.RawMessage
	var object objectWriter
	for key := first; ; {
		raw, ok := inner.value(key, "", depth+1)
		if !ok {
			return nil, false
		}
		list = append(list, raw)
		object.add(key, raw)
		if inner.eat(shut) {
			break
		}
		if key, ok = inner.tag(); !ok {
			return nil, false
		}
	}
	e.s = inner.s
	if first != "item" {
		return json.RawMessage(object.String()), true
	}
	raw, err := json.Marshal(list)
	return raw, err == nil
}

// readGemma reads call:NAME{key:<|"|>text<|"|>,other:[1,true]}.
func readGemma(body string, tools Tools) ([]Call, bool) {
	body = strings.Trim(body, space)
	if strings.HasPrefix(body, "{") || strings.HasPrefix(body, "[") {
		return readJSON(body, tools)
	}
	rest, ok := strings.CutPrefix(body, "call:")
	at := strings.IndexByte(rest, '{')
	if !ok || at < 1 || strings.ContainsAny(rest[:at], space) {
		return nil, false
	}
	g := gemma{s: rest[at:]}
	var args bytes.Buffer
	if !g.value(&args, 0) || strings.Trim(g.s, space) != "" {
		return nil, false
	}
	return []Call{{rest[:at], args.String()}}, true
}

// gemma reads Gemma's values and writes them as JSON.
type gemma struct{ s string }

func (g *gemma) eat(word string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(g.s, space), word)
	if ok {
		g.s = rest
	}
	return ok
}

func (g *gemma) value(to *bytes.Buffer, depth int) bool {
	switch {
	case depth > maxNesting:
		return false
	case g.eat(gemmaText):
		text, rest, ok := strings.Cut(g.s, gemmaText)
		raw, _ := json.Marshal(text) // a string can always be encoded
		to.Write(raw)
		g.s = rest
		return ok
	case g.eat("["):
		return g.group(to, '[', "]", depth)
	case g.eat("{"):
		return g.group(to, '{', "}", depth)
	}
	end := strings.IndexAny(g.s, ",]}")
	if end < 0 {
		return false
	}
	raw := bytes.Trim([]byte(g.s[:end]), space)
	if !json.Valid(raw) { // a text without its marks
		raw, _ = json.Marshal(string(raw))
	}
	to.Write(raw)
	g.s = g.s[end:]
	return true
}

func (g *gemma) group(to *bytes.Buffer, open byte, shut string, depth int) bool {
	to.WriteByte(open)
	for n := 0; !g.eat(shut); n++ {
		if n > 0 {
			to.WriteByte(',')
		}
		if open == '{' {
			key, rest, ok := strings.Cut(g.s, ":")
			if !ok {
				return false
			}
			key = strings.Trim(strings.Trim(strings.ReplaceAll(key, gemmaText, ""), space), `"`)
			raw, _ := json.Marshal(key)
			to.Write(append(raw, ':'))
			g.s = rest
		}
		if !g.value(to, depth+1) || !g.eat(",") && !strings.HasPrefix(strings.TrimLeft(g.s, space), shut) {
			return false
		}
	}
	to.WriteString(shut)
	return true
}
