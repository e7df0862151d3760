package answer

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

// spell writes one of the answers that a format allows: the given numbers make
// the choices, "Hm." stands where anything may, and the values replace schemas.
func spell(t *testing.T, format []*protocol.Piece, choose func(n int) int, values map[string]string) string {
	t.Helper()
	var b strings.Builder
	for _, p := range format {
		switch k := p.Kind.(type) {
		case *protocol.Piece_Text:
			b.WriteString(k.Text)
		case *protocol.Piece_Until:
			b.WriteString("Hm." + k.Until)
		case *protocol.Piece_Schema:
			b.WriteString(values[string(k.Schema)])
		case *protocol.Piece_Either:
			b.WriteString(spell(t, k.Either.Of[choose(len(k.Either.Of))].Pieces, choose, values))
		case *protocol.Piece_Again:
			for range choose(3) {
				b.WriteString(spell(t, k.Again.Pieces, choose, values))
			}
		default:
			t.Fatalf("a piece of no kind: %v", p)
		}
	}
	return b.String()
}

// TestFormats: whatever a format makes a model write, the reader for the same
// template parses as intended.
func TestFormats(t *testing.T) {
	functions := []Function{{"weather", []byte(`1`)}, {"now", []byte(`2`)}}
	values := map[string]string{"1": `{"city": "</tool_call>\"}"}`, "2": `{}`, "3": `{"name": "now", "x": ["<think>"]}`}
	var plainArgs bytes.Buffer
	if err := json.Compact(&plainArgs, []byte(values["1"])); err != nil {
		t.Fatal(err)
	}
	oldDeep := deepseek + "```json"
	newMistral := thinking + "[ARGS]"
	for name, template := range map[string]string{
		"hermes": hermes, "llama": llama, "mistral": mistral, "thinking": thinking, "new mistral": newMistral, "deepseek": deepseek,
		"old deepseek": oldDeep, "olmo": olmo, "gpt-oss": gptoss, "plain": plain,
	} {
		s := Detect(template)
		prompts := []string{"<|start|>assistant"}
		if !s.harmony {
			prompts = []string{"<|im_start|>assistant\n", "<|im_start|>assistant\n" + s.think.open + "\n"}
		}
		for _, prompt := range prompts {
			for _, direct := range []bool{false, true} {
				for _, one := range []bool{false, true} {
					counts := map[int]bool{}
					for seed := range uint64(40) {
						rng := rand.New(rand.NewPCG(seed, 1))
						said := spell(t, s.Calls(functions, one, prompt, direct), rng.IntN, values)
						got := read(template, prompt, said, tools, func(left int) int { return 1 + rng.IntN(left) })
						counts[len(got.Calls)] = true
						if strings.Trim(got.Text, space) != "" || len(got.Calls) == 0 || one && len(got.Calls) != 1 || direct && got.Reasoning != "" || got.Reasoning != "" && got.Reasoning != "Hm." {
							t.Fatalf("%s, one %v, direct %v: %q was read as %+v", name, one, direct, said, got)
						}
						for _, c := range got.Calls {
							if c != (Call{"weather", plainArgs.String()}) && c != (Call{"now", "{}"}) {
								t.Fatalf("%s: %q was read as %+v", name, said, got)
							}
						}
					}
					if several := len(counts) > 1; several != (s.writes.several && !one) {
						t.Errorf("%s: %v calls", name, counts)
					}
				}
				kinds := map[bool]bool{}
				for seed := range uint64(40) {
					rng := rand.New(rand.NewPCG(seed, 3))
					said := spell(t, s.CallsOr(functions, false, follows([]byte("3")), prompt, direct), rng.IntN, values)
					r := s.NewReader(Options{Tools: tools, Prompt: prompt, Format: true})
					got, rest := r.Push(said), r.Flush()
					text, calls := strings.TrimSpace(got.Text+rest.Text), len(got.Calls)+len(rest.Calls)
					kinds[calls > 0] = true
					if (calls > 0) == (text != "") || text != "" && text != values["3"] {
						t.Fatalf("%s: %q was read as %+v and %+v", name, said, got, rest)
					}
				}
				if len(kinds) != 2 {
					t.Errorf("%s: calls or text, never both: %v", name, kinds)
				}
				thought := false
				for seed := range uint64(20) {
					rng := rand.New(rand.NewPCG(seed, 2))
					said := spell(t, s.Text(follows([]byte("3")), prompt, direct), rng.IntN, values)
					got := read(template, prompt, said, nil, whole)
					thought = thought || got.Reasoning != ""
					got.Text = strings.TrimSpace(got.Text)
					got.Reasoning = ""
					if want := (Part{Text: values["3"]}); !reflect.DeepEqual(got, want) {
						t.Fatalf("%s, direct %v: %q was read as %+v", name, direct, said, got)
					}
				}
				if thought != (!direct && (s.thinks || s.begun(prompt))) {
					t.Errorf("%s, direct %v: reasoning %v", name, direct, thought)
				}
			}
		}
	}
	if !slices.Equal(Detect(hermes).Text(follows([]byte("3")), "", true)[0].GetSchema(), []byte("3")) {
		t.Error("an answer without reasoning is more than the value")
	}
}

// An answer without reasoning begins after the prompt, in gpt-oss's case after the header of
// its last message, and nowhere if the prompt ends inside reasoning.
func TestAnswerAt(t *testing.T) {
	for _, c := range []struct {
		template, prompt, want string
		ok                     bool
	}{
		{"{{ messages }}", "<|im_start|>assistant\n", "<|im_start|>assistant\n", true},
		{"<think></think>", "assistant\n<think>\n\n</think>\n\n", "assistant\n<think>\n\n</think>\n\n", true},
		{"<think></think>", "assistant\n<think>\n", "assistant\n<think>\n", false},
		{"<|channel|><|message|>", "<|start|>assistant", "<|start|>assistant<|channel|>final<|message|>", true},
	} {
		if got, ok := Detect(c.template).AnswerAt(c.prompt); got != c.want || ok != c.ok {
			t.Errorf("%q: %q, %v", c.prompt, got, ok)
		}
	}
}
