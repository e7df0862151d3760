package constrain

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

func grammarOf(s string) []*protocol.Piece {
	return []*protocol.Piece{{Kind: &protocol.Piece_Grammar{Grammar: s}}}
}

func patternOf(s string) []*protocol.Piece {
	return []*protocol.Piece{{Kind: &protocol.Piece_Pattern{Pattern: s}}}
}

// arithmetic is llama.cpp's own example, shortened.
const arithmetic = `
root  ::= (expr "=" ws term "\n")+   # lines
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]{1,3} ws
ws    ::= [ \t\n]?
`

func TestGrammars(t *testing.T) {
	for _, c := range []struct {
		name    string
		format  []*protocol.Piece
		yes, no []string
	}{
		{"llama.cpp's example", grammarOf(arithmetic), []string{"a=1\n", "(a+2)*x1= 3\n", "1-2=z\nb=2\n"}, []string{"a=1", "=1\n", "a=1234\n", "(a=1\n"}},
		{"choices", grammarOf(`root ::= "good" | "bad"`), []string{"good", "bad"}, []string{"", "goodbad", "ba"}},
		{"escapes", grammarOf(`root ::= "\"\\\n\x41\u00e9\U0001F600" [\]\\^x-]`), []string{"\"\\\nAé😀]", "\"\\\nAé😀^", "\"\\\nAé😀-"}, []string{"\"\\\nAé😀y"}},
		{"not a class", grammarOf(`root ::= [^a-cé"]+ .`), []string{"xy", "日é", "d\n"}, []string{"ax", "é", "\"a", "x"}},
		{"counts", grammarOf(`root ::= "a"{2} "b"{1,} "c"{,2} "d"?`), []string{"aab", "aabbccd"}, []string{"ab", "aabccc", "aaa"}},
		{"over lines", grammarOf("root ::=\n  \"a\" |\n  ( \"b\"\n    \"c\" )\nother ::= root"), []string{"a", "bc"}, []string{"b"}},
		{"recursion", grammarOf(`root ::= "(" root ")" | ""`), []string{"", "()", "((()))"}, []string{"(", "())"}},
		{"a pattern", patternOf(`[a-c]{2}|\d+é`), []string{"ab", "12é"}, []string{"abc", "xab", "12", "é"}},
		{"a pattern with anchors", patternOf(`^a|b$`), []string{"a", "b"}, []string{"ab"}},
		{"a pattern with lookahead", patternOf(`^(?!ab)(?=.{3}$)[a-z]+`), []string{"xyz", "bab"}, []string{"abc", "xy", "wxyz"}},
	} {
		m, err := Compile(vocab, c.format)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, s := range c.yes {
			if !takes(t, m, s) {
				t.Errorf("%s: %q is not taken", c.name, s)
			}
		}
		for _, s := range c.no {
			if takes(t, m, s) {
				t.Errorf("%s: %q is taken", c.name, s)
			}
		}
	}
}

func TestGrammarsRefused(t *testing.T) {
	for grammar, want := range map[string]string{
		``: "no rule root", `other ::= "a"`: "no rule root", `root ::= x`: "no rule x", `root = "a"`: "line 1: ::=",
		"root ::= x\nx ::= x \"a\" | \"b\"": "begins with itself", "root ::= a? root \"x\" | \"y\"\na ::= \"a\"": "begins with itself", "root ::= b\nb ::= (root)": "begins with itself",
		`root ::= "a`: `line 1: " is missing`, `root ::= [a-`: "] is missing", `root ::= ("a"`: "not closed", `root ::= "a" )`: "cannot be read", "root ::= \"a\"\nroot ::= \"b\"": "line 2: root has a rule already",
		`root ::= "a"{3,1}`: "no count", `root ::= "a"{x}`: "no count", `root ::= "a"{2`: "} is missing", `root ::= [z-a]`: "ends before", `root ::= "\xzz"`: "is no character", `root ::= <think>`: "write the text",
		`root ::= "a" root`: "takes no value", "\xff": "UTF-8", `root ::= ` + strings.Repeat("(", 100): "nest more than", `root ::= "a"{99999999}`: "no count",
	} {
		if _, err := Compile(vocab, grammarOf(grammar)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", grammar, err, want)
		}
	}
	for pattern, want := range map[string]string{`(`: "missing closing", `a(?=b)c`: "cannot be taken", `\bx`: "cannot be taken", `^(?=a)b`: "takes no value", `(a|b)*a(a|b){30}`: "too large"} {
		if _, err := Compile(vocab, patternOf(pattern)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", pattern, err, want)
		}
	}
}

// FuzzGrammar: any grammar and any pattern is compiled or refused, and answers go on.
func FuzzGrammar(f *testing.F) {
	f.Add(arithmetic, false, uint64(1))
	f.Add(`root ::= ("a" | [^b-d])* root? .{2,3}`, false, uint64(2))
	f.Add(`^(?!a)(?=\w+)b[^x]{1,3}$`, true, uint64(3))
	f.Fuzz(func(t *testing.T, s string, pattern bool, seed uint64) {
		if len(s) > 1000 {
			return
		}
		format := grammarOf(s)
		if pattern {
			format = patternOf(s)
		}
		if m, err := Compile(vocab, format); err == nil {
			write(t, m, rand.New(rand.NewPCG(seed, 5)), 40)
		}
	})
}
