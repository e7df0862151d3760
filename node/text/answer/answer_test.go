package answer

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

var tools = Tools{{Name: "weather", Types: map[string]string{"city": "string", "days": "integer"}}, {Name: "now"}}

// Templates, cut down to the parts that Detect uses.
const (
	hermes   = "<tool_call>{{ tool }}</tool_call> <think></think>"
	llama    = "Environment: ipython"
	mistral  = "[TOOL_CALLS]"
	thinking = "[THINK] [TOOL_CALLS]"
	deepseek = deepCalls + deepCall + " <think>"
	olmo     = "<function_calls>"
	gptoss   = "<|start|>assistant<|channel|>analysis<|message|>"
	plain    = "<|im_start|>"
)

// examples are answers as models write them.
var examples = []struct {
	name, template, prompt, answer string
	free                           bool // no tools are offered
	want                           Part
}{
	{"text", hermes, "", " Hello, <b>world", false, Part{Text: " Hello, <b>world"}},
	{"blanks", hermes, "", " a \n", false, Part{Text: " a \n"}},
	{"only blanks", plain, "", " \n ", false, Part{Text: " \n "}},
	{"reasoning", plain, "", "\n<think>\nWell, 1 < 2.\n</think>\n\nYes.\n", true, Part{Reasoning: "Well, 1 < 2.", Text: "Yes.\n"}},
	{"reasoning that the prompt began", hermes, "<|im_start|>assistant\n<think>\n", "Hm.\n</think>\n\nNo </think> here", false, Part{Reasoning: "Hm.", Text: "No </think> here"}},
	{"reasoning that the prompt ended", hermes, "<think>\n\n</think>\n\n", "Yes", false, Part{Text: "Yes"}},
	{"reasoning without end", hermes, "", "<think>so </thin", false, Part{Reasoning: "so </thin"}},
	{"a tag in the text", hermes, "", "Use <think> so", false, Part{Text: "Use <think> so"}},
	{"Mistral's reasoning", thinking, "", "[THINK]Hm[/THINK]Yes", false, Part{Reasoning: "Hm", Text: "Yes"}},

	{"Hermes", hermes, "", "<think>\nI call.\n</think>\n\nLet me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"z\": 1, \"city\": \"</tool_call>\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n", false,
		Part{Reasoning: "I call.", Text: "Let me see.", Calls: []Call{{"weather", `{"z":1,"city":"</tool_call>"}`}, {"now", "{}"}}}},
	{"Hermes without end", hermes, "", "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}", false, Part{Calls: []Call{{"now", "{}"}}}},
	{"Hermes cut off", hermes, "", "<tool_call>\n{\"name\": \"now\", \"argu", false, Part{Text: "<tool_call>\n{\"name\": \"now\", \"argu"}},
	{"a call that is none", hermes, "", "<tool_call>now!</tool_call> ok", false, Part{Text: "<tool_call>now!</tool_call> ok"}},
	{"nothing offered", hermes, "", `<tool_call>{"name": "now"}</tool_call>`, true, Part{Text: `<tool_call>{"name": "now"}</tool_call>`}},
	{"Qwen's coders", hermes, "", "<tool_call>\n<function=weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=note>\na \"{b\n</parameter>\n</function>\n</tool_call>", false,
		Part{Calls: []Call{{"weather", `{"city":"12","days":3,"note":"a \"{b"}`}}}},

	{"Llama", llama, "", `{"name": "weather", "parameters": {"city": "Rome", "q": "}\""}}`, false, Part{Calls: []Call{{"weather", `{"city":"Rome","q":"}\""}`}}}},
	{"Llama, several", llama, "", `<|python_tag|>{"name": "now", "parameters": {}}; {"name": "now", "parameters": {"a": 1}}`, false, Part{Calls: []Call{{"now", "{}"}, {"now", `{"a":1}`}}}},
	{"Llama, several, unmarked", llama, "", `{"name": "now", "parameters": {}}; {"name": "now", "parameters": {"a": 1}}`, false, Part{Calls: []Call{{"now", "{}"}, {"now", `{"a":1}`}}}},
	{"JSON that is no call", llama, "", ` {"name": "Ada", "parameters": {}} is JSON`, false, Part{Text: ` {"name": "Ada", "parameters": {}} is JSON`}},
	{"a call in the middle of text", llama, "", `so {"name": "now", "parameters": {}}`, false, Part{Text: `so {"name": "now", "parameters": {}}`}},

	{"Mistral", mistral, "", `[TOOL_CALLS][{"name": "now", "arguments": {"a": [1]}}, {"name": "now", "arguments": "{\"b\": 2}"}]`, false, Part{Calls: []Call{{"now", `{"a":[1]}`}, {"now", `{"b":2}`}}}},
	{"Mistral, later", mistral, "", `Sure.[TOOL_CALLS]weather[ARGS]{"city": "x"}[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}`, false, Part{Text: "Sure.", Calls: []Call{{"weather", `{"city":"x"}`}, {"now", "{}"}}}},

	{"DeepSeek R1", deepseek, "<｜Assistant｜><think>\n", "Hm\n</think>\n\n" + deepCalls + deepCall + "function" + deepSep + "now\n```json\n{\"a\": \"```\"}\n```" + deepCallEnd + "\n" + deepCall + "function" + deepSep + "now\n```json\n{}\n```" + deepCallEnd + deepCallsEnd, false,
		Part{Reasoning: "Hm", Calls: []Call{{"now", "{\"a\":\"```\"}"}, {"now", "{}"}}}},
	{"DeepSeek V3.1", deepseek, "", "Ok. " + deepCalls + deepCall + "now" + deepSep + `{"a": 1}` + deepCallEnd + deepCallsEnd, false, Part{Text: "Ok.", Calls: []Call{{"now", `{"a":1}`}}}},

	{"Olmo", olmo, "", "<function_calls>\nweather(city=\"a, \\\"b\\\")\", days=3, all=[True, None, -1.5], m={'k': (1,)})\nnow()\n</function_calls>", false,
		Part{Calls: []Call{{"weather", `{"city":"a, \"b\")","days":3,"all":[true,null,-1.5],"m":{"k":[1]}}`}, {"now", "{}"}}}},

	{"gpt-oss", gptoss, "<|start|>assistant", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes <|b", true, Part{Reasoning: "Hm.", Text: "Yes <|b"}},
	{"gpt-oss calls", gptoss, "<|start|>assistant", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"Oslo\"}<|call|>", false,
		Part{Reasoning: "Hm.", Text: "I look.", Calls: []Call{{"weather", `{"city":"Oslo"}`}}}},
	{"gpt-oss, the name first", gptoss, "<|start|>assistant", " to=functions.now<|channel|>commentary json<|message|>{}", false, Part{Calls: []Call{{"now", "{}"}}}},
	{"gpt-oss, another start", gptoss, "<|start|>assistant", "<|start|>assistant to=functions.now<|channel|>commentary json<|message|>{}", false, Part{Calls: []Call{{"now", "{}"}}}},
	{"gpt-oss, nothing offered", gptoss, "", "<|channel|>analysis to=python<|message|>1+1<|call|>", true, Part{Reasoning: "1+1"}},
	{"gpt-oss, two thoughts", gptoss, "", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>", false, Part{Reasoning: "a\n\nb"}},
	{"gpt-oss, no call", gptoss, "", "<|channel|>commentary to=functions.now<|message|>{oops<|call|>", false, Part{Text: "{oops"}},
	{"gpt-oss without channels", gptoss, "", `{"a": 1}`, false, Part{Text: `{"a": 1}`}},

	{"fenced", plain, "", "```json\n{\"name\": \"now\", \"arguments\": {}}\n```", false, Part{Calls: []Call{{"now", "{}"}}}},
	{"OpenAI's shape", plain, "", `{"type": "function", "function": {"name": "now", "arguments": {"a": 1}}}`, false, Part{Calls: []Call{{"now", `{"a":1}`}}}},
}

// read parses an answer in pieces that end at the given positions.
func read(template, prompt, answer string, tools Tools, cut func(left int) int) (out Part) {
	r := Detect(template).NewReader(Options{Tools: tools, Prompt: prompt})
	var text, reasoning strings.Builder
	add := func(p Part) {
		text.WriteString(p.Text)
		reasoning.WriteString(p.Reasoning)
		out.Calls = append(out.Calls, p.Calls...)
	}
	for answer != "" {
		n := cut(len(answer))
		add(r.Push(answer[:n]))
		answer = answer[n:]
	}
	add(r.Flush())
	out.Text, out.Reasoning = text.String(), reasoning.String()
	return out
}

func whole(left int) int { return left }

func TestExamples(t *testing.T) {
	for _, e := range examples {
		offered := tools
		if e.free {
			offered = nil
		}
		for name, cut := range map[string]func(int) int{"whole": whole, "in bytes": func(int) int { return 1 }, "in pieces": func(left int) int { return 1 + rand.IntN(min(left, 9)) }} {
			if got := read(e.template, e.prompt, e.answer, offered, cut); !reflect.DeepEqual(got, e.want) {
				t.Errorf("%s, %s:\ngot  %+v\nwant %+v", e.name, name, got, e.want)
			}
		}
	}
}

// TestText: text is returned as soon as it cannot be part of a mark.
func TestText(t *testing.T) {
	r := Detect(hermes).NewReader(Options{Tools: tools})
	for _, step := range [][2]string{{"He", "He"}, {"llo <", "llo"}, {"b> <tool", " <b>"}, {"s>", " <tools>"}} {
		if got := r.Push(step[0]).Text; got != step[1] {
			t.Errorf("after %q: %q, want %q", step[0], got, step[1])
		}
	}
}

// TestHuge: a call that never ends is text, and costs linear time.
func TestHuge(t *testing.T) {
	for _, open := range []string{"<tool_call>", `{"name": "`, "<tool_call>[", strings.Repeat("\n", maxSpace+5), "<|channel|>commentary to=functions.now<|message|>", "<think>"} {
		for _, template := range []string{hermes, gptoss} {
			body := open + strings.Repeat("<tool_call>\n", maxBody/8)
			got := read(template, "", body, tools, func(left int) int { return min(left, 1000) })
			if n := len(got.Text) + len(got.Reasoning); n < maxBody || len(got.Calls) > 0 {
				t.Errorf("%.20q: %d bytes of text, %d calls", open, n, len(got.Calls))
			}
		}
	}
}

// FuzzReader: whatever a model writes, the result does not depend on the
// pieces, and arguments are an object.
func FuzzReader(f *testing.F) {
	templates := []string{hermes, llama, mistral, thinking, deepseek, olmo, gptoss, plain}
	for i, fam := range families {
		template := strings.Join(fam.words[0], " ")
		templates = append(templates, template)
		w := Detect(template).writes
		f.Add(uint8(len(templates)-1), "", fam.think.open+"x"+fam.think.shut+fam.marks[0].open+`{"name": "now", "arguments": {}}`+fam.marks[0].shut+w.open+w.quote("now")+w.arguments+"{}"+w.shut, uint64(i), false)
	}
	f.Add(uint8(8), "", `<|tool_call>call:now{a:[<|"|>x<|"|>,{b:1}]}<tool_call|>`, uint64(3), false)
	f.Add(uint8(12), "", `[now(a={"b": 'c'}, d=[1, (2,)]), weather()]`, uint64(3), false)
	f.Add(uint8(14), "", `<invoke name="now"><parameter name="a" string="true">1</parameter></invoke>`, uint64(3), false)
	for i, e := range examples {
		f.Add(uint8(i), e.prompt, e.answer, uint64(i), e.free)
	}
	f.Fuzz(func(t *testing.T, which uint8, prompt, answer string, seed uint64, free bool) {
		offered := tools
		if free {
			offered = nil
		}
		template := templates[int(which)%len(templates)]
		want := read(template, prompt, answer, offered, whole)
		rng := rand.New(rand.NewPCG(seed, 1))
		got := read(template, prompt, answer, offered, func(left int) int { return 1 + rng.IntN(min(left, 1+int(seed%40))) })
		if !reflect.DeepEqual(got, want) {
			t.Errorf("in pieces %+v\nwhole     %+v", got, want)
		}
		for _, c := range want.Calls {
			var o map[string]any
			if c.Name == "" || json.Unmarshal([]byte(c.Arguments), &o) != nil {
				t.Errorf("a call %+v", c)
			}
		}
		if len(want.Text)+len(want.Reasoning) > len(answer)+len(prompt)+2*strings.Count(answer, "<|") {
			t.Errorf("%d bytes became %d", len(answer), len(want.Text)+len(want.Reasoning))
		}
	})
}
