package scenario

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// said makes a session of tokens that come at the given milliseconds.
func said(id, prompt int, beginMs int, ids []int32, atMs ...int) *Session {
	at := func(ms int) Moment { return Moment(ms) * Moment(time.Millisecond) }
	s := &Session{ID: id, Worker: 1 + id%2, Prompt: prompt, Begin: at(beginMs), End: at(beginMs), Finished: true}
	for i, id := range ids {
		s.Tokens = append(s.Tokens, Came{at(atMs[i]), Token{i, id}})
		s.End = at(atMs[i])
	}
	return s
}

func testScenario() *Scenario {
	return &Scenario{
		Name: "test", Nodes: 2, Replicas: 2, Duration: 2 * time.Second, Seed: 1, Exact: true,
		Sessions: Sessions{Count: 2, Prompts: []string{"<script>alert(1)</script> & \"so\"", "b"}, MaxTokens: 4},
	}
}

var undisturbed = []*Session{
	said(1, 0, 0, []int32{1, 2, 3, 4}, 100, 110, 120, 130),
	said(2, 1, 0, []int32{5, 6, 7, 8}, 100, 110, 120, 160),
}

// testWorld is one with a past.
func testWorld(s *Scenario) *world {
	w := newWorld(s, func(string) {})
	for i, name := range []string{"node1", "node2"} {
		n := w.nodeLocked(name)
		n.to, n.running, n.ready = 8, true, true
		n.past = []Period{{State: Up}}
		if i == 1 {
			n.events = 1
			n.past = []Period{{Up, 0, Moment(time.Second)}, {Down, Moment(time.Second), Moment(1500 * time.Millisecond)}, {Up, Moment(1500 * time.Millisecond), 0}}
		}
	}
	w.faults = []*FaultRecord{
		{Kind: Kill, Nodes: []string{"node2"}, Planned: Moment(time.Second), At: Moment(time.Second)},
		{Kind: Kill, Planned: Moment(1600 * time.Millisecond), At: Moment(1800 * time.Millisecond), Skipped: "without <node1> there would be no route"},
	}
	return w
}

func TestReportGood(t *testing.T) {
	s := testScenario()
	repaired := said(2, 1, 50, []int32{5, 6, 7, 8}, 200, 900, 910, 2000)
	repaired.Recoveries = []Recovery{{Why: "it hangs", Token: 1, StallMs: 640, Replayed: 12}, {Why: "again", Token: 3, StallMs: 1000, Replayed: 5}}
	early := said(3, 0, 100, []int32{1, 2, 3, 4}, 600, 610, 620, 630)
	early.Recoveries = []Recovery{{Why: "gone", Token: 0, StallMs: 400, Replayed: 3}}
	interrupted := said(4, 0, 1000, []int32{1, 2}, 1100, 1110)
	interrupted.Finished, interrupted.Cancelled = false, true
	r := compute(s, "tiny", nil, testWorld(s), undisturbed, []*Session{said(1, 0, 0, []int32{1, 2, 3, 4}, 100, 110, 120, 150), repaired, early, interrupted})
	if err := r.Err(); err != nil || !r.OK {
		t.Fatal(err)
	}
	if r.Sessions != 4 || r.Finished != 3 || r.Cancelled != 1 || r.Tokens != 14 || r.Repaired != 2 || r.Recoveries != 3 || r.Replayed != 20 || len(r.Failures) != 0 {
		t.Errorf("%+v", r)
	}
	if r.Stall != (Quantiles{P50: 500, P99: 1090, Max: 1090, N: 2}) || r.Repair != (Quantiles{P50: 640, P99: 1000, Max: 1000, N: 3}) {
		t.Errorf("stall %+v, repair %+v", r.Stall, r.Repair)
	}
	if r.CalmGap != (Quantiles{P50: 10, P99: 40, Max: 40, N: 6}) || r.CalmTTFT.P99 != 100 || r.CalmRate != 50 {
		t.Errorf("undisturbed %+v %+v %v", r.CalmGap, r.CalmTTFT, r.CalmRate)
	}
	if r.Stalls[0].Session != 2 || r.Stalls[0].At != Moment(910*time.Millisecond) {
		t.Errorf("longest stall %+v", r.Stalls[0])
	}
	node2 := r.NodeList[1]
	if node2.Times[Up] != Moment(1500*time.Millisecond) || node2.Times[Down] != Moment(500*time.Millisecond) || len(node2.Past) != 3 {
		t.Errorf("node2 %+v", node2)
	}
	if r.Done[Kill] != 1 || r.Skipped != 1 {
		t.Errorf("faults %v, %d skipped", r.Done, r.Skipped)
	}

	// The names that scripts rely on.
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"sessions": 4.0, "finished": 3.0, "lost": 0.0, "duplicated": 0.0, "reordered": 0.0, "differing": 0.0, "ok": true, "duration_s": 2.0} {
		if out[key] != want {
			t.Errorf("%s is %v, want %v", key, out[key], want)
		}
	}
	stall := out["stall_ms"].(map[string]any)
	if stall["p50"] != 500.0 || stall["p99"] != 1090.0 {
		t.Errorf("stall_ms: %v", stall)
	}
}

