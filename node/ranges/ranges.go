package ranges

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Part is a part of a file, in bytes.
type Part struct {
	From, To int64 // from the file's beginning; To is behind the last byte, and greater than From
	Whole    int64 // size of the file; -1: the server does not say
}

// ErrNone means that there is no header, or that it is not of the form that the
// RFC describes.
var ErrNone = errors.New("the server does not say which part of the file it sends")

// Parse reads the header's value.
func Parse(header string) (Part, error) {
	unit, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
	span, whole, ok := strings.Cut(strings.TrimSpace(rest), "/")
	from, to, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 || !strings.EqualFold(unit, "bytes") {
		return Part{}, ErrNone
	}
	p := Part{Whole: -1}
	var err1, err2, err3 error
	p.From, err1 = number(from)
	p.To, err2 = number(to)
	if strings.TrimSpace(whole) != "*" {
		p.Whole, err3 = number(whole)
	}
	if p.To++; errors.Join(err1, err2, err3) != nil || p.From >= p.To || p.Whole >= 0 && p.To > p.Whole {
		return Part{}, ErrNone
	}
	return p, nil
}

// number parses digits alone, where strconv also takes signs. It leaves room for
// one more.
func number(s string) (int64, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 62)
	return int64(n), err
}

// Fits returns an error unless the part begins at from, ends at to or before, and
// is of a file of so many bytes. The error is a sentence about the server.
func (p Part) Fits(from, to, whole int64) error {
	switch {
	case p.Whole >= 0 && p.Whole != whole:
		return fmt.Errorf("the file there has %d bytes now, and had %d", p.Whole, whole)
	case p.From != from || p.To > to:
		return fmt.Errorf("the server answers with another range (%d-%d) than it was asked for (%d-%d)", p.From, p.To-1, from, to-1)
	}
	return nil
}
