package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
)

// A small run has every case, and the cases whose rates are limits rather than
// this machine's come out about as they should.
func TestBenchFetch(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "bench", "fetch", "--json", "--size", "32MiB", "--limited-size", "32MiB", "--rounds", "1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	_, curlErr := exec.LookPath("curl")
	got := map[string]*fetchCase{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		c := new(fetchCase)
		if err := json.Unmarshal(lines.Bytes(), c); err != nil {
			t.Fatalf("%v: %s", err, lines.Bytes())
		}
		if c.MiBPerS <= 0 || (c.RatioToCurl == nil) != (curlErr != nil) || !bytes.Contains(lines.Bytes(), []byte(`"ratio_to_curl":`)) {
			t.Errorf("%s", lines.Bytes())
		}
		got[c.Case] = c
	}
	for _, name := range []string{"flatfs_bitswap", "one_source", "one_limited", "four_limited", "two_good", "two_good_one_slow_one_liar"} {
		if got[name] == nil {
			t.Fatalf("there is no case %s in\n%s", name, out)
		}
	}
	if r := got["one_source"].RatioToFlatfs; r == nil || *r < 1 {
		t.Error("one source is slower than plain bitswap over flatfs")
	}
	if r := got["one_limited"].MiBPerS; r > 13 || r < 8 {
		t.Errorf("a source of 100 Mbit/s gives %.1f MiB/s", r)
	}
	if r := *got["four_limited"].Ratio; r < 2.5 || r > 4.8 {
		t.Errorf("four give %.1f times what one does", r)
	}
	bad := got["two_good_one_slow_one_liar"]
	if *bad.Ratio < 0.7 || bad.BadPeer == "" || bad.Named == nil || !*bad.Named {
		t.Errorf("%+v", bad)
	}
	if stderr.Len() > 0 && curlErr == nil {
		t.Errorf("it says, in a pipe: %s", stderr.Bytes())
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "0": 0, "100mbit": 12_500_000, "100 Mbit/s": 12_500_000, "1MiB": 1 << 20, "1.5MB/s": 1_500_000, "unlimited": 0} {
		if got, err := parseRate("--up", text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"fast", "-1mbit", "1bit", "10", "mbit", "1e99mbit", "NaNmbit", "3 apples"} {
		if got, err := parseRate("--up", text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}
