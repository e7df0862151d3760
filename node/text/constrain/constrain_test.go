package constrain

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/shoalnet/shoal/protocol"
)

// words is a small vocabulary: every byte, pieces of JSON and of text, control
// tokens.
type words struct {
	text    []string
	control map[int32]bool
}

const stop = 0 // ends an answer

var control = []string{"<|stop|>", "<|call|>", "<|message|>", "<other>"}

func newWords() *words {
	w := &words{control: map[int32]bool{}}
	for _, s := range control {
		w.control[int32(len(w.text))] = true
		w.text = append(w.text, s)
	}
	for b := range 256 {
		w.text = append(w.text, string([]byte{byte(b)}))
	}
	w.text = append(w.text, `{"`, `":`, `": "`, `",`, `", "`, `"}`, `}`, ` "`, "\n  ", "\n\n", "  ", `[]`, `{}`, `]}`, `true`, `false`, `null`, ` null`, "name", "na", "12", "345", "-1", ".5", "0.",
		"hello", " world", "é", "日本", "\xe6\x97", "😀", `\u`, `\"`, `\n`, "d8", "red", "green", "2024-", "T12:", "<tool_call>", "</think>", "", "Paris", "city", strings.Repeat("long ", 300))
	return w
}

func (w *words) VocabSize() int          { return len(w.text) }
func (w *words) Bytes(id int32) []byte   { return []byte(w.text[id]) }
func (w *words) IsControl(id int32) bool { return w.control[id] }

var vocab = NewVocab(newWords())

func schemaOf(s string) []*protocol.Piece {
	return []*protocol.Piece{{Kind: &protocol.Piece_Schema{Schema: []byte(s)}}}
}

// spell tokenizes a text, longest tokens first.
func spell(t testing.TB, v *Vocab, text string) (ids []int32) {
	for text != "" {
		best := int32(-1)
		for id, w := range v.words {
			if w != "" && strings.HasPrefix(text, w) && (best < 0 || len(w) > len(v.words[best])) {
				best = int32(id)
			}
		}
		if best < 0 {
			t.Fatalf("no token for %q", text)
		}
		ids = append(ids, best)
		text = text[len(v.words[best]):]
	}
	return ids
}

// takes reports whether a format accepts a text, in whole tokens and byte by
// byte.
func takes(t testing.TB, m *Machine, text string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.start
	for _, id := range spell(t, m.vocab, text) {
		s = m.take(s, id)
	}
	ok := s.ended
	if strings.Contains(text, "<|") {
		return ok
	}
	s = m.start
	for i := range len(text) {
		s = m.step(s, text[i])
	}
	if s.ended != ok {
		t.Errorf("%q: %v in tokens, %v in bytes", text, ok, s.ended)
	}
	return ok
}

// write draws an answer at random from what may come next, preferring its end
// as it gets longer. ended reports whether it was completed.
func write(t testing.TB, m *Machine, rng *rand.Rand, most int) (text string, ended bool) {
	run := m.Start([]int32{stop})
	var ids []int32
	var out []byte
	for range most {
		mask, err := run.Allowed(ids)
		if errors.Is(err, ErrTooWide) {
			return "", false
		}
		if err != nil {
			t.Fatalf("after %q: %v", out, err)
		}
		var list, quick []int32
		for id := range m.vocab.words {
			if mask[id>>6]>>(id&63)&1 == 0 {
				continue
			}
			if len(m.vocab.words[id]) > 100 {
				continue
			}
			list = append(list, int32(id))
			if w := m.vocab.words[id]; strings.ContainsAny(w, `"]}`) && len(w) < 3 || id == stop || len(w) == 1 && w[0] >= '0' && w[0] <= '9' {
				quick = append(quick, int32(id))
			}
		}
		if mask[0]&1 != 0 && (len(out) > 20 || rng.IntN(3) > 0) {
			return string(out), true
		}
		if list[0] == stop {
			list = list[1:]
		}
		if len(list) == 0 {
			return string(out), true
		}
		id := list[rng.IntN(len(list))]
		if len(quick) > 0 && rng.IntN(60) < len(out) && quick[0] != stop {
			id = quick[rng.IntN(len(quick))]
		}
		if ok, err := run.Follows(ids, id); !ok || err != nil {
			t.Fatalf("after %q, %q: allowed, and refused (%v)", out, m.vocab.words[id], err)
		}
		ids = append(ids, id)
		out = append(out, m.vocab.words[id]...)
	}
	return string(out), false
}

