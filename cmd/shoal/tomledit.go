package main

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"
)

// The configuration file belongs to its owner: a changed setting changes its own value
// and nothing else, neither comments nor order.

// editTOML returns a file of top-level settings with some set, in the order given, and
// others removed. A setting that the file does not have is added below its line of the
// reference, if that is there as a comment, or else at the end. The result is read
// again: it sets exactly what it should, or there is an error.
func editTOML(text string, set []assigned, unset []string) (string, error) {
	want, err := parseTOML(text)
	if err != nil {
		return "", err
	}
	for _, name := range unset {
		delete(want, name)
		if text, err = removeSetting(text, name); err != nil {
			return "", err
		}
	}
	for _, a := range set {
		want[a.name] = a.value
		if text, err = setSetting(text, a); err != nil {
			return "", err
		}
	}
	got, err := parseTOML(text)
	if err != nil || !sameSettings(got, want) {
		return "", errors.New("the file cannot be changed without rewriting it: change it by hand")
	}
	return text, nil
}

// assigned is a setting and its new value, which has one of the types of settingValue.
type assigned struct {
	name  string
	value any
}

func parseTOML(text string) (map[string]any, error) {
	all := map[string]any{}
	_, err := toml.Decode(text, &all)
	return all, err
}

// sameSettings compares what two files set; numbers and lists differ in their Go types
// before and after a file was read.
func sameSettings(a, b map[string]any) bool {
	return maps.EqualFunc(a, b, func(x, y any) bool { return reflect.DeepEqual(plainValue(x), plainValue(y)) })
}

func plainValue(v any) any {
	switch v := v.(type) {
	case int:
		return int64(v)
	case []string:
		list := make([]any, len(v))
		for i := range v {
			list[i] = v[i]
		}
		return list
	}
	return v
}

// statement is where a file sets something: text[start:end] are its lines, and
// text[from:to] is its value.
type statement struct {
	name                 string
	start, from, to, end int
}

// statements finds the settings at the top level of a file that is valid TOML, up to
// its first table. tables is where that begins, or the end of the file.
func statements(text string) (out []statement, tables int, err error) {
	for at := 0; at < len(text); {
		end := lineEnd(text, at)
		line := strings.TrimSpace(text[at:end])
		if line == "" || line[0] == '#' {
			at = end
			continue
		}
		if line[0] == '[' {
			return out, at, nil
		}
		equals := strings.IndexByte(text[at:end], '=')
		if equals < 0 {
			return nil, 0, fmt.Errorf("line %q is not understood", line)
		}
		s := statement{name: strings.Trim(text[at:at+equals], " \t\"'"), start: at, from: at + equals + 1}
		s.to = valueEnd(text, s.from)
		s.end = lineEnd(text, s.to)
		out = append(out, s)
		at = s.end
	}
	return out, len(text), nil
}

// lineEnd returns the index behind the line feed that ends the line of at.
func lineEnd(text string, at int) int {
	if i := strings.IndexByte(text[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(text)
}

// valueEnd returns the index behind a value that begins at from: before the comment or
// the end of its line, where neither is within a string or brackets.
func valueEnd(text string, from int) int {
	depth, last := 0, from
	for i := from; i < len(text); {
		switch c := text[i]; {
		case c == '"' || c == '\'':
			i = stringEnd(text, i)
			last = i
			continue
		case c == '#':
			if depth == 0 {
				return last
			}
			i = lineEnd(text, i)
			continue
		case c == '\n' && depth == 0:
			return last
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		}
		i++
		if strings.IndexByte(" \t\r\n", text[i-1]) < 0 {
			last = i
		}
	}
	return last
}

// stringEnd returns the index behind the string whose quote is at i.
func stringEnd(text string, i int) int {
	quote := text[i : i+1]
	if strings.HasPrefix(text[i:], strings.Repeat(quote, 3)) {
		quote = strings.Repeat(quote, 3)
	}
	for i += len(quote); i < len(text); i++ {
		switch {
		case text[i] == '\\' && quote[0] == '"':
			i++
		case strings.HasPrefix(text[i:], quote):
			i += len(quote)
			for len(quote) == 3 && i < len(text) && text[i] == quote[0] { // """"" ends with two of its own
				i++
			}
			return i
		}
	}
	return len(text)
}

func removeSetting(text, name string) (string, error) {
	all, _, err := statements(text)
	if err != nil {
		return "", err
	}
	for _, s := range all {
		if s.name == name {
			return text[:s.start] + text[s.end:], nil
		}
	}
	return text, nil
}

func setSetting(text string, a assigned) (string, error) {
	all, tables, err := statements(text)
	if err != nil {
		return "", err
	}
	line := assignment(a.name, a.value)
	for _, s := range all {
		if s.name == a.name {
			_, value, _ := strings.Cut(line, "=")
			return text[:s.from] + value + text[s.to:], nil
		}
	}
	at := tables
	if i := strings.Index("\n"+text[:tables], "\n#"+a.name+" = "); i >= 0 {
		at = lineEnd(text, i)
	}
	before := text[:at]
	if before != "" && !strings.HasSuffix(before, "\n") {
		before += "\n"
	}
	return before + line + "\n" + text[at:], nil
}
