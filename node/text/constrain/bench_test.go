package constrain

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// large is a vocabulary as large as the largest in use, with words like those
// of real vocabularies: with a leading blank, capitals, code, other scripts.
func large(n int) *Vocab { return NewVocab(largeWords(n)) }

func largeWords(n int) *words {
	w := newWords()
	w.text = w.text[:len(w.text)-1] // the long one
	seen := map[string]bool{}
	for _, s := range w.text {
		seen[s] = true
	}
	rng := rand.New(rand.NewPCG(1, 2))
	syllables := []string{"a", "be", "con", "der", "e", "fi", "gra", "ho", "i", "ja", "ke", "li", "mo", "ni", "o", "per", "qua", "re", "st", "th", "u", "ver", "we", "x", "y", "zo", "ing", "tion", "er", "ly", "ж", "ка", "日", "本", "é", "ü", "_", "()", "  ", "=>"}
	code := []string{"\":", "{\"", "\",", "\n", "\t", "\"", "\\n"}
	for len(w.text) < n {
		var b strings.Builder
		if rng.IntN(2) == 0 {
			b.WriteByte(' ')
		}
		for range 1 + rng.IntN(4) {
			b.WriteString(syllables[rng.IntN(len(syllables))])
		}
		if rng.IntN(25) == 0 {
			b.WriteString(code[rng.IntN(len(code))])
		}
		s := b.String()
		if rng.IntN(4) == 0 {
			s = strings.ToUpper(s[:1]) + s[1:]
		}
		if !seen[s] {
			seen[s] = true
			w.text = append(w.text, s)
		}
	}
	return w
}

func BenchmarkVocab(b *testing.B) {
	w := largeWords(256_000)
	for b.Loop() {
		NewVocab(w)
	}
}

// BenchmarkAnswer writes an answer of about 60 tokens: the cost per token, with
// an empty machine and with the states of earlier answers.
func BenchmarkAnswer(b *testing.B) {
	const schema = `{"type":"object","properties":{"name":{"type":"string"},"bio":{"type":"string","maxLength":200},"age":{"type":"integer","minimum":0,"maximum":150},"tags":{"type":"array","items":{"type":"string"}},"kind":{"enum":["red","green"]}},"required":["name","bio","age","tags","kind"]}`
	const text = `{"name": "hello world", "bio": "hello world na日本 hello red green name hello world Paris world hello", "age": 12, "tags": ["hello", "red", "na name", " world"], "kind": "red"}`
	for _, n := range []int{50_000, 150_000, 256_000} {
		v := large(n)
		ids := spell(b, v, text)
		for _, warm := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/warm=%v", n, warm), func(b *testing.B) {
				m, err := Compile(v, schemaOf(schema))
				if err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					if !warm {
						if m, err = Compile(v, schemaOf(schema)); err != nil {
							b.Fatal(err)
						}
					}
					r := m.Start([]int32{stop})
					for k := range len(ids) + 1 {
						if _, err := r.Allowed(ids[:k]); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(len(ids)+1), "µs/token")
			})
		}
	}
}

// BenchmarkCheck measures the client's part.
func BenchmarkCheck(b *testing.B) {
	v := large(256_000)
	m, err := Compile(v, schemaOf(`{"type":"object"}`))
	if err != nil {
		b.Fatal(err)
	}
	ids := spell(b, v, `{"name": "hello world", "bio": "hello world"}`)
	for b.Loop() {
		r := m.Start([]int32{stop})
		for k, id := range ids {
			if ok, err := r.Follows(ids[:k], id); !ok || err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(len(ids)), "µs/token")
}