// oracle compiles a schema with a validator of JSON Schema.
func oracle(t testing.TB, schema string) *jsonschema.Schema {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("mem:///schema.json", doc); err != nil {
		t.Fatalf("%s: %v", schema, err)
	}
	s, err := c.Compile("mem:///schema.json")
	if err != nil {
		t.Fatalf("%s: %v", schema, err)
	}
	return s
}

func validate(o *jsonschema.Schema, text string) error {
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return err
	}
	return o.Validate(v)
}

// examples are schemas with values that they accept and reject.
var examples = []struct {
	name, schema string
	yes, no      []string
}{
	{"anything", `{}`, []string{`{}`, `[]`, `{"a": [1, {"b": null}]}`, `"é😀"`, `-1.5e+7`, `true`}, []string{``, ` {}`, "{\n\"a\": 1}", `{"a":  1}`, `[ ]`, `{`, `{"a" 1}`, `[1,]`, `01`, `"a`, "\"\n\"", `nul`, `{}}`, `{"a":1,}`, "\"\xff\"", `"\ud800"`, `"\q"`}},
	{"true", `true`, []string{`1`}, nil},
	{"objects", `{"type":"object"}`, []string{`{}`, `{"a":{"b":[]}}`}, []string{`[]`, `1`}},
	{"properties in order", `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name"],"additionalProperties":false}`,
		[]string{`{"name":"x"}`, `{"name": "x", "age": 3}`}, []string{`{}`, `{"age":3}`, `{"age":3,"name":"x"}`, `{"name":"x","other":1}`, `{"name":1}`, `{"name":"x",}`, "{\n\n\"name\":\"x\"}"}},
	{"optional ones", `{"properties":{"a":{"type":"null"},"b":{"type":"null"},"c":{"type":"null"}}}`,
		[]string{`{}`, `{"a":null}`, `{"c":null}`, `{"a":null,"c":null}`, `{"b":null,"c":null}`}, []string{`{"c":null,"a":null}`, `{"d":null}`, `{,"a":null}`}},
	{"further ones", `{"type":"object","properties":{"a":{"type":"integer"}},"additionalProperties":{"type":"string"}}`,
		[]string{`{"a":1,"b":"x"}`, `{"b":"x"}`, `{"ab":"x"}`, `{"":"x"}`, `{}`}, []string{`{"b":1}`, `{"a":"x"}`, `{"b":"x","a":"y"}`}},
	{"a map", `{"type":"object","additionalProperties":{"type":"integer"},"minProperties":1,"maxProperties":2}`, []string{`{"a":1}`, `{"a":1,"b":2}`}, []string{`{}`, `{"a":"b"}`, `{"a":1,"b":2,"c":3}`}},
	{"names by a pattern", `{"type":"object","patternProperties":{"^x_[a-z]+$":{"type":"boolean"}},"additionalProperties":false}`, []string{`{}`, `{"x_a":true}`}, []string{`{"y":true}`, `{"x_a":1}`}},
	{"no properties", `{"type":"object","properties":{}}`, []string{`{}`}, []string{`{"a":1}`}},
	{"required and not described", `{"type":"object","properties":{"a":{"type":"null"}},"required":["b"]}`, []string{`{"a":null,"b":[1]}`, `{"b":2}`}, []string{`{"a":null}`}},
	{"lists", `{"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3}`, []string{`[1]`, `[1, 2]`, `[1,2,3]`}, []string{`[]`, `[1,2,3,4]`, `["a"]`, `[1,]`}},
	{"lists of none", `{"type":"array","maxItems":0}`, []string{`[]`}, []string{`[1]`, `[ ]`}},
	{"lists of one", `{"type":"array","maxItems":1}`, []string{`[]`, `[1]`}, []string{`[1,2]`}},
	{"first items", `{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":{"type":"null"},"minItems":1}`, []string{`[1]`, `[1,"a"]`, `[1,"a",null,null]`}, []string{`[]`, `["a"]`, `[1,2]`, `[1,"a",1]`}},
	{"a tuple", `{"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false,"minItems":2}`, []string{`[1,"a"]`}, []string{`[1]`, `[1,"a",null]`}},
	{"enum", `{"enum":["red","green",5,null,{"a":[1,"x"]},"\u00e9\"\\\n"]}`, []string{`"red"`, `5`, `null`, `{"a":[1,"x"]}`, `"é\"\\\n"`}, []string{`"blue"`, `"re"`, `{}`}},
	{"enum and type", `{"type":"string","enum":["red",5]}`, []string{`"red"`}, []string{`5`}},
	{"const", `{"const":{"kind":"x"}}`, []string{`{"kind":"x"}`}, []string{`{}`}},
	{"types", `{"type":["string","null"]}`, []string{`"a"`, `null`}, []string{`1`}},
	{"any of", `{"anyOf":[{"type":"string","maxLength":2},{"type":"integer"}]}`, []string{`"ab"`, `7`}, []string{`"abc"`, `null`}},
	{"any of, with more", `{"type":"object","properties":{"k":{"type":"string"}},"required":["k"],"anyOf":[{"properties":{"a":{"type":"null"}},"required":["a"]},{"properties":{"b":{"type":"null"}},"required":["b"]}]}`,
		[]string{`{"k":"x","a":null}`, `{"k":"x","b":null}`}, []string{`{"k":"x"}`, `{"a":null}`}},
	{"one of", `{"oneOf":[{"type":"object","properties":{"kind":{"const":"a"}},"required":["kind"]},{"type":"object","properties":{"kind":{"const":"b"},"n":{"type":"integer"}},"required":["kind","n"]}]}`,
		[]string{`{"kind":"a"}`, `{"kind":"b","n":1}`}, []string{`{"kind":"b"}`, `{"kind":"c"}`}},
	{"all of", `{"allOf":[{"$ref":"#/$defs/a"},{"properties":{"y":{"minimum":3}},"required":["y"]}],"$defs":{"a":{"type":"object","properties":{"x":{"type":"string"},"y":{"type":"integer"}}}}}`,
		[]string{`{"x":"a","y":3}`, `{"y":4}`}, []string{`{"x":"a"}`, `{"y":2}`}},
	{"a reference with a description", `{"properties":{"a":{"$ref":"#/definitions/t%20/x~1y","description":"it"}},"required":["a"],"definitions":{"t ":{"x/y":{"type":"boolean"}}}}`, []string{`{"a":true}`}, []string{`{"a":1}`}},
	{"recursion", `{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},"kids":{"type":"array","items":{"$ref":"#/$defs/node"}}},"required":["v","kids"],"additionalProperties":false}}}`,
		[]string{`{"v":1,"kids":[]}`, `{"v":1,"kids":[{"v":2,"kids":[{"v":3,"kids":[]}]}]}`}, []string{`{"v":1}`, `{"v":1,"kids":[{}]}`}},
	{"recursion or null", `{"anyOf":[{"type":"null"},{"type":"object","properties":{"next":{"$ref":"#"}},"required":["next"]}]}`, []string{`null`, `{"next":{"next":null}}`}, []string{`{"next":{}}`}},
	{"itself or a string", `{"anyOf":[{"$ref":"#"},{"type":"string"}]}`, []string{`"a"`}, []string{`1`}},
	{"lengths", `{"type":"string","minLength":2,"maxLength":3}`, []string{`"ab"`, `"日本x"`, `"\u00e9\ud83d\ude00"`, `"\n\"x"`}, []string{`"a"`, `"abcd"`, `"日"`}},
	{"pattern", `{"type":"string","pattern":"^[a-c]+(-\\d{2,3})?$"}`, []string{`"abc"`, `"a-12"`, `"cc-123"`}, []string{`""`, `"abd"`, `"a-1"`, `"a-1234"`}},
	{"pattern anywhere", `{"type":"string","pattern":"b\u00e9|\\\"x"}`, []string{`"abéc"`, `"bé"`, `"\"x"`}, []string{`"b"`, `"ab"`}},
	{"one type of several that counts leave", `{"type":["string","array","object","number","null"],"minLength":2,"maxLength":1,"minItems":2,"maxItems":1,"minProperties":2,"maxProperties":1,"minimum":2,"maximum":1}`, []string{`null`}, []string{`"a"`, `"ab"`, `[]`, `{}`, `1`}},
	{"pattern and length", `{"type":"string","pattern":"^(ab)*$","minLength":3,"maxLength":6}`, []string{`"abab"`, `"ababab"`}, []string{`"ab"`, `"abababab"`, `"aba"`}},
	{"format", `{"type":"string","format":"date"}`, []string{`"2024-02-29"`, `"2023-12-31"`}, []string{`"2023-02-29"`, `"2023-13-01"`, `"2023-1-1"`, `"1900-02-29"`}},
	{"format uuid", `{"type":"string","format":"uuid"}`, []string{`"123e4567-e89b-12d3-a456-426614174000"`}, []string{`"123"`}},
	{"integers", `{"type":"integer"}`, []string{`0`, `-1`, `123456`}, []string{`-0`, `01`, `1.5`, `1e3`, `--1`}},
	{"integers from", `{"type":"integer","minimum":18}`, []string{`18`, `20`, `99`, `100`, `12345`}, []string{`17`, `-20`, `1`}},
	{"integers within", `{"type":"integer","minimum":-13,"exclusiveMaximum":205}`, []string{`-13`, `-1`, `0`, `9`, `99`, `199`, `204`}, []string{`-14`, `205`, `300`, `1000`}},
	{"integers to", `{"type":"integer","maximum":-5.5}`, []string{`-6`, `-100`}, []string{`-5`, `5`, `0`}},
	{"integers of many digits", `{"type":"integer","minimum":0,"maximum":18446744073709551615}`, []string{`18446744073709551615`}, []string{`18446744073709551616`}},
	{"int32", `{"type":"integer","format":"int32"}`, []string{`2147483647`, `-2147483648`}, []string{`2147483648`}},
	{"numbers", `{"type":"number"}`, []string{`0`, `-0.5`, `1e5`, `3.25E-2`}, []string{`.5`, `1.`, `1e`, `1e100`}},
	{"numbers within", `{"type":"number","minimum":0.25,"exclusiveMaximum":10}`, []string{`0.25`, `0.3`, `1`, `9.999`, `0.250`, `9`, `5.5`}, []string{`0.2`, `0.24`, `10`, `10.0`, `0`, `-1`, `0.`, `1e0`}},
	{"numbers within a whole one", `{"type":"number","exclusiveMinimum":1.25,"maximum":1.5}`, []string{`1.3`, `1.5`, `1.251`, `1.50`, `1.2500001`}, []string{`1`, `1.25`, `1.250`, `1.51`, `1.6`, `1.501`}},
	{"a probability", `{"type":"number","minimum":0,"maximum":1}`, []string{`0`, `1`, `0.5`, `0.001`}, []string{`1.1`, `-0.1`, `-0`, `2`, `1.01`}},
	{"below zero", `{"type":"number","exclusiveMinimum":-2.5,"exclusiveMaximum":0}`, []string{`-2.4`, `-0.1`, `-1`, `-2`}, []string{`-2.5`, `-0`, `-0.0`, `0`, `-3`}},
	{"money", `{"type":"number","multipleOf":0.01,"minimum":0}`, []string{`0`, `1.5`, `12.34`}, []string{`1.234`, `-1`}},
	{"whole numbers", `{"type":"number","multipleOf":1}`, []string{`3`}, []string{`3.5`}},
	{"a set", `{"type":"array","items":{"type":"string"},"uniqueItems":true}`, nil, nil},
	{"a set of numbers", `{"type":"array","items":{"type":"integer","minimum":0,"maximum":500},"uniqueItems":true,"minItems":3}`, nil, nil},
	{"a set of numbers that are not whole", `{"type":"array","items":{"type":"number"},"uniqueItems":true,"minItems":2}`, nil, nil},
	{"a set of ids", `{"type":"array","items":{"type":"string","format":"uuid"},"uniqueItems":true}`, nil, nil},
	{"a set of short strings", `{"properties":{"a":{"type":"array","items":{"type":"string","maxLength":1},"uniqueItems":true,"minItems":2},"b":{"type":"array","items":{"enum":["x",1,1.0,null]},"uniqueItems":true,"minItems":3}},"required":["a","b"]}`, nil, nil},
	{"a counted format", `{"type":"string","format":"email","minLength":8,"maxLength":9}`, []string{`"ab@cd.ef"`, `"abc@cd.ef"`}, []string{`"a@cd.ef"`, `"abcd@cd.ef"`}},
	{"counts that few patterns meet", `{"type":"string","pattern":"^(abc)+$","minLength":4,"maxLength":8}`, []string{`"abcabc"`}, []string{`"abc"`, `"abcabcabc"`}},
	{"multiples", `{"type":"integer","multipleOf":7}`, []string{`0`, `14`, `-21`, `700000000007`}, []string{`13`, `-0`, `007`}},
	{"multiples within", `{"type":"number","multipleOf":0.25,"minimum":-1,"exclusiveMaximum":1.5}`, []string{`-1`, `0.5`, `1.25`, `-0.25`}, []string{`0.3`, `1.5`, `-1.25`}},
	{"any but some", `{"type":["string","integer","null"],"not":{"enum":["a","ab",3]}}`, []string{`""`, `"b"`, `"abc"`, `4`, `null`}, []string{`"a"`, `"ab"`, `3`}},
	{"if", `{"type":"object","properties":{"k":{"enum":["a","b"]},"x":{"type":"integer"}},"required":["k"],"if":{"properties":{"k":{"const":"a"}}},"then":{"required":["x"]}}`, []string{`{"k":"a","x":1}`, `{"k":"b"}`}, []string{`{"k":"a"}`}},
	{"dependent", `{"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"}},"dependentRequired":{"a":["b"]}}`, []string{`{}`, `{"b":null}`, `{"a":null,"b":null}`}, []string{`{"a":null}`}},
	{"contains", `{"type":"array","items":{"type":"integer"},"contains":{"minimum":5},"minContains":2,"maxContains":2}`, []string{`[5,6]`, `[7,7,1]`}, []string{`[5]`, `[5,6,7]`, `[1,5,6]`}},
	{"counted members", `{"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"},"c":{"type":"null"}},"minProperties":2,"maxProperties":2}`, []string{`{"a":null,"c":null}`}, []string{`{"a":null}`, `{"a":null,"b":null,"c":null}`}},
	{"patterns beside names", `{"type":"object","properties":{"x1":{"type":"integer"}},"patternProperties":{"^x":{"type":["integer","null"]},"1$":{"type":["integer","string"]}},"additionalProperties":{"type":"boolean"}}`, []string{`{"x1":1}`, `{"x2":null,"a1":"s","x31":4,"b":true}`}, []string{`{"x1":null}`, `{"x11":"s"}`, `{"b":1}`}},
	{"one of, that overlap", `{"oneOf":[{"type":"integer","multipleOf":3},{"type":"number","minimum":5}]}`, nil, nil},
	{"strict, as OpenAI's", `{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"Event","type":"object","properties":{"name":{"type":"string","description":"the name"},"participants":{"type":"array","items":{"type":"string"}}},"required":["name","participants"],"additionalProperties":false}`,
		[]string{`{"name":"x","participants":["a", "b"]}`}, []string{`{"participants":[],"name":"x"}`}},
}

