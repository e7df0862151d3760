package texts

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestTexts: they are the same on every run, and tokens of them are their text again.
func TestTexts(t *testing.T) {
	const tokens = 300
	all := All(tokens)
	if !reflect.DeepEqual(all, All(tokens)) {
		t.Error("the texts differ from call to call")
	}
	v := NewVocabulary(all)
	for _, k := range all {
		if len(k.Texts) != 3 {
			t.Errorf("%s: %d texts", k.Name, len(k.Texts))
		}
		for _, text := range k.Texts {
			for _, s := range []string{text.Prompt, text.Expected, text.Answer} {
				var back strings.Builder
				for _, id := range v.Tokens(s) {
					back.WriteString(v.Pieces[id])
				}
				if back.String() != s {
					t.Errorf("%s: the tokens are of another text", k.Name)
				}
			}
			n := len(v.Tokens(text.Answer))
			if exact := slices.Contains([]string{"random", "lure"}, k.Name); n < 200 || exact && n != tokens {
				t.Errorf("%s: %d tokens", k.Name, n)
			}
		}
	}
}
