package api

import (
	"context"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

// oracle is a Decider to which label i of n has a probability of (n-i) shares, all labels
// nine tenths together.
type oracle struct {
	mu  sync.Mutex
	ask DecideRequest // the last
}

func (o *oracle) Decide(_ context.Context, req *DecideRequest) (*DecideResult, error) {
	o.mu.Lock()
	o.ask = *req
	o.mu.Unlock()
	if req.Model == "letters" {
		return nil, &Error{Kind: NoText, Param: "model", Message: "letters makes embeddings"}
	}
	out := &DecideResult{Model: "cid", Name: "oracle"}
	for _, q := range req.Questions {
		n := len(q.Labels)
		r := DecideRead{TopIsLabel: true, PromptTokens: len(q.User), PromptIDs: []int32{1, 2}}
		for i := range n {
			r.Logprobs = append(r.Logprobs, math.Log(0.9*float64(n-i)/float64(n*(n+1)/2)))
			r.LabelIDs = append(r.LabelIDs, int32(i))
		}
		out.Reads = append(out.Reads, r)
	}
	return out, nil
}

func (o *oracle) asked() DecideRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ask
}

// The requests of the documentation get the documented answers, and the model reads the
// documented words.
func TestSystemOne(t *testing.T) {
	o := &oracle{}
	srv := start(t, &speller{}, func(c *Config) { c.Decider = o })
	resp, body := post(t, srv.URL+"/v1/systemone", `{
		"model": "oracle", "state": {"ticket": "My card was charged twice \u00fc.", "n": 1.50, "more": [true, null]}, "instructions": "Be strict.",
		"questions": {
			"team": {"type": "choice", "instructions": "Which team?", "criteria": {"shipping": "deliveries", "billing": null, "another": {"a": 1}}},
			"urgent": {"type": "noul", "instructions": "Is it urgent?", "criteria": {"true": "money is moving"}},
			"tone": {"type": "score", "criteria": ["calm", "annoyed", "furious"]}
		}, "chat_template_kwargs": {"enable_thinking": false, "custom": [1]}, "request_id": "abc", "priority": 3, "something": "else"}`)
	if resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode, body)
	}
	var got struct {
		ID, Object, Model string
		Created           int64
		Answers           map[string]map[string]any
		Usage             map[string]int
		Diagnostics       map[string]map[string]any
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	near := func(name string, got any, want float64) {
		if x, ok := got.(float64); !ok || math.Abs(x-want) > 1e-9 {
			t.Errorf("%s is %v, not %v", name, got, want)
		}
	}
	team, urgent, tone := got.Answers["team"], got.Answers["urgent"], got.Answers["tone"]
	if got.ID != "decision-abc" || got.Object != "structured_decision" || got.Model != "oracle" || got.Created == 0 || got.Usage["output_tokens"] != 3 || team["choice"] != "shipping" {
		t.Errorf("got %s", body)
	}
	near("shipping", team["probabilities"].(map[string]any)["shipping"], 0.5)
	near("the confidence in the team", team["confidence"], 0.45)
	near("noul", urgent["noul"], 2.0/3)
	near("no", urgent["probabilities"].(map[string]any)["no"], 1.0/3)
	near("the confidence in the urgency", urgent["confidence"], 0.6)
	near("the score", tone["score"], 2.0/3)
	near("level 2", tone["probabilities"].(map[string]any)["2"], 1.0/6)
	near("the mass", got.Diagnostics["tone"]["label_mass"], 0.9)
	if got.Diagnostics["tone"]["argmax_is_label"] != true || !reflect.DeepEqual(tone["legend"], map[string]any{"0": "calm", "1": "annoyed", "2": "furious"}) {
		t.Errorf("got %s", body)
	}
	if !(strings.Index(body, `"team"`) < strings.Index(body, `"urgent"`) && strings.Index(body, `"shipping"`) < strings.Index(body, `"billing"`)) {
		t.Errorf("the order of the request is lost: %s", body)
	}
	ask := o.asked()
	state := `{"ticket": "My card was charged twice ü.", "n": 1.50, "more": [true, null]}` + "\n\n"
	want := []DecideQuestion{
		{"team", "Be strict.", state + "Question: Which team?\nA: shipping - deliveries\nB: billing\nC: another - {\"a\": 1}\nAnswer with the letter of one option only.", []string{"A", "B", "C"}},
		{"urgent", "Be strict.", state + "Question: Is it urgent?\nyes: money is moving\nno\nAnswer with yes or no only.", []string{"yes", "no"}},
		{"tone", "Be strict.", state + "0: calm\n1: annoyed\n2: furious\nAnswer with the number of one level only.", []string{"0", "1", "2"}},
	}
	if !reflect.DeepEqual(ask.Questions, want) || ask.Variables["custom"] == nil || ask.Alone {
		t.Errorf("the model was asked %+v", ask)
	}
}

