package scriptmodel

import (
	"bytes"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// TestScript: the file is read as a model, and its template ends each prompt with the
// right answer's token, whose successor is the answer.
func TestScript(t *testing.T) {
	s := Script{Name: "scripted", Plain: "A title", Steps: []string{Call("shell", map[string]any{"command": "echo é > a"}), "Done: \"a\" is there.\n"}}
	file, err := s.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := text.New(h)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := text.NewTemplate(h)
	if err != nil {
		t.Fatal(err)
	}
	if traits := tmpl.Traits(); !traits.System || !traits.Tools || !traits.ToolCalls {
		t.Errorf("the template has %+v", traits)
	}
	user := text.Message{Role: "user", Content: "Make a."}
	call := text.Message{Role: "assistant", ToolCalls: []text.ToolCall{{ID: "c", Name: "shell", Arguments: "{}"}}}
	result := text.Message{Role: "tool", Content: "ok", ToolCallID: "c"}
	for _, test := range []struct {
		messages []text.Message
		tools    bool
		want     string
	}{
		{[]text.Message{user}, false, s.Plain},
		{[]text.Message{user}, true, s.Steps[0]},
		{[]text.Message{user, call, result}, true, s.Steps[1]},
		{[]text.Message{user, call, result, call, result}, true, s.Steps[1]},
		{[]text.Message{user, call, result, {Role: "assistant", Content: "x"}, user}, true, s.Steps[0]},
	} {
		in := text.RenderInput{Messages: test.messages, AddGenerationPrompt: true}
		if test.tools {
			in.Tools = append(in.Tools, []byte(`{"type":"function","function":{"name":"shell"}}`))
		}
		prompt, err := tmpl.Render(in)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := tok.Encode(t.Context(), prompt, text.EncodeOptions{ParseSpecial: true})
		if err != nil {
			t.Fatal(err)
		}
		last := ids[len(ids)-1]
		if got := string(tok.Bytes(last + 1)); last <= end || got != test.want {
			t.Errorf("%q ends with token %d, whose answer is %q, want %q", prompt, last, got, test.want)
		}
	}
	if _, err := (Script{}).GGUF(); err == nil || !strings.Contains(err.Error(), "steps") {
		t.Error(err)
	}
}
