package answer

import (
	"reflect"
	"strings"
	"testing"
)

// TestCut cuts a forced answer at every byte, in every syntax: the calls that come out
// are the beginning of those that were meant, and the name is never a guess.
func TestCut(t *testing.T) {
	const args = `{"city":"a \"}, b","days":[1,2]}`
	for name, template := range map[string]string{"hermes": hermes, "llama": llama, "mistral": mistral, "mistral's args": mistral + "[ARGS]",
		"deepseek": deepseek, "deepseek's json": deepseek + "```json", "gpt-oss": gptoss, "olmo": olmo, "plain": plain} {
		s := Detect(template)
		w := s.writes
		call := func(name string) string { return w.open + w.quote(name) + w.arguments + args + w.shut }
		thought := s.think.open + "\nweather, or now?\n" + s.think.shut + "\n\n"
		if s.harmony {
			thought = "<|channel|>analysis<|message|>weather, or now?<|end|><|start|>assistant"
		}
		for _, begin := range []string{"", thought} {
			whole := begin + w.before + call("weather") + w.after
			for n := range len(whole) + 1 {
				calls := s.Cut(whole[:n], []string{"weather", "now"}, "")
				begun := strings.Index(whole, w.open+w.quote("weather")[:1])
				switch {
				case n <= len(begin) && calls != nil:
					t.Fatalf("%s: %q is %q", name, whole[:n], calls)
				case len(calls) > 1, len(calls) == 1 && (calls[0].Name != "weather" || !strings.HasPrefix(args, strings.TrimRight(calls[0].Arguments, " "))):
					t.Fatalf("%s: %q is %q", name, whole[:n], calls)
				case n == len(whole) && !reflect.DeepEqual(calls, []Call{{"weather", args}}):
					t.Fatalf("%s: %q is %q", name, whole[:n], calls)
				case n > begun+len(w.open)+len(w.quote("weather"))+len(w.arguments) && begun >= len(begin) && len(calls) != 1:
					t.Fatalf("%s: %q is no call", name, whole[:n])
				}
			}
			if got := s.Cut(begin+w.before+call("weather")+w.between+w.open+w.quote("now")+w.arguments+`{"a`, []string{"weather", "now"}, ""); w.several &&
				!reflect.DeepEqual(got, []Call{{"weather", args}, {"now", `{"a`}}) {
				t.Errorf("%s: two calls are %q", name, got)
			}
			if got := s.Cut(begin+w.before+w.open[:1], []string{"now"}, ""); !reflect.DeepEqual(got, []Call{{"now", ""}}) {
				t.Errorf("%s: of the only function, %q", name, got)
			}
		}
	}
}
