package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Objects whose order counts: a model is told of options in the order of the request, and
// is shown JSON as it was sent. Go's maps have no order.

// member is a member of a JSON object.
type member struct {
	key   string
	value json.RawMessage
}

// members returns the members of an object in their order. Its errors name the object; a
// key that comes twice is one.
func members(param string, raw json.RawMessage) (list []member, err error) {
	if first(raw) != '{' {
		return nil, badParam(param, "must be an object")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	seen := map[string]bool{}
	if _, err := dec.Token(); err != nil {
		return nil, decodeAt(param, raw, &json.RawMessage{})
	}
	for dec.More() {
		key, err := dec.Token()
		var m member
		if err == nil {
			m.key = key.(string) // the decoder takes nothing else here
			err = dec.Decode(&m.value)
		}
		if err != nil {
			return nil, decodeAt(param, raw, &json.RawMessage{})
		}
		if seen[m.key] {
			return nil, badParam(param, "has %q twice", m.key)
		}
		seen[m.key] = true
		list = append(list, m)
	}
	return list, nil
}

// ordered is a JSON object whose members have an order.
type ordered []orderedMember

type orderedMember struct {
	key   string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o ordered) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		key, err := json.Marshal(m.key)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, key...), ':'), value...)
	}
	return append(b, '}'), nil
}

// jsonText returns JSON as text for a model: in its order, and with its characters as they
// are. comma and colon are what stands between members and after keys.
func jsonText(raw json.RawMessage, comma, colon string) string {
	var b strings.Builder
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	writeText(&b, dec, comma, colon)
	return b.String()
}

// textOrJSON returns a JSON text as it reads, and any other JSON as text.
func textOrJSON(raw json.RawMessage, comma, colon string) string {
	var text string
	if first(raw) == '"' && json.Unmarshal(raw, &text) == nil {
		return text
	}
	return jsonText(raw, comma, colon)
}

// writeText writes the decoder's next value, which was found to be valid before.
func writeText(b *strings.Builder, dec *json.Decoder, comma, colon string) {
	t, err := dec.Token()
	if err != nil {
		return
	}
	switch t := t.(type) {
	case json.Delim:
		b.WriteString(t.String())
		for i := 0; dec.More(); i++ {
			if i > 0 {
				b.WriteString(comma)
			}
			if t == '{' {
				writeText(b, dec, comma, colon)
				b.WriteString(colon)
			}
			writeText(b, dec, comma, colon)
		}
		if end, err := dec.Token(); err == nil {
			b.WriteString(end.(json.Delim).String())
		}
	case string:
		writeQuoted(b, t)
	case nil:
		b.WriteString("null")
	default: // a number as it was written, or a truth
		fmt.Fprint(b, t)
	}
}

// writeQuoted writes a text in quotation marks, and escapes no more than JSON demands.
func writeQuoted(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch at := strings.IndexRune("\"\\\b\f\n\r\t", r); {
		case at >= 0:
			b.WriteByte('\\')
			b.WriteByte(`"\bfnrt`[at])
		case r < ' ':
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}
