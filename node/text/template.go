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
}

// chatML is used for models that have its tokens but no template.
const chatML = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

// NewTemplate parses a model's chat template. Errors are ErrNoTemplate, and
// jinja.ErrTemplate if it cannot be parsed.
func NewTemplate(md Metadata) (*Template, error) {
	source, _ := md.Value("tokenizer.chat_template").(string)
	tokens, _ := md.Value("tokenizer.ggml.tokens").([]string)
	if source == "" && slices.Contains(tokens, "<|im_start|>") {
		source = chatML
	}
	if source == "" {
		return nil, ErrNoTemplate
	}
	tpl, err := jinja.Parse(source)
	if err != nil {
		return nil, err
	}
	t := &Template{jinja: tpl, source: source}
	t.traits = sync.OnceValue(t.probe)
	name := func(key string, spm int) string {
		for _, v := range ints([]any{md.Value(key)}) {
			if v >= 0 && v < int64(len(tokens)) {
				return tokens[v]
			}
		}
		if md.Value("tokenizer.ggml.model") == "llama" && spm < len(tokens) { // as in setSPM
			return tokens[spm]
		}
		return ""
	}
	t.bos, t.eos = name("tokenizer.ggml.bos_token_id", 1), name("tokenizer.ggml.eos_token_id", 2)
	return t, nil
}

// Render writes a chat in the form that the model was trained on. Errors wrap
// jinja.ErrTemplate and include the template's own message.
func (t *Template) Render(in RenderInput) (string, error) {
	traits := Traits{}
	if len(in.Tools) > 0 || slices.ContainsFunc(in.Messages, func(m Message) bool { return len(m.ToolCalls) > 0 || m.Role == "tool" }) {
		traits = t.traits()
	}
	return t.render(in, traits)
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
