package scenario

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/testnet"
)

// Report is the result of a scenario. Its JSON is for scripts; times named _s are seconds
// since the beginning of the faults, those named _ms milliseconds.
type Report struct {
	Scenario string `json:"scenario"`
	About    string `json:"about,omitempty"`
	Model    string `json:"model"`
	Nodes    int    `json:"nodes"`
	Replicas int    `json:"replicas"`
	AtOnce   int    `json:"at_once"` // sessions
	Link     string `json:"link,omitempty"`
	Seed     uint64 `json:"seed"`
	Duration Moment `json:"duration_s"`
	Took     Moment `json:"took_s"` // until the last session had ended

	Sessions   int `json:"sessions"` // begun
	Finished   int `json:"finished"`
	Refused    int `json:"refused"`   // before their first token, because there was no room or route
	Cancelled  int `json:"cancelled"` // by the caller, before their end
	Tokens     int `json:"tokens"`
	Lost       int `json:"lost"` // tokens that the undisturbed run had and a session did not get
	Duplicated int `json:"duplicated"`
	Reordered  int `json:"reordered"`
	Differing  int `json:"differing"`                // sessions whose text is not that of the undisturbed run
	After      int `json:"differing_after_recovery"` // of them, those whose text differs only after a repair
	Inherited  int `json:"differing_kept"`           // of the others, those that reused state of an earlier session
	Repaired   int `json:"repaired"`                 // sessions with a repair of their route
	Recoveries int `json:"recoveries"`
	Replayed   int `json:"replayed"` // positions that stages computed again

	Stall    Quantiles `json:"stall_ms"`          // longest wait for a token in each repaired session
	Repair   Quantiles `json:"repair_ms"`         // of that, the duration of the repairs before the replay
	TTFT     Quantiles `json:"ttft_ms"`           // to the first token, of all sessions
	CalmGap  Quantiles `json:"calm_token_ms"`     // between two tokens of the undisturbed run
	OtherGap Quantiles `json:"unrepaired_ms"`     // between two tokens of sessions without a repair
	CalmTTFT Quantiles `json:"calm_ttft_ms"`      // to the first token of the undisturbed run
	CalmRate float64   `json:"calm_tokens_per_s"` // of all its sessions together
	Rate     float64   `json:"tokens_per_s"`

	Stalls   []Stall        `json:"stalls"` // the longest
	Done     map[string]int `json:"done"`   // faults, by kind
	Skipped  int            `json:"skipped"`
	Faults   []*FaultRecord `json:"faults"`
	NodeList []NodeReport   `json:"node_list"`
	Crashes  []string       `json:"crashes,omitempty"` // nodes that ended unexpectedly
	Left     []string       `json:"left,omitempty"`    // what nodes still hold of ended sessions
	Failures []Failure      `json:"failures"`
	Engines  []string       `json:"engines,omitempty"` // that nodes were told to use; "": whatever they choose
	Exact    bool           `json:"exact"`             // a text that differs is a failure
	AllowGap bool           `json:"allow_gap"`
	OK       bool           `json:"ok"`
	Logs     string         `json:"logs,omitempty"`

	sessions []*Session
	prompts  []string
}

// Quantiles of times, milliseconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
	N   int     `json:"n"`
}

// NodeReport is what happened to a node.
type NodeReport struct {
	Name   string            `json:"name"`
	From   int               `json:"from"`
	To     int               `json:"to"`
	Times  map[string]Moment `json:"times_s"` // by state
	Faults int               `json:"faults"`
	Past   []Period          `json:"past"`
	Log    string            `json:"log"`
}

// Stall is a pause in a session's tokens.
type Stall struct {
	Session    int        `json:"session"`
	Worker     int        `json:"worker"`
	At         Moment     `json:"at_s"` // of the last token before
	Ms         float64    `json:"ms"`
	Recoveries []Recovery `json:"recoveries"`
}

// Failure is a session that did not go as expected.
type Failure struct {
	Session    int        `json:"session"`
	Worker     int        `json:"worker"`
	Prompt     string     `json:"prompt"`
	Begin      Moment     `json:"begin_s"`
	End        Moment     `json:"end_s"`
	What       string     `json:"what"`
	Tokens     int        `json:"tokens"`
	Cached     int        `json:"kept,omitempty"`           // positions of the prompt that an earlier session had computed
	Position   *int       `json:"position,omitempty"`       // of the first token that differs
	After      bool       `json:"after_recovery,omitempty"` // the text was right until a repair
	Recoveries []Recovery `json:"recoveries,omitempty"`
	Error      string     `json:"error,omitempty"`
}

func newReport(s *Scenario, net *testnet.Testnet, w *world, calm, sessions []*Session) *Report {
	logs := map[string]string{}
	for _, n := range net.Nodes() {
		logs[n.Name] = n.Log
	}
	return compute(s, net.Model().Name, logs, w, calm, sessions)
}

