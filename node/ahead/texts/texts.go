package texts

import (
	"embed"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/ahead"
)

// Text is an answer, and what comes before it.
type Text struct {
	Prompt   string
	Expected string // what the client expects, as in OpenAI's prediction; "": nothing
	Answer   string
}

// Kind is a kind of answer.
type Kind struct {
	Name  string
	Texts []Text
}

//go:embed data
var data embed.FS

// alphabet is that of the texts that nobody can guess; the lure's is its beginning.
const (
	randomWords = 3000
	lureWords   = 8
)

// All returns three texts of each kind. Random answers and lures have so many tokens; the
// other ones are as long as they come, about a thousand or two.
func All(tokens int) []Kind {
	rng := rand.New(rand.NewPCG(5, 5))
	code, prose := read("holders", "upload", "origin"), read("prose-network", "prose-stage", "prose-route")
	kinds := []Kind{{Name: "file"}, {Name: "prediction"}, {Name: "diff"}, {Name: "quotes"}, {Name: "json"}, {Name: "other-file"},
		{Name: "prose"}, {Name: "wrong-prediction"}, {Name: "random"}, {Name: "lure"}}
	add := func(name string, t Text) {
		i := slices.IndexFunc(kinds, func(k Kind) bool { return k.Name == name })
		kinds[i].Texts = append(kinds[i].Texts, t)
	}
	for i := range code {
		file, doc := code[i], prose[i]
		next, other := code[(i+1)%len(code)], prose[(i+1)%len(prose)]
		edited := edit(rng, file)
		add("file", Text{Prompt: "Rename one variable and add comments:\n" + file, Answer: edited})
		add("prediction", Text{Prompt: "Rename one variable and add comments, please.", Expected: file, Answer: edited})
		add("diff", Text{Prompt: "Give the change as a diff:\n" + file, Answer: diff(file, edited)})
		add("quotes", Text{Prompt: doc, Answer: quotes(rng, doc, other)})
		add("json", Text{Prompt: "List the stock as JSON.", Answer: records(rng)})
		add("other-file", Text{Prompt: file, Answer: next})
		add("prose", Text{Prompt: doc[:len(doc)/2], Answer: doc[len(doc)/2:]})
		add("wrong-prediction", Text{Prompt: "Write about networks.", Expected: file, Answer: doc})
		add("random", Text{Prompt: random(rng, tokens/2, randomWords), Answer: random(rng, tokens, randomWords)})
		add("lure", lure(rng, tokens))
	}
	return kinds
}

func read(names ...string) (out []string) {
	for _, name := range names {
		b, err := data.ReadFile("data/" + name + ".txt")
		if err != nil {
			panic(err) // it is part of the program
		}
		out = append(out, string(b))
	}
	return out
}

// edit renames the identifier that is the fourth by number of uses, and changes four lines.
func edit(rng *rand.Rand, file string) string {
	uses := map[string]int{}
	for _, w := range regexp.MustCompile(`\b[a-z][A-Za-z]{3,9}\b`).FindAllString(file, -1) {
		uses[w]++
	}
	var names []string
	for w := range uses {
		names = append(names, w)
	}
	slices.SortFunc(names, func(a, b string) int {
		if uses[a] != uses[b] {
			return uses[b] - uses[a]
		}
		return strings.Compare(a, b)
	})
	file = regexp.MustCompile(`\b`+names[3]+`\b`).ReplaceAllString(file, names[3]+"Value")
	lines := strings.Split(file, "\n")
	for range 4 {
		i := rng.IntN(len(lines))
		lines[i] += "  // changed: guard against " + []string{"nil maps", "short reads", "a late cancel", "empty input"}[rng.IntN(4)]
	}
	return strings.Join(lines, "\n")
}

// diff is the unified diff of two files with as many lines.
func diff(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	const context = 3
	var out strings.Builder
	for i := 0; i < len(a); i++ {
		if a[i] == b[i] {
			continue
		}
		from, to := max(0, i-context), i
		for j := i; j < len(a) && j <= to+2*context; j++ {
			if a[j] != b[j] {
				to = j
			}
		}
		end := min(len(a), to+context+1)
		fmt.Fprintf(&out, "@@ -%d,%d +%d,%d @@\n", from+1, end-from, from+1, end-from)
		for j := from; j < end; {
			if a[j] == b[j] {
				out.WriteString(" " + a[j] + "\n")
				j++
				continue
			}
			k := j
			for ; k < end && a[k] != b[k]; k++ {
				out.WriteString("-" + a[k] + "\n")
			}
			for ; j < k; j++ {
				out.WriteString("+" + b[j] + "\n")
			}
		}
		i = end
	}
	return out.String()
}

// quotes is an answer that quotes sentences of doc among new ones.
func quotes(rng *rand.Rand, doc, other string) string {
	quoted, fresh := sentences(doc, 60, 400), sentences(other, 40, 300)
	var out []string
	for range 10 {
		out = append(out, fresh[rng.IntN(len(fresh))], `"`+quoted[rng.IntN(len(quoted))]+`"`)
	}
	return strings.Join(out, " ")
}

// sentences are those of a text with more bytes than least and fewer than most.
func sentences(text string, least, most int) (out []string) {
	for _, s := range regexp.MustCompile(`[^.:]+[.:]`).FindAllString(text, -1) {
		if s = strings.TrimSpace(s); len(s) > least && len(s) < most {
			out = append(out, s)
		}
	}
	return out
}

func records(rng *rand.Rand) string {
	names := strings.Fields("alder birch cedar dogwood elm fir ginkgo hazel ivy juniper")
	var out []string
	for range 60 {
		out = append(out, fmt.Sprintf(`  {"name": "%s %s", "count": %d, "price": %.2f, "in_stock": %v}`,
			names[rng.IntN(len(names))], names[rng.IntN(len(names))], rng.IntN(1000), rng.Float64()*90, rng.IntN(2) == 0))
	}
	return "[\n" + strings.Join(out, ",\n") + "\n]"
}

// word is a word of one token.
func word(i int) string {
	return " " + string([]byte{'a' + byte(i/26/26), 'a' + byte(i/26%26), 'a' + byte(i%26)})
}

func random(rng *rand.Rand, n, alphabet int) string {
	var out strings.Builder
	for range n {
		out.WriteString(word(rng.IntN(alphabet)))
	}
	return out.String()
}

// lure is a text by an adversary who knows the Runner, and makes each first guess wrong.
func lure(rng *rand.Rand, n int) Text {
	var prompt, answer strings.Builder
	r := ahead.New(ahead.Config{MaxInFlight: 1})
	for range 300 {
		y := rng.IntN(lureWords)
		prompt.WriteString(word(y))
		r.Prompt([]int32{int32(y)})
	}
	guess, ok := int32(0), false
	for range n {
		y := int32(rng.IntN(lureWords))
		if ok && guess == y {
			y = (y + 1) % lureWords
		}
		answer.WriteString(word(int(y)))
		r.Token(y, time.Time{}, ahead.Measures{})
		guess, ok = r.Next(time.Time{}, false)
	}
	return Text{Prompt: prompt.String(), Answer: answer.String()}
}
