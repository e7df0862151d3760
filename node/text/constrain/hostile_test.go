package constrain

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

// hostile are schemas designed to cost as much as possible.
func hostile() map[string]string {
	var names, enum, props, refs []string
	for i := range 1900 {
		names = append(names, fmt.Sprintf(`"p%d"`, i))
		enum = append(enum, fmt.Sprintf(`"value number %d, with much text"`, i*7919))
		props = append(props, fmt.Sprintf(`"p%d":{"type":"string","pattern":"^x{%d}"}`, i, i%200))
	}
	for i := range 300 {
		refs = append(refs, fmt.Sprintf(`"d%d":{"anyOf":[{"type":"array","items":{"$ref":"#/$defs/d%d"}},{"type":"array","items":{"$ref":"#/$defs/d%d"}},{"type":"integer"}]}`, i, (i+1)%300, (i+2)%300))
	}
	nested := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`{"type":"array","items":{"type":"array","items":{"$ref":"#"}}},`, n), ",") + "]"
	}
	var ones, twos []string
	for i := range 900 {
		ones = append(ones, fmt.Sprintf(`{"properties":{"k":{"enum":[%d,%d]}},"required":["k"]}`, i, i+1))
		twos = append(twos, fmt.Sprintf(`{"type":"array","uniqueItems":true,"items":{"type":"integer","minimum":0,"maximum":%d}}`, 100+i))
	}
	return map[string]string{
		"alternatives of which one holds": `{"oneOf":[` + strings.Join(ones, ",") + `]}`,
		"lists without duplicates":        `{"anyOf":[` + strings.Join(twos, ",") + `]}`,
		"not of not":                      strings.Repeat(`{"not":{"anyOf":[{"minLength":3},{"properties":{"a":`, 30) + `true` + strings.Repeat(`}}]}}`, 30),
		"an if that refers to itself":     `{"properties":{"a":{"$ref":"#"}},"if":{"properties":{"a":{"$ref":"#"}}},"then":{"required":["a"]},"else":{"not":{"$ref":"#"}}}`,
		"many of contains":                `{"type":"array","contains":{"type":"array","contains":{"type":"array","contains":{"minLength":4},"minContains":90},"minContains":90},"minContains":90}`,
		"a large multiple":                `{"type":"array","prefixItems":[{"multipleOf":0.0000000000001997,"minimum":1},{"multipleOf":1999},{"multipleOf":19.97,"maximum":1e14}]}`,
		"many lookaheads":                 `{"pattern":"^` + strings.Repeat(`(?!.*[a-f]{9}x)`, 60) + `.*$","minLength":900,"maxLength":1000}`,
		"patterns of names":               `{"type":"object","patternProperties":{"a.{20}":{},"b.{20}":{},"c.{20}":{},"d.{20}":{}},"additionalProperties":true}`,
		"long counts":                     `{"type":"string","pattern":"^(a|bb|ccc){0,300}$","minLength":10000,"maxLength":900000}`,
		"a set of long strings":           `{"type":"array","items":{"type":"string"},"uniqueItems":true,"minItems":1000000}`,
		"a long enum":                     `{"enum":[` + strings.Join(enum, ",") + `]}`,
		"enums under alternatives":        `{"enum":[` + strings.Join(enum, ",") + `],"anyOf":[` + strings.TrimSuffix(strings.Repeat(`{"type":"string"},`, 1500), ",") + `]}`,
		"many optional properties":        `{"type":"object","properties":{` + strings.Join(props, ",") + `}}`,
		"many required":                   `{"type":"object","required":[` + strings.Join(names, ",") + `]}`,
		"the same way many times":         `{"anyOf":` + nested(1500) + `}`,
		"ways that double":                `{"$ref":"#/$defs/d0","$defs":{` + strings.Join(refs, ",") + `}}`,
		"alternatives that multiply":      `{"allOf":[` + strings.TrimSuffix(strings.Repeat(`{"anyOf":[{"minimum":1},{"minimum":2},{"minimum":3}]},`, 30), ",") + `]}`,
		"an ambiguous pattern":            `{"pattern":"^(a|b|ab)*c.{0,900}$"}`,
		"a pattern that explodes":         `{"pattern":"(a|b)*a(a|b){30}"}`,
		"letters of all scripts":          `{"pattern":"^(\\p{L}\\p{N}){1,300}$"}`,
		"patterns together":               `{"allOf":[{"pattern":"a.{50}"},{"pattern":"b.{50}"},{"pattern":"c.{50}"}]}`,
		"counts in counts":                `{"type":"array","maxItems":1000000,"items":{"type":"array","minItems":999999,"items":{"type":"string","minLength":1000000}}}`,
		"a list of lists":                 strings.Repeat(`{"type":"array","items":`, 95) + `true` + strings.Repeat("}", 95),
		"empty ones, repeated":            `{"type":"object","patternProperties":{"^(a?){900}$":{}}}`,
		"a long minimum":                  `{"type":"number","minimum":0.00000000000000000000000001,"maximum":99999999999999999999999999.5}`,
	}
}

// TestHostile: any schema is compiled or refused with little work, and so is
// each token. The test is that it ends: without bounds it would take hours and
// fill the memory.
func TestHostile(t *testing.T) {
	v := large(50_000)
	for name, schema := range hostile() {
		t.Run(name, func(t *testing.T) {
			if !json.Valid([]byte(schema)) {
				t.Fatal("the test is wrong")
			}
			m, err := Compile(v, schemaOf(schema))
			if err != nil {
				t.Log(err)
				return
			}
			rng := rand.New(rand.NewPCG(1, 1))
			r := m.Start([]int32{stop})
			var ids []int32
			for range 12 {
				mask, err := r.Allowed(ids)
				if err != nil {
					t.Log(err)
					return
				}
				var list []int32
				for id := range v.words {
					if mask[id>>6]>>(id&63)&1 != 0 && id != stop {
						list = append(list, int32(id))
					}
				}
				if list == nil {
					break
				}
				ids = append(ids, list[rng.IntN(len(list))])
			}
			t.Logf("%d states, %d cells, %d units", len(m.states), len(m.cells), m.effort)
		})
	}
}

// FuzzPieces: no bytes from a peer crash the compiler, and every answer in the
// compiled format can be completed.
func FuzzPieces(f *testing.F) {
	f.Add("<|call|>{", "</think>", `{"type":"integer"}`, uint64(3))
	f.Fuzz(func(t *testing.T, exact, end, schema string, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var list func(depth int) []*protocol.Piece
		list = func(depth int) (out []*protocol.Piece) {
			for range rng.IntN(3) {
				switch p := (&protocol.Piece{}); rng.IntN(6) {
				case 0:
					out = append(out, text(exact))
				case 1:
					out = append(out, until(end))
				case 2:
					out = append(out, schemaOf(schema)...)
				case 3:
					if p.Kind = (&protocol.Piece_Again{Again: &protocol.Pieces{}}); depth < 5 {
						p.Kind = &protocol.Piece_Again{Again: &protocol.Pieces{Pieces: list(depth + 1)}}
					}
					out = append(out, p)
				case 4:
					p.Kind = &protocol.Piece_Either{Either: &protocol.Either{Of: []*protocol.Pieces{{Pieces: list(depth + 2)}, {}}}}
					out = append(out, p)
				default:
					out = append(out, p)
				}
			}
			return out
		}
		m, err := Compile(vocab, list(0))
		if err == nil {
			write(t, m, rng, 30)
		}
	})
}
