package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/shoalnet/shoal/cmd/shoal/bench"
)

// A small run has every case, with its ratios, and names the liar.
func TestBenchFetch(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "bench", "fetch", "--json", "--size", "64MiB", "--limited-size", "40MiB", "--rounds", "1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	_, curlErr := exec.LookPath("curl")
	got := map[string]*bench.FetchCase{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		c := new(bench.FetchCase)
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
	// How fast they are is for people to read: this machine may be busy.
	if got["one_source"].RatioToFlatfs == nil || got["four_limited"].Ratio == nil {
		t.Error("ratios are missing")
	}
	if bad := got["two_good_one_slow_one_liar"]; bad.BadPeer == "" || bad.Named == nil || !*bad.Named {
		t.Errorf("the liar is not named: %+v", bad)
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