func TestDecisions(t *testing.T) {
	o := &oracle{}
	srv := start(t, &speller{}, func(c *Config) { c.Decider = o })
	resp, body := post(t, srv.URL+"/v1/decisions", `{
		"input": {"text": "broken", "n": [1, 2]}, "temperature": 0.5, "prompt_format_version": 1, "return_prompt_token_ids": true, "shoal": {"exact": true},
		"questions": [
			{"id": "b", "type": "choice", "question": "Which?", "options": [{"name": "x", "description": "one"}, {"name": "y"}]},
			{"id": "a", "type": "score", "question": {"how": "bad"}, "levels": ["fine", ["very", "bad"]]},
			{"id": "c", "type": "yes_no", "question": "It is damaged.", "no": "it is whole"}
		]}`)
	if resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode, body)
	}
	for _, says := range []string{
		`{"object":"decisions","model":"oracle","prompt_format_version":1,"answers":{"b":{"type":"choice","probabilities":{"x":0.8`, `"choice":"x"`,
		`"a":{"type":"score","probabilities":{"0":0.8`, `"c":{"type":"yes_no","probabilities":{"yes":0.8`,
		`"prompt_token_ids":[1,2],"label_token_ids":[0,1]`, `"completion_tokens":0`,
	} {
		if !strings.Contains(body, says) {
			t.Errorf("%s is not in %s", says, body)
		}
	}
	var got struct {
		Answers map[string]struct {
			Mass  float64  `json:"label_mass"`
			Score *float64 `json:"score"`
		}
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if a := got.Answers["a"]; a.Score == nil || math.Abs(*a.Score-0.2) > 1e-9 || math.Abs(a.Mass-0.9) > 1e-9 || got.Answers["c"].Score != nil {
		t.Errorf("got %s", body)
	}
	ask := o.asked()
	input := `{"text":"broken","n":[1,2]}` + "\n\n"
	want := []DecideQuestion{
		{"b", "", input + "Question: Which?\nA: x - one\nB: y\nAnswer with the letter of one option only.", []string{"A", "B"}},
		{"a", "", input + "Question: {\"how\":\"bad\"}\n0: fine\n1: [\"very\",\"bad\"]\nAnswer with the number of one level only.", []string{"0", "1"}},
		{"c", "", input + "Is the following true? It is damaged.\nno: it is whole\nAnswer with yes or no only.", []string{"yes", "no"}},
	}
	if !reflect.DeepEqual(ask.Questions, want) || !ask.Prompts || !ask.Exact {
		t.Errorf("the model was asked %+v", ask)
	}
}

