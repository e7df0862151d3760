package text

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/text/jinja"
)

// ErrNoTemplate means that a model has no chat template.
var ErrNoTemplate = errors.New("the model has no chat template")

// renderTime is the time limit of rendering.
const renderTime = 5 * time.Second

// Message is a message of a chat, as in OpenAI's API.
type Message struct {
	Role       string
	Content    string
	Reasoning  string
	Name       string
	ToolCalls  []ToolCall
	ToolCallID string
}

// ToolCall is a call in an assistant's message. Arguments are a JSON object, or whatever
// else a model has written.
type ToolCall struct {
	ID, Name, Arguments string
}

// RenderInput is the input of a template.
type RenderInput struct {
	Messages            []Message
	AddGenerationPrompt bool
	Tools               []json.RawMessage // in the form of OpenAI's API
	Now                 time.Time
	Extra               map[string]any // further variables, such as enable_thinking
}

// Template is a model's chat template. It is safe for concurrent use.
type Template struct {
	jinja    *jinja.Template
	source   string
	bos, eos string
	traits   func() Traits
	toolUse  *Template // for chats with tools; nil: this one
}

// chatML is used for models that have its tokens but no template.
const chatML = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

// NewTemplate parses a model's chat template, and the one that it has for chats
// with tools. Errors are ErrNoTemplate, ErrVocabulary if there is something else in
// its place, and jinja.ErrTemplate if it cannot be parsed.
func NewTemplate(md Metadata) (*Template, error) {
	source, named, err := sources(md)
	if err != nil {
		return nil, err
	}
	tokens, _ := md.Value("tokenizer.ggml.tokens").([]string)
	if source == "" && slices.Contains(tokens, "<|im_start|>") {
		source = chatML
	}
	if source == "" {
		return nil, ErrNoTemplate
	}
	t, err := newTemplate(source, md, tokens)
	if err != nil {
		return nil, err
	}
	if named != "" && named != source {
		t.toolUse, _ = newTemplate(named, md, tokens) // if it is broken, Doubts says so and the other one stands in
	}
	return t, nil
}

// templateKey is where a file has its template; behind a dot follow the names of
// further ones.
const templateKey = "tokenizer.chat_template"

// sources returns the text of a file's template, and of the one for chats with
// tools, if it has one. Of files that have named ones only, one that is made for
// chats takes the template's place: not one for documents to search ("rag").
func sources(md Metadata) (source, toolUse string, err error) {
	if source, err = textOf(md, templateKey); err != nil {
		return "", "", err
	}
	if toolUse, err = textOf(md, templateKey+".tool_use"); err != nil || source != "" {
		return source, toolUse, err
	}
	list, _ := md.Value("tokenizer.chat_templates").([]string)
	others := slices.DeleteFunc(slices.Clone(list), func(name string) bool { return name == "rag" || name == "tool_use" })
	for _, name := range slices.Concat([]string{"default"}, others, []string{"tool_use"}) {
		if source, err = textOf(md, templateKey+"."+name); err != nil || source != "" {
			return source, toolUse, err
		}
	}
	return "", "", nil
}

func newTemplate(source string, md Metadata, tokens []string) (*Template, error) {
	tpl, err := jinja.Parse(source)
	if err != nil {
		return nil, err
	}
	t := &Template{jinja: tpl, source: source}
	t.traits = sync.OnceValue(t.probe)
	special := func(key string, spm int) string {
		if id, _ := firstID(md, key, len(tokens)); id >= 0 {
			return tokens[id]
		}
		if md.Value("tokenizer.ggml.model") == "llama" && spm < len(tokens) { // as in setSPM
			return tokens[spm]
		}
		return ""
	}
	t.bos, t.eos = special("tokenizer.ggml.bos_token_id", 1), special("tokenizer.ggml.eos_token_id", 2)
	return t, nil
}

// forTools is the template of chats with tools.
func (t *Template) forTools() *Template {
	if t.toolUse != nil && t.toolUse.traits().Tools {
		return t.toolUse
	}
	return t
}

// Render writes a chat in the form that the model was trained on. Errors wrap
// jinja.ErrTemplate and include the template's own message.
func (t *Template) Render(in RenderInput) (string, error) {
	calls := slices.ContainsFunc(in.Messages, func(m Message) bool { return len(m.ToolCalls) > 0 || m.Role == "tool" })
	switch {
	case len(in.Tools) > 0, calls && !t.traits().ToolCalls:
		t = t.forTools()
	case !calls:
		return t.render(in, Traits{})
	}
	return t.render(in, t.traits())
}

func (t *Template) render(in RenderInput, traits Traits) (string, error) {
	messages := make([]any, len(in.Messages))
	for i, m := range in.Messages {
		messages[i] = m.dict(traits)
	}
	vars := map[string]any{
		"messages": messages, "add_generation_prompt": in.AddGenerationPrompt, "bos_token": t.bos, "eos_token": t.eos,
		"raise_exception": jinja.Func(func(message string) (string, error) { return "", errors.New(message) }),
		"strftime_now":    jinja.Func(func(format string) (string, error) { return strftime(in.Now, format), nil }),
	}
	if len(in.Tools) > 0 {
		tools := make([]any, len(in.Tools))
		for i, raw := range in.Tools {
			tools[i] = raw
		}
		vars["tools"] = tools
	}
	for k, v := range in.Extra {
		vars[k] = v
	}
	return t.jinja.Render(vars, renderTime)
}

// strftime formats a time as Python does for times without a zone; unknown
// directives are kept.
func strftime(t time.Time, format string) string {
	plain := strings.NewReplacer("%D", "%m/%d/%y", "%F", "%Y-%m-%d", "%T", "%H:%M:%S", "%R", "%H:%M", "%h", "%b",
		"%c", "%a %b %e %H:%M:%S %Y", "%x", "%m/%d/%y", "%X", "%H:%M:%S", "%r", "%I:%M:%S %p", "%%", "%%").Replace(format)
	n := func(width, n int) string { return fmt.Sprintf("%0*d", width, n) }
	of := func(layout string) string { return t.Format(layout) }
	return strings.NewReplacer(
		"%%", "%", "%n", "\n", "%t", "\t", "%Y", of("2006"), "%y", of("06"), "%C", n(2, t.Year()/100),
		"%m", of("01"), "%-m", of("1"), "%B", of("January"), "%b", of("Jan"),
		"%d", of("02"), "%-d", of("2"), "%e", of("_2"), "%j", n(3, t.YearDay()), "%-j", n(1, t.YearDay()),
		"%A", of("Monday"), "%a", of("Mon"), "%w", n(1, int(t.Weekday())), "%u", n(1, (int(t.Weekday())+6)%7+1),
		"%H", of("15"), "%-H", n(1, t.Hour()), "%I", of("03"), "%-I", of("3"), "%p", of("PM"),
		"%M", of("04"), "%-M", of("4"), "%S", of("05"), "%-S", of("5"), "%f", n(6, t.Nanosecond()/1000),
		"%s", n(1, int(t.Unix())), "%Z", "", "%z", "",
	).Replace(plain)
}
