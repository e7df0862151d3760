package metrics

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

var update = flag.Bool("update", false, "rewrite the table in doc.go")

// busy is a node on which everything has happened.
func busy() *Metrics {
	m := New("1.0", func() State {
		return State{
			Lending: true, Peers: 2, DHTPeers: 1, Offers: 3, StoreBytes: 1, QuotaBytes: 2, FreeBytes: 3, Given: 4,
			Spans:   []Span{{Model: "tales", Blocks: "0-3", Ready: true, KVTokens: 100, KVFree: 40}},
			Links:   []Link{{Conn: "a", Peer: "12D3KooWabcdefgh", RTT: time.Millisecond, Sent: 10, Lost: 1}},
			Traffic: map[string]Traffic{"/shoal/stage/2": {Sent: 1, Received: 2}}, Fetched: map[string]uint64{"peers": 5, "origins": 7},
		}
	})
	m.Pass(3)
	m.Step(Decode, Send, time.Millisecond)
	m.Opened()
	m.Refused("busy")
	m.Closed("bye")
	m.Restarted()
	m.Used("alice", 1, 20, 300)
	m.Begin()
	m.Token(time.Millisecond)
	m.Repaired("peer_lost", time.Second, 12, false)
	m.Answered(Answer{Operation: "chat", Model: "tales", Took: time.Second, First: time.Millisecond, Input: 3, Output: 20, Rate: 9, PredictedRate: 10, SessionFirst: 1, PredictedTTFT: 2})
	return m
}

// What Prometheus's own linter has to say.
func TestLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(busy().Gatherer())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// The table in doc.go is what there is.
func TestDoc(t *testing.T) {
	families, err := busy().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "go_") || strings.HasPrefix(f.GetName(), "process_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		by := ""
		if len(labels) > 0 {
			by = " by " + strings.Join(labels, ", ")
		}
		fmt.Fprintf(&table, "//\t%s\n//\t\t%s%s. %s\n", f.GetName(), strings.ToLower(f.GetType().String()), by, f.GetHelp())
	}
	raw, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(raw), "//\tgen_ai_")
	if !ok {
		head, _, _ = strings.Cut(string(raw), "package metrics\n")
	}
	want := head + table.String() + "package metrics\n"
	if *update {
		if err := os.WriteFile("doc.go", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(raw) != want {
		t.Errorf("the table is old: run go test ./node/metrics -run Doc -update\n%s", want)
	}
}

// A peer's word makes neither an endless number of series nor a scrape that
// fails.
func TestHostileNames(t *testing.T) {
	st := State{FreeBytes: -1}
	for i := range 300 {
		st.Spans = append(st.Spans, Span{Model: fmt.Sprintf("m\xff%d\n\"%s", i, strings.Repeat("x", i)), Blocks: "0-1", Sessions: 1})
		st.Links = append(st.Links, Link{Conn: fmt.Sprint(i), Peer: fmt.Sprintf("12D3KooW%08d", i/2), Sent: 1, RTT: time.Second})
	}
	m := New("\xff", func() State { return st })
	for i := range 100 {
		m.Begin()
		m.Answered(Answer{Operation: "chat", Model: fmt.Sprintf("n%d", i)})
	}
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		n := len(f.GetMetric())
		switch name := f.GetName(); {
		case n > maxNames+1:
			t.Errorf("%s has %d series", name, n)
		case name == "shoal_stage_sessions":
			sum := 0.0
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue()
			}
			if sum != 300 {
				t.Errorf("of 300 sessions %g are told", sum)
			}
		case name == "shoal_peer_packets_sent_total":
			sum := 0.0
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
			if sum != 300 || n != maxPeers+1 {
				t.Errorf("of 300 packets %g are told, of %d peers", sum, n)
			}
		}
	}
}

// What QUIC counts a connection becomes counters a peer, which never sink.
func TestLinks(t *testing.T) {
	l := newLinks()
	peer, label := "12D3KooWabcdefgh", "abcdefgh"
	for i, step := range []struct {
		links      []Link
		sent, lost uint64
		rtt        time.Duration
	}{
		{[]Link{{"a", peer, 10, 100, 5}}, 100, 5, 10},
		{[]Link{{"a", peer, 10, 150, 3}}, 150, 5, 10}, // two of the lost have arrived
		{[]Link{{"a", peer, 10, 160, 6}, {"b", peer, 30, 7, 0}}, 167, 6, 20},
		{[]Link{{"b", peer, 30, 9, 1}}, 169, 7, 30},
		{[]Link{{"c", peer, 30, 2, 1}}, 171, 8, 30}, // a new connection counts from nothing
	} {
		p := l.update(step.links)[label]
		if p.sent != step.sent || p.lost != step.lost || p.rtt/time.Duration(p.now) != step.rtt {
			t.Errorf("step %d: %+v, want %+v", i, p, step)
		}
	}
	if left := l.update(nil); len(left) != 1 || len(l.conns) != 0 {
		t.Errorf("who is gone is still there: %v", left)
	}
	// A peer keeps its label while others come, and its share of other's.
	var many []Link
	for i := range 2 * maxPeers {
		many = append(many, Link{Conn: fmt.Sprint(i), Peer: fmt.Sprintf("%08d", i), Sent: 1})
	}
	first := l.update(many)
	slices.Reverse(many)
	again := l.update(many)
	if len(first) != maxPeers+1 || first[other].sent != maxPeers || fmt.Sprint(first) != fmt.Sprint(again) {
		t.Errorf("%v, then %v", first, again)
	}
}

// A step is observed several times a token, so it must cost next to nothing.
func TestStepAllocatesNothing(t *testing.T) {
	m := busy()
	if n := testing.AllocsPerRun(100, func() {
		m.Pass(4)
		m.Step(Decode, Wait, time.Microsecond)
		m.Token(time.Millisecond)
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

func BenchmarkStep(b *testing.B) {
	m := busy()
	b.ReportAllocs()
	for b.Loop() {
		m.Step(Decode, Compute, 3*time.Millisecond)
	}
}

func BenchmarkScrape(b *testing.B) {
	m := busy()
	for b.Loop() {
		if _, err := m.Gatherer().Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