// OpenAI's form has the same path.
func TestOpenDecisions(t *testing.T) {
	o := &oracle{}
	srv := start(t, &speller{}, func(c *Config) { c.Decider = o })
	resp, body := post(t, srv.URL+"/v1/decisions", `{
		"model": "oracle", "safety_identifier": "me", "input": [{"role": "user", "content": "One."}, {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Two."}]}],
		"questions": [
			{"type": "predicate", "name": "damaged", "instructions": "Is it damaged?"},
			{"type": "choice", "instructions": "Which?", "choices": [{"value": "a b"}, {"value": true, "description": "so it is"}]},
			{"type": "score", "name": "bad", "instructions": "How bad?", "levels": [{"label": "fine"}, {"label": "broken"}, {"label": "gone"}]}
		]}`)
	if resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode, body)
	}
	for _, says := range []string{
		`"answers":[{"type":"predicate","name":"damaged","probability":0.33`, `{"type":"choice","name":null,"choice":"a b","probabilities":[{"value":"a b","probability":0.66`,
		`{"value":true,"probability":0.33`, `"confidence":0.45`, `{"type":"score","name":"bad","score":0.66`, `{"value":2,"label":"gone","probability":0.16`, `"output_tokens":3`,
	} {
		if !strings.Contains(body, says) {
			t.Errorf("%s is not in %s", says, body)
		}
	}
	want := []DecideQuestion{
		{"damaged", "", "One.\n\nTwo.\n\nQuestion: Is it damaged?\nA: false\nB: true\nAnswer with the letter of one option only.", []string{"A", "B"}},
		{"1", "", "One.\n\nTwo.\n\nQuestion: Which?\nA: \"a b\"\nB: true - so it is\nAnswer with the letter of one option only.", []string{"A", "B"}},
		{"bad", "", "One.\n\nTwo.\n\nQuestion: How bad?\nA: fine\nB: broken\nC: gone\nAnswer with the letter of one option only.", []string{"A", "B", "C"}},
	}
	if ask := o.asked(); !reflect.DeepEqual(ask.Questions, want) {
		t.Errorf("the model was asked %+v", ask)
	}
	for body, says := range map[string]string{
		`{"input":"s","questions":[{"type":"predicate","instructions":"?","criteria":1}]}`:                                     `"param":"questions[0].criteria"`,
		`{"input":"s","questions":[{"type":"noul","instructions":"?"}]}`:                                                       `predicate, choice or score`,
		`{"input":"s","questions":[{"type":"choice","instructions":"?","choices":[{"value":"a"}]}]}`:                           `2 to 26`,
		`{"input":"s","questions":[{"type":"choice","instructions":"?","choices":[{"value":1},{"value":2}]}]}`:                 `"param":"questions[0].choices[0].value"`,
		`{"input":"s","questions":[{"type":"choice","instructions":"?","choices":[{"value":"a"},{"value":"a"}]}]}`:             `repeats`,
		`{"input":[{"role":"system","content":"s"}],"questions":[{"type":"predicate","instructions":"?"}]}`:                    `must be user`,
		`{"input":[{"role":"user","content":[{"type":"input_image"}]}],"questions":[{"type":"predicate","instructions":"?"}]}`: `text only`,
		`{"questions":[{"type":"predicate","instructions":"?"}]}`:                                                              `"param":"input"`,
		`{"input":"s","temperature":1,"questions":[{"type":"predicate","instructions":"?"}]}`:                                  `"param":"temperature"`,
	} {
		if resp, got := post(t, srv.URL+"/v1/decisions", body); resp.StatusCode != 400 || !strings.Contains(got, says) {
			t.Errorf("%s: %d %s, want %s", body, resp.StatusCode, got, says)
		}
	}
}

