package constrain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// document is a JSON value whose objects keep the order of their members.
type document struct {
	kind    byte // one of { [ " 0 t n: object, list, string, number, true or false, null
	members []member
	items   []*document
	text    string // of a string or number; "true" or "false"

	up  *document // that it is part of; nil: the whole
	key string    // there

	apart bool // made as an opposite: what it names is not evaluated by it
}

// pointer returns where the value is in the whole (RFC 6901).
func (d *document) pointer() string {
	var keys []string
	for ; d.up != nil; d = d.up {
		keys = append(keys, "/"+escape(d.key))
	}
	slices.Reverse(keys)
	return strings.Join(keys, "")
}

// isFalse reports whether the value is false, the schema that takes no value.
func (d *document) isFalse() bool { return d.kind == 't' && d.text == "false" }

// isTrue reports whether the value is true, the schema that takes every value.
func (d *document) isTrue() bool { return d.kind == 't' && d.text == "true" }

// Documents that are made here stand for what others mean. They have a place of those.

func object(at *document, members ...member) *document {
	return &document{kind: '{', members: members, up: at.up, key: at.key}
}

func listOf(items ...*document) *document { return &document{kind: '[', items: items} }

func textOf(s string) *document { return &document{kind: '"', text: s} }

func numberOf(n int) *document { return &document{kind: '0', text: strconv.Itoa(n)} }

var (
	trueDoc  = &document{kind: 't', text: "true"}
	falseDoc = &document{kind: 't', text: "false"}
)

type member struct {
	name  string
	value *document
}

const (
	maxDepth   = 100
	maxMembers = 2000 // of an object or list
)

// readDocument reads one JSON value.
func readDocument(raw []byte) (*document, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	doc, err := readValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows on the JSON value")
	}
	return doc, nil
}

func readValue(d *json.Decoder, depth int) (*document, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it nests more than %d deep", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		doc := &document{kind: byte(t)}
		for d.More() {
			if len(doc.members)+len(doc.items) >= maxMembers {
				return nil, fmt.Errorf("an object or list has more than %d members", maxMembers)
			}
			name := ""
			if t == '{' {
				key, err := d.Token()
				if err != nil {
					return nil, err
				}
				name, _ = key.(string)
			}
			v, err := readValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			v.up = doc
			if t == '[' {
				v.key = strconv.Itoa(len(doc.items))
				doc.items = append(doc.items, v)
				continue
			}
			v.key = name
			if doc.get(name) != nil {
				return nil, fmt.Errorf("%.64q stands twice in an object", name)
			}
			doc.members = append(doc.members, member{name, v})
		}
		_, err := d.Token()
		return doc, err
	case string:
		return &document{kind: '"', text: t}, nil
	case json.Number:
		return &document{kind: '0', text: t.String()}, nil
	case bool:
		return &document{kind: 't', text: strconv.FormatBool(t)}, nil
	}
	return &document{kind: 'n', text: "null"}, nil
}

func (d *document) get(name string) *document {
	if d.kind == '{' {
		for i := range d.members {
			if d.members[i].name == name {
				return d.members[i].value
			}
		}
	}
	return nil
}

// at resolves a JSON pointer (RFC 6901).
func (d *document) at(pointer string) *document {
	if pointer == "" {
		return d
	}
	for step := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		step = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
		switch d.kind {
		case '{':
			d = d.get(step)
		case '[':
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(d.items) {
				return nil
			}
			d = d.items[i]
		default:
			return nil
		}
		if d == nil {
			return nil
		}
	}
	return d
}

// anchor returns the schema with this $anchor.
func (d *document) anchor(name string) *document {
	if a := d.get("$anchor"); a != nil && a.kind == '"' && a.text == name {
		return d
	}
	for _, m := range d.members {
		if found := m.value.anchor(name); found != nil && m.name != "enum" && m.name != "const" {
			return found
		}
	}
	for _, v := range d.items {
		if found := v.anchor(name); found != nil {
			return found
		}
	}
	return nil
}

// String returns the value as JSON without white space.
func (d *document) String() string {
	switch d.kind {
	case '"':
		return written(d.text)
	case '[':
		list := make([]string, len(d.items))
		for i, v := range d.items {
			list[i] = v.String()
		}
		return "[" + strings.Join(list, ",") + "]"
	case '{':
		list := make([]string, len(d.members))
		for i, m := range d.members {
			list[i] = written(m.name) + ":" + m.value.String()
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	return d.text
}

// same reports whether two values are equal by JSON Schema's rules: numbers by
// value, objects regardless of order.
func (d *document) same(o *document) bool {
	if d.kind != o.kind || len(d.items) != len(o.items) || len(d.members) != len(o.members) {
		return false
	}
	if d.kind == '0' {
		a, errA := rational(d)
		b, errB := rational(o)
		return errA == nil && errB == nil && a.Cmp(b) == 0 || d.text == o.text
	}
	for i := range d.items {
		if !d.items[i].same(o.items[i]) {
			return false
		}
	}
	return d.text == o.text && !slices.ContainsFunc(d.members, func(m member) bool {
		v := o.get(m.name)
		return v == nil || !m.value.same(v)
	})
}
