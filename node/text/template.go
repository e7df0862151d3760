package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nikolalohinski/gonja/v2/builtins"
	"github.com/nikolalohinski/gonja/v2/config"
	"github.com/nikolalohinski/gonja/v2/exec"
	"github.com/nikolalohinski/gonja/v2/loaders"
)

// ErrNoTemplate says that a model brings no chat template.
var ErrNoTemplate = errors.New("the model has no chat template")

// ErrTemplate is wrapped by errors of a template: its own (raise_exception),
// or that it cannot be rendered.
var ErrTemplate = errors.New("the chat template refuses")

const (
	maxRendered = 16 << 20 // bytes
	renderTime  = 5 * time.Second
)

// Message of a chat, as OpenAI's clients send it.
type Message struct {
	Role       string
	Content    string
	Name       string
	ToolCalls  any
	ToolCallID string
}

// RenderInput is what a template is given.
type RenderInput struct {
	Messages            []Message
	AddGenerationPrompt bool
	Tools               any
	Now                 time.Time
	Extra               map[string]any // further variables, such as enable_thinking
}

// Template is a model's chat template.
type Template struct {
	source   string
	bos, eos string
}

// chatML is used for models that have its tokens and no template.
const chatML = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

// NewTemplate reads a model's chat template.
func NewTemplate(md Metadata) (*Template, error) {
	t := &Template{}
	t.source, _ = md.Value("tokenizer.chat_template").(string)
	tokens, _ := md.Value("tokenizer.ggml.tokens").([]string)
	name := func(key string) string {
		for _, v := range ints([]any{md.Value(key)}) {
			if v >= 0 && v < int64(len(tokens)) {
				return tokens[v]
			}
		}
		return ""
	}
	t.bos, t.eos = name("tokenizer.ggml.bos_token_id"), name("tokenizer.ggml.eos_token_id")
	if t.source == "" {
		for _, s := range tokens {
			if s == "<|im_start|>" {
				t.source = chatML
				break
			}
		}
	}
	if t.source == "" {
		return nil, ErrNoTemplate
	}
	if _, err := t.compile(); err != nil {
		return nil, err
	}
	return t, nil
}

// only gives the template and no file.
type only struct{ source string }

func (o only) Read(path string) (io.Reader, error) {
	if path != "chat" {
		return nil, fmt.Errorf("a template may not read %q", path)
	}
	return strings.NewReader(o.source), nil
}
func (o only) Resolve(path string) (string, error)    { return path, nil }
func (o only) Inherit(string) (loaders.Loader, error) { return o, nil }

// trimBlocks does what Jinja's trim_blocks and lstrip_blocks do: it takes away
// the newline behind a block or comment, and the blanks before one that is the
// first thing on its line.
func trimBlocks(src string) string {
	var b strings.Builder
	fresh := true // src is at the beginning of a line
	for {
		at := strings.IndexByte(src, '{')
		for at >= 0 && (at+1 >= len(src) || !strings.ContainsRune("{%#", rune(src[at+1]))) {
			next := strings.IndexByte(src[at+1:], '{')
			if next < 0 {
				at = -1
				break
			}
			at += 1 + next
		}
		if at < 0 {
			b.WriteString(src)
			return b.String()
		}
		kind := src[at+1]
		before, rest := src[:at], src[at:]
		end := tagEnd(rest, kind)
		if kind == '{' {
			b.WriteString(before)
			b.WriteString(rest[:end])
			src, fresh = rest[end:], false
			continue
		}
		if !strings.HasPrefix(rest[2:], "+") {
			line := strings.TrimRight(before, " \t")
			if line == "" && fresh || strings.HasSuffix(line, "\n") {
				before = line
			}
		}
		b.WriteString(before)
		b.WriteString(rest[:end])
		src = rest[end:]
		fresh = false
		if end > 2 && rest[end-3] != '+' {
			src, fresh = strings.CutPrefix(src, "\n")
		}
	}
}

// tagEnd is where the tag that src begins with ends; quotes hide an end.
func tagEnd(src string, kind byte) int {
	closing := map[byte]string{'{': "}}", '%': "%}", '#': "#}"}[kind]
	var quote byte
	for i := 2; i < len(src); i++ {
		switch c := src[i]; {
		case quote != 0:
			if c == '\\' {
				i++
			} else if c == quote {
				quote = 0
			}
		case kind != '#' && (c == '"' || c == '\''):
			quote = c
		case strings.HasPrefix(src[i:], closing):
			return i + 2
		}
	}
	return len(src)
}

// refusal carries what a template raises through the renderer.
type refusal struct{ message string }

func (t *Template) compile() (tpl *exec.Template, err error) {
	defer func() {
		if r := recover(); r != nil {
			tpl, err = nil, fmt.Errorf("%w: it cannot be read: %v", ErrTemplate, r)
		}
	}()
	cfg := config.New() // its own trimming of blocks differs from Jinja's, see trimBlocks
	filters := exec.NewFilterSet(map[string]exec.FilterFunction{}).Update(builtins.Filters)
	if err := filters.Replace("tojson", toJSON); err != nil {
		return nil, err
	}
	env := &exec.Environment{
		Context: exec.EmptyContext().Update(builtins.GlobalFunctions).Update(builtins.GlobalVariables),
		Filters: filters, Tests: builtins.Tests, ControlStructures: builtins.ControlStructures, Methods: builtins.Methods,
	}
	// Hugging Face marks what the assistant generates for training; it renders as it stands.
	source := trimBlocks(generation.Replace(t.source))
	tpl, err = exec.NewTemplate("chat", cfg, only{source}, env)
	if err != nil {
		return nil, fmt.Errorf("%w: it cannot be read: %w", ErrTemplate, err)
	}
	return tpl, nil
}