func TestDecisionsRefused(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.Decider = &oracle{} })
	one := func(fields, question string) string {
		return `{"state":"s","questions":{"q":` + question + `}` + fields + `}`
	}
	two := func(fields, question string) string {
		return `{"input":"s","questions":[` + question + `]` + fields + `}`
	}
	const noul, yes = `{"type":"noul","instructions":"?"}`, `{"id":"q","type":"yes_no","question":"?"}`
	letters := make([]string, 27)
	for i := range letters {
		letters[i] = `"` + strings.Repeat("x", i+1) + `":null`
	}
	many := `{"type":"choice","criteria":{` + strings.Join(letters, ",") + `}}`
	for _, c := range []struct {
		path, body string
		status     int
		says       string
	}{
		{"/v1/systemone", one("", noul), 200, `"noul":0.66`},
		{"/systemone", `{"state":null,"questions":{"q":` + noul + `}}`, 200, `"noul":0.66`},
		{"/v1/systemone", one(`,"images":[],"audio":null`, `{"type":"choice","criteria":{"only":null}}`), 200, `"choice":"only"`},
		{"/v1/systemone", one(`,"model":"letters"`, noul), 501, `makes embeddings`},
		{"/v1/systemone", `{"questions":{"q":` + noul + `}}`, 400, `"param":"state"`},
		{"/v1/systemone", `{"state":"s"}`, 400, `"param":"questions"`},
		{"/v1/systemone", `{"state":"s","questions":{}}`, 400, `at least one question`},
		{"/v1/systemone", `{"state":"s","questions":[]}`, 400, `must be an object`},
		{"/v1/systemone", `{"state":"s","questions":{"":` + noul + `}}`, 400, `must not be empty`},
		{"/v1/systemone", `{"state":"s","questions":{"q":` + noul + `,"q":` + noul + `}}`, 400, `twice`},
		{"/v1/systemone", one("", `{"instructions":"?"}`), 400, `must be choice, noul or score`},
		{"/v1/systemone", one("", `{"type":"box"}`), 400, `must be choice, noul or score`},
		{"/v1/systemone", one("", `{"type":"noul","options":[]}`), 400, `"param":"questions.q.options"`},
		{"/v1/systemone", one("", `{"type":"noul","criteria":{"yes":"?"}}`), 400, `"param":"questions.q.criteria.yes"`},
		{"/v1/systemone", one("", `{"type":"noul","criteria":"?"}`), 400, `must be an object`},
		{"/v1/systemone", one("", `{"type":"choice"}`), 400, `"param":"questions.q.criteria"`},
		{"/v1/systemone", one("", `{"type":"choice","criteria":{}}`), 400, `at least one option`},
		{"/v1/systemone", one("", `{"type":"choice","criteria":["a","b"]}`), 400, `must be an object`},
		{"/v1/systemone", one("", many), 400, `26 are possible`},
		{"/v1/systemone", one("", `{"type":"score","criteria":["a"]}`), 400, `2 to 10`},
		{"/v1/systemone", one("", `{"type":"score","criteria":{"a":1}}`), 400, `must be a list`},
		{"/v1/systemone", one("", `{"type":"score","criteria":["a","a"]}`), 400, `twice`},
		{"/v1/systemone", one(`,"chat_template_kwargs":{"enable_thinking":true}`, noul), 400, `must be false`},
		{"/v1/systemone", one(`,"chat_template_kwargs":{"messages":[]}`, noul), 400, `cannot be set`},
		{"/v1/systemone", one(`,"images":["data:"]`, noul), 400, `"param":"images"`},
		{"/v1/systemone", one(`,"cache_salt":""`, noul), 400, `"param":"cache_salt"`},
		{"/v1/systemone", one(`,"shoal":{"route":[{"peer":"p","from":1,"to":2}]}`, noul), 400, `"param":"shoal.route[0]"`},
		{"/v1/decisions", two("", yes), 200, `"probabilities":{"yes":0.66`},
		{"/decisions", two(`,"model":"default","images":[]`, yes), 200, `"model":"oracle"`},
		{"/v1/decisions", two(`,"model":"letters"`, yes), 400, `makes embeddings`},
		{"/v1/decisions", two(`,"state":"s"`, yes), 400, `"param":"state"`},
		{"/v1/decisions", two(`,"temperature":0`, yes), 400, `"param":"temperature"`},
		{"/v1/decisions", two(`,"prompt_format_version":2`, yes), 400, `version 1`},
		{"/v1/decisions", `{"input":" ","questions":[` + yes + `]}`, 400, `must not be blank`},
		{"/v1/decisions", `{"input":{},"questions":[` + yes + `]}`, 400, `must not be blank`},
		{"/v1/decisions", `{"input":5,"questions":[` + yes + `]}`, 400, `"param":"input"`},
		{"/v1/decisions", `{"input":"s","questions":[]}`, 400, `"param":"questions"`},
		{"/v1/decisions", two("", yes+","+yes), 400, `repeats`},
		{"/v1/decisions", two("", `{"id":" ","type":"yes_no","question":"?"}`), 400, `"param":"questions[0].id"`},
		{"/v1/decisions", two("", `{"id":"q","type":"noul","question":"?"}`), 400, `choice, score or yes_no`},
		{"/v1/decisions", two("", `{"id":"q","type":"yes_no","question":""}`), 400, `"param":"questions[0].question"`},
		{"/v1/decisions", two("", `{"id":"q","type":"yes_no","question":"?","levels":[]}`), 400, `"param":"questions[0].levels"`},
		{"/v1/decisions", two("", `{"id":"q","type":"choice","question":"?","options":[{"name":"a"}]}`), 400, `2 to 26`},
		{"/v1/decisions", two("", `{"id":"q","type":"choice","question":"?","options":[{"name":"a"},{"name":" A"}]}`), 400, `repeats`},
		{"/v1/decisions", two("", `{"id":"q","type":"choice","question":"?","options":[{"name":"a\nb"},{"name":"c"}]}`), 400, `control characters`},
		{"/v1/decisions", two("", `{"id":"q","type":"choice","question":"?","options":[{"name":"a","label":"b"},{"name":"c"}]}`), 400, `"param":"questions[0].options[0].label"`},
		{"/v1/decisions", two("", `{"id":"q","type":"score","question":"?","levels":["a",""]}`), 400, `"param":"questions[0].levels[1]"`},
		{"/v1/decisions", two("", `{"id":"q","type":"score","question":"?","levels":["a"]}`), 400, `2 to 10`},
	} {
		resp, body := post(t, srv.URL+c.path, c.body)
		if resp.StatusCode != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %.120s: %d %s, want %d and %s", c.path, c.body, resp.StatusCode, body, c.status, c.says)
		}
	}
}

