package lend

import (
	"math"
	"testing"
)

func TestParseLoad(t *testing.T) {
	for s, want := range map[string]float64{
		"0": 0, "off": 0, "OFF": 0, "0%": 0, "40%": 0.4, " 40 % ": 0.4, "0.4": 0.4, "1": 1, "100%": 1, "1%": 0.01, "12.5%": 0.125,
	} {
		if got, err := ParseLoad(s); err != nil || math.Abs(got-want) > 1e-12 {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
	for _, s := range []string{"", "%", "40", "1.01", "101%", "-1", "-1%", "nan", "nan%", "inf", "half", "40%%"} {
		if got, err := ParseLoad(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func FuzzParseLoad(f *testing.F) {
	f.Add("40%")
	f.Add("0x1p-2")
	f.Add("off")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseLoad(s)
		if err == nil && (Rules{PauseLoad: v}).Check() != nil {
			t.Fatalf("%q gives %v", s, v)
		}
	})
}

func TestCheck(t *testing.T) {
	for _, r := range []Rules{{}, {PauseLoad: 1}, {PauseLoad: DefaultPauseLoad, PauseAfter: 1, Resume: 1}} {
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	}
	for _, r := range []Rules{{PauseLoad: 1.1}, {PauseLoad: -0.1}, {PauseLoad: math.NaN()}, {PauseAfter: -1}, {Resume: -1}} {
		if r.Check() == nil {
			t.Errorf("%+v passes", r)
		}
	}
}
