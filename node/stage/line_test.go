package stage

import (
	"context"
	"errors"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/protocol"
)

// clockwork is an engine that draws 10 after the first step that asks, then 11, 12, ..., and
// has no position computed out of turn.
type clockwork struct {
	t    *testing.T
	mu   sync.Mutex
	next int   // position
	rows []int // positions computed, in order
}

func (e *clockwork) CopyPrefix(int, int, int32) error { return nil }

func (e *clockwork) Remove(_ int, from int32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next = min(e.next, int(from))
	return nil
}

func (e *clockwork) Run(_ context.Context, b *engine.Batch) (*engine.Result, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range b.Rows {
		if int(r.Pos) != e.next {
			e.t.Errorf("position %d computed, where %d was due", r.Pos, e.next)
		}
		e.next, e.rows = int(r.Pos)+1, append(e.rows, int(r.Pos))
	}
	res := &engine.Result{}
	for _, o := range b.Outputs {
		res.Tokens = append(res.Tokens, sample.Token{ID: 10 + int32(len(o.Sampled))})
	}
	return res, nil
}

const tagged = "0123456789abcdef" // a key of tags

// atLast is a session at a model's last stage that has drawn 10 after a prompt of four
// tokens, and ends with any of stop. say has its predecessor send a step of one row.
func atLast(t *testing.T, stop ...int32) (e *clockwork, client *talk, say func(line uint32, base int, tag uint64)) {
	e = &clockwork{t: t}
	s := New(Config{
		Model: protocol.ModelKey(cid.Undef), Span: protocol.Span{From: 2, To: 4}, Blocks: 4, Width: 8, Vocab: 100,
		KVTokens: 4096, MaxSeqs: 4, MaxBatch: 128, MaxContext: 512, Rollback: 64, Dir: t.TempDir(),
	}, e, nobody{})
	t.Cleanup(func() {
		s.Close(errors.New("the test is over"))
		time.Sleep(time.Minute)
	})
	v := NewServer(nil, nil)
	v.Add(s)
	o := someOpen(s, 300, 1)
	o.From, o.To, o.Stages, o.Index, o.Prev, o.Next = 2, 4, 2, 1, []byte("before"), &protocol.Hop{Peer: []byte("before")}
	o.TagKey, o.Sampling = []byte(tagged), &protocol.Sampling{PromptTokens: 4, MaxTokens: 200, StopIds: stop}
	client = begin(t, t.Context(), v, "client", o)
	if f := <-client.frames; f.GetOpened().GetRollbackRows() != 64 {
		t.Fatal(f)
	}
	link := dial(t, v, "before")
	write := func(st *protocol.Step) {
		b, err := protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Step{Step: st}}, make([]byte, 4*8*st.Rows))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = link.Write(b) // it ends with the session
	}
	if _, err := link.Write(framed(t, &protocol.Frame{Kind: &protocol.Frame_Link{Link: &protocol.Link{Session: o.Session, Index: 1}}})); err != nil {
		t.Fatal(err)
	}
	go discard(link)
	write(&protocol.Step{Rows: 4, Sample: true})
	synctest.Wait()
	return e, client, func(line uint32, base int, tag uint64) {
		write(&protocol.Step{Line: line, Base: uint32(base), Rows: 1, Sample: true, Tag: tag})
		synctest.Wait()
	}
}

