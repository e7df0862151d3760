package api

import (
	"encoding/json"
	"strconv"
	"strings"
)

// What the text of an answer must look like, in the words of all the servers whose
// clients come here. Each is followed, or refused by its name: an answer that is not
// constrained although its caller asked for it would be taken for one that is.

// constraint is what the text of an answer must follow; at most one field is set.
type constraint struct {
	schema  json.RawMessage // JSON schema
	pattern string          // regular expression in the syntax of JSON Schema, which all of the text matches
	grammar string          // in GBNF
}

// none reports whether any text will do.
func (c constraint) none() bool { return c.schema == nil && c.pattern == "" && c.grammar == "" }

// responseFormat is what OpenAI's clients ask for (text, json_object, json_schema), and
// the types that other servers add.
type responseFormat struct {
	Type       string          `json:"type"`
	JSONSchema *jsonSchema     `json:"json_schema,omitempty"`
	Schema     json.RawMessage `json:"schema,omitempty"`  // llama.cpp's and Together's place of the schema
	Value      json.RawMessage `json:"value,omitempty"`   // TGI's, of any type
	Regex      string          `json:"regex,omitempty"`   // of type regex
	Pattern    string          `json:"pattern,omitempty"` // the same, in Together's words
	Grammar    string          `json:"grammar,omitempty"` // of type grammar, Fireworks'
}

type jsonSchema struct {
	Name   string          `json:"name"`
	Schema json.RawMessage `json:"schema"`
}

// constraintWords are the fields by which vLLM's and llama.cpp's clients constrain an
// answer.
type constraintWords struct {
	JSONSchema        json.RawMessage `json:"json_schema,omitempty"`
	Grammar           json.RawMessage `json:"grammar,omitempty"`
	GuidedJSON        json.RawMessage `json:"guided_json,omitempty"`
	GuidedRegex       json.RawMessage `json:"guided_regex,omitempty"`
	GuidedChoice      json.RawMessage `json:"guided_choice,omitempty"`
	GuidedGrammar     json.RawMessage `json:"guided_grammar,omitempty"`
	StructuredOutputs json.RawMessage `json:"structured_outputs,omitempty"`
}

// structured are the fields of structured_outputs.
type structured struct {
	JSON          json.RawMessage `json:"json,omitempty"`
	Regex         json.RawMessage `json:"regex,omitempty"`
	Choice        json.RawMessage `json:"choice,omitempty"`
	Grammar       json.RawMessage `json:"grammar,omitempty"`
	JSONObject    json.RawMessage `json:"json_object,omitempty"`
	StructuralTag json.RawMessage `json:"structural_tag,omitempty"`
}

const maxPattern = 64 << 10 // bytes of a pattern, and of a grammar

// constrain sets what the answer must follow, whichever words the request uses.
func (r *commonRequest) constrain(g *GenerateRequest) error {
	out, err := r.ResponseFormat.constraint()
	if err != nil {
		return err
	}
	from := "response_format"
	var so structured
	if present(r.StructuredOutputs) {
		if err := decodeAt("structured_outputs", r.StructuredOutputs, &so); err != nil {
			return err
		}
	}
	w := &r.constraintWords
	for _, f := range []struct {
		param string
		raw   json.RawMessage
		read  func(param string, raw json.RawMessage) (constraint, error)
	}{
		{"json_schema", w.JSONSchema, schemaOf},
		{"grammar", w.Grammar, grammarOf},
		{"guided_json", w.GuidedJSON, schemaOf},
		{"guided_regex", w.GuidedRegex, patternOf},
		{"guided_choice", w.GuidedChoice, choiceOf},
		{"guided_grammar", w.GuidedGrammar, grammarOf},
		{"structured_outputs.json", so.JSON, schemaOf},
		{"structured_outputs.regex", so.Regex, patternOf},
		{"structured_outputs.choice", so.Choice, choiceOf},
		{"structured_outputs.grammar", so.Grammar, grammarOf},
		{"structured_outputs.json_object", so.JSONObject, objectOf},
		{"structured_outputs.structural_tag", so.StructuralTag, tagOf},
	} {
		if !present(f.raw) {
			continue
		}
		c, err := f.read(f.param, f.raw)
		if err != nil {
			return err
		}
		if c.none() {
			continue
		}
		if !out.none() {
			return badParam(f.param, "cannot be combined with %s: an answer follows one of them", from)
		}
		out, from = c, f.param
	}
	g.Format, g.Pattern, g.Grammar = out.schema, out.pattern, out.grammar
	if from != "response_format" {
		g.FormatField = from
	}
	return nil
}

// wire returns the constraint as a request has it.
func (c constraint) wire() *responseFormat {
	switch {
	case c.schema != nil:
		return &responseFormat{Type: "json_schema", JSONSchema: &jsonSchema{Name: "answer", Schema: c.schema}}
	case c.pattern != "":
		return &responseFormat{Type: "regex", Regex: c.pattern}
	case c.grammar != "":
		return &responseFormat{Type: "grammar", Grammar: c.grammar}
	}
	return nil
}

