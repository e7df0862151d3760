package node_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

const person = `{"type":"object","properties":{
	"name":{"type":"string","maxLength":12},
	"kind":{"enum":["fox","owl","bear"]},
	"age":{"type":"integer","minimum":1,"maximum":20},
	"likes":{"type":"array","items":{"type":"string","pattern":"^[a-z]{2,8}$"},"minItems":1,"maxItems":3},
	"weight":{"type":"number","minimum":0.5,"maximum":9.5},
	"friend":{"anyOf":[{"type":"null"},{"type":"object","properties":{"name":{"type":"string","minLength":1,"maxLength":8}},"required":["name"],"additionalProperties":false}]}
},"required":["name","kind","age","likes","weight","friend"],"additionalProperties":false}`

// written is an answer put together.
type written struct {
	text, finish string
	ids          []int32
	calls        []api.ToolCall
	done         *api.Done
}

func write(t *testing.T, n *node.Node, req api.GenerateRequest) (w written, err error) {
	t.Helper()
	err = n.Client().Generate(t.Context(), &req, func(e api.Event) error {
		switch {
		case e.Token != nil:
			w.ids = append(w.ids, e.Token.ID)
			w.text += e.Token.Text
			w.calls = append(w.calls, e.Token.Calls...)
		case e.Done != nil:
			w.text += e.Done.Text
			w.calls = append(w.calls, e.Done.Calls...)
			w.finish, w.done = e.Done.FinishReason, e.Done
		}
		return nil
	})
	return w, err
}

func formatted(schema, prompt string, temperature float64, seed uint64) api.GenerateRequest {
	return api.GenerateRequest{
		Messages: []api.Message{{Role: "user", Content: prompt}}, Format: json.RawMessage(schema), MaxTokens: 300,
		Sampling: api.Sampling{Temperature: &temperature, Seed: &seed},
	}
}

func validator(t *testing.T, schema string) func(text string) error {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("mem:///s", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("mem:///s")
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			return err
		}
		return s.Validate(v)
	}
}

// A model that knows no JSON writes what was asked for, over three nodes.
func TestFormat(t *testing.T) {
	t.Parallel()
	nodes, addrs := three(t)
	client, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	check := validator(t, person)
	for _, temperature := range []float64{0, 1.5} {
		for seed := range uint64(4) {
			req := formatted(person, "Tell me about a fox.", temperature, seed)
			if seed == 3 {
				req.Sampling.TopP, req.Sampling.TopK, req.Sampling.RepeatPenalty = new(0.9), 40, 1.1
			}
			got, err := write(t, client, req)
			if err != nil {
				t.Fatal(err)
			}
			if err := check(got.text); err != nil || got.finish != "stop" {
				t.Errorf("temperature %g, seed %d: %s, %s: %v", temperature, seed, got.text, got.finish, err)
			}
			again, err := write(t, nodes[0], req)
			if err != nil || !slices.Equal(again.ids, got.ids) {
				t.Errorf("another client got %s (%v), the first %s", again.text, err, got.text)
			}
		}
	}
	req := formatted(person, "Tell me about a fox.", 0, 1)
	req.MaxTokens = 20
	if got, err := write(t, client, req); err != nil || got.finish != "length" || len(got.ids) != 20 || json.Valid([]byte(got.text)) {
		t.Errorf("cut off: %+v, %v", got, err)
	}
	raw := formatted(`{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":4}`, "", 1, 5)
	raw.Raw, raw.Prompt, raw.Messages = true, "Once upon a time", nil
	if got, err := write(t, client, raw); err != nil || json.Unmarshal([]byte(got.text), new([]bool)) != nil {
		t.Errorf("a raw prompt: %+v, %v", got, err)
	}
	req.Format = json.RawMessage(`{"type":"object","properties":{"a":{"not":{"uniqueItems":true}}}}`)
	_, err := write(t, client, req)
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.BadInput || e.Param != "response_format" || !strings.Contains(e.Message, "/properties/a/not") {
		t.Errorf("a schema that cannot be followed: %v", err)
	}
}