func discard(c net.Conn) {
	b := make([]byte, 4096)
	for {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

// told returns the tokens that the client got, and the code that ended the session.
func told(k *talk) (ids []int32, guessed int, code protocol.Code) {
	for {
		select {
		case f, open := <-k.frames:
			if !open {
				return ids, guessed, code
			}
			if tok := f.GetToken(); tok != nil {
				ids = append(ids, tok.Id)
				if tok.Guessed {
					guessed++
				}
			}
			if f.GetFail() != nil {
				code = f.GetFail().Code
			}
		default:
			return ids, guessed, code
		}
	}
}

// The last stage computes the rows of right guesses and of known tokens, drops a line from
// its first wrong guess on, and goes on with the next line.
func TestLinesAtLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, client, say := atLast(t)
		tag := func(line uint32, at int, id int32) uint64 {
			return protocol.GuessTag([]byte(tagged), 0, line, uint32(at), id)
		}
		say(0, 4, 0)              // 10, known
		say(0, 5, tag(0, 5, 11))  // right
		say(0, 6, tag(0, 6, 99))  // wrong
		say(0, 7, tag(0, 7, 13))  // dropped, and so is all else of the line
		say(0, 8, 0)              //
		say(0, 20, tag(0, 20, 1)) //
		say(7, 6, 0)              // 12; lines may be left out
		say(0, 7, 0)              // of a line that is over
		say(7, 7, tag(0, 7, 13))  // the tag of another line is no right guess
		say(8, 7, tag(8, 7, 13))  // a line may begin with a guess
		for range 10_000 {
			say(7, 8, 1)
		}
		say(8, 8, 0)
		ids, guessed, code := told(client)
		if want := []int32{10, 11, 12, 13, 14, 15}; !slices.Equal(ids, want) || guessed != 2 || code != 0 {
			t.Errorf("%v, %d of them guessed, code %v", ids, guessed, code)
		}
		if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8}; !slices.Equal(e.rows, want) {
			t.Errorf("computed %v, not %v", e.rows, want)
		}
	})
}

// What frames say of guesses makes them hardly longer.
func TestLineHeader(t *testing.T) {
	st := &protocol.Step{Epoch: 1, Base: 3000, Rows: 1, Sample: true}
	plain := proto.Size(st)
	st.Line, st.Tag, st.Settled, st.Guesses = 120, math.MaxUint64, 3000, 400
	(&Stage{stats: stats{decode: 20 * time.Millisecond, sharing: 16}}).sum(sums{rowUs: 15_000, priceUs: 60_000, busy: 200, floor: 40}, st)
	if more := proto.Size(st) - plain; more > 40 {
		t.Errorf("%d bytes more", more)
	}
}

// What a predecessor cannot rightly send ends the session.
func TestLinesRefused(t *testing.T) {
	for name, c := range map[string]struct {
		line uint32
		base int
		tag  uint64
	}{
		"a line that begins beyond the end": {1, 5, 0},
		"a gap":                             {0, 5, 0},
		"a tag in the prompt":               {1, 3, 1},
		"the last position of all":          {1, 1 << 30, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, client, say := atLast(t)
				say(c.line, c.base, c.tag)
				time.Sleep(time.Second)
				if _, _, code := told(client); code != protocol.Code_CODE_BAD_REQUEST {
					t.Errorf("ended with %v", code)
				}
			})
		})
	}
}

// Behind the last token of an answer nothing is computed, although its guess was right.
func TestLinesAfterEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, client, say := atLast(t, 12)
		say(0, 4, 0)
		say(0, 5, protocol.GuessTag([]byte(tagged), 0, 0, 5, 11)) // yields 12, which ends the answer
		say(0, 6, protocol.GuessTag([]byte(tagged), 0, 0, 6, 12))
		say(0, 7, protocol.GuessTag([]byte(tagged), 0, 0, 7, 13))
		if ids, _, code := told(client); !slices.Equal(ids, []int32{10, 11, 12}) || code != 0 {
			t.Errorf("%v, code %v", ids, code)
		}
		if want := []int{0, 1, 2, 3, 4, 5}; !slices.Equal(e.rows, want) {
			t.Errorf("computed %v, not %v", e.rows, want)
		}
	})
}

// Where a link has no credit, lines do not get around the bound on what waits.
func TestLinesAreBounded(t *testing.T) {
	s := newStage(t)
	o := open(300, 1)
	o.From, o.To, o.Stages, o.Index, o.Sampling, o.Next = 2, 4, 3, 1, nil, &protocol.Hop{}
	s.cfg.Span = protocol.Span{From: 2, To: 4}
	sess := newSession(s, key{}, o, sink{"a"}, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range 2 * maxPending {
		queued, err := sess.queueLocked(&step{line: uint32(i), base: sess.length, rows: 1})
		if err != nil || queued != (i < maxPending) {
			t.Fatalf("step %d: %v, %v", i, queued, err)
		}
	}
}
