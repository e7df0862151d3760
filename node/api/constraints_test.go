package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestConstraints: other servers' words for constraints mean the same here, or are refused
// by their name.
func TestConstraints(t *testing.T) {
	const schema = `{"type":"object","properties":{"a":{"type":"integer"}}}`
	for body, want := range map[string]constraint{
		`"response_format":{"type":"json_object"}`:                                                    {schema: anyObject},
		`"response_format":{"type":"json_object","schema":` + schema + `}`:                            {schema: json.RawMessage(schema)},
		`"response_format":{"type":"json_schema","schema":` + schema + `}`:                            {schema: json.RawMessage(schema)},
		`"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":` + schema + `}}`: {schema: json.RawMessage(schema)},
		`"response_format":{"type":"json","value":` + schema + `}`:                                    {schema: json.RawMessage(schema)},
		`"response_format":{"type":"regex","regex":"a+"}`:                                             {pattern: "a+"},
		`"response_format":{"type":"regex","pattern":"a+"}`:                                           {pattern: "a+"},
		`"response_format":{"type":"grammar","grammar":"root ::= \"a\""}`:                             {grammar: `root ::= "a"`},
		`"json_schema":` + schema:                                                                     {schema: json.RawMessage(schema)},
		`"json_schema":{"name":"x","schema":` + schema + `}`:                                          {schema: json.RawMessage(schema)},
		`"guided_json":` + schema:                                                                     {schema: json.RawMessage(schema)},
		`"guided_json":` + string(quoted(schema)):                                                     {schema: json.RawMessage(schema)},
		`"guided_regex":"[a-z]"`:                                                                      {pattern: "[a-z]"},
		`"guided_choice":["good","b\"a\\d\n"]`:                                                        {grammar: `root ::= "good" | "b\"a\\d\n"`},
		`"guided_grammar":"root ::= \"a\""`:                                                           {grammar: `root ::= "a"`},
		`"grammar":"root ::= \"a\""`:                                                                  {grammar: `root ::= "a"`},
		`"structured_outputs":{"json":` + schema + `}`:                                                {schema: json.RawMessage(schema)},
		`"structured_outputs":{"regex":"x"}`:                                                          {pattern: "x"},
		`"structured_outputs":{"choice":["a"]}`:                                                       {grammar: `root ::= "a"`},
		`"structured_outputs":{"json_object":true}`:                                                   {schema: anyObject},
		`"structured_outputs":{"json_object":false,"json":null}`:                                      {},
		`"guided_json":null,"grammar":"","response_format":{"type":"text"}`:                           {},
		`"structured_outputs":null,"guided_regex":null,"guided_choice":null`:                          {},
	} {
		for name, decode := range decoders {
			if name == "responses" && strings.Contains(body, "response_format") {
				continue
			}
			got, err := decode(body)
			if err != nil {
				t.Errorf("%s: %s: %v", name, body, err)
				continue
			}
			c := constraint{got.Format, got.Pattern, got.Grammar}
			if fmt.Sprintf("%s", c) != fmt.Sprintf("%s", want) {
				t.Errorf("%s: %s: %s", name, body, c)
			}
		}
	}
}

// decoders read a request that has some fields besides what it needs.
var decoders = map[string]func(fields string) (*GenerateRequest, error){
	"chat": func(fields string) (*GenerateRequest, error) {
		j, err := decodeChat([]byte(`{"messages":[{"role":"user","content":"x"}],` + fields + `}`))
		if err != nil {
			return nil, err
		}
		return j.reqs[0], nil
	},
	"completion": func(fields string) (*GenerateRequest, error) {
		j, err := decodeCompletion([]byte(`{"prompt":"x",` + fields + `}`))
		if err != nil {
			return nil, err
		}
		return j.reqs[0], nil
	},
	"responses": func(fields string) (*GenerateRequest, error) {
		j, err := decodeResponse([]byte(`{"input":"x",`+fields+`}`), nil)
		if err != nil {
			return nil, err
		}
		return j.reqs[0], nil
	},
}

