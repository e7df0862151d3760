package standing

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"
)

// name returns the peer ID of peer i: a valid one, though of no key.
func name(i int) peer.ID {
	mh, err := multihash.Sum(fmt.Appendf(nil, "peer %d", i), multihash.SHA2_256, -1)
	if err != nil {
		panic(err)
	}
	return peer.ID(mh)
}

func open(t testing.TB, path string) *Book {
	t.Helper()
	return Open(path, slog.New(slog.DiscardHandler))
}

func ran(b *Book, claimed, seen time.Duration, peers ...peer.ID) {
	r := Run{Tokens: 100, Decode: seen, Prefill: 10 * seen}
	for _, p := range peers {
		r.Parts = append(r.Parts, Part{p, claimed, 10 * claimed})
	}
	b.Ran(r)
}

// The record survives a restart, and marks decay in the meantime.
func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "standing.json")
		b := open(t, path)
		begin := time.Now()
		ran(b, time.Millisecond, 3*time.Millisecond, name(1))
		b.Mark(name(1), Slow, "no token came")
		b.Mark(name(2), Lied, "a token that the format does not have")
		for range 4 {
			b.Count()
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		b = open(t, path)
		s := b.Of(name(1))
		if s.Done != 1 || s.Failed != 1 || s.Work != 100 || math.Abs(s.Decode-3) > 0.01 || math.Abs(s.Prefill-3) > 0.01 || b.Since(name(1)).Sub(begin).Abs() > time.Second {
			t.Errorf("%+v", s)
		}
		if m := s.Marks[Slow]; math.Abs(m-0.5) > 0.01 {
			t.Errorf("after its half-life %g of a mark is left", m)
		}
		if m := b.Of(name(2)).Marks[Lied]; m < 0.98 {
			t.Errorf("after ten minutes %g of a lie is left", m)
		}
		for range 4 {
			if b.Due() {
				t.Error("the newcomers' turn has come before the tenth session")
			}
			b.Count()
		}
		b.Count()
		if !b.Due() || !b.Explore() || b.Explore() || b.Due() {
			t.Error("not one session in ten is the newcomers'")
		}
	})
}

// The time of a route beyond all claims is attributed to the peer with the
// least known history.
func TestBlame(t *testing.T) {
	b := open(t, "")
	for range 20 {
		ran(b, time.Millisecond, time.Millisecond, name(1))
	}
	for range 3 {
		ran(b, time.Microsecond, 40*time.Millisecond, name(2))
		ran(b, time.Millisecond, 6*time.Millisecond, name(1), name(3))
	}
	if old, liar, other := b.Of(name(1)).Decode, b.Of(name(2)).Decode, b.Of(name(3)).Decode; old > 2 || liar < 1e4 || other < 3 {
		t.Errorf("an old one costs %g times what it says, a liar %g, a newcomer %g", old, liar, other)
	}
	for range 30 { // it has told the truth since
		ran(b, time.Millisecond, time.Millisecond, name(2))
	}
	if liar := b.Of(name(2)).Decode; liar > 20 {
		t.Errorf("after 30 true claims it costs %g", liar)
	}
}

// Ten thousand made-up peers evict neither peers that have worked nor those
// known for long.
func TestMadeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "standing.json")
		b := open(t, path)
		for i := range 100 {
			b.Meet(name(i)) // acquaintances
		}
		time.Sleep(time.Hour)
		for i := 100; i < 200; i++ {
			ran(b, 1, 1, name(i))
		}
		for i := range 10_000 {
			b.Meet(name(1000 + i))
			b.Mark(name(1000+i), Failed, "it is made up")
			b.Answered(name(1000+i), "a span")
			if i%100 == 0 {
				time.Sleep(time.Second)
			}
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if len(b.peers) > maxPeers || len(b.answers) > maxAnswers {
			t.Errorf("%d peers and %d answers are kept", len(b.peers), len(b.answers))
		}
		b = open(t, path)
		for i := range 200 {
			if b.Since(name(i)).IsZero() {
				t.Fatalf("peer %d was forgotten", i)
			}
		}
		time.Sleep(2 * longUnseen)
		for i := range 2000 {
			b.Meet(name(20_000 + i))
		}
		if !b.Since(name(0)).IsZero() || b.Of(name(150)).Work == 0 {
			t.Error("who has not been seen for months is to go, and not who has worked")
		}
	})
}

// A span has been answering since it began to, without a long pause.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, "")
		if first, last := b.Answers(name(1), "M 0-8"); !first.IsZero() || !last.IsZero() {
			t.Error(first, last)
		}
		begin := time.Now()
		for range 4 {
			b.Answered(name(1), "M 0-8")
			time.Sleep(Fresh - time.Second)
		}
		if first, last := b.Answers(name(1), "M 0-8"); first != begin || time.Since(last) != Fresh-time.Second {
			t.Error(first, last)
		}
		if _, last := b.Answers(name(1), "M 0-4"); !last.IsZero() {
			t.Error("a span answers that was never asked")
		}
		time.Sleep(Fresh)
		b.Answered(name(1), "M 0-8")
		if first, _ := b.Answers(name(1), "M 0-8"); first != time.Now() {
			t.Error("it answers since before the pause")
		}
	})
}

// Whatever the file contains, there is no panic, and what is read is valid and
// can be written again.
func FuzzRead(f *testing.F) {
	b := open(f, filepath.Join(f.TempDir(), "standing.json"))
	ran(b, 1, 2, name(1))
	b.Mark(name(1), Lied, "why")
	if err := b.Close(); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(b.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(bytes.ReplaceAll(raw, []byte(`1`), []byte(`9`)))
	f.Add([]byte(`{"since_newcomer":-5,"peers":{"x":null,"` + name(2).String() + `":null}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := open(t, "")
		if b.read(bytes.NewReader(raw)) != nil {
			return
		}
		for id := range b.peers {
			s := b.Of(id)
			for _, m := range s.Marks {
				if !(m >= 0 && m <= mostMarks) {
					t.Fatal(s)
				}
			}
			if s.Since.After(time.Now()) || !(s.Work >= 0) || !(s.Decode == 0 || s.Decode >= leastRatio && s.Decode <= mostRatio) {
				t.Fatal(s)
			}
			ran(b, 1, 1, id)
		}
		b.path, b.changed = "set", true
		if _, err := b.page(0); err != nil {
			t.Fatal(err)
		}
	})
}
