package main

import (
	"path/filepath"
	"strings"

	"github.com/shoalnet/shoal/contrib/scriptmodel"
)

// client is a row of the table. Packages are names with versions, the one that the row
// names first.
type client struct {
	name     string
	language string
	api      string // the path that it asks
	packages []string
	program  string   // in the language's folder
	env      []string // besides what all programs get
	agent    *agent   // of a command line that edits a file, instead of a program
}

// version returns the first package with its version, as people write it.
func (c client) version() string {
	name, version, _ := cutLast(c.packages[0], "@")
	name, _, _ = strings.Cut(name, "[") // the extras of a Python package
	switch c.language {
	case "Java", "Go", "Rust":
		name = c.name
	}
	return name + " " + strings.TrimPrefix(version, "v")
}

// place returns the client's directory in the cache. Rows of the same package share it.
func (c client) place() string {
	name, _, _ := cutLast(c.packages[0], "@")
	return c.installer() + "-" + strings.Trim(strings.Map(func(r rune) rune {
		if strings.ContainsRune("@/:[],", r) {
			return '-'
		}
		return r
	}, name), "-")
}

// installer returns the language whose ordinary client installs this one.
func (c client) installer() string {
	switch {
	case c.agent == nil:
		return c.language
	case c.agent.python:
		return "Python"
	}
	return "JavaScript"
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i > 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

var clients = []client{
	{name: "openai-python", language: "Python", api: "/v1/chat/completions", packages: []string{"openai@3.57.0"}, program: "openai_chat.py"},
	{name: "openai-python-responses", language: "Python", api: "/v1/responses", packages: []string{"openai@3.57.0"}, program: "openai_responses.py"},
	{name: "anthropic-python", language: "Python", api: "/v1/messages", packages: []string{"anthropic@2.14.0"}, program: "anthropic_messages.py"},
	{name: "ollama-python", language: "Python", api: "/api", packages: []string{"ollama@0.6.3"}, program: "ollama_chat.py"},
	{name: "litellm-openai", language: "Python", api: "/v1/chat/completions", packages: []string{"litellm@1.108.7"}, program: "litellm_chat.py", env: []string{"PROVIDER=openai"}},
	{name: "litellm-ollama", language: "Python", api: "/api", packages: []string{"litellm@1.108.7"}, program: "litellm_chat.py", env: []string{"PROVIDER=ollama_chat"}},
	{name: "litellm-anthropic", language: "Python", api: "/v1/messages", packages: []string{"litellm@1.108.7"}, program: "litellm_chat.py", env: []string{"PROVIDER=anthropic"}},
	{name: "langchain-openai", language: "Python", api: "/v1/chat/completions", packages: []string{"langchain-openai@1.7.4", "langchain@1.5.2"}, program: "langchain_chat.py", env: []string{"CHAT=openai"}},
	{name: "langchain-ollama", language: "Python", api: "/api", packages: []string{"langchain-ollama@1.1.0", "langchain@1.5.2"}, program: "langchain_chat.py", env: []string{"CHAT=ollama"}},
	{name: "langchain-anthropic", language: "Python", api: "/v1/messages", packages: []string{"langchain-anthropic@1.7.10", "langchain@1.5.2"}, program: "langchain_chat.py", env: []string{"CHAT=anthropic"}},
	{name: "pydantic-ai", language: "Python", api: "/v1/chat/completions", packages: []string{"pydantic-ai-slim[openai]@2.68.0"}, program: "pydantic_ai_chat.py"},
	{name: "openai-agents", language: "Python", api: "/v1/chat/completions", packages: []string{"openai-agents@0.24.0"}, program: "openai_agents.py"},
	{name: "instructor", language: "Python", api: "/v1/chat/completions", packages: []string{"instructor@1.17.0"}, program: "instructor_chat.py"},

	{name: "openai-js", language: "JavaScript", api: "/v1/chat/completions", packages: []string{"openai@6.49.0", "zod@4.6.7"}, program: "openai.mjs"},
	{name: "anthropic-js", language: "JavaScript", api: "/v1/messages", packages: []string{"@anthropic-ai/sdk@1.14.0"}, program: "anthropic.mjs"},
	{name: "ollama-js", language: "JavaScript", api: "/api", packages: []string{"ollama@0.6.4"}, program: "ollama.mjs"},
	{name: "ai-openai", language: "JavaScript", api: "/v1/responses", packages: []string{"@ai-sdk/openai@4.0.118", "ai@7.0.173", "zod@4.6.7"}, program: "ai.mjs", env: []string{"PROVIDER=openai"}},
	{name: "ai-openai-compatible", language: "JavaScript", api: "/v1/chat/completions", packages: []string{"@ai-sdk/openai-compatible@3.0.92", "ai@7.0.173", "zod@4.6.7"}, program: "ai.mjs", env: []string{"PROVIDER=compatible"}},
	{name: "ai-anthropic", language: "JavaScript", api: "/v1/messages", packages: []string{"@ai-sdk/anthropic@4.0.105", "ai@7.0.173", "zod@4.6.7"}, program: "ai.mjs", env: []string{"PROVIDER=anthropic"}},
	{name: "ai-ollama", language: "JavaScript", api: "/api", packages: []string{"ollama-ai-provider-v2@4.0.1", "ai@7.0.173", "zod@4.6.7"}, program: "ai.mjs", env: []string{"PROVIDER=ollama"}},
	{name: "langchain-js", language: "JavaScript", api: "/v1/chat/completions", packages: []string{"@langchain/openai@1.5.8", "langchain@1.5.14", "zod@4.6.7"}, program: "langchain.mjs"},
	{name: "openai-agents-js", language: "JavaScript", api: "/v1/responses", packages: []string{"@openai/agents@0.20.0", "zod@4.6.7"}, program: "agents.mjs"},

	{name: "openai-go", language: "Go", api: "/v1/chat/completions", packages: []string{"github.com/openai/openai-go/v3@v3.98.0"}, program: "openai.go"},
	{name: "anthropic-sdk-go", language: "Go", api: "/v1/messages", packages: []string{"github.com/anthropics/anthropic-sdk-go@v1.84.0"}, program: "anthropic.go"},
	{name: "go-openai", language: "Go", api: "/v1/chat/completions", packages: []string{"github.com/sashabaranov/go-openai@v1.43.0"}, program: "goopenai.go"},
	{name: "langchaingo", language: "Go", api: "/v1/chat/completions", packages: []string{"github.com/tmc/langchaingo@v0.1.14"}, program: "langchaingo.go"},
	{name: "ollama-go", language: "Go", api: "/api", packages: []string{"github.com/ollama/ollama@v0.17.4"}, program: "ollama.go"},

	{name: "async-openai", language: "Rust", api: "/v1/chat/completions", packages: []string{"async-openai/chat-completion,model@0.43.0", "futures@0.3.31", "serde_json@1.0.145", "tokio/full@1.48.0"}, program: "async_openai.rs"},
	{name: "kunobi-decision", language: "Rust", api: "/v1/systemone", packages: []string{"kunobi-decision@0.3.0", "serde_json@1.0.145", "tokio/full@1.48.0"}, program: "kunobi_decision.rs"},

	{name: "langchain4j-openai", language: "Java", api: "/v1/chat/completions", packages: langchain4j, program: "LangChain4j.java", env: []string{"PROVIDER=openai"}},
	{name: "langchain4j-ollama", language: "Java", api: "/api", packages: langchain4j, program: "LangChain4j.java", env: []string{"PROVIDER=ollama"}},

	{name: "codex", language: "command line", api: "/v1/responses", packages: []string{"@openai/codex@0.171.0"}, agent: &codex},
	{name: "claude-code", language: "command line", api: "/v1/messages", packages: []string{"@anthropic-ai/claude-code@2.1.197"}, agent: &claude},
	{name: "opencode", language: "command line", api: "/v1/chat/completions", packages: []string{"opencode-ai@1.18.33"}, agent: &opencode},
	{name: "aider", language: "command line", api: "/v1/chat/completions", packages: []string{"aider-chat@0.86.2"}, agent: &aider},
}

var langchain4j = []string{"dev.langchain4j:langchain4j-open-ai@1.11.0", "dev.langchain4j:langchain4j-ollama@1.11.0"}

// agent is a command line that edits a file.
type agent struct {
	command string
	python  bool                       // from PyPI, instead of npm
	steps   func(file string) []string // its calls, before the last answer
	plain   func(file string) string   // for an agent that offers no tools: its whole answer
	turns   [][]string                 // arguments of one run each; FILE stands for the file
	setup   func(base, home string) (env []string, files map[string]string)
}

// A file says before and is to say after; done is an agent's last answer.
const (
	before = "before"
	after  = "after"
	done   = "The file is there."
)

var codex = agent{
	command: "codex",
	steps: func(file string) []string {
		return []string{scriptmodel.Call("exec_command", map[string]string{"cmd": "sed -i s/" + before + "/" + after + "/ " + file})}
	},
	turns: [][]string{
		{"exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "Edit the file."},
		{"exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "resume", "--last", "Again."},
	},
	setup: func(base, home string) ([]string, map[string]string) {
		return []string{"CODEX_HOME=" + home}, map[string]string{"config.toml": `model = "agent"
model_provider = "shoal"
[model_providers.shoal]
name = "shoal"
base_url = "` + base + `/v1"
wire_api = "responses"
`}
	},
}

var claude = agent{
	command: "claude",
	steps: func(file string) []string {
		return []string{
			scriptmodel.Call("Read", map[string]string{"file_path": file}),
			scriptmodel.Call("Edit", map[string]string{"file_path": file, "old_string": before, "new_string": after}),
		}
	},
	turns: [][]string{
		{"-p", "Edit the file.", "--permission-mode", "acceptEdits", "--allowedTools", "Edit Read"},
		{"-p", "Again.", "--continue", "--permission-mode", "acceptEdits", "--allowedTools", "Edit Read"},
	},
	setup: func(base, _ string) ([]string, map[string]string) {
		return []string{"ANTHROPIC_BASE_URL=" + base, "ANTHROPIC_API_KEY=none", "ANTHROPIC_MODEL=agent", "ANTHROPIC_SMALL_FAST_MODEL=agent",
			"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_AUTOUPDATER=1"}, nil
	},
}

var opencode = agent{
	command: "opencode",
	steps: func(file string) []string {
		return []string{
			scriptmodel.Call("read", map[string]string{"filePath": file}),
			scriptmodel.Call("edit", map[string]string{"filePath": file, "oldString": before, "newString": after}),
		}
	},
	turns: [][]string{
		{"run", "--model", "shoal/agent", "Edit the file."},
		{"run", "--model", "shoal/agent", "--continue", "Again."},
	},
	setup: func(base, _ string) ([]string, map[string]string) {
		return []string{"OPENCODE_DISABLE_AUTOUPDATE=1", "OPENCODE_DISABLE_MODELS_FETCH=1"}, map[string]string{".config/opencode/opencode.json": `{
  "share": "disabled", "autoupdate": false, "permission": {"edit": "allow", "external_directory": "allow"},
  "provider": {"shoal": {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": "` + base + `/v1"}, "models": {"agent": {"tool_call": true}}}}
}`}
	},
}

var aider = agent{
	command: "aider",
	python:  true,
	plain: func(file string) string {
		return filepath.Base(file) + "\n```\n<<<<<<< SEARCH\n" + before + "\n=======\n" + after + "\n>>>>>>> REPLACE\n```\n\n" + done
	},
	turns: [][]string{
		{"--model", "openai/agent", "--edit-format", "diff", "--no-git", "--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--message", "Edit the file.", "FILE"},
	},
	setup: func(base, _ string) ([]string, map[string]string) {
		return []string{"OPENAI_API_BASE=" + base + "/v1", "OPENAI_API_KEY=none"}, nil
	},
}