// TestWordsRefused: what would change the answer, and is not done, is refused by its name;
// its values that change nothing pass.
func TestWordsRefused(t *testing.T) {
	for _, test := range []struct{ field, idle, other, param string }{
		{"structured_outputs", `{}`, `{"structural_tag":"x"}`, "structured_outputs.structural_tag"},
		{"structured_outputs", `{"json":null}`, `[]`, "structured_outputs"},
		{"grammar", `""`, `"start: /x/"`, "grammar"},
		{"guided_grammar", `null`, `7`, "guided_grammar"},
		{"guided_json", `null`, `"x"`, "guided_json"},
		{"guided_json", `null`, `true`, "guided_json"},
		{"json_schema", `null`, `[]`, "json_schema"},
		{"guided_choice", `null`, `[]`, "guided_choice"},
		{"guided_choice", `["a"]`, `[""]`, "guided_choice[0]"},
		{"guided_choice", `["a"]`, `"a"`, "guided_choice"},
		{"guided_regex", `""`, `{}`, "guided_regex"},
		{"continue_final_message", "false", "true", "continue_final_message"},
		{"add_generation_prompt", "true", "false", "add_generation_prompt"},
		{"prompt_logprobs", "null", "1", "prompt_logprobs"},
		{"min_tokens", "0", "5", "min_tokens"},
		{"truncate_prompt_tokens", "null", "100", "truncate_prompt_tokens"},
		{"use_beam_search", "false", "true", "use_beam_search"},
		{"return_token_ids", "false", "true", "return_token_ids"},
		{"bad_words", "[]", `["x"]`, "bad_words"},
		{"mirostat", "0", "2", "mirostat"},
		{"chat_template", "null", `"{{x}}"`, "chat_template"},
	} {
		for name, decode := range decoders {
			if _, err := decode(`"` + test.field + `":` + test.idle); err != nil {
				t.Errorf("%s: %s %s: %v", name, test.field, test.idle, err)
			}
			_, err := decode(`"` + test.field + `":` + test.other)
			if err == nil || AsError(err).Kind != BadInput || AsError(err).Param != test.param {
				t.Errorf("%s: %s %s: %v", name, test.field, test.other, err)
			}
		}
	}
	for _, fields := range []string{`"guided_json":{},"guided_regex":"x"`, `"grammar":"root ::= \"a\"","json_schema":{}`, `"ignore_eos":true,"guided_regex":"x"`, `"stop_token_ids":[-1]`, `"repeat_penalty":1.2,"repeat_last_n":5`} {
		if _, err := decoders["chat"](fields); err == nil || AsError(err).Param == "" {
			t.Errorf("%s: %v", fields, err)
		}
	}
	for _, options := range []string{`{"mirostat":1}`, `{"tfs_z":0.5}`, `{"typical_p":0.2}`, `{"repeat_penalty":1.1,"repeat_last_n":10}`} {
		_, err := decodeOllamaChat([]byte(`{"model":"m","messages":[{"role":"user","content":"x"}],"options":` + options + `}`))
		if err == nil || AsError(err).Param == "" {
			t.Errorf("%s: %v", options, err)
		}
	}
	j, err := decodeOllamaChat([]byte(`{"model":"m","messages":[{"role":"user","content":"x"}],"options":{"mirostat":0,"mirostat_tau":5,"tfs_z":1,"repeat_penalty":1.1,"repeat_last_n":0,"num_ctx":5}}`))
	if err != nil || j.req.Sampling.RepeatPenalty != 0 {
		t.Errorf("options that change nothing: %v", err)
	}
}

// TestFormatBesideTools: a format does not exclude tools; a call that is demanded comes
// first.
func TestFormatBesideTools(t *testing.T) {
	const tools = `"tools":[{"type":"function","function":{"name":"f"}}],"response_format":{"type":"json_object"}`
	for choice, must := range map[string]bool{`"auto"`: false, `"required"`: true, `{"type":"function","function":{"name":"f"}}`: true} {
		g, err := decoders["chat"](tools + `,"tool_choice":` + choice)
		if err != nil || g.Format == nil || g.MustCall != must || len(g.Tools) != 1 {
			t.Errorf("%s: %+v, %v", choice, g, err)
		}
	}
	g, err := decoders["responses"](`"tools":[{"type":"function","name":"f"}],"text":{"format":{"type":"json_object"}}`)
	if err != nil || g.Format == nil || len(g.Tools) != 1 {
		t.Errorf("responses: %+v, %v", g, err)
	}
	j, err := decodeOllamaChat([]byte(`{"model":"m","messages":[{"role":"user","content":"x"}],"format":"json","tools":[{"type":"function","function":{"name":"f"}}]}`))
	if err != nil || j.req.Format == nil || len(j.req.Tools) != 1 {
		t.Errorf("Ollama's: %+v, %v", j, err)
	}
	again, err := decoders["chat"](`"stop_token_ids":[3,4],"ignore_eos":true,"repeat_last_n":64,"repeat_penalty":1.1`)
	if err != nil || len(again.StopIDs) != 2 || !again.IgnoreEOS {
		t.Errorf("stop tokens: %+v, %v", again, err)
	}
}