func TestReportBad(t *testing.T) {
	s := testScenario()
	other := said(1, 0, 0, []int32{1, 2, 9, 9}, 10, 20, 30, 40)
	other.Recoveries = []Recovery{{Why: "it hangs", Token: 2}}
	kept := said(2, 0, 0, []int32{1, 9, 9, 9}, 10, 20, 30, 40)
	kept.Cached, kept.Recoveries = 7, []Recovery{{Why: "later", Token: 3}}
	failed := said(3, 1, 0, []int32{5}, 10)
	failed.Finished, failed.Error = false, "the answer <b>broke</b> off"
	refused := said(4, 1, 0, nil)
	refused.Finished, refused.Refused, refused.Error = false, true, "no route"
	spelled := said(5, 1, 0, []int32{5, 6, 7, 8}, 10, 20, 30, 40)
	spelled.Text = "twice twice"
	twice := said(6, 1, 0, []int32{5, 6, 7, 8, 8}, 10, 20, 30, 40, 50)
	twice.Tokens[4].Index = 3
	w := testWorld(s)
	w.crashes = []string{"node1 ended unexpectedly"}
	r := compute(s, "tiny", nil, w, undisturbed, []*Session{other, kept, failed, refused, spelled, twice})
	r.Logs = "/tmp/logs"
	if r.OK || r.Differing != 3 || r.After != 1 || r.Inherited != 1 || r.Lost != 3 || r.Duplicated != 1 || r.Finished != 4 || r.Refused != 1 || len(r.Failures) != 6 {
		t.Errorf("%+v", r)
	}
	if f := r.Failures[0]; f.Position == nil || *f.Position != 2 || !f.After {
		t.Errorf("%+v", f)
	}
	want := "scenario test: a session did not finish, a session was refused, 3 tokens were lost, a token came twice, 3 texts differ from the undisturbed run, a node ended unexpectedly; see sessions 1, 2, 3, 4, 5, 6; logs are in /tmp/logs"
	if err := r.Err(); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	var text bytes.Buffer
	if err := r.Write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"6 begun, 4 finished, 1 refused", "session 3 (worker 2", "3 tokens lost", "differs from token 2 on", "7 positions were cached", "exact", "was not done"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, &text)
		}
	}

	// What a scenario may accept.
	s.Exact, s.AllowGap = false, true
	r = compute(s, "tiny", nil, testWorld(s), undisturbed, []*Session{other, kept, refused, spelled})
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	failed = said(7, 1, 0, nil)
	failed.Finished, failed.Error = false, "late"
	if r = compute(s, "tiny", nil, testWorld(s), undisturbed, []*Session{failed}); r.Err() == nil || r.Lost != 4 {
		t.Errorf("a session that failed is accepted: %+v", r)
	}
}

func TestReportEmpty(t *testing.T) {
	s := testScenario()
	r := compute(s, "tiny", nil, newWorld(s, nil), nil, nil)
	if err := errors.Join(r.Err(), r.Write(new(bytes.Buffer)), r.WriteHTML(new(bytes.Buffer))); err != nil {
		t.Error(err)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestQuantiles(t *testing.T) {
	var all []float64
	for i := range 200 {
		all = append(all, float64(200-i))
	}
	if q := quantiles(all); q != (Quantiles{P50: 100, P99: 198, Max: 200, N: 200}) {
		t.Errorf("%+v", q)
	}
	if q := quantiles([]float64{3}); q != (Quantiles{P50: 3, P99: 3, Max: 3, N: 1}) {
		t.Errorf("%+v", q)
	}
}

// TestHTML: one page, without a word from elsewhere, in which nothing that
// people or models wrote is markup.
func TestHTML(t *testing.T) {
	s := testScenario()
	s.About = "</p><img alt=x>"
	failed := said(1, 0, 0, []int32{1, 2}, 100, 110)
	failed.Finished, failed.Error = false, "the answer <b>broke</b> off"
	repaired := said(2, 1, 50, []int32{5, 6, 7, 8}, 200, 900, 910, 920)
	repaired.Recoveries = []Recovery{{Why: "it <i>hangs</i>", Token: 1, StallMs: 640, Replayed: 12}}
	r := compute(s, "<u>tiny</u>", nil, testWorld(s), undisturbed, []*Session{failed, repaired})
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, bad := range []string{"<script>alert", "<img", "<b>broke", "<i>hangs", "<u>tiny", "<node1>", "http://", "https://", "src=", "ZgotmplZ", "@import", "url("} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	for _, want := range []string{`class="session failed"`, `class="stall" style="left:17.241%;width:80.46%"`, "st-down", "700 ms at token 1", "&lt;script&gt;alert(1)", "prefers-color-scheme: dark", "worker 2"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Count(page, "<html") != 1 || !strings.HasSuffix(strings.TrimSpace(page), "</html>") {
		t.Error("not one page")
	}
}

func TestRecord(t *testing.T) {
	s := testScenario()
	r := compute(s, "tiny", map[string]string{"node1": "/logs/1"}, testWorld(s), undisturbed, []*Session{said(1, 0, 0, []int32{1, 2}, 100, 250)})
	var b bytes.Buffer
	if err := r.WriteSessions(&b); err != nil {
		t.Fatal(err)
	}
	if want := `"tokens":[[0.1,0,1],[0.25,1,2]]`; !strings.Contains(b.String(), want) {
		t.Errorf("%s has no %s", &b, want)
	}
	if r.NodeList[0].Log != "/logs/1" {
		t.Error("where is the log?")
	}
}
