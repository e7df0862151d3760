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
}

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
			if t == '[' {
				doc.items = append(doc.items, v)
				continue
			}
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