// anyObject is the schema of every JSON object.
var anyObject = json.RawMessage(`{"type":"object"}`)

func (f *responseFormat) constraint() (constraint, error) {
	if f == nil {
		return constraint{}, nil
	}
	const param = "response_format"
	switch f.Type {
	case "text":
		return constraint{}, nil
	case "json_object", "json":
		for _, s := range []struct {
			param string
			raw   json.RawMessage
		}{{param + ".schema", f.Schema}, {param + ".value", f.Value}, {param + ".json_schema.schema", f.named()}} {
			if present(s.raw) {
				return schemaOf(s.param, s.raw)
			}
		}
		return constraint{schema: anyObject}, nil
	case "json_schema":
		at, raw := param+".json_schema.schema", f.named()
		switch {
		case present(raw):
		case present(f.Schema):
			at, raw = param+".schema", f.Schema
		case present(f.Value):
			at, raw = param+".value", f.Value
		default:
			return constraint{}, badParam(at, "is missing")
		}
		return schemaOf(at, raw)
	case "regex":
		for name, text := range map[string]string{"regex": f.Regex, "pattern": f.Pattern} {
			if text != "" {
				return patternOf(param+"."+name, quoted(text))
			}
		}
		if present(f.Value) {
			return patternOf(param+".value", f.Value)
		}
		return constraint{}, badParam(param+".regex", "is missing")
	case "grammar":
		return grammarOf(param+".grammar", quoted(f.Grammar))
	}
	return constraint{}, badParam(param+".type", "%.32q is not supported: use text, json_object, json_schema, regex or grammar", f.Type)
}

// named is the schema in json_schema, which has a name beside it.
func (f *responseFormat) named() json.RawMessage {
	if f.JSONSchema == nil {
		return nil
	}
	return f.JSONSchema.Schema
}

// schemaOf reads a JSON schema; some clients send it in a string, or with its name.
func schemaOf(param string, raw json.RawMessage) (constraint, error) {
	if first(raw) == '"' {
		var text string
		if err := decodeAt(param, raw, &text); err != nil {
			return constraint{}, err
		}
		raw = json.RawMessage(text)
	}
	var wrapped map[string]json.RawMessage
	if json.Unmarshal(raw, &wrapped) != nil || wrapped == nil {
		return constraint{}, badParam(param, "must be a JSON schema, an object")
	}
	if first(wrapped["schema"]) == '{' && first(wrapped["name"]) == '"' {
		param, raw = param+".schema", wrapped["schema"]
	}
	if len(raw) > maxSchema {
		return constraint{}, badParam(param, "is longer than %d MiB", maxSchema>>20)
	}
	return constraint{schema: plainJSON(raw)}, nil
}

func patternOf(param string, raw json.RawMessage) (constraint, error) {
	text, err := constraintText(param, raw)
	return constraint{pattern: text}, err
}

// grammarOf reads a grammar in GBNF. vLLM's clients also send Lark's.
func grammarOf(param string, raw json.RawMessage) (constraint, error) {
	text, err := constraintText(param, raw)
	if err == nil && text != "" && !strings.Contains(text, "::=") {
		err = badParam(param, "must be in GBNF, with rules such as root ::= \"yes\" | \"no\": other kinds of grammar are not supported")
	}
	return constraint{grammar: text}, err
}

func constraintText(param string, raw json.RawMessage) (string, error) {
	if first(raw) != '"' {
		return "", badParam(param, "must be a string")
	}
	var text string
	if err := decodeAt(param, raw, &text); err != nil {
		return "", err
	}
	if len(text) > maxPattern {
		return "", badParam(param, "is longer than %d KiB", maxPattern>>10)
	}
	return text, nil
}

// choiceOf reads a list of texts, of which the answer is one, as a grammar.
func choiceOf(param string, raw json.RawMessage) (constraint, error) {
	var list []string
	if first(raw) != '[' {
		return constraint{}, badParam(param, "must be a list of strings")
	}
	if err := decodeAt(param, raw, &list); err != nil {
		return constraint{}, err
	}
	if len(list) == 0 {
		return constraint{}, badParam(param, "is empty: no answer could follow it")
	}
	var b strings.Builder
	b.WriteString("root ::= ")
	for i, s := range list {
		if s == "" {
			return constraint{}, badParam(param+"["+strconv.Itoa(i)+"]", "is empty")
		}
		if i > 0 {
			b.WriteString(" | ")
		}
		b.WriteByte('"')
		b.WriteString(grammarEscapes.Replace(s))
		b.WriteByte('"')
	}
	if b.Len() > maxPattern {
		return constraint{}, badParam(param, "is longer than %d KiB", maxPattern>>10)
	}
	return constraint{grammar: b.String()}, nil
}

var grammarEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`)

func objectOf(param string, raw json.RawMessage) (constraint, error) {
	switch first(raw) {
	case 't':
		return constraint{schema: anyObject}, nil
	case 'f':
		return constraint{}, nil
	}
	return constraint{}, badParam(param, "must be true or false")
}

func tagOf(param string, _ json.RawMessage) (constraint, error) {
	return constraint{}, badParam(param, "is not supported: use tools, or a grammar")
}

// answerWords are words of vLLM, llama.cpp and others that would change the answer.
// Their values that change nothing pass.
var answerWords = []unsupported{
	{"prompt_logprobs", isOneOf("false"), "is not supported"},
	{"min_tokens", isOneOf("0"), "is not supported"},
	{"truncate_prompt_tokens", isOneOf("-1"), "is not supported: shorten the prompt"},
	{"use_beam_search", isOneOf("false"), "is not supported: ask for more choices with n"},
	{"length_penalty", isOneOf("1", "1.0", "0", "0.0"), "is of beam search, which is not supported"},
	{"bad_words", isEmpty, "is not supported"},
	{"allowed_token_ids", isEmpty, "is not supported: use a grammar or a JSON schema"},
	{"logits_processors", isEmpty, "is not supported"},
	{"include_stop_str_in_output", isOneOf("false"), "is not supported"},
	{"skip_special_tokens", isOneOf("true"), "is not supported"},
	{"return_token_ids", isOneOf("false"), "is not supported: use logprobs, or shoal.details"},
	{"return_tokens_as_token_ids", isOneOf("false"), "is not supported"},
	{"chat_template", isOneOf(`""`), "is not supported: the model's own is used"},
	{"documents", isEmpty, "is not supported: put them into a message"},
	{"mirostat", isOneOf("0"), "is not supported: use top_p or min_p"},
	{"typical_p", isOneOf("1", "1.0"), "is not supported: use top_p or min_p"},
	{"tfs_z", isOneOf("1", "1.0"), "is not supported: use top_p or min_p"},
	{"top_n_sigma", isOneOf("-1", "-1.0", "0", "0.0"), "is not supported: use top_p or min_p"},
	{"dry_multiplier", isOneOf("0", "0.0"), "is not supported: use repeat_penalty"},
	{"xtc_probability", isOneOf("0", "0.0"), "is not supported"},
	{"dynatemp_range", isOneOf("0", "0.0"), "is not supported"},
}

// chatWords are fields of plain completions that would change a chat's answer.
var chatWords = []unsupported{
	{"echo", isOneOf("false"), "is not supported in a chat"},
	{"best_of", isOneOf("1"), "is not supported: ask for more choices with n"},
}

// optionWords are Ollama's options that would change the answer.
var optionWords = []unsupported{
	{"mirostat", isOneOf("0"), "is not supported: use top_p or min_p"},
	{"typical_p", isOneOf("1", "1.0"), "is not supported: use top_p or min_p"},
	{"tfs_z", isOneOf("1", "1.0"), "is not supported: use top_p or min_p"},
}

// refuseOptions refuses what Ollama's options ask for and is not done here.
func refuseOptions(body []byte) error {
	var r struct {
		Options json.RawMessage `json:"options"`
	}
	if err := decode(body, &r); err != nil || !present(r.Options) {
		return err
	}
	err := refuse(r.Options, optionWords)
	if err == nil {
		return nil
	}
	e := AsError(err)
	return badParam("options."+e.Param, "%s", strings.TrimPrefix(e.Message, e.Param+" "))
}

// ending reads what ends an answer besides the text of stop, and how far back the
// repetition penalty sees.
func (r *commonRequest) ending(g *GenerateRequest) (err error) {
	if err := checkPenaltyReach("repeat_last_n", r.RepeatLastN, &g.Sampling); err != nil {
		return err
	}
	if g.StopIDs, err = stopIDs("stop_token_ids", r.StopTokenIDs); err != nil {
		return err
	}
	if g.IgnoreEOS = r.IgnoreEOS; g.IgnoreEOS && !(constraint{g.Format, g.Pattern, g.Grammar}).none() {
		return badParam("ignore_eos", "cannot be combined with a format, which says where the answer ends")
	}
	return nil
}

// penaltyReach is how many tokens back the repetition penalty sees.
const penaltyReach = 64

// checkPenaltyReach refuses a reach of the repetition penalty that differs from ours, if
// there is a penalty. A reach of 0 means none.
func checkPenaltyReach(param string, reach *int, s *Sampling) error {
	if reach == nil || s.RepeatPenalty == 0 || s.RepeatPenalty == 1 || *reach == penaltyReach {
		return nil
	}
	if *reach == 0 {
		s.RepeatPenalty = 0
		return nil
	}
	return badParam(param, "is not supported other than %d, or 0 for no repeat_penalty", penaltyReach)
}

const maxStopIDs = 256

// stopIDs reads the tokens that end an answer besides the model's own.
func stopIDs(param string, raw json.RawMessage) ([]int32, error) {
	if !given(raw) {
		return nil, nil
	}
	var ids []int32
	if err := decodeAt(param, raw, &ids); err != nil {
		return nil, err
	}
	if len(ids) > maxStopIDs {
		return nil, badParam(param, "holds %d tokens: %d is the most", len(ids), maxStopIDs)
	}
	for i, id := range ids {
		if id < 0 {
			return nil, badParam(param+"["+strconv.Itoa(i)+"]", "is not a token id: %d", id)
		}
	}
	return ids, nil
}