func TestExamples(t *testing.T) {
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			m, err := Compile(vocab, schemaOf(e.schema))
			if err != nil {
				t.Fatal(err)
			}
			o := oracle(t, e.schema)
			for _, s := range e.yes {
				if !takes(t, m, s) {
					t.Errorf("%s is not taken", s)
				}
				if err := validate(o, s); err != nil {
					t.Errorf("%s: the test is wrong: %v", s, err)
				}
			}
			for _, s := range e.no {
				if takes(t, m, s) {
					t.Errorf("%s is taken", s)
				}
			}
			for seed := range uint64(60) {
				text, ended := write(t, m, rand.New(rand.NewPCG(seed, 7)), 400)
				if !ended {
					continue
				}
				if err := validate(o, text); err != nil || !json.Valid([]byte(text)) {
					t.Fatalf("%s: %v", text, err)
				}
			}
		})
	}
}

// TestFormats draws a date, an address and so on, and checks them with the
// validator.
func TestFormats(t *testing.T) {
	for name := range formats {
		schema := fmt.Sprintf(`{"type":"string","format":%q}`, name)
		m, err := Compile(vocab, schemaOf(schema))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		o := oracle(t, schema)
		for seed := range uint64(200) {
			if text, ended := write(t, m, rand.New(rand.NewPCG(seed, 3)), 300); ended {
				if err := validate(o, text); err != nil {
					t.Errorf("%s: %s: %v", name, text, err)
				}
			}
		}
	}
}

