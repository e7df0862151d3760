package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
)

// busy is a node with all there is to show, and names as a hostile peer would
// have them.
func busy(peers int) look {
	l := look{Time: time.Unix(0, 0), Peer: "12D3KooWabcdefgh", Version: "1.0", Sessions: 3, TokensPerS: 45.2, KVTokens: 1000, KVFree: 500, Paused: "other programs",
		Serving: []api.Serving{
			{Name: "a model with a long name of 模型模型模型", From: 0, To: 10, Ready: true, KVTokens: 1000, KVFree: 500, Sessions: 3, Devices: []string{"CPU CPU"}},
			{Name: "second", State: "loaded, and waiting: \x1b[2J nobody"},
		},
		Fetches: []api.Fetch{{Name: "third\x1b]0;title\a", Done: 50, Total: 100, Sources: 2}},
	}
	for i := range peers {
		l.Peers = append(l.Peers, api.Peer{Peer: fmt.Sprintf("12D3KooW%08d", i), RTTMs: float64(peers - i), Transport: "quic-v1", Version: "shoal/\x1b[31mred", Serves: []string{"x\n\x1b[1A", "y 0-10"}})
	}
	return l
}

// A page fits into any terminal, and nothing that a peer says moves the cursor.
func TestDraw(t *testing.T) {
	past := []float64{0, 1, 2, 50}
	for _, size := range [][2]int{{80, 24}, {120, 40}, {40, 10}, {20, 5}, {300, 100}} {
		for _, peers := range []int{0, 3, 200} {
			lines := draw(busy(peers), past, size[0], size[1], true)
			if len(lines) != size[1] {
				t.Errorf("%v: %d lines", size, len(lines))
			}
			for _, line := range lines {
				bare := line
				for _, sgr := range []string{"0", "1", "7", "33", "36", "1;31"} {
					bare = strings.ReplaceAll(bare, "\x1b["+sgr+"m", "")
				}
				if strings.ContainsAny(bare, "\x1b\n\r\a") {
					t.Errorf("%v: %q", size, line)
				}
				if w := textWidth(bare); w > size[0] {
					t.Errorf("%v: %d columns: %q", size, w, bare)
				}
			}
			if peers == 200 && size[1] >= 24 && !strings.Contains(strings.Join(lines, "\n"), "more") {
				t.Errorf("%v: it is not said that peers are left out", size)
			}
		}
	}
	all := strings.Join(draw(busy(3), nil, 120, 0, false), "\n")
	for _, want := range []string{"45.2", "500 of 1000 (50 %)", "second", "from 2 peers", "PEERS 3", "paused: other programs"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in\n%s", want, all)
		}
	}
	if strings.Contains(all, "\x1b") {
		t.Error("colours where none were asked for")
	}
}

func TestLookRates(t *testing.T) {
	s := &api.Status{Peer: "p", Uptime: 10 * time.Second, Given: 1000, Serving: []api.Serving{{Passes: 10, Rows: 20}}}
	begin := time.Unix(100, 0)
	first := look{}.next(begin, s)
	if first.PassesPerS != 0 || first.GivenPerS != 0 {
		t.Errorf("rates of one look: %+v", first)
	}
	s.Given, s.Serving[0].Passes, s.Serving[0].Rows = 5000, 14, 32
	if l := first.next(begin.Add(2*time.Second), s); l.PassesPerS != 2 || l.RowsPass != 3 || l.GivenPerS != 2000 {
		t.Errorf("%+v", l)
	}
	s.Uptime, s.Given, s.Serving[0].Passes = time.Second, 0, 1 // another process
	if l := first.next(begin.Add(2*time.Second), s); l.PassesPerS != 0 || l.GivenPerS != 0 {
		t.Errorf("rates across a restart: %+v", l)
	}
}

// In a pipe `shoal top` gives plain lines, or objects, a second, and says when
// the node goes.
func TestTopPipe(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	cmd := p.command("top", "--home", p.home)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "no node is running") {
		t.Errorf("without a node: %v\n%s", err, out)
	}
	p.add(`model = ["tinytales"]`, `span = "all"`)
	stop := p.node()
	out, err := p.command("top", "--once", "--json", "--home", p.home).Output()
	var l look
	if err != nil || json.Unmarshal(out, &l) != nil || l.Peer == "" || l.UptimeS < 0 || len(l.Serving) != 1 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = p.command("top", "--once", "--home", p.home).Output(); err != nil || !strings.Contains(string(out), "SERVING") || strings.Contains(string(out), "\x1b") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, args := range [][]string{{"top", "--home", p.home}, {"top", "--json", "--home", p.home}} {
		cmd := exec.CommandContext(t.Context(), p.command().Path, args...)
		cmd.Env = p.env
		r, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if args[1] == "--json" {
			dec := json.NewDecoder(r)
			var a, b look
			if err := dec.Decode(&a); err != nil {
				t.Fatal(err)
			}
			if err := dec.Decode(&b); err != nil || !b.Time.After(a.Time) {
				t.Errorf("%v after %v, %v", b.Time, a.Time, err)
			}
		} else {
			buf := make([]byte, 400)
			n, _ := r.Read(buf)
			if line := string(buf[:n]); !strings.Contains(line, "tokens/s") || strings.Contains(line, "\x1b") || !strings.HasSuffix(line, "\n") {
				t.Errorf("%q", line)
			}
		}
		_ = r.Close() // as `head` does
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait()
		}()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("%v goes on when its reader has gone", args)
			_ = cmd.Process.Kill()
		}
	}
	stop()
}
