package scenario

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shoalnet/shoal/testnet"
)

var errNoRoute = errors.New("no route")

// toyAsker answers with four tokens; some questions it does not like.
type toyAsker struct{ asked atomic.Int64 }

func (a *toyAsker) Ask(ctx context.Context, q Question, emit func(Token)) (Answer, error) {
	a.asked.Add(1)
	switch q.Prompt {
	case "refuse":
		return Answer{}, errNoRoute
	case "endless":
		emit(Token{0, 1})
		<-ctx.Done()
		return Answer{}, ctx.Err()
	}
	for i := range 4 {
		if i == 2 && q.Prompt == "break" {
			return Answer{}, errors.New("it broke off")
		}
		emit(Token{i, int32(q.Prompt[0]) + int32(i)})
		if !sleep(ctx, time.Millisecond) {
			return Answer{}, ctx.Err()
		}
	}
	return Answer{Text: q.Prompt}, nil
}

func (a *toyAsker) Refused(err error) bool { return errors.Is(err, errNoRoute) }

func toyRunner(s *Scenario, a Asker) *runner {
	quiet := func(string) {}
	return &runner{s: s, o: Options{Say: quiet, Status: quiet}, asker: a}
}

func TestCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := testScenario()
		s.Sessions.Prompts = []string{"a", "b", "c", "d", "e"}
		calm, err := toyRunner(s, &toyAsker{}).calm(t.Context())
		if err != nil || len(calm) != 5 {
			t.Fatal(calm, err)
		}
		for i, c := range calm {
			if c.Prompt != i || !c.Finished || len(c.Tokens) != 4 || c.Text != s.Sessions.Prompts[i] || c.Tokens[0].ID != int32('a'+i) {
				t.Errorf("%d: %+v", i, c)
			}
		}
		s.Sessions.Prompts = []string{"a", "break", "endless"}
		if _, err := toyRunner(s, &toyAsker{}).calm(t.Context()); err == nil || !slices.Contains([]string{`the undisturbed run failed: "break": it broke off`}, err.Error()) {
			t.Error(err)
		}
	})
}

func TestChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Scenario{Nodes: 4, Replicas: 2, Duration: 300 * ms, Exact: true,
			Sessions: Sessions{Count: 3, Prompts: []string{"a", "b", "refuse", "break"}, MaxTokens: 4},
			Faults:   []Fault{{Kind: Kill, Target: "node1", At: 100 * ms, Rejoin: -1}}}
		w, _ := toy(s)
		a := &toyAsker{}
		sessions := toyRunner(s, a).churn(t.Context(), w, nil)
		calm := []*Session{said(1, 0, 0, []int32{'a', 'b', 'c', 'd'}, 1, 2, 3, 4), said(2, 1, 0, []int32{'b', 'c', 'd', 'e'}, 1, 2, 3, 4),
			said(3, 2, 0, nil), said(4, 3, 0, []int32{'b', 'c', 'd', 'e'}, 1, 2, 3, 4)}
		calm[0].Text, calm[1].Text = "a", "b"
		r := compute(s, "toy", nil, w, calm, sessions)
		if r.Sessions != int(a.asked.Load()) || r.Finished == 0 || r.Refused == 0 || r.Finished+r.Refused >= r.Sessions || r.Cancelled != 0 || r.OK {
			t.Errorf("%+v", r)
		}
		if r.Lost%2 != 0 || r.Duplicated+r.Reordered+r.Differing != 0 || len(r.Failures) != r.Sessions-r.Finished {
			t.Errorf("%+v", r)
		}
		for i, c := range sessions {
			if c.ID != i+1 || c.Begin > Moment(s.Duration) || c.End < c.Begin {
				t.Errorf("%+v", c)
			}
		}
		if r.Sessions > 60 {
			t.Errorf("%d sessions: those that fail at once go on without a pause", r.Sessions)
		}
	})
}

// TestChurnInterrupted: what runs then is no failure.
func TestChurnInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Scenario{Nodes: 4, Replicas: 2, Duration: time.Hour, Exact: true, Sessions: Sessions{Count: 2, Prompts: []string{"endless"}, MaxTokens: 4}}
		w, _ := toy(s)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*ms, cancel)
		sessions := toyRunner(s, &toyAsker{}).churn(ctx, w, nil)
		r := compute(s, "toy", nil, w, []*Session{said(1, 0, 0, []int32{1, 2, 3}, 1, 2, 3)}, sessions)
		if r.Sessions != 2 || r.Cancelled != 2 || r.Tokens != 2 || !r.OK {
			t.Errorf("%+v: %v", r, r.Err())
		}
	})
}

// TestLeft: nodes that run are asked until they hold nothing, or time is up.
func TestLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := listOf{{Name: "node1", PID: 1}, {Name: "node2"}, {Name: "node3", PID: 3}}
		asked := map[string]int{}
		r := toyRunner(testScenario(), &toyAsker{})
		r.o.Left = func(_ context.Context, n testnet.Node) (string, error) {
			if asked[n.Name]++; asked[n.Name] == 1 {
				return "a session", nil
			}
			return "", nil
		}
		if got := r.left(t.Context(), net); got != nil || asked["node1"] != 2 || asked["node2"] != 0 || asked["node3"] != 2 {
			t.Errorf("%v, asked %v", got, asked)
		}
		r.o.Left = func(_ context.Context, n testnet.Node) (string, error) {
			if n.Name == "node3" {
				return "two sessions", nil
			}
			return "", errors.New("it does not answer")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
		defer cancel()
		if got := r.left(ctx, net); !slices.Equal(got, []string{"node3 still holds two sessions"}) {
			t.Errorf("%v", got)
		}
		report := &Report{Scenario: "x", OK: true}
		report.left([]string{"node3 still holds two sessions"})
		if err := report.Err(); err == nil || err.Error() != "scenario x: a node still holds state of ended sessions" {
			t.Error(err)
		}
	})
}

// listOf is a network of which only the nodes are asked.
type listOf []testnet.Node

func (l listOf) Nodes() []testnet.Node { return l }
