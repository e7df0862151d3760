package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
)

// unsupported lists fields that would change the answer, so that ignoring them would
// mislead the caller. Other unknown fields are ignored, as other servers do: clients send
// many. idle reports whether a value has no effect.
type unsupported struct {
	param string
	idle  func(json.RawMessage) bool
	why   string
}

var chatUnsupported = []unsupported{
	{"functions", isEmpty, "is not supported: use tools, which replaced it"},
	{"function_call", isOneOf(`"none"`, `"auto"`), "is not supported: use tool_choice, which replaced it"},
	{"modalities", isOneOf(`["text"]`, `[]`), "other than text are not supported"},
	{"audio", isEmpty, "is not supported: models here write text only"},
	{"web_search_options", never, "is not supported: nothing here searches the web"},
	{"logit_bias", isEmpty, "is not supported"},
	{"echo", isOneOf("false"), "is not supported here: /v1/completions has it"},
	{"best_of", isOneOf("1"), "is not supported here: ask for more choices with n"},
}

// chatAlone are words by which an answer continues the last message.
var chatAlone = []unsupported{
	{"continue_final_message", isOneOf("false"), "is not supported here: /v1/chat/completions has it"},
	{"add_generation_prompt", isOneOf("true"), "is not supported here: /v1/chat/completions has it"},
}

var completionUnsupported = []unsupported{
	{"suffix", isOneOf(`""`), "is not supported: the models here continue a text, and fill no gap in one"},
	{"logit_bias", isEmpty, "is not supported"},
}

func refuse(body []byte, lists ...[]unsupported) error {
	var all map[string]json.RawMessage
	if err := decode(body, &all); err != nil {
		return err
	}
	for _, f := range slices.Concat(lists...) {
		if raw, ok := all[f.param]; ok && present(raw) && !f.idle(raw) {
			return badParam(f.param, "%s", f.why)
		}
	}
	return nil
}

func isEmpty(raw json.RawMessage) bool { return isOneOf("[]", "{}")(raw) }

func never(json.RawMessage) bool { return false }

func isOneOf(values ...string) func(json.RawMessage) bool {
	return func(raw json.RawMessage) bool {
		var b bytes.Buffer
		if json.Compact(&b, raw) != nil {
			return false
		}
		for _, v := range values {
			if b.String() == v {
				return true
			}
		}
		return false
	}
}

// decode reads one JSON object into v.
func decode(body []byte, v any) error {
	body = bytes.TrimPrefix(body, byteOrderMark)
	if first(body) != '{' {
		return &Error{Kind: BadInput, Message: "the body must be a JSON object"}
	}
	return decodeAt("", body, v)
}

// byteOrderMark begins the text of some clients on Windows.
var byteOrderMark = []byte("\xef\xbb\xbf")

// decodeAt reads JSON at a place of the request that param names. Its errors quote
// nothing of the request except field names. Whole numbers may be written as fractions.
func decodeAt(param string, raw []byte, v any) error {
	err := decodeWhole(raw, func(raw []byte) error {
		dec := json.NewDecoder(bytes.NewReader(raw))
		if err := dec.Decode(v); err != nil {
			return err
		}
		if _, err := dec.Token(); err != io.EOF {
			return errMore
		}
		return nil
	})
	if err == nil {
		return nil
	}
	if errors.Is(err, errMore) {
		return &Error{Kind: BadInput, Param: param, Message: errMore.Error()}
	}
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrong):
		at := strings.TrimPrefix(strings.Join([]string{param, field(wrong.Field)}, "."), ".")
		if param == "" || wrong.Field == "" {
			at = param + field(wrong.Field)
		}
		kind, _, _ := strings.Cut(wrong.Value, " ") // "number 1e99" holds the number
		return badParam(at, "is %s and must be %s", valueWord(kind), typeWord(wrong.Type.Kind().String()))
	case errors.As(err, &syntax):
		return &Error{Kind: BadInput, Param: param, Message: fmt.Sprintf("the body is not valid JSON: error at byte %d", syntax.Offset)}
	}
	return &Error{Kind: BadInput, Param: param, Message: "the body is not valid JSON: it ends too soon"}
}

var errMore = errors.New("there is more in the body after the JSON object")

// field returns encoding/json's path without the names of embedded structs, which alone
// have capital letters.
func field(path string) string {
	parts := slices.DeleteFunc(strings.Split(path, "."), func(part string) bool {
		return strings.ContainsFunc(part, unicode.IsUpper)
	})
	return strings.Join(parts, ".")
}

// valueWord names a kind of JSON value, of encoding/json's words for them.
func valueWord(kind string) string {
	switch kind {
	case "array":
		return "a list"
	case "object":
		return "an object"
	case "bool":
		return "true or false"
	}
	return "a " + kind
}

// typeWord names what a kind of Go's types takes.
func typeWord(kind string) string {
	switch {
	case kind == "int", kind == "int64":
		return "an integer"
	case strings.HasPrefix(kind, "int"):
		return "an integer of " + strings.TrimPrefix(kind, "int") + " bits"
	case strings.HasPrefix(kind, "uint"):
		return "an integer, 0 or more"
	case strings.HasPrefix(kind, "float"):
		return "a number in range"
	case kind == "struct", kind == "map":
		return "an object"
	case kind == "slice", kind == "array":
		return "a list"
	case kind == "bool":
		return "true or false"
	}
	return "a " + kind
}

func within(param string, v, lo, hi int) error {
	if v < lo || v > hi {
		return badParam(param, "must lie between %d and %d, not be %d", lo, hi, v)
	}
	return nil
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// first returns the first byte of a JSON value; 0 if there is none.
func first(raw []byte) byte {
	if b := bytes.TrimLeft(raw, " \t\r\n"); len(b) > 0 {
		return b[0]
	}
	return 0
}

// present reports whether a field is present and not null.
func present(raw json.RawMessage) bool {
	c := first(raw)
	return c != 0 && c != 'n'
}

// given reports whether a field is present and has an effect.
func given(raw json.RawMessage) bool { return present(raw) && !isEmpty(raw) }
