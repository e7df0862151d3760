package text

import (
	"fmt"
	"math"
	"strings"

	"github.com/shoalnet/shoal/node/text/jinja"
)

// Files hold the tokenizer's values in types of their writers' choice: a token's
// id as eight bits or 64, a flag as a number, scores as integers. They are read in
// all of them. A value that is none is an error rather than a default.

// integer returns a whole number of any type.
func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case uint64:
		return int64(min(v, math.MaxInt64)), true
	case int64:
		return v, true
	}
	f, ok := number(v)
	return int64(f), ok && f == math.Trunc(f) && math.Abs(f) < 1<<53
}

// number returns a number of any type.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case uint8:
		return float64(v), true
	case int8:
		return float64(v), true
	case uint16:
		return float64(v), true
	case int16:
		return float64(v), true
	case uint32:
		return float64(v), true
	case int32:
		return float64(v), true
	case uint64:
		return float64(v), true
	case int64:
		return float64(v), true
	case float32:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// each converts a list of numbers of any type. It is false if v is no such list,
// or if convert is for one of its elements.
func each[T any](v any, convert func(any) (T, bool)) (out []T, ok bool) {
	switch v := v.(type) {
	case []uint8:
		return converted(v, convert)
	case []int8:
		return converted(v, convert)
	case []uint16:
		return converted(v, convert)
	case []int16:
		return converted(v, convert)
	case []uint32:
		return converted(v, convert)
	case []int32:
		return converted(v, convert)
	case []uint64:
		return converted(v, convert)
	case []int64:
		return converted(v, convert)
	case []float32:
		return converted(v, convert)
	case []float64:
		return converted(v, convert)
	}
	return nil, false
}

func converted[E, T any](v []E, convert func(any) (T, bool)) ([]T, bool) {
	out := make([]T, len(v))
	for i, x := range v {
		var ok bool
		if out[i], ok = convert(x); !ok {
			return nil, false
		}
	}
	return out, true
}

// wrongType is the error for a value of a type that its key cannot have.
func wrongType(key, want string, v any) error {
	is := fmt.Sprintf("%v", v)
	if len(is) > 60 {
		is = strings.ToValidUTF8(is[:60], "") + "…"
	}
	return fmt.Errorf("%w: %s should be %s and is %s (%T)", ErrVocabulary, key, want, is, v)
}

// textOf reads a text; "" if there is none.
func textOf(md Metadata, key string) (string, error) {
	v := md.Value(key)
	s, ok := v.(string)
	if v != nil && !ok {
		return "", wrongType(key, "a text", v)
	}
	return s, nil
}

// flag reads true or false, or a number that stands for it, into to, which stays
// as it is if there is none.
func flag(md Metadata, key string, to *bool) error {
	v := md.Value(key)
	if v == nil {
		return nil
	}
	if on, ok := v.(bool); ok {
		*to = on
		return nil
	}
	n, ok := integer(v)
	if !ok || n != 0 && n != 1 {
		return wrongType(key, "true or false", v)
	}
	*to = n == 1
	return nil
}

// texts reads a list of texts; nil if there is none.
func texts(md Metadata, key string) ([]string, error) {
	v := md.Value(key)
	list, ok := v.([]string)
	if v != nil && !ok {
		return nil, wrongType(key, "a list of texts", v)
	}
	return list, nil
}

// perToken reads a list of numbers, one per token; nil if there is none. Some
// files hold more than they have tokens.
func perToken[T any](md Metadata, key string, tokens int, convert func(any) (T, bool)) ([]T, error) {
	v := md.Value(key)
	if v == nil {
		return nil, nil
	}
	list, ok := each(v, convert)
	if none, isText := v.([]string); isText && len(none) == 0 { // an empty list has any type
		ok = true
	}
	switch {
	case !ok:
		return nil, wrongType(key, "a list of numbers", v)
	case len(list) == 0:
		return nil, nil
	case len(list) < tokens:
		return nil, fmt.Errorf("%w: %s has %d values for %d tokens", ErrVocabulary, key, len(list), tokens)
	}
	return list[:tokens], nil
}

// tokenIDs reads the id of a token, or a list of them. Those that are no token's,
// such as -1, are left out: writers put them where there is no such token.
func tokenIDs(md Metadata, key string, tokens int) ([]int32, error) {
	v := md.Value(key)
	if v == nil {
		return nil, nil
	}
	list, ok := each(v, integer)
	if n, one := integer(v); one {
		list, ok = []int64{n}, true
	}
	if !ok {
		return nil, wrongType(key, "a token's id", v)
	}
	var out []int32
	for _, id := range list {
		if id >= 0 && id < int64(tokens) {
			out = append(out, int32(id))
		}
	}
	return out, nil
}

// firstID is tokenIDs' first, or -1.
func firstID(md Metadata, key string, tokens int) (int32, error) {
	ids, err := tokenIDs(md, key, tokens)
	if len(ids) == 0 {
		return -1, err
	}
	return ids[0], nil
}

// Doubts says what is wrong with the tokenizer and the templates of a file that can
// be used all the same, such as what makes its tokens others than those that the
// model was trained with; one sentence each.
func Doubts(md Metadata) (out []string) {
	model, _ := md.Value("tokenizer.ggml.model").(string)
	pre, _ := md.Value("tokenizer.ggml.pre").(string)
	if _, known := preTypes[pre]; model == "gpt2" && !known {
		out = append(out, fmt.Sprintf("its text may be split into other words than the model was trained with: "+
			"tokenizer.ggml.pre names %.60q, which this version does not know, so a general way of splitting stands in; answers may be worse", pre))
	} else if model == "gpt2" && pre == "" {
		out = append(out, "its text may be split into other words than the model was trained with: "+
			"the file does not say how (tokenizer.ggml.pre), so a general way of splitting stands in; a newer file of the model may say")
	}
	if v := md.Value("tokenizer.ggml.scores"); model == "llama" && (v == nil || fmt.Sprint(v) == "[]") {
		out = append(out, "its text may be split into other tokens than the model was trained with: "+
			"the file has no scores (tokenizer.ggml.scores), so pieces are joined from left to right; a newer file of the model may have them")
	}
	source, toolUse, _ := sources(md)
	if _, err := jinja.Parse(source); err != nil {
		out = append(out, fmt.Sprintf("it cannot be used for chats, only for plain completions: %s", err))
	}
	if _, err := jinja.Parse(toolUse); err != nil {
		out = append(out, fmt.Sprintf("its template for chats with tools stands aside for its general one: %s", err))
	}
	return out
}

// Check returns an error if a file's metadata has no tokenizer that can be used,
// or something else in the place of a chat template. Errors wrap ErrVocabulary.
func Check(md Metadata) error {
	if _, err := New(md); err != nil {
		return err
	}
	_, _, err := sources(md)
	return err
}
