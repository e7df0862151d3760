package randommodel

import (
	"bytes"
	"io"
	"math"
	"testing"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// A file is as long as its header says, and the same each time.
func TestWrite(t *testing.T) {
	for _, kind := range Types() {
		t.Run(kind.String(), func(t *testing.T) {
			var one, two bytes.Buffer
			for _, w := range []io.Writer{&one, &two} {
				if err := Write(w, Small(kind)); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(one.Bytes(), two.Bytes()) {
				t.Error("two files of one configuration differ")
			}
			h, err := gguf.Read(bytes.NewReader(one.Bytes()), int64(one.Len()))
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Check(int64(one.Len())); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	c := Small(12)
	c.FF = 300
	if err := Write(io.Discard, c); err == nil {
		t.Error("a width that blocks of 256 do not divide was taken")
	}
	if _, err := TypeOf("Q9_9"); err == nil {
		t.Error("a type that nobody knows was found")
	}
}

func TestHalf(t *testing.T) {
	for _, v := range []float64{1, -2, 0.333251953125, 1.0 / (1 << 14), 0.00001} {
		if got := back(half(v)); math.Abs(got-v) > math.Abs(v)/100 {
			t.Errorf("%v in half precision is %v", v, got)
		}
	}
}

func back(h uint16) float64 {
	sign, exp, frac := 1.0, int(h>>10&31), float64(h&1023)/1024
	if h>>15 == 1 {
		sign = -1
	}
	if exp == 0 {
		return sign * math.Ldexp(frac, -14)
	}
	return sign * math.Ldexp(1+frac, exp-15)
}
