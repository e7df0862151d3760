package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// The tools that Codex offers, and others of OpenAI's own.
const manyTools = `[{"type":"function","name":"shell","parameters":{"type":"object"}},
	{"type":"web_search","filters":7},{"type":"image_generation"},{"type":"file_search","vector_store_ids":["v"]},{"type":"mcp","server_label":"l","server_url":"u"},
	{"type":"local_shell"},{"type":"code_interpreter","container":{"type":"auto"}},{"type":"computer_use_preview"},{"type":"tool_search"},
	{"type":"custom","name":"apply_patch","description":"Edits files.","format":{"type":"grammar","syntax":"lark","definition":"start: begin"}},
	{"type":"namespace","name":"agents","description":"Others.","tools":[{"type":"function","name":"spawn","parameters":{"type":"object"},"strict":false},{"type":"custom","name":"note"}]}]`

// TestResponseTools: hosted tools are left out, others are offered as functions.
func TestResponseTools(t *testing.T) {
	for choice, want := range map[string][]string{
		`"auto"`:                                 {"shell", "apply_patch", "agents__spawn", "agents__note"},
		`"none"`:                                 nil,
		`{"type":"custom","name":"apply_patch"}`: {"apply_patch"},
		`{"type":"function","name":"spawn"}`:     {"agents__spawn"},
		`{"type":"function","name":"spawn","namespace":"agents"}`:                                                                                   {"agents__spawn"},
		`{"type":"allowed_tools","mode":"auto","tools":[{"type":"web_search"},{"type":"function","name":"shell"},{"type":"custom","name":"note"}]}`: {"shell", "agents__note"},
	} {
		j, err := decodeResponse([]byte(`{"input":"x","tools":`+manyTools+`,"tool_choice":`+choice+`}`), nil)
		if err != nil {
			t.Errorf("%s: %v", choice, err)
			continue
		}
		var names []string
		for _, raw := range j.reqs[0].Tools {
			var tool struct {
				Type     string
				Function struct {
					Name, Description string
					Parameters        json.RawMessage
				}
			}
			if err := json.Unmarshal(raw, &tool); err != nil || tool.Type != "function" || strings.Contains(string(raw), `"format"`) {
				t.Fatalf("%v, %s", err, raw)
			}
			names = append(names, tool.Function.Name)
			if tool.Function.Name == "apply_patch" && (!strings.Contains(tool.Function.Description, "start: begin") || string(tool.Function.Parameters) != customParameters) {
				t.Errorf("got %s", raw)
			}
		}
		if !reflect.DeepEqual(names, want) || j.reqs[0].MustCall != strings.Contains(choice, `"name"`) && !strings.Contains(choice, "allowed") {
			t.Errorf("%s: offers %q, must call: %v", choice, names, j.reqs[0].MustCall)
		}
	}
}

// TestResponseHistory: items of every kind that clients send back.
func TestResponseHistory(t *testing.T) {
	j, err := decodeResponse([]byte(`{"tools":`+manyTools+`,"input":[
		{"role":"user","content":"Go."},
		{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"s"}],"encrypted_content":"gAAA"},
		{"type":"web_search_call","id":"ws_1","status":"completed","action":{"type":"search","query":"q"}},
		{"type":"image_generation_call","id":"ig_1","result":"aGk="},{"type":"compaction","encrypted_content":"x"},
		{"type":"code_interpreter_call","id":"ci_1"},{"type":"file_search_call","id":"fs_1"},{"type":"mcp_list_tools","id":"m"},{"type":"tool_search_call","call_id":"t"},
		{"type":"custom_tool_call","call_id":"c1","name":"apply_patch","input":"*** \"Begin\""},
		{"type":"custom_tool_call_output","call_id":"c1","output":"Done"},
		{"type":"local_shell_call","id":"lsh_1","call_id":"c2","action":{"type":"exec","command":["ls"]},"status":"completed"},
		{"type":"local_shell_call_output","id":"c2","output":"a.txt"},
		{"type":"shell_call","call_id":"c3","action":{"commands":["ls"]}},
		{"type":"shell_call_output","call_id":"c3","output":[{"stdout":"b"}]},
		{"type":"apply_patch_call","call_id":"c4","operation":{"type":"delete_file","path":"p"},"status":"completed"},
		{"type":"apply_patch_call_output","call_id":"c4","status":"failed"},
		{"type":"function_call","call_id":"c5","namespace":"agents","name":"spawn","arguments":"{}"},
		{"type":"function_call_output","call_id":"c5","output":[{"type":"input_text","text":"ok"}]},
		{"type":"mcp_call","id":"m1","name":"look","server_label":"srv","arguments":"{\"q\":1}","output":"found"},
		{"type":"additional_tools","role":"developer","tools":[{"type":"function","name":"late"}]},
		{"type":"computer_call","call_id":"c6"},{"type":"computer_call_output","call_id":"c6","output":{"type":"computer_screenshot"}}]}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range j.reqs[0].Messages {
		line := m.Role + " " + m.Name + " " + m.Content
		for _, c := range m.ToolCalls {
			line += c.Function.Name + c.Function.Arguments
		}
		got = append(got, line)
	}
	want := []string{"user  Go.", `assistant  apply_patch{"input":"*** \"Begin\""}`, "tool apply_patch Done",
		`assistant  local_shell{"type":"exec","command":["ls"]}`, "tool local_shell a.txt", `assistant  shell{"commands":["ls"]}`, `tool shell [{"stdout":"b"}]`,
		`assistant  apply_patch{"type":"delete_file","path":"p"}`, "tool apply_patch failed", "assistant  agents__spawn{}", "tool agents__spawn ok", `assistant  srv__look{"q":1}`, "tool srv__look found"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if n := len(j.reqs[0].Tools); n != 5 || !strings.Contains(string(j.reqs[0].Tools[4]), "late") {
		t.Errorf("%d tools: %s", n, j.reqs[0].Tools)
	}
}

// TestResponseCustomCall: a call comes back as what was offered, whole and as events.
func TestResponseCustomCall(t *testing.T) {
	url := start(t, &speller{}, nil).URL + "/v1/responses"
	for _, test := range []struct{ call, item, events string }{
		{"apply_patch", `"type":"custom_tool_call","status":"completed","call_id":"call_1","name":"apply_patch","input":"{\"z\": 1, \"a\": 2}"`, "response.custom_tool_call_input"},
		{"agents__spawn", `"type":"function_call","status":"completed","call_id":"call_1","name":"spawn","namespace":"agents","arguments":"{\"z\": 1, \"a\": 2}"`, "response.function_call_arguments"},
		{"spawn", `"name":"spawn","namespace":"agents"`, "response.function_call_arguments"},
		{"other", `"name":"other","arguments"`, "response.function_call_arguments"},
	} {
		body := `{"input":"call ` + test.call + `","tools":` + manyTools
		resp, text := post(t, url, body+"}")
		if resp.StatusCode != 200 || !strings.Contains(text, test.item) {
			t.Errorf("%s: %d %s", test.call, resp.StatusCode, text)
		}
		_, text = post(t, url, body+`,"stream":true}`)
		if !strings.Contains(text, test.item) || strings.Count(text, "event: "+test.events+".delta\n") != 2 || strings.Count(text, "event: "+test.events+".done\n") != 2 {
			t.Errorf("%s: %s", test.call, text)
		}
	}
	if got := customInput(`{"input":"a\nb"}`); got != "a\nb" {
		t.Errorf("got %q", got)
	}
}
