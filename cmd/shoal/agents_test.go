package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/scriptmodel"
	"github.com/shoalnet/shoal/testnet"
)

// Agents edit a file by a model whose answers are written beforehand: everything but the
// choice of words is real.

// scripted starts a network of two nodes that serve a script, and returns its address.
func scripted(t *testing.T, s scriptmodel.Script) string {
	t.Helper()
	file, err := s.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), s.Name+".gguf")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return "http://" + processes(t, testnet.Config{Nodes: 2, Model: path}).Nodes()[0].API
}

const madeIt = "The file is there."

// TestAgentLoop makes a file by a call, at each endpoint that has calls.
func TestAgentLoop(t *testing.T) {
	t.Parallel()
	args := map[string]string{"name": "made.txt", "text": "héllo\n"}
	base := scripted(t, scriptmodel.Script{Name: "agent", Plain: "A title", Steps: []string{scriptmodel.Call("write", args), madeIt}})
	schema := json.RawMessage(`{"type":"object","properties":{"name":{"type":"string"},"text":{"type":"string"}},"required":["name","text"]}`)
	type object = map[string]any
	ask := func(path string, body object) (out object) {
		t.Helper()
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.Post(base+path, "application/json", bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %v %v", path, resp.Status, out, err)
		}
		return out
	}
	// in follows keys and indices into an answer.
	in := func(v any, path ...any) any {
		for _, p := range path {
			switch p := p.(type) {
			case string:
				v = v.(object)[p]
			case int:
				v = v.([]any)[p]
			}
		}
		return v
	}
	write := func(args any) {
		t.Helper()
		if text, ok := args.(string); ok {
			var parsed object
			if err := json.Unmarshal([]byte(text), &parsed); err != nil {
				t.Fatal(err)
			}
			args = parsed
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, in(args, "name").(string)), []byte(in(args, "text").(string)), 0o600); err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(filepath.Join(dir, "made.txt")); err != nil || string(raw) != "héllo\n" {
			t.Errorf("made %q, %v", raw, err)
		}
	}
	said := func(where string, text any) {
		t.Helper()
		if text != madeIt {
			t.Errorf("%s says %q", where, text)
		}
	}
	question := object{"role": "user", "content": "Make a file."}

	function := object{"name": "write", "parameters": schema}
	chat := object{"model": "agent", "messages": []any{question}, "tools": []any{object{"type": "function", "function": function}}}
	message := in(ask("/v1/chat/completions", chat), "choices", 0, "message")
	write(in(message, "tool_calls", 0, "function", "arguments"))
	chat["messages"] = []any{question, message, object{"role": "tool", "tool_call_id": in(message, "tool_calls", 0, "id"), "content": "ok"}}
	said("chat", in(ask("/v1/chat/completions", chat), "choices", 0, "message", "content"))

	tools := []any{object{"type": "function", "name": "write", "parameters": schema}, object{"type": "web_search"}}
	first := ask("/v1/responses", object{"model": "agent", "input": "Make a file.", "tools": tools})
	call := in(first, "output", 0)
	write(in(call, "arguments"))
	second := ask("/v1/responses", object{"model": "agent", "previous_response_id": first["id"], "tools": tools,
		"input": []any{object{"type": "function_call_output", "call_id": in(call, "call_id"), "output": "ok"}}})
	said("responses", in(second, "output", 0, "content", 0, "text"))

	messages := object{"model": "agent", "max_tokens": 100, "messages": []any{question}, "tools": []any{object{"name": "write", "input_schema": schema}}}
	got := ask("/v1/messages", messages)
	write(in(got, "content", 0, "input"))
	messages["messages"] = []any{question, object{"role": "assistant", "content": got["content"]},
		object{"role": "user", "content": []any{object{"type": "tool_result", "tool_use_id": in(got, "content", 0, "id"), "content": "ok"}}}}
	said("messages", in(ask("/v1/messages", messages), "content", 0, "text"))
	count := ask("/v1/messages/count_tokens", messages)
	if n := in(count, "input_tokens").(float64); n < 20 {
		t.Errorf("counts %v", count)
	}

	ollama := object{"model": "agent", "stream": false, "messages": []any{question}, "tools": chat["tools"]}
	message = in(ask("/api/chat", ollama), "message")
	write(in(message, "tool_calls", 0, "function", "arguments"))
	ollama["messages"] = []any{question, message, object{"role": "tool", "tool_name": "write", "content": "ok"}}
	said("Ollama's chat", in(ask("/api/chat", ollama), "message", "content"))
}

// TestAgentCommands runs agents' own command lines, those that are installed, for two
// turns. They make a file with their own tools.
func TestAgentCommands(t *testing.T) {
	t.Parallel()
	for _, agent := range []struct {
		name  string
		steps func(file string) []string
		turns [][]string // arguments
		env   func(base, home string) []string
	}{
		{"codex", func(file string) []string {
			// The second call is one of a namespace's; Codex answers that there is no such agent.
			return []string{scriptmodel.Call("exec_command", map[string]string{"cmd": "printf hello > " + file}), scriptmodel.Call("multi_agent_v1__close_agent", map[string]string{"target": "nobody"}), madeIt}
		}, [][]string{
			{"exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "Make a file."},
			{"exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "resume", "--last", "Again."},
		}, func(base, home string) []string {
			config := fmt.Sprintf("model = \"agent\"\nmodel_provider = \"shoal\"\n[model_providers.shoal]\nname = \"shoal\"\nbase_url = \"%s/v1\"\nwire_api = \"responses\"\n", base)
			if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"CODEX_HOME=" + home}
		}},
		{"claude", func(file string) []string {
			return []string{scriptmodel.Call("Write", map[string]string{"file_path": file, "content": "hello"}), scriptmodel.Call("Bash", map[string]string{"command": "cat " + file, "description": "look"}), madeIt}
		}, [][]string{
			{"-p", "Make a file.", "--permission-mode", "acceptEdits", "--allowedTools", "Write Bash Read"},
			{"-p", "Again.", "--continue", "--permission-mode", "acceptEdits", "--allowedTools", "Write Bash Read"},
		}, func(base, home string) []string {
			return []string{"ANTHROPIC_BASE_URL=" + base, "ANTHROPIC_API_KEY=none", "ANTHROPIC_MODEL=agent", "ANTHROPIC_SMALL_FAST_MODEL=agent",
				"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_AUTOUPDATER=1"}
		}},
	} {
		t.Run(agent.name, func(t *testing.T) {
			exe, err := exec.LookPath(agent.name)
			if err != nil {
				t.Skip(err)
			}
			home, work := t.TempDir(), t.TempDir()
			made := filepath.Join(work, "made.txt")
			base := scripted(t, scriptmodel.Script{Name: "agent", Plain: "A title", Steps: agent.steps(made)})
			for _, args := range agent.turns {
				_ = os.Remove(made) // absent before the first turn
				cmd := exec.CommandContext(t.Context(), exe, args...)
				cmd.Dir, cmd.WaitDelay = work, time.Second
				cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, agent.env(base, home)...)
				out, err := cmd.CombinedOutput()
				if raw, e := os.ReadFile(made); err != nil || e != nil || string(raw) != "hello" || !strings.Contains(string(out), madeIt) {
					t.Fatalf("%s: %v, made %q, %v\n%s", args, err, raw, e, out)
				}
			}
		})
	}
}
