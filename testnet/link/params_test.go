package link

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		rtt, rate, loss string
		want            Params
		str             string
		err             string // part of the message
	}{
		{"", "", "", Params{}, "", ""},
		{"40ms", "100mbit", "0.1%", Params{RTT: 40 * time.Millisecond, Rate: 100e6, Loss: 0.001}, "rtt=40ms,rate=100mbit,loss=0.1%", ""},
		{"0.5s", "1.5Gbit/s", "0.02", Params{RTT: 500 * time.Millisecond, Rate: 1.5e9, Loss: 0.02}, "rtt=500ms,rate=1.5gbit,loss=2%", ""},
		{"", "56kbit", "", Params{Rate: 56e3}, "rate=56kbit", ""},
		{"0", "20 Mbps", "0%", Params{Rate: 20e6}, "rate=20mbit", ""},
		{"10ms", "unlimited", "", Params{RTT: 10 * time.Millisecond}, "rtt=10ms", ""},
		{"40", "", "", Params{}, "", "unit"},
		{"-1ms", "", "", Params{}, "", "negative"},
		{"1h", "", "", Params{}, "", "at most"},
		{"", "100", "", Params{}, "", "unit"},
		{"", "100MB/s", "", Params{}, "", "bits, not bytes"},
		{"", "NaNmbit", "", Params{}, "", "unit"},
		{"", "1bit", "", Params{}, "", "between"},
		{"", "-5mbit", "", Params{}, "", "between"},
		{"", "", "1", Params{}, "", "write 1%"},
		{"", "", "100%", Params{}, "", "below 100%"},
		{"", "", "-1%", Params{}, "", "at least 0"},
		{"", "", "much", Params{}, "", "percentage"},
	} {
		got, err := Parse(tc.rtt, tc.rate, tc.loss)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("Parse(%q, %q, %q): error %v, want one with %q", tc.rtt, tc.rate, tc.loss, err, tc.err)
			}
			continue
		}
		if err != nil || got != tc.want || got.String() != tc.str {
			t.Errorf("Parse(%q, %q, %q) = %+v (%q), %v; want %+v (%q)", tc.rtt, tc.rate, tc.loss, got, got, err, tc.want, tc.str)
		}
	}
}

func TestParseString(t *testing.T) {
	for _, bad := range []string{"rtt", "delay=40ms", "rtt=1ms,rtt=2ms", "rtt=40ms;rate=1mbit"} {
		if p, err := ParseString(bad); err == nil {
			t.Errorf("ParseString(%q) = %+v, want an error", bad, p)
		}
	}
	p, err := ParseString(" loss=1% , RTT=5ms,")
	if want := (Params{RTT: 5 * time.Millisecond, Loss: 0.01}); err != nil || p != want {
		t.Errorf("ParseString: %+v, %v; want %+v", p, err, want)
	}
	for s, want := range map[string]Params{
		"cuts=/a,b=c":             {Cuts: "/a,b=c"},
		"rtt=5ms,cuts=/x/cuts=/y": {RTT: 5 * time.Millisecond, Cuts: "/x/cuts=/y"},
	} {
		if p, err := ParseString(s); err != nil || p != want || p.String() != s {
			t.Errorf("ParseString(%q): %+v (%s), %v", s, p, p, err)
		}
	}
}

func FuzzParseString(f *testing.F) {
	f.Add("rtt=40ms,rate=100mbit,loss=0.1%")
	f.Add("loss=1%,cuts=/tmp/cuts")
	f.Add("rate=12345.678kbit,loss=0.0333")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseString(s)
		if err != nil {
			return
		}
		if p.RTT < 0 || p.Rate < 0 || p.Loss < 0 || p.Loss >= 1 {
			t.Fatalf("ParseString(%q) = %+v", s, p)
		}
		q, err := ParseString(p.String())
		if err != nil || q != p {
			t.Fatalf("%q -> %+v -> %q -> %+v, %v", s, p, p.String(), q, err)
		}
	})
}
