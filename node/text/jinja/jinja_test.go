package jinja

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

type cases struct {
	Vars  json.RawMessage
	Cases []struct {
		Template, Want string
		Fails          bool
	}
}

func readCases(t testing.TB) (c cases, vars map[string]any) {
	raw, err := os.ReadFile("testdata/jinja2.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(c.Vars))
	dec.UseNumber()
	all, ok := inOrder(t, dec).(*dict)
	if !ok {
		t.Fatal("the variables are no object")
	}
	vars = map[string]any{"raise_exception": Func(func(s string) (string, error) { return "", errors.New(s) })}
	for i, k := range all.keys {
		vars[k.(string)] = all.values[i]
	}
	return c, vars
}

// inOrder reads JSON and keeps the order of keys, as Python does.
func inOrder(t testing.TB, dec *json.Decoder) any {
	tok, err := dec.Token()
	if err != nil {
		t.Fatal(err)
	}
	switch v := tok.(type) {
	case json.Delim:
		if v == '{' {
			var pairs []any
			for dec.More() {
				pairs = append(pairs, inOrder(t, dec))
			}
			_, _ = dec.Token()
			return Dict(pairs...)
		}
		list := []any{}
		for dec.More() {
			list = append(list, inOrder(t, dec))
		}
		_, _ = dec.Token()
		return list
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	return tok
}

// What jinja2 makes of the same templates and variables.
func TestLikeJinja2(t *testing.T) {
	c, vars := readCases(t)
	for _, x := range c.Cases {
		tpl, err := Parse(x.Template)
		got := ""
		if err == nil {
			got, err = tpl.Render(vars, time.Second)
		}
		if (err != nil) != x.Fails || got != x.Want && !x.Fails {
			t.Errorf("%s\n got  %q %v\n want %q", x.Template, got, err, x.Want)
		}
		if err != nil && !errors.Is(err, ErrTemplate) {
			t.Errorf("%s: %v", x.Template, err)
		}
	}
}

// A template that would take the node along ends soon, with an error.
func TestBounded(t *testing.T) {
	for _, src := range []string{
		"{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
		"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
		"{{ 'x' * 1000000000 }}", "{{ range(1000000000) | list }}", "{{ " + strings.Repeat("(", 100_000), strings.Repeat("{% if a %}", 100_000),
	} {
		tpl, err := Parse(src)
		if err == nil {
			_, err = tpl.Render(nil, 2*time.Second)
		}
		if !errors.Is(err, ErrTemplate) {
			t.Errorf("%.60s: %v", src, err)
		}
	}
}

func FuzzRender(f *testing.F) {
	c, vars := readCases(f)
	for _, x := range c.Cases {
		f.Add(x.Template)
	}
	f.Fuzz(func(t *testing.T, src string) {
		tpl, err := Parse(src)
		if err != nil {
			return
		}
		out, err := tpl.Render(vars, 200*time.Millisecond)
		if err == nil && utf8.ValidString(src) && !utf8.ValidString(out) {
			t.Errorf("half a character: %q", out)
		}
		if err != nil && strings.Contains(err.Error(), "it failed: ") {
			t.Errorf("a mistake of the interpreter: %v", err)
		}
	})
}
