package jinja

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrTemplate is wrapped by all errors of this package: a template's own
// (raise_exception), and those of parsing and rendering.
var ErrTemplate = errors.New("the template refuses")

const (
	maxSource   = 1 << 20  // bytes of a template
	maxRendered = 16 << 20 // bytes of its output
)

// Template is a parsed template. It is safe for concurrent use.
type Template struct{ body block }

// Parse parses a template. Errors wrap ErrTemplate.
func Parse(source string) (*Template, error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("%w: it cannot be read: it has %d KiB", ErrTemplate, len(source)>>10)
	}
	t := &Template{}
	err := guard("it cannot be read: ", func() { t.body = parse(source) })
	return t, err
}

// Render renders a template with variables, which are Go values: strings,
// numbers, slices, maps with string keys, or a Dict or Func of this package. It
// fails after the time within. Errors wrap ErrTemplate.
func (t *Template) Render(vars map[string]any, within time.Duration) (string, error) {
	r := &run{out: &strings.Builder{}, deadline: time.Now().Add(within)}
	err := guard("", func() {
		values := make(map[string]any, len(vars))
		for k, v := range vars {
			values[k] = fromGo(v)
		}
		r.exec(t.body, (&scope{vars: values, outer: &scope{vars: globals}}).inner())
	})
	if err != nil {
		return "", err
	}
	return r.out.String(), nil
}

// guard converts a panic of the interpreter into an error.
func guard(doing string, f func()) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			err = fmt.Errorf("%w: %s%s", ErrTemplate, doing, r.message)
		default: // a bug in this package: reported, without ending the node
			err = fmt.Errorf("%w: %sit failed: %v", ErrTemplate, doing, r)
		}
	}()
	f()
	return nil
}

// Dict makes a dict whose keys keep the given order: key, value, key, value.
// Its values are converted by Render, which reports invalid ones.
func Dict(pairs ...any) any { return pairsOf(pairs) }

// Func makes a function that templates call with one string; its error becomes
// the template's.
func Func(f func(text string) (string, error)) any {
	return callable(func(r *run, a args) any {
		out, err := f(r.str(a.must(0, "text")))
		if err != nil {
			fail("%s", err)
		}
		return out
	})
}
