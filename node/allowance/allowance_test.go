package allowance

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestOf(t *testing.T) {
	for _, c := range []struct {
		rows, blocks, of int
		want             uint64
	}{{1, 30, 30, Token}, {3, 10, 30, Token}, {64, 1, 3, 64 * Token / 3}, {0, 1, 1, 0}, {1, 0, 30, 0}, {1, 1, 0, 0}, {-1, 1, 1, 0}, {1, 40, 30, Token}} {
		if got := Of(c.rows, c.blocks, c.of); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// Counts begin anew at midnight in UTC, a restart keeps them, and a clock that is set back
// gives nothing away.
func TestDays(t *testing.T) {
	b := New(10, Sum{})
	if !b.Spend(9*Token, noon) || b.Spend(Token, noon) || b.Left(noon) || b.Left(noon.Add(-48*time.Hour)) {
		t.Error("the limit does not hold")
	}
	again, err := ParseSum(b.Marshal(), noon)
	if err != nil || New(10, again).Left(noon) {
		t.Error("a restart forgets the day: ", err)
	}
	if b.Left(Until(Day(noon)).Add(-time.Second)) || !b.Left(Until(Day(noon))) || b.Used(Until(Day(noon))) != 0 {
		t.Error("the next day does not begin at midnight")
	}
	b = New(0, Sum{})
	for range 3 { // more than can be counted
		if !b.Spend(1<<63, noon) || b.Due(1, noon) {
			t.Error("no limit is one")
		}
	}
	if b.SetLimit(5); b.Left(noon) {
		t.Error("a limit that comes later does not count what was used before")
	}
	if b.SetLimit(1 << 63); b.Left(noon) {
		t.Error("a limit beyond what can be counted wraps around")
	}
	if _, err := ParseSum([]byte(`{"day":4000000000}`), noon); err == nil {
		t.Error("a day to come is taken for today")
	}
}

// A node's sum is what it has told at most, of today.
func TestHeard(t *testing.T) {
	b := New(10, Sum{})
	today := Day(noon)
	for _, c := range []struct {
		from peer.ID
		sum  Sum
		used float64
	}{
		{"a", Sum{today, 3 * Token}, 3}, {"a", Sum{today, 2 * Token}, 3}, {"b", Sum{today, Token}, 4}, {"b", Sum{today - 1, 9 * Token}, 4},
		{"b", Sum{today + 1, 9 * Token}, 4}, {"a", Sum{today, 5 * Token}, 6},
	} {
		if !b.Heard(c.from, c.sum, noon) || b.Used(noon) != c.used {
			t.Errorf("after %+v: %v used", c, b.Used(noon))
		}
	}
	if b.Heard("c", Sum{today, 1 << 63}, noon) {
		t.Error("an impossible sum is taken for none")
	}
	for i := range 2 * maxNodes {
		b.Heard(peer.ID(fmt.Sprint(i)), Sum{today, 1}, noon)
	}
	if len(b.others) > maxNodes {
		t.Errorf("the sums of %d nodes are kept", len(b.others))
	}
}

// Nodes that serve guests at once exceed the limit by no more than what they compute while
// they tell each other, and two passes of each: the bound in doc.go.
func TestOvershoot(t *testing.T) {
	for _, c := range []struct {
		nodes, limit, pass int           // tokens per pass
		every, delay       time.Duration // of passes, of messages
	}{
		{1, 100, 1, 20 * time.Millisecond, 0}, {2, 1000, 4, 20 * time.Millisecond, 40 * time.Millisecond}, {10, 5000, 1, 20 * time.Millisecond, 100 * time.Millisecond},
		{10, 5000, 64, 200 * time.Millisecond, 100 * time.Millisecond}, {30, 100_000, 8, 10 * time.Millisecond, 300 * time.Millisecond}, {5, 3, 1, time.Second, 80 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			books := make([]*Book, c.nodes)
			for i := range books {
				books[i] = New(uint64(c.limit), Sum{})
			}
			told := 0
			tell := func(i int) {
				sum := books[i].Mine(time.Now())
				told += c.nodes - 1
				for j := range books {
					if j != i {
						time.AfterFunc(c.delay, func() { books[j].Heard(peer.ID(fmt.Sprint(i)), sum, time.Now()) })
					}
				}
			}
			for running := true; running; time.Sleep(c.every) {
				running = false
				for i, b := range books {
					if !b.Left(time.Now()) {
						continue
					}
					running = true
					b.Spend(uint64(c.pass)*Token, time.Now())
					if b.Due(c.nodes, time.Now()) {
						tell(i)
					}
				}
			}
			time.Sleep(c.delay)
			late := float64(c.delay/c.every) + 1 // passes while a message is under way
			used, most := 0.0, float64(c.nodes*c.pass)*(1.25*late+2)
			for _, b := range books {
				used += float64(b.Mine(time.Now()).Used) / Token
			}
			if over := used - float64(c.limit); over < 0 || over > most {
				t.Errorf("%+v: %v tokens beyond the limit, and the bound is %v", c, over, most)
			}
			t.Logf("%d nodes: %v of %d tokens, bound %v more, %d messages", c.nodes, used, c.limit, most, told)
		})
	}
}

func FuzzParseSum(f *testing.F) {
	f.Add(New(1, Sum{Day(noon), 7}).Marshal())
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := ParseSum(raw, noon)
		if err != nil {
			return
		}
		if again, err := ParseSum(New(1, s).Marshal(), noon); err != nil || again != s {
			t.Errorf("%v, %v", s, err)
		}
		if bytes.Contains(New(1, s).Marshal(), []byte("-")) {
			t.Error("a negative amount")
		}
	})
}
