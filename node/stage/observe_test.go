package stage

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// counting is an engine that draws a token a pass.
type counting struct{ idle }

func (counting) Run(_ context.Context, b *engine.Batch) (*engine.Result, error) {
	time.Sleep(time.Millisecond)
	return &engine.Result{Tokens: make([]sample.Token, len(b.Outputs)), Compute: time.Millisecond}, nil
}

// ledger notes what it is told.
type ledger struct {
	mu     sync.Mutex
	asked  []protocol.Code
	rows   []int
	steps  map[Phase]map[Part]int
	closed []Report
}

func (l *ledger) note(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *ledger) Asked(c protocol.Code) { l.note(func() { l.asked = append(l.asked, c) }) }
func (l *ledger) Pass(rows int)         { l.note(func() { l.rows = append(l.rows, rows) }) }
func (l *ledger) Closed(r Report)       { l.note(func() { l.closed = append(l.closed, r) }) }
func (l *ledger) Step(phase Phase, part Part, took time.Duration) {
	l.note(func() {
		if l.steps[phase] == nil {
			l.steps[phase] = map[Part]int{}
		}
		if l.steps[phase][part]++; took < 0 {
			l.steps[phase][part] = -1000
		}
	})
}

// TestObserver: each session is reported once, with what it took, and a step's
// whole way is told.
func TestObserver(t *testing.T) {
	l := &ledger{steps: map[Phase]map[Part]int{}}
	s := New(Config{
		Model: cid.Undef, Span: protocol.Span{From: 0, To: 4}, Blocks: 4, Width: 8, Vocab: 100,
		KVTokens: 1000, MaxSeqs: 3, MaxBatch: 128, MaxContext: 600, Silence: time.Minute, Dir: t.TempDir(), Observer: l,
	}, counting{}, nobody{})
	t.Cleanup(func() { s.Close(errors.New("the test is over")) })
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	o := open(100, 1)
	o.Trace = trace + "x"
	if _, _, refused := s.admit(o, sink{"a"}); refused == nil || refused.Code != protocol.Code_CODE_BAD_REQUEST || !strings.Contains(refused.Message, "56 bytes") {
		t.Errorf("a long trace: %v", refused)
	}
	o.Trace, o.Sampling.StopIds = trace, nil
	sess, _, refused := s.admit(o, sink{"a"})
	if refused != nil {
		t.Fatal(refused)
	}
	sess.accept(sess.stream, &protocol.Opened{})
	if !sess.take(&protocol.Step{Rows: 3, Tokens: []int32{1, 2, 3}, Sample: true}, nil, nil) {
		t.Fatal("the step was not taken")
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		done := false
		if l.note(func() { done = l.steps[Decode][Send] == 4 }); done || time.Now().After(end) {
			break
		}
	}
	sess.end(nil)
	sess.fail(protocol.Errorf(protocol.Code_CODE_ENGINE, "too late to count"))
	other, _, refused := s.admit(open(10, 2), sink{"a"})
	if refused != nil {
		t.Fatal(refused)
	}
	other.fail(protocol.Errorf(protocol.Code_CODE_TIMEOUT, "idle"))
	l.mu.Lock()
	defer l.mu.Unlock()
	ok := protocol.Code_CODE_UNKNOWN
	if !slices.Equal(l.asked, []protocol.Code{protocol.Code_CODE_BAD_REQUEST, ok, ok}) {
		t.Errorf("asked: %v", l.asked)
	}
	// Five tokens: the first from the prompt's chunk, then a row for each but the last.
	if !slices.Equal(l.rows, []int{3, 1, 1, 1, 1}) {
		t.Errorf("passes of %v rows", l.rows)
	}
	for _, part := range []Part{Wait, Compute, Send} {
		if l.steps[Prefill][part] != 1 || l.steps[Decode][part] != 4 {
			t.Errorf("part %d: %v", part, l.steps)
		}
	}
	if len(l.closed) != 2 || l.closed[1].Outcome != "timeout" || l.closed[1].Passes != 0 {
		t.Fatalf("closed: %+v", l.closed)
	}
	r := l.closed[0]
	if r.Outcome != "bye" || r.Trace != trace || r.Passes != 5 || r.Rows != 7 || r.Compute < 5*time.Millisecond || r.Stages != 1 || time.Since(r.Opened) > time.Minute {
		t.Errorf("%+v", r)
	}
}