var generation = strings.NewReplacer(
	"{% generation %}", "", "{%- generation %}", "{%- if true %}{% endif %}", "{%- generation -%}", "{%- if true -%}{%- endif -%}",
	"{% endgeneration %}", "", "{%- endgeneration %}", "{%- if true %}{% endif %}", "{%- endgeneration -%}", "{%- if true -%}{%- endif -%}",
)

// Render writes a chat as the model was trained to read it. Errors wrap
// ErrTemplate and carry the template's own words.
func (t *Template) Render(in RenderInput) (string, error) {
	tpl, err := t.compile()
	if err != nil {
		return "", err
	}
	messages := make([]any, len(in.Messages))
	for i, m := range in.Messages {
		v := map[string]any{"role": m.Role, "content": m.Content}
		if m.Name != "" {
			v["name"] = m.Name
		}
		if m.ToolCalls != nil {
			v["tool_calls"] = m.ToolCalls
		}
		if m.ToolCallID != "" {
			v["tool_call_id"] = m.ToolCallID
		}
		messages[i] = v
	}
	now := in.Now
	vars := map[string]any{
		"messages": messages, "add_generation_prompt": in.AddGenerationPrompt, "bos_token": t.bos, "eos_token": t.eos,
		"raise_exception": func(_ *exec.Evaluator, args *exec.VarArgs) *exec.Value {
			message := "an exception"
			if len(args.Args) > 0 {
				message = args.Args[0].String()
			}
			panic(refusal{message})
		},
		"strftime_now": func(_ *exec.Evaluator, args *exec.VarArgs) *exec.Value {
			if len(args.Args) == 0 {
				return exec.AsValue("")
			}
			return exec.AsValue(strftime(now, args.Args[0].String()))
		},
	}
	if in.Tools != nil {
		vars["tools"] = in.Tools
	}
	for k, v := range in.Extra {
		vars[k] = v
	}
	return run(tpl, vars)
}

// run renders in a goroutine of its own, which a template that does not end
// is left behind in.
func run(tpl *exec.Template, vars map[string]any) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	w := &bounded{deadline: time.Now().Add(renderTime)}
	go func() {
		defer func() {
			if r := recover(); r != nil {
				err := fmt.Errorf("%w: it failed: %v", ErrTemplate, r)
				if own, ok := r.(refusal); ok {
					err = fmt.Errorf("%w: %s", ErrTemplate, own.message)
				}
				done <- result{err: err}
			}
		}()
		err := tpl.Execute(w, exec.NewContext(vars))
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrTemplate, err)
		}
		done <- result{w.buf.String(), err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-time.After(renderTime + time.Second):
		return "", fmt.Errorf("%w: it does not end", ErrTemplate)
	}
}

// bounded stops a template that writes too much or for too long.
type bounded struct {
	buf      bytes.Buffer
	deadline time.Time
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > maxRendered || time.Now().After(b.deadline) {
		panic(refusal{"it writes without end"})
	}
	return b.buf.Write(p)
}

// toJSON writes values as Hugging Face's filter does: json.dumps without
// escaping what is not ASCII, ", " and ": " between, and an optional indent.
func toJSON(_ *exec.Evaluator, in *exec.Value, params *exec.VarArgs) *exec.Value {
	if in.IsError() {
		return in
	}
	indent := 0
	if v, ok := params.KwArgs["indent"]; ok && v.IsInteger() {
		indent = min(v.Integer(), 16)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(plain(in.ToGoSimpleType(true))); err != nil {
		return exec.AsValue(fmt.Errorf("tojson: %w", err))
	}
	raw := bytes.TrimSpace(buf.Bytes())
	if indent > 0 {
		var out bytes.Buffer
		if err := json.Indent(&out, raw, "", strings.Repeat(" ", indent)); err == nil {
			return exec.AsSafeValue(out.String())
		}
	}
	return exec.AsSafeValue(spaced(raw))
}

// plain makes a value's maps ones that JSON knows.
func plain(v any) any {
	switch v := v.(type) {
	case map[any]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[fmt.Sprint(k)] = plain(x)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[k] = plain(x)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			out[i] = plain(x)
		}
		return out
	}
	return v
}

// spaced puts Python's blanks behind commas and colons.
func spaced(raw []byte) string {
	var b strings.Builder
	inText := false
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		b.WriteByte(c)
		switch {
		case c == '"':
			inText = !inText
		case inText && c == '\\':
			if i++; i < len(raw) {
				b.WriteByte(raw[i])
			}
		case !inText && (c == ',' || c == ':'):
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// strftime knows the directives that templates use.
func strftime(t time.Time, format string) string {
	return strings.NewReplacer(
		"%%", "%", "%Y", t.Format("2006"), "%y", t.Format("06"), "%m", t.Format("01"), "%d", t.Format("02"), "%-d", t.Format("2"),
		"%B", t.Format("January"), "%b", t.Format("Jan"), "%A", t.Format("Monday"), "%a", t.Format("Mon"), "%H", t.Format("15"),
		"%I", t.Format("03"), "%M", t.Format("04"), "%S", t.Format("05"), "%p", t.Format("PM"), "%Z", t.Format("MST"), "%z", t.Format("-0700"),
		"%j", fmt.Sprintf("%03d", t.YearDay()),
	).Replace(format)
}