// A call that is a must comes in the syntax that the model's template has.
func TestForcedCall(t *testing.T) {
	one, _ := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
	tools := []json.RawMessage{
		json.RawMessage(`{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{"city":{"enum":["Oslo","Rome"]},"days":{"type":"integer","minimum":1,"maximum":9}},"required":["city"]}}}`),
		json.RawMessage(`{"type":"function","function":{"name":"now"}}`),
	}
	for seed := range uint64(6) {
		req := formatted("", "How is the weather in Oslo?", 1.2, seed)
		req.Format, req.Tools, req.MustCall = nil, tools, true
		got, err := write(t, one, req)
		if err != nil || len(got.calls) != 1 || got.finish != "tool_calls" || got.text != "" {
			t.Fatalf("%+v, %v", got, err)
		}
		f := got.calls[0].Function
		var args struct {
			City string
			Days int
		}
		if err := json.Unmarshal([]byte(f.Arguments), &args); err != nil || f.Name == "weather" && args.City != "Oslo" && args.City != "Rome" {
			t.Errorf("%+v, %v", f, err)
		}
	}
	bad := formatted("", "x", 0, 1)
	bad.Format, bad.MustCall = nil, true
	bad.Tools = []json.RawMessage{tools[1], json.RawMessage(`{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"uniqueItems":true}}}}}`)}
	_, err := write(t, one, bad)
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.BadInput || e.Param != "tools" || !strings.Contains(e.Message, "the parameters of f: ") || !strings.Contains(e.Message, "/properties/a/uniqueItems") {
		t.Errorf("%v", err)
	}
}

// An answer of a given format whose last stage is lost goes on as if nothing had
// happened.
func TestFormatFailover(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tales.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		t.Fatal(err)
	}
	first, addrs := start(t, node.Config{Serve: []node.ServeSpec{{Model: file, Span: "0-5"}}}, false)
	if _, err := first.Client().Add(t.Context(), api.AddRequest{Source: file}, nil); err != nil {
		t.Fatal(err)
	}
	second, _ := start(t, node.Config{Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "5-8"}}}, true)
	third, _ := start(t, node.Config{Bootstrap: addrs, Serve: []node.ServeSpec{{Model: "tales", Span: "5-8"}}}, true)
	ready := func(n *node.Node) func() bool {
		return func() bool {
			st, err := n.Client().Status(t.Context())
			return err == nil && len(st.Serving) > 0 && st.Serving[0].Ready
		}
	}
	for _, n := range []*node.Node{first, second, third} {
		until(t, "all are ready", ready(n))
	}
	req := formatted(person, "Tell me about a fox.", 1.3, 8)
	want, err := write(t, first, req)
	if err != nil || validator(t, person)(want.text) != nil {
		t.Fatalf("%+v, %v", want, err)
	}
	var got written
	drained := false
	err = first.Client().Generate(t.Context(), &req, func(e api.Event) error {
		switch {
		case e.Start != nil:
			last := e.Start.Route[len(e.Start.Route)-1].Peer
			for _, n := range []*node.Node{second, third} {
				if st, err := n.Client().Status(t.Context()); err == nil && st.Peer == last {
					drained = true
					return n.Drain(t.Context())
				}
			}
		case e.Token != nil:
			got.ids = append(got.ids, e.Token.ID)
			got.text += e.Token.Text
			time.Sleep(10 * time.Millisecond) // so that it is not over before
		case e.Done != nil:
			got.text += e.Done.Text
			got.done = e.Done
		}
		return nil
	})
	if err != nil || !drained || !slices.Equal(got.ids, want.ids) || got.text != want.text {
		t.Fatalf("%v: %s, want %s", err, got.text, want.text)
	}
	if len(got.done.Recoveries) == 0 {
		t.Error("nothing was lost")
	}
	t.Log(fmt.Sprint(got.done.Recoveries))
}