// compute computes the report from the records.
func compute(s *Scenario, model string, logs map[string]string, w *world, calm, sessions []*Session) *Report {
	r := &Report{
		Scenario: s.Name, About: s.About, Model: model, Nodes: s.Nodes, Replicas: s.Replicas, AtOnce: s.Sessions.Count, Link: s.Link.String(),
		Seed: s.Seed, Duration: Moment(s.Duration), Engines: s.Engines(), Exact: s.Exact, AllowGap: s.AllowGap, Failures: []Failure{}, Stalls: []Stall{},
		sessions: sessions, prompts: s.Sessions.Prompts,
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Took = w.clock.now()
	for _, s := range sessions {
		r.Took = max(r.Took, s.End)
	}
	r.judgeAll(calm)
	r.times(calm)
	r.addWorld(w, logs)
	wrong := len(r.Crashes) > 0 || r.Lost+r.Duplicated+r.Reordered > 0 || r.Finished+r.Cancelled+r.Refused < r.Sessions ||
		r.Refused > 0 && !r.AllowGap || r.Differing > 0 && r.Exact
	r.OK = !wrong
	return r
}

// left adds what nodes still hold.
func (r *Report) left(all []string) {
	r.Left = all
	r.OK = r.OK && len(all) == 0
}

func (r *Report) judgeAll(calm []*Session) {
	want, text := map[int][]int32{}, map[int]string{}
	for _, s := range calm {
		text[s.Prompt] = s.Text
		for _, c := range s.Tokens {
			want[s.Prompt] = append(want[s.Prompt], c.ID)
		}
	}
	for _, s := range r.sessions {
		r.Sessions++
		r.Tokens += len(s.Tokens)
		switch {
		case s.Finished:
			r.Finished++
		case s.Refused:
			r.Refused++
		case s.Cancelled:
			r.Cancelled++
		}
		v := judge(s.Tokens, want[s.Prompt], !s.Refused && !s.Cancelled)
		if v.clean() && s.Finished && s.Text != text[s.Prompt] { // the same tokens, but another text
			v.differs, v.at = true, len(s.Tokens)
		}
		r.Lost += v.lost
		r.Duplicated += v.duplicated
		r.Reordered += v.reordered
		after := slices.ContainsFunc(s.Recoveries, func(c Recovery) bool { return c.Token <= v.at })
		if v.differs {
			r.Differing++
			switch {
			case after:
				r.After++
			case s.Cached > 0:
				r.Inherited++
			}
		}
		if v.clean() && (s.Finished || s.Cancelled) {
			continue
		}
		f := Failure{
			Session: s.ID, Worker: s.Worker, Prompt: r.prompts[s.Prompt], Begin: s.Begin, End: s.End, What: v.what(s), Tokens: len(s.Tokens), Cached: s.Cached,
			Recoveries: s.Recoveries, Error: s.Error,
		}
		if v.differs {
			f.Position, f.After = &v.at, after
		}
		r.Failures = append(r.Failures, f)
	}
}

// what describes briefly what is wrong with a session.
func (v *verdict) what(s *Session) string {
	var all []string
	switch {
	case s.Refused:
		all = append(all, "refused")
	case !s.Finished && !s.Cancelled:
		all = append(all, "not finished")
	}
	for _, c := range []struct {
		n    int
		what string
	}{{v.lost, "lost"}, {v.duplicated, "doubled"}, {v.reordered, "out of order"}} {
		if c.n > 0 {
			all = append(all, fmt.Sprintf("%d tokens %s", c.n, c.what))
		}
	}
	if v.differs {
		all = append(all, fmt.Sprintf("differs from token %d on", v.at))
	}
	return strings.Join(all, ", ")
}

func (r *Report) times(calm []*Session) {
	var stalls, repairs, ttft, others []float64
	for _, s := range r.sessions {
		if len(s.Tokens) > 0 {
			ttft = append(ttft, s.Tokens[0].At.ms()-s.Begin.ms())
		}
		for _, c := range s.Recoveries {
			r.Recoveries++
			r.Replayed += c.Replayed
			repairs = append(repairs, c.StallMs)
		}
		if len(s.Recoveries) == 0 {
			others = append(others, gaps(s)...)
			continue
		}
		r.Repaired++
		st := stall(s)
		stalls = append(stalls, st.Ms)
		r.Stalls = append(r.Stalls, st)
	}
	slices.SortStableFunc(r.Stalls, func(a, b Stall) int { return cmp.Compare(b.Ms, a.Ms) })
	r.Stalls = r.Stalls[:min(len(r.Stalls), longest)]
	r.Stall, r.Repair, r.TTFT, r.OtherGap = quantiles(stalls), quantiles(repairs), quantiles(ttft), quantiles(others)
	var calmGaps, calmTTFT []float64
	var tokens int
	var end Moment
	for _, s := range calm {
		if len(s.Tokens) > 0 {
			calmTTFT = append(calmTTFT, s.Tokens[0].At.ms()-s.Begin.ms())
		}
		calmGaps = append(calmGaps, gaps(s)...)
		tokens += len(s.Tokens)
		end = max(end, s.End)
	}
	r.CalmGap, r.CalmTTFT = quantiles(calmGaps), quantiles(calmTTFT)
	if end > 0 {
		r.CalmRate = float64(tokens) / end.seconds()
	}
	if r.Took > 0 {
		r.Rate = float64(r.Tokens) / r.Took.seconds()
	}
}

func (m Moment) ms() float64 { return m.seconds() * 1000 }

// gaps returns the times between consecutive tokens.
func gaps(s *Session) (all []float64) {
	for i := 1; i < len(s.Tokens); i++ {
		all = append(all, s.Tokens[i].At.ms()-s.Tokens[i-1].At.ms())
	}
	return all
}

// longest is how many of the longest stalls a report has.
const longest = 10

// stall returns the longest time between two tokens. The time before the first token
// counts only if there was a repair.
func stall(s *Session) Stall {
	st := Stall{Session: s.ID, Worker: s.Worker, Recoveries: s.Recoveries}
	from := s.Begin
	early := slices.ContainsFunc(s.Recoveries, func(c Recovery) bool { return c.Token == 0 })
	for i, t := range s.Tokens {
		if ms := (t.At - from).ms(); ms > st.Ms && (i > 0 || early) {
			st.Ms, st.At = round(ms), from
		}
		from = t.At
	}
	return st
}

// quantiles computes quantiles by nearest rank.
func quantiles(all []float64) Quantiles {
	if len(all) == 0 {
		return Quantiles{}
	}
	slices.Sort(all)
	at := func(percent int) float64 { return round(all[max(0, (len(all)*percent+99)/100-1)]) }
	return Quantiles{P50: at(50), P99: at(99), Max: at(100), N: len(all)}
}

func round(ms float64) float64 { return float64(int64(ms*100+0.5)) / 100 }

func (r *Report) addWorld(w *world, logs map[string]string) {
	r.Faults, r.Crashes, r.Done = w.faults, w.crashes, map[string]int{}
	slices.SortStableFunc(r.Faults, func(a, b *FaultRecord) int { return int(a.At - b.At) })
	for _, f := range w.faults {
		if f.Skipped != "" {
			r.Skipped++
		} else {
			r.Done[f.Kind]++
		}
	}
	for _, n := range w.nodes {
		nr := NodeReport{Name: n.name, From: n.from, To: n.to, Times: map[string]Moment{}, Faults: n.events, Log: logs[n.name]}
		for i, p := range n.past {
			if i == len(n.past)-1 {
				p.To = max(r.Took, p.From)
			}
			if p.To = min(p.To, max(r.Took, p.From)); p.To == p.From {
				continue
			}
			nr.Times[p.State] += p.To - p.From
			nr.Past = append(nr.Past, p)
		}
		r.NodeList = append(r.NodeList, nr)
	}
}

// WriteSessions writes the records of all sessions, one JSON object per line.
func (r *Report) WriteSessions(out io.Writer) error {
	enc := json.NewEncoder(out)
	for _, s := range r.sessions {
		if err := enc.Encode(s); err != nil {
			return err
		}
	}
	return nil
}

// Err returns what is wrong, in one line; nil if nothing is.
func (r *Report) Err() error {
	if r.OK {
		return nil
	}
	var all []string
	count := func(n int, one, many string) {
		if n == 1 {
			all = append(all, one)
		} else if n > 1 {
			all = append(all, fmt.Sprintf("%d %s", n, many))
		}
	}
	count(r.Sessions-r.Finished-r.Refused-r.Cancelled, "a session did not finish", "sessions did not finish")
	if !r.AllowGap {
		count(r.Refused, "a session was refused", "sessions were refused")
	}
	count(r.Lost, "a token was lost", "tokens were lost")
	count(r.Duplicated, "a token came twice", "tokens came twice")
	count(r.Reordered, "a token came out of order", "tokens came out of order")
	if r.Exact {
		count(r.Differing, "a text differs from the undisturbed run", "texts differ from the undisturbed run")
	}
	count(len(r.Crashes), "a node ended unexpectedly", "nodes ended unexpectedly")
	count(len(r.Left), "a node still holds state of ended sessions", "nodes still hold state of ended sessions")
	text := strings.Join(all, ", ")
	var names []string
	for _, f := range r.Failures {
		names = append(names, fmt.Sprint(f.Session))
	}
	if len(names) > 10 {
		names = append(names[:10], "...")
	}
	switch len(names) {
	case 0:
	case 1:
		text += "; see session " + names[0]
	default:
		text += "; see sessions " + strings.Join(names, ", ")
	}
	if r.Logs != "" {
		text += "; logs are in " + r.Logs
	}
	return fmt.Errorf("scenario %s: %s", r.Scenario, text)
}
