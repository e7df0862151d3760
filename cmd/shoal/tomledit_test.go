package main

import (
	"flag"
	"testing"
)

// TestEditTOML: a change touches its own value alone.
func TestEditTOML(t *testing.T) {
	for _, c := range []struct {
		name, text string
		set        []assigned
		unset      []string
		want       string
	}{
		{"empty", "", []assigned{{"threads", 2}}, nil, "threads = 2\n"},
		{"comment stays", "# mine\nmemory = \"8GiB\"  # half\nwire = 'f16'\n", []assigned{{"memory", "1GiB"}}, nil, "# mine\nmemory = \"1GiB\"  # half\nwire = 'f16'\n"},
		{"no last line feed", "nice = 1", []assigned{{"threads", 2}}, nil, "nice = 1\nthreads = 2\n"},
		{"below the reference", "#threads = 0\n\n# next\n#nice = 5\n", []assigned{{"threads", 2}}, nil, "#threads = 0\nthreads = 2\n\n# next\n#nice = 5\n"},
		{"list of lines", "model = [ # all\n  \"a#b\", # one\n  'c]',\n] # end\nnice = 1\n", []assigned{{"model", []string{"x"}}}, nil, "model = [\"x\"] # end\nnice = 1\n"},
		{"removed", "a = 1\n# about b\nb = \"\"\"\nc = 2\n\"\"\"\nc = 3\n", nil, []string{"b"}, "a = 1\n# about b\nc = 3\n"},
		{"removed what is not there", "a = 1\n", nil, []string{"b"}, "a = 1\n"},
		{"quoted name", "\"memory\" = \"8GiB\"\n", []assigned{{"memory", "1GiB"}}, nil, "\"memory\" = \"1GiB\"\n"},
		{"line feeds of Windows", "nice = 1\r\nwire = \"f16\"\r\n", []assigned{{"nice", 2}}, nil, "nice = 2\r\nwire = \"f16\"\r\n"},
		{"before a table", "nice = 1\n[x]\ny = 2\n", []assigned{{"threads", 2}}, nil, "nice = 1\nthreads = 2\n[x]\ny = 2\n"},
	} {
		got, err := editTOML(c.text, c.set, c.unset)
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
	if got, err := editTOML("a = \n", []assigned{{"nice", 1}}, nil); err == nil {
		t.Errorf("a file that is no TOML became %q", got)
	}
}

// FuzzEditTOML: whatever the file holds, the edited one sets what it should and no more,
// or the edit is refused.
func FuzzEditTOML(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	f.Add("memory = \"8GiB\" # half\n#nice = 5\nmodel = [\n\"a\", # x\n]\n", "2GiB")
	f.Add("x = '''\nmemory = 1\n'''\n[t]\nmemory = 2\n", "1")
	f.Fuzz(func(t *testing.T, text, value string) {
		before, err := parseTOML(text)
		if err != nil {
			return
		}
		got, err := editTOML(text, []assigned{{"memory", value}}, []string{"nice"})
		if err != nil {
			return
		}
		after, err := parseTOML(got)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, got, err)
		}
		before["memory"] = value
		delete(before, "nice")
		if !sameSettings(before, after) {
			t.Fatalf("%q became %q", text, got)
		}
	})
}
