package answer

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// What models of each family write, by the words of their templates.
func TestFamilies(t *testing.T) {
	offered := Tools{
		{Name: "weather", Types: map[string]string{"city": "string", "days": "integer", "opts": "object"}}, {Name: "now"},
	}
	full := []Call{{"weather", `{"city":"Köln \"x\"","days":2,"opts":{"x":null},"l":[1.5,true]}`}}
	both := append(full[:1:1], Call{"now", "{}"})
	const glm = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Köln \"x\"</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n" +
		"<arg_key>opts</arg_key>\n<arg_value>{\"x\": null}</arg_value>\n<arg_key>l</arg_key>\n<arg_value>[1.5, true]</arg_value>\n</tool_call>\n<tool_call>now</tool_call>"
	const json = `{"name": "weather", "arguments": {"city": "Köln \"x\"", "days": 2, "opts": {"x": null}, "l": [1.5, true]}}`
	const kimi = "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{\"city\": \"Köln \\\"x\\\"\", \"days\": 2, \"opts\": {\"x\": null}, \"l\": [1.5, true]}<|tool_call_end|>" +
		"<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
	invokes := func(ns, outer string) string {
		p := func(key, text, value string) string {
			return fmt.Sprintf("<%sparameter name=%q string=%q>%s</%sparameter>\n", ns, key, text, value, ns)
		}
		return fmt.Sprintf("<%s%s>\n<%sinvoke name=\"weather\">\n%s%s%s%s</%sinvoke>\n<%sinvoke name=\"now\">\n</%sinvoke>\n</%s%s>", ns, outer, ns,
			p("city", "true", `Köln "x"`), p("days", "false", "2"), p("opts", "false", `{"x": null}`), p("l", "false", "[1.5, true]"), ns, ns, ns, ns, outer)
	}
	m3 := func(s string) string { return strings.NewReplacer("<", minimaxNS+"<").Replace(s) }
	for _, c := range []struct {
		name, template, answer string
		want                   Part
	}{
		{"GLM", "<tool_call> <arg_key>", "<think>Hm.</think>\nI look.\n" + glm, Part{Reasoning: "Hm.", Text: "I look.", Calls: both}},
		{"GLM, without blanks", "<tool_call> <arg_key>", strings.ReplaceAll(glm, "\n", ""), Part{Calls: both}},
		{"GLM, in JSON", "<tool_call> <arg_key>", "<tool_call>" + json + "</tool_call>", Part{Calls: full}},
		{"Hunyuan 3", "HYTK <tool_call{}>", "<think:opensource>Hm.</think:opensource>I look.<tool_calls:opensource>\n" + strings.NewReplacer("<arg_key>", "<arg_key:opensource>", "</arg_key>", "</arg_key:opensource>",
			"<arg_value>", "<arg_value:opensource>", "</arg_value>", "</arg_value:opensource>", "<tool_call>weather", "<tool_call:opensource>weather<tool_sep:opensource>",
			"<tool_call>now", "<tool_call:opensource>now<tool_sep:opensource>", "</tool_call>", "</tool_call:opensource>").Replace(glm) + "</tool_calls:opensource>", Part{Reasoning: "Hm.", Text: "I look.", Calls: both}},
		{"Kimi K2", "<|tool_calls_section_begin|>", "I look." + kimi, Part{Text: "I look.", Calls: both}},
		{"Kimi K3", "<|open|> <|close|> <|sep|>", `<|open|>think<|sep|>Hm.<|close|>think<|sep|><|open|>response<|sep|>I look.<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="weather" index="1"<|sep|>` +
			`<|open|>argument key="city" type="string"<|sep|>Köln "x"<|close|>argument<|sep|><|open|>argument key="days" type="number"<|sep|>2<|close|>argument<|sep|>` +
			`<|open|>argument key="opts" type="object"<|sep|>{"x": null}<|close|>argument<|sep|><|open|>argument key="l" type="array"<|sep|>[1.5, true]<|close|>argument<|sep|><|close|>call<|sep|>` +
			`<|open|>call tool="now" index="2"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>`, Part{Reasoning: "Hm.", Text: "I look.", Calls: both}},
		{"Gemma 4", "<|tool_call> <tool_call|>", "<|channel>thought\nHm.\n<channel|>I look.<|tool_call>call:weather{city:<|\"|>Köln \"x\"<|\"|>,days:2,opts:{x:null},l:[1.5,true]}<tool_call|><|tool_call>call:now{}<tool_call|>", Part{Reasoning: "Hm.", Text: "I look.", Calls: both}},
		{"LFM2", "<|tool_call_start|>", `I look.<|tool_call_start|>[weather(city='Köln "x"', days=2, opts={"x": null}, l=[1.5, True]), now()]<|tool_call_end|>`, Part{Text: "I look.", Calls: both}},
		{"LFM2 by its results", "<|tool_response_start|>", `<|tool_call_start|>[now()]<|tool_call_end|>`, Part{Calls: both[1:]}},
		{"Llama 4", "<|header_start|><|header_end|>", `[weather(city='Köln "x"', days=2, opts={'x': None}, l=[1.5, True]), now()]`, Part{Calls: both}},
		{"Llama 4, marked", "<|header_start|><|header_end|>", `<|python_start|>[now()]<|python_end|>`, Part{Calls: both[1:]}},
		{"Llama 4, a list", "<|header_start|><|header_end|>", `[one(1), two]`, Part{Text: `[one(1), two]`}},
		{"MiniMax M2", "<minimax:tool_call>", "<think>Hm.</think>I look.\n" + strings.NewReplacer(` string="true"`, "", ` string="false"`, "", "<tool_call>", "<minimax:tool_call>", "</tool_call>", "</minimax:tool_call>").Replace(invokes("", "tool_call")), Part{Reasoning: "Hm.", Text: "I look.", Calls: both}},
		{"MiniMax M3", minimaxNS, "<mm:think>Hm.</mm:think>I look." + m3("<tool_call>\n<invoke name=\"weather\"><city>Köln \"x\"</city><days>2</days><opts><x>null</x></opts><l><item>1.5</item><item>true</item></l></invoke>\n<invoke name=\"now\"></invoke>\n</tool_call>"), Part{Reasoning: "Hm.", Text: "I look.", Calls: both}},
		{"DeepSeek V3.2", "｜DSML｜", "Hm.</think>I look.\n\n" + invokes("｜DSML｜", "function_calls"), Part{Text: "Hm.</think>I look.", Calls: both}},
		{"DeepSeek V4", "｜DSML｜ <think>", "<think>Hm.</think>I look.\n\n" + invokes("｜DSML｜", "tool_calls"), Part{Reasoning: "Hm.", Text: "I look.", Calls: both}},
		{"Seed-OSS", "<seed:tool_call>", "<seed:think>Hm.</seed:think>\nI look.\n<seed:tool_call>\n<function=weather>\n<parameter=city>Köln \"x\"</parameter>\n<parameter=days>2</parameter>\n<parameter=opts>{'x': None}</parameter>\n<parameter=l>[1.5, True]</parameter>\n</function>\n</seed:tool_call>",
			Part{Reasoning: "Hm.", Text: "I look.", Calls: full}},
		{"Cohere", "<|START_ACTION|>", "<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n {\"tool_call_id\": \"0\", \"tool_name\": \"now\", \"parameters\": {}}\n]<|END_ACTION|>", Part{Reasoning: "Hm.", Calls: both[1:]}},
		{"Cohere's text", "<|START_ACTION|>", "<|START_THINKING|>Hm.<|END_THINKING|><|START_TEXT|>Yes.<|END_TEXT|>", Part{Reasoning: "Hm.", Text: "Yes."}},
		{"Apertus", "<|tools_prefix|>", `<|inner_prefix|>Hm.<|inner_suffix|>I look.<|tools_prefix|>[{"weather": {"city": "Köln \"x\"", "days": 2, "opts": {"x": null}, "l": [1.5, true]}}, {"now": {}}]<|tools_suffix|>`, Part{Reasoning: "Hm.", Text: "I look.", Calls: both}},
		{"Solar Open", "<|tool_call:begin|>", "<|think|>Hm.<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>abc<|tool_call:name|>now<|tool_call:args|>{}<|tool_call:end|>", Part{Reasoning: "Hm.", Calls: both[1:]}},
		{"MiniCPM 5", `<function name="x"><param name="y">`, "I look.\n<function name=\"weather\"><param name=\"city\"><![CDATA[Köln \"x\"]]></param><param name=\"days\">2</param><param name=\"opts\">{'x': None}</param><param name=\"l\">[1.5, True]</param></function>\n<function name=\"now\"></function>", Part{Text: "I look.", Calls: both}},
		{"GigaChat", "<|function_call|>", "I look.<|function_call|>" + json, Part{Text: "I look.", Calls: full}},
		{"Granite 3", "<|tool_call|>", "<|tool_call|>[" + json + "]", Part{Calls: full}},
		{"Hunyuan A13B", "<tool_calls>", "<think>Hm.</think><tool_calls>[" + json + `, {"name": "now", "arguments": {}}]</tool_calls>`, Part{Reasoning: "Hm.", Calls: both}},
		{"MiniMax M1", "<tool_calls>", "<tool_calls>\n" + json + "\n" + `{"name": "now", "arguments": {}}` + "\n</tool_calls>", Part{Calls: both}},
		{"Granite's answer", "<think></think> <response></response>", "<think>Hm.</think><response>Yes.</response>", Part{Reasoning: "Hm.", Text: "Yes."}},
		{"no call of Gemma 4", "<|tool_call> <tool_call|>", "<|tool_call>call:now{a:<|\"|>x}<tool_call|>", Part{Text: "<|tool_call>call:now{a:<|\"|>x}<tool_call|>"}},
		{"no call of MiniMax M2", "<minimax:tool_call>", "<minimax:tool_call><invoke name=\"now\"><parameter name=\"a\">1</invoke></minimax:tool_call>", Part{Text: "<minimax:tool_call><invoke name=\"now\"><parameter name=\"a\">1</invoke></minimax:tool_call>"}},
	} {
		s := Detect(c.template)
		for _, size := range []int{1, 3, len(c.answer)} {
			r := s.NewReader(Options{Tools: offered})
			var got Part
			add := func(p Part) {
				got.Text, got.Reasoning, got.Calls = got.Text+p.Text, got.Reasoning+p.Reasoning, append(got.Calls, p.Calls...)
			}
			for at := 0; at < len(c.answer); at += size {
				add(r.Push(c.answer[at:min(len(c.answer), at+size)]))
			}
			add(r.Flush())
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s, %d bytes at a time:\n got %+v\nwant %+v", c.name, size, got, c.want)
				break
			}
		}
	}
}

// Calls that an answer is required to have, in the form in which each family writes
// them, are read again.
func TestRequiredCallsAreRead(t *testing.T) {
	for i := range families {
		s := Detect(strings.Join(families[i].words[0], " "))
		w := s.writes
		answer := w.before + w.open + w.quote("now") + w.arguments + `{"a":1}` + w.shut + w.after
		r := s.NewReader(Options{Tools: tools})
		p := r.Push(answer)
		calls := append(p.Calls, r.Flush().Calls...)
		if want := []Call{{"now", `{"a":1}`}}; !reflect.DeepEqual(calls, want) {
			t.Errorf("%s: %+v from %s", families[i].words[0], calls, answer)
		}
	}
}