// TestRefused: an unsupported part of a schema is named, with its place.
func TestRefused(t *testing.T) {
	for _, c := range []struct{ schema, want string }{
		{`{"type":"object","properties":{"a":{"not":{"uniqueItems":true}}}}`, `the JSON schema, at /properties/a/not: this one is not supported`},
		{`{"$defs":{"a/b":{"$dynamicRef":"#x"}},"$ref":"#/$defs/a~1b"}`, `/$defs/a~1b/$dynamicRef: this keyword is not supported`},
		{`{"anyOf":[{"type":"string"},{"type":"array","uniqueItems":true}]}`, `/anyOf/1/uniqueItems`},
		{`{"not":{}}`, `takes no value at all`},
		{`{"oneOf":[{"properties":{"a":{"type":"string"}}},{"properties":{"b":{"type":"integer"}}}]}`, `/oneOf: alternatives 1 and 2 overlap`},
		{`{"multipleOf":0.000123457}`, `/multipleOf: is supported up to 2000 of the unit`},
		{`{"multipleOf":0}`, `/multipleOf: must be a number above zero`},
		{`{"type":"object","minProperties":2}`, `/minProperties: is supported up to one more`},
		{`{"unevaluatedItems":false}`, `/unevaluatedItems: `},
		{`{"propertyNames":{"anyOf":[{"pattern":"a"},{"pattern":"b"}]}}`, `/propertyNames: names of members may be described by`},
		{`{"type":"strin"}`, `/type: "strin" is no type`},
		{`{"enum":[]}`, `takes no value at all`},
		{`false`, `takes no value at all`},
		{`{"type":"object","properties":{"a":false},"required":["a"]}`, `takes no value at all`},
		{`{"$ref":"#/$defs/a","$defs":{"a":{"type":"object","properties":{"a":{"$ref":"#/$defs/a"}},"required":["a"]}}}`, `takes no value at all`},
		{`{"$ref":"#"}`, `/$ref: it refers to itself`},
		{`{"allOf":[{"$ref":"#"}]}`, `/allOf/0/$ref: it refers to itself`},
		{`{"anyOf":[{"$ref":"#"}]}`, `takes no value at all`},
		{`{"type":"string","minLength":3,"maxLength":2}`, `takes no value at all`},
		{`{"type":"string","pattern":"^(ab)*$","minLength":8,"maxLength":0}`, `takes no value at all`},
		{`{"type":"string","format":"uuid","minLength":40,"maxLength":39}`, `takes no value at all`},
		{`{"minItems":2,"type":"array","items":{"type":"null"},"maxItems":1}`, `takes no value at all`},
		{`{"minItems":2,"type":"array","prefixItems":[true,true],"maxItems":1}`, `takes no value at all`},
		{`{"minProperties":2,"type":"object","maxProperties":1}`, `takes no value at all`},
		{`{"minProperties":2,"type":"object","properties":{"a":{},"b":{}},"maxProperties":1}`, `takes no value at all`},
		{`{"allOf":[{"type":"string","minLength":5},{"pattern":"^a*$","maxLength":4}]}`, `takes no value at all`},
		{`{"allOf":[{"minItems":5},{"maxItems":4}],"type":"array"}`, `takes no value at all`},
		{`{"allOf":[{"minimum":5},{"maximum":4.5}],"type":"number"}`, `takes no value at all`},
		{`{"minimum":1,"exclusiveMaximum":1,"type":"number"}`, `takes no value at all`},
		{`{"allOf":[{"type":"string"},{"type":"integer"}]}`, `takes no value at all`},
		{`{"minimum":3,"type":"integer","maximum":2}`, `takes no value at all`},
		{`{"exclusiveMinimum":3,"type":"integer","exclusiveMaximum":4}`, `takes no value at all`},
		{`{"type":"string","pattern":"^(?=a)b"}`, `takes no value at all`},
		{`{"type":"string","pattern":"^a(?=a)b"}`, `/pattern: "^a(?=a)b" cannot be taken`},
		{`{"type":"string","pattern":"\\bx"}`, `cannot be taken`},
		{`{"type":"string","pattern":"(a|b|ab)*c(.{900}){3}"}`, `/pattern: `},
		{`{"$ref":"other.json"}`, `/$ref: "other.json": references are supported within the schema`},
		{`{"$ref":"#/x"}`, `is not in the schema`},
		{`{"properties":[]}`, `/properties: must be an object`},
		{`[]`, `must be an object, true or false`},
		{`{`, `is not valid JSON`},
		{`{"type":"string","type":"null"}`, `twice`},
		{strings.Repeat(`{"items":`, 200) + "1" + strings.Repeat("}", 200), `nests more than`},
		{`{"minimum":1e400}`, `too many digits`},
		{`{"allOf":[` + strings.Repeat(`{"anyOf":[{"minimum":1},{"minimum":2},{"minimum":3},{"minimum":4}]},`, 12) + `{}]}`, `is too large, or combines too many alternatives`},
	} {
		_, err := Compile(vocab, schemaOf(c.schema))
		var e *SchemaError
		if err == nil || !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.100s: %v, want %q", c.schema, err, c.want)
		}
	}
}

