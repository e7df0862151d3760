package scenario

import (
	"slices"
	"testing"
)

// numbered makes tokens of pairs of index and id; bare of ids alone.
func numbered(pairs ...int) (came []Came) {
	for p := range slices.Chunk(pairs, 2) {
		came = append(came, Came{Token: Token{Index: p[0], ID: int32(p[1])}})
	}
	return came
}

func bare(list ...int) (came []Came) {
	for _, id := range list {
		came = append(came, Came{Token: Token{Index: -1, ID: int32(id)}})
	}
	return came
}

// inTurn numbers ids as they come.
func inTurn(list ...int) []Came {
	came := bare(list...)
	for i := range came {
		came[i].Index = i
	}
	return came
}

func TestJudge(t *testing.T) {
	want := []int32{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}
	same := []int{10, 11, 12, 13, 14, 15, 16, 17, 18, 19}
	for name, tc := range map[string]struct {
		came []Came
		open bool // cancelled or refused
		want verdict
	}{
		"equal":                 {came: inTurn(same...)},
		"equal, not numbered":   {came: bare(same...)},
		"cancelled":             {came: inTurn(10, 11, 12), open: true},
		"refused":               {open: true},
		"failed at once":        {want: verdict{lost: 10}},
		"ended early":           {came: inTurn(same[:7]...), want: verdict{lost: 3}},
		"a hole":                {came: numbered(0, 10, 1, 11, 4, 14, 5, 15, 6, 16, 7, 17, 8, 18, 9, 19), want: verdict{lost: 2}},
		"a hole and a bad end":  {came: numbered(0, 10, 3, 13), want: verdict{lost: 8}},
		"one twice":             {came: numbered(0, 10, 1, 11, 1, 11, 2, 12, 3, 13, 4, 14, 5, 15, 6, 16, 7, 17, 8, 18, 9, 19), want: verdict{duplicated: 1}},
		"all twice":             {came: append(inTurn(same...), inTurn(same...)...), want: verdict{duplicated: 10}},
		"late":                  {came: numbered(0, 10, 2, 12, 1, 11, 3, 13, 4, 14, 5, 15, 6, 16, 7, 17, 8, 18, 9, 19), want: verdict{reordered: 1}},
		"other from 4 on":       {came: inTurn(10, 11, 12, 13, 50, 51, 52, 53, 54, 55), want: verdict{differs: true, at: 4}},
		"other, shorter":        {came: inTurn(10, 11, 50), want: verdict{differs: true, at: 2}},
		"other, longer":         {came: inTurn(append(slices.Clone(same), 50, 51)...), want: verdict{differs: true, at: 10}},
		"other, cancelled":      {came: inTurn(10, 50), open: true, want: verdict{differs: true, at: 1}},
		"other, once":           {came: inTurn(10, 11, 12, 50, 14, 15, 16, 17, 18, 19), want: verdict{differs: true, at: 3}},
		"a hole and other":      {came: numbered(0, 10, 2, 50, 3, 13), want: verdict{lost: 1, differs: true, at: 2}},
		"lacks two, renumbered": {came: inTurn(10, 11, 14, 15, 16, 17, 18, 19), want: verdict{lost: 2, at: 2}},
		"lacks two, bare":       {came: bare(10, 11, 14, 15, 16, 17, 18, 19), want: verdict{lost: 2, at: 2}},
		"two twice, renumbered": {came: inTurn(10, 11, 12, 11, 12, 13, 14, 15, 16, 17, 18, 19), want: verdict{duplicated: 2, at: 3}},
		"two twice, bare":       {came: bare(10, 11, 12, 11, 12, 13, 14, 15, 16, 17, 18, 19), want: verdict{duplicated: 2, at: 3}},
		"swapped, bare":         {came: bare(10, 12, 11, 13, 14, 15, 16, 17, 18, 19), want: verdict{reordered: 2, at: 1}},
		"swapped at the end":    {came: bare(10, 11, 12, 13, 14, 15, 16, 17, 19, 18), want: verdict{reordered: 2, at: 8}},
		"no more than by chance": {
			came: inTurn(10, 11, 13, 14, 50, 51, 52, 53, 54, 55), want: verdict{differs: true, at: 2},
		},
	} {
		if got := judge(tc.came, want, !tc.open); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
	if v := judge(nil, nil, true); !v.clean() {
		t.Errorf("nothing, as undisturbed: %+v", v)
	}
}

// FuzzJudge: what is broken in a known way is found out, whatever the tokens.
func FuzzJudge(f *testing.F) {
	f.Add([]byte("abcdefghij"), uint8(3), uint8(0))
	f.Add([]byte("aaaaaaaaaa"), uint8(5), uint8(1))
	f.Add([]byte("abab"), uint8(1), uint8(2))
	f.Fuzz(func(t *testing.T, text []byte, at, kind uint8) {
		if len(text) < 3 {
			return
		}
		var want []int32
		var list []int
		for _, b := range text {
			want, list = append(want, int32(b)), append(list, int(b))
		}
		came := inTurn(list...)
		if v := judge(came, want, true); !v.clean() {
			t.Fatalf("equal: %+v", v)
		}
		i := 1 + int(at)%(len(came)-2)
		switch kind % 3 {
		case 0:
			if v := judge(slices.Delete(came, i, i+1), want, true); v != (verdict{lost: 1}) {
				t.Fatalf("without %d: %+v", i, v)
			}
		case 1:
			if v := judge(slices.Insert(came, i, came[i-1]), want, true); v != (verdict{duplicated: 1}) {
				t.Fatalf("%d twice: %+v", i-1, v)
			}
		case 2:
			came[i], came[i+1] = came[i+1], came[i]
			if v := judge(came, want, true); v != (verdict{reordered: 1}) {
				t.Fatalf("%d late: %+v", i, v)
			}
		}
	})
}
