package constrain

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// corpus are schemas as libraries write them, and those of JSON Schema's own test suite.
// The scripts beside them make the files.
func corpus(t testing.TB, name string) map[string]json.RawMessage {
	raw, err := os.ReadFile("testdata/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// nullables rewrites nullable, which is of OpenAPI, as a validator knows it.
func nullable(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = nullable(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = nullable(v[k])
		}
		if v["nullable"] == true {
			delete(v, "nullable")
			return map[string]any{"anyOf": []any{v, map[string]any{"type": "null"}}}
		}
	}
	return v
}

// judge is a validator of JSON Schema as it is, formats being annotations; nil: the schema
// is not one of its kind.
func judge(t testing.TB, name string, schema []byte) *jsonschema.Schema {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(schema)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(nothing{})
	if strings.HasSuffix(name, "openapi-3.0") {
		c.DefaultDraft(jsonschema.Draft4)
		doc = nullable(doc)
	}
	if err := c.AddResource("mem:///schema.json", doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	s, err := c.Compile("mem:///schema.json")
	if err != nil {
		t.Logf("%s: the validator: %v", name, err)
		return nil
	}
	return s
}

// TestCorpus: each schema is followed or refused by name, and whatever can be written under
// one satisfies it.
func TestCorpus(t *testing.T) {
	for _, file := range []string{"pydantic", "zod", "suite"} {
		followed, refused := 0, 0
		for name, schema := range corpus(t, file) {
			m, err := Compile(vocab, schemaOf(string(schema)))
			if err != nil {
				refused++
				var e *SchemaError
				if !errors.As(err, &e) {
					t.Errorf("%s: %s: %v", file, name, err)
				}
				t.Logf("REFUSED %s: %s: %v %s", file, name, err, schema)
				continue
			}
			followed++
			o := judge(t, name, schema)
			for seed := range uint64(6) {
				text, ended := write(t, m, rand.New(rand.NewPCG(seed, 11)), 120)
				if ended && o != nil {
					if err := validate(o, text); err != nil {
						t.Errorf("%s: %s: %s\n%s: %v", file, name, schema, text, err)
						break
					}
				}
			}
		}
		t.Logf("%s: %d followed, %d refused", file, followed, refused)
	}
}