// Impossible labels are equally likely among themselves, and no number is none.
func TestSharesOfNothing(t *testing.T) {
	none := DecideRead{Logprobs: []float64{math.Inf(-1), math.Inf(-1)}}
	if p := none.shares(1); p[0] != 0.5 || p[1] != 0.5 || none.mass() != 0 {
		t.Errorf("%v of %v", p, none.mass())
	}
	far := DecideRead{Logprobs: []float64{-1000, math.Inf(-1), -1001}}
	if p := far.shares(0.001); p[0] != 1 || p[1] != 0 || p[2] != 0 {
		t.Errorf("%v", p)
	}
}

// FuzzDecide: whatever a request says, it is read as questions that the node can ask, or
// refused.
func FuzzDecide(f *testing.F) {
	f.Add(`{"state":{"a":[1.0,"\u2028"]},"questions":{"q":{"type":"choice","criteria":{"x":null,"y":{"z":1}}},"r":{"type":"noul"},"s":{"type":"score","criteria":["a",2]}}}`)
	f.Add(`{"input":"s","questions":[{"id":"q","type":"choice","question":"?","options":[{"name":"a"},{"name":"b","description":[1]}]},{"id":"r","type":"score","question":"?","levels":["a","b"]}]}`)
	f.Add(`{"input":["s"],"questions":[{"id":"q","type":"yes_no","question":{"a":1},"yes":"","no":null}],"temperature":1e-9}`)
	f.Add(`{"state":"s","questions":{"q":{"type":"noul","criteria":{"true":"a","true":"b"}}},"chat_template_kwargs":{"thinking":0}}`)
	f.Add(`{"input":[{"role":"user","content":[{"type":"input_text","text":"t"}]}],"questions":[{"type":"predicate","instructions":"?"},{"type":"choice","instructions":"?","choices":[{"value":true},{"value":"x"}]}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		var one systemOneRequest
		var two decisionsRequest
		var three openDecisionsRequest
		reads := map[string]func() (*DecideRequest, int, error){
			"systemone": func() (*DecideRequest, int, error) { ask, q, err := one.read(); return ask, len(q), err },
			"decisions": func() (*DecideRequest, int, error) { ask, q, err := two.read(); return ask, len(q), err },
			"openai":    func() (*DecideRequest, int, error) { ask, q, err := three.read(); return ask, len(q), err },
		}
		for name, into := range map[string]any{"systemone": &one, "decisions": &two, "openai": &three} {
			if decode([]byte(body), into) != nil {
				continue
			}
			ask, count, err := reads[name]()
			if err != nil {
				if AsError(err).Kind != BadInput {
					t.Errorf("%s: %v", name, err)
				}
				continue
			}
			if count == 0 || len(ask.Questions) != count {
				t.Errorf("%s: %d questions of %d", name, len(ask.Questions), count)
			}
			for _, q := range ask.Questions {
				if n := len(q.Labels); n == 0 || n > protocol.MaxLabels || !strings.Contains(q.User, "\nAnswer with ") {
					t.Errorf("%s: %+v", name, q)
				}
			}
		}
	})
}

// FuzzJSONText: JSON as text for a model says what it said.
func FuzzJSONText(f *testing.F) {
	for _, s := range []string{`{"b":1,"a":[1.50,true,null,"\u0007\u2028 ü<&\\\""]}`, `[]`, `{}`, `[[],{"":{}}]`, `1e5`, `"x"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var was, is any
		if json.Unmarshal([]byte(s), &was) != nil {
			return
		}
		text := jsonText(json.RawMessage(s), ", ", ": ")
		if err := json.Unmarshal([]byte(text), &is); err != nil || !reflect.DeepEqual(was, is) {
			t.Errorf("%q became %q", s, text)
		}
	})
}
