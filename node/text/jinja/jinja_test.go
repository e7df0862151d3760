package jinja

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

type table struct {
	Vars  json.RawMessage
	Cases []struct {
		Template, Want string
		Fails          bool
	}
}

// files of cases, each with its variables.
var files = []string{"testdata/jinja2.json", "testdata/snippets.json", "testdata/expressions.json"}

func readCases(t testing.TB, file string) (c table, vars map[string]any) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	all := fromJSON(c.Vars).(*dict)
	vars = map[string]any{"raise_exception": Func(func(s string) (string, error) { return "", errors.New(s) })}
	for i, k := range all.keys {
		vars[k.(string)] = all.values[i]
	}
	return c, vars
}

// jinja2's output for the same templates and variables.
func TestLikeJinja2(t *testing.T) {
	for _, file := range files {
		c, vars := readCases(t, file)
		for _, x := range c.Cases {
			tpl, err := Parse(x.Template)
			got := ""
			if err == nil {
				got, err = tpl.Render(vars, time.Second)
			}
			if refused(err) && !x.Fails {
				continue
			}
			if (err != nil) != x.Fails || got != x.Want && !x.Fails {
				t.Errorf("%s\n got  %q %v\n want %q", x.Template, got, err, x.Want)
			}
			if err != nil && !errors.Is(err, ErrTemplate) {
				t.Errorf("%s: %v", x.Template, err)
			}
		}
	}
}

// refused reports whether an error says that this package lacks something of jinja2's.
func refused(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "there is no filter") || strings.Contains(err.Error(), "too large") || strings.Contains(err.Error(), "no number that fits"))
}

// A template that would exhaust the node's resources ends soon, with an error.
func TestBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	for _, src := range []string{
		"{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
		"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
		// Values that share their parts, and so are larger than their memory.
		"{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == [ns.x[0], ns.x[1], 1] }}{{ ns.x == [ns.x[0], [ns.x[0]]] }}",
		"{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
		"{% set ns = namespace(x=(1,)) %}{% for i in range(100) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}",
		"{% set ns = namespace(x=[1]) %}{% for i in range(20) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{% for i in range(100000) %}{% if ns.x|string|length > 1 %}{% endif %}{% endfor %}",
		"{% set ns = namespace(x=[1]) %}{% for i in range(20) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ([ns.x] * 1000)|join }}",
		"{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
		"{% set s = 'é' * 1000000 %}{% for i in range(100000) %}{% set x = s[-1] %}{% endfor %}",
		"{% set s = 'ab' * 1000000 %}{% for i in range(100000) %}{% if 'c' in s or s.find('c') >= 0 %}{% endif %}{% endfor %}",
		"{% macro m() %}{{ 'x' * 1000000 }}{{ m() }}{% endmacro %}{{ m() }}", "{% for " + strings.Repeat("(", 100_000) + "a" + strings.Repeat(")", 100_000) + " in x %}{% endfor %}", "{{ x" + strings.Repeat("|upper", 100_000) + " }}",
		"{{ 1" + strings.Repeat("+1", 100_000) + strings.Repeat(".x", 100_000) + " }}", "{{ 'a'.ljust(2000000000) }}", "{{ '%2000000000d' % 1 }}", "{{ 2 ** 99 }}",
		"{{ 'x' * 1000000000 }}", "{{ range(1000000000) | list }}", "{{ " + strings.Repeat("(", 100_000), strings.Repeat("{% if a %}", 100_000),
	} {
		tpl, err := Parse(src)
		if err == nil {
			_, err = tpl.Render(nil, 200*time.Millisecond)
		}
		if !errors.Is(err, ErrTemplate) {
			t.Errorf("%.60s: %v", src, err)
		}
	}
}

func FuzzRender(f *testing.F) {
	var vars map[string]any
	for _, file := range files {
		c, v := readCases(f, file)
		for _, x := range c.Cases {
			f.Add(x.Template)
		}
		vars = v
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
