package ranges

import (
	"errors"
	"testing"
)

func TestParse(t *testing.T) {
	for header, want := range map[string]Part{
		"bytes 0-0/1":            {0, 1, 1},
		"bytes 10-19/*":          {10, 20, -1},
		"bytes 10-19/100":        {10, 20, 100},
		"Bytes 10-19/100":        {10, 20, 100},
		" bytes  10 - 19 / 100 ": {10, 20, 100},
		"bytes 0-99/100":         {0, 100, 100},
	} {
		if got, err := Parse(header); err != nil || got != want {
			t.Errorf("%q: %v, %v", header, got, err)
		}
	}
	for _, header := range []string{
		"", "bytes", "bytes */100", "bytes 0-9", "bytes 9-0/10", "bytes 0-10/10", "bytes -5/10", "bytes 0-/10", "bytes 0-9/", "bytes 0-9/x",
		"bytes +0-9/10", "bytes 0--9/10", "bytes 0-9/-1", "items 0-9/10", "bytes=0-9/10", "bytes 0-9223372036854775807/*", "bytes 0-9,20-29/100", "bytes 0x0-9/10",
	} {
		if got, err := Parse(header); !errors.Is(err, ErrNone) {
			t.Errorf("%q: %v, %v", header, got, err)
		}
	}
}

func TestFits(t *testing.T) {
	for _, c := range []struct {
		p  Part
		ok bool
	}{
		{Part{10, 20, 100}, true}, {Part{10, 20, -1}, true}, {Part{10, 11, 100}, true},
		{Part{9, 20, 100}, false}, {Part{11, 20, 100}, false}, {Part{10, 21, 100}, false}, {Part{10, 20, 99}, false}, {Part{0, 100, 100}, false},
	} {
		if err := c.p.Fits(10, 20, 100); (err == nil) != c.ok {
			t.Errorf("%v: %v", c.p, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Add("bytes 4611686018427387903-4611686018427387903/*")
	f.Fuzz(func(t *testing.T, header string) {
		p, err := Parse(header)
		if err == nil && (p.From < 0 || p.To <= p.From || p.Whole < -1 || p.Whole >= 0 && p.Whole < p.To) {
			t.Errorf("%q: %+v", header, p)
		}
	})
}