func text(s string) *protocol.Piece  { return &protocol.Piece{Kind: &protocol.Piece_Text{Text: s}} }
func until(s string) *protocol.Piece { return &protocol.Piece{Kind: &protocol.Piece_Until{Until: s}} }

// TestEscapes: a pattern may use JavaScript's escapes.
func TestEscapes(t *testing.T) {
	m, err := Compile(vocab, schemaOf(`{"pattern":"^\\u00e9\\\\\\/.$"}`))
	if err != nil {
		t.Fatal(err)
	}
	if !takes(t, m, `"é\\/x"`) || takes(t, m, `"é\\/\r"`) {
		t.Error("the pattern was not read as it was meant")
	}
}

// TestPieces: the text around JSON.
func TestPieces(t *testing.T) {
	number := schemaOf(`{"type":"integer","minimum":0}`)[0]
	for _, c := range []struct {
		name    string
		format  []*protocol.Piece
		yes, no []string
	}{
		{"after a mark that is text", []*protocol.Piece{until("</think>"), number}, []string{"</think>7", "hm </thin</think>7", "<</think>7", "é\xff\x00</think>7"}, []string{"7", "</think>", "</thin>7", "</think>7</think>7"}},
		{"after a control token", []*protocol.Piece{until("<|call|>"), number}, []string{"<|call|>7", "hm <|call<|call|>7"}, []string{"7", "<|message|><|call|>7"}},
		{"a call", []*protocol.Piece{text("<|call|>f<|message|>"), number, {Kind: &protocol.Piece_Again{Again: &protocol.Pieces{Pieces: []*protocol.Piece{text(","), number}}}}},
			[]string{"<|call|>f<|message|>1", "<|call|>f<|message|>1,2,3"}, []string{"f1", "<|call|>f1", "<|call|>f<|message|>1,"}},
		{"one of two", []*protocol.Piece{{Kind: &protocol.Piece_Either{Either: &protocol.Either{Of: []*protocol.Pieces{{Pieces: []*protocol.Piece{text("a")}}, {Pieces: []*protocol.Piece{text("b"), number}}}}}}}, []string{"a", "b1"}, []string{"a1", "b"}},
	} {
		m, err := Compile(vocab, c.format)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range c.yes {
			if !takes(t, m, s) {
				t.Errorf("%s: %q is not taken", c.name, s)
			}
		}
		for _, s := range c.no {
			if takes(t, m, s) {
				t.Errorf("%s: %q is taken", c.name, s)
			}
		}
	}
	for _, bad := range [][]*protocol.Piece{{{}}, {until("")}, {nil}, {{Kind: &protocol.Piece_Either{}}}} {
		if _, err := Compile(vocab, bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

// count returns the number of tokens in a mask.
func count(mask []uint64) (n int) {
	for _, w := range mask {
		n += bits.OnesCount64(w)
	}
	return n
}

// TestMask: a mask agrees with trying token after token, however the state was
// reached.
func TestMask(t *testing.T) {
	for _, e := range examples {
		m, err := Compile(vocab, schemaOf(e.schema))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range e.yes {
			ids := spell(t, vocab, s)
			r := m.Start([]int32{stop})
			for n := range len(ids) + 1 {
				got, err := r.Allowed(ids[:n])
				if err != nil {
					t.Fatalf("%s: after %d tokens of %s: %v", e.name, n, s, err)
				}
				other, err := Compile(vocab, schemaOf(e.schema))
				if err != nil {
					t.Fatal(err)
				}
				fresh, err := other.Start([]int32{stop}).Allowed(ids[:n])
				if err != nil || !slices.Equal(fresh, got) {
					t.Fatalf("%s: after %d tokens of %s the mask depends on the way (%v)", e.name, n, s, err)
				}
				for id := range vocab.words {
					ok, err := r.Follows(ids[:n], int32(id))
					if err != nil || ok != (got[id>>6]>>(id&63)&1 != 0) {
						t.Fatalf("%s: after %q, %q: %v, but the mask has %d (%v)", e.name, s, vocab.words[id], ok, count(got), err)
					}
				}
			}
		}
	}
}

// TestEnd: after a complete value only the tokens that end the answer are
// allowed, and nowhere else.
func TestEnd(t *testing.T) {
	m, err := Compile(vocab, schemaOf(`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`))
	if err != nil {
		t.Fatal(err)
	}
	r := m.Start([]int32{stop, 3})
	mask, err := r.Allowed(spell(t, vocab, `{"a":"x"}`))
	if err != nil || count(mask) != 2 || mask[0] != 1|1<<3 {
		t.Errorf("at the end %d tokens (%v)", count(mask), err)
	}
	if mask, err = r.Allowed(spell(t, vocab, `{"a":"x"`)); err != nil || mask[0]&(1|1<<3) != 0 {
		t.Errorf("an end in the middle (%v)", err)
	}
	if _, err := r.Allowed(spell(t, vocab, `[`)); err == nil {
		t.Error("an answer that does not follow was gone on with")
	}
}

// TestForget: an answer continues after a machine has made room.
func TestForget(t *testing.T) {
	m, err := Compile(vocab, schemaOf(`{"type":"string","maxLength":500}`))
	if err != nil {
		t.Fatal(err)
	}
	ids := spell(t, vocab, `"`+strings.Repeat("x", 400)+`"`)
	r := m.Start([]int32{stop})
	for n := range ids {
		if n%7 == 0 {
			m.mu.Lock()
			m.forget()
			m.mu.Unlock()
		}
		if _, err := r.Allowed(ids[:n]); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzSchema: any schema is compiled or refused, and answers written with it
// are JSON that satisfies it.
func FuzzSchema(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	for _, e := range examples {
		f.Add(e.schema, uint64(1))
	}
	f.Add(`{"type":"string","pattern":"^(ab)*$","minLength":8,"maxLength":0}`, uint64(1))
	for _, schema := range corpus(f, "suite") {
		f.Add(string(schema), uint64(1))
	}
	f.Fuzz(func(t *testing.T, schema string, seed uint64) {
		if len(schema) > 2000 || strings.Contains(schema, "nullable") || strings.Contains(schema, "$schema") {
			return
		}
		m, err := Compile(vocab, schemaOf(schema))
		if err != nil {
			return
		}
		text, ended := write(t, m, rand.New(rand.NewPCG(seed, 1)), 60)
		if !ended {
			return
		}
		if !json.Valid([]byte(text)) {
			t.Fatalf("%s gave %q", schema, text)
		}
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
		if err != nil {
			return
		}
		c := jsonschema.NewCompiler()
		c.UseLoader(nothing{})
		if c.AddResource("mem:///schema.json", doc) != nil {
			return
		}
		if o, err := c.Compile("mem:///schema.json"); err == nil {
			if err := validate(o, text); err != nil {
				t.Fatalf("%s gave %s: %v", schema, text, err)
			}
		}
	})
}

type nothing struct{}

func (nothing) Load(url string) (any, error) { return nil, errors.New("there is nothing") }

// TestScripts: names in any script are cheap, even with their characters
// counted.
func TestScripts(t *testing.T) {
	v := large(50_000)
	m, err := Compile(v, schemaOf(`{"type":"string","pattern":"^[\\p{L} '-]{1,50}$"}`))
	if err != nil {
		t.Fatal(err)
	}
	r := m.Start([]int32{stop})
	for _, s := range []string{`"`, `"Zoë`, `"Zoë 日本語`, `"` + strings.Repeat("ж", 50)} {
		if _, err := r.Allowed(spell(t, v, s)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if !takes(t, m, `"Zoë O'Neill 日本語"`) || takes(t, m, `"Zoë 3"`) || takes(t, m, `"`+strings.Repeat("ж", 51)+`"`) {
		t.Error("another string than meant")
	}
}

// What all formats share is never written to: several are compiled at once.
func TestSharedParts(t *testing.T) {
	for _, e := range append(single[:], empty, digit) {
		if !e.productive {
			t.Errorf("%v is not marked before it is pruned", e)
		}
	}
}
