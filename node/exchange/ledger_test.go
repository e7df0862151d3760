package exchange

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Made-up sources, thousands that lie and thousands that only take, push out
// none that gave something; the liars of late are still known for what they are.
func TestLedgerFlooded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "ledger.json")
		l := openLedger(path, silent)
		for i := range 500 {
			l.Pass(fmt.Sprint("honest ", i), 1<<20, 1<<10)
		}
		time.Sleep(time.Minute)
		for i := range 3000 {
			l.mu.Lock()
			l.account(fmt.Sprint("liar ", i)).Bad = time.Now().Add(badTime + time.Duration(i)*time.Second)
			l.mu.Unlock()
			l.Pass(fmt.Sprint("taker ", i), 1<<30, 0)
		}
		time.Sleep(time.Second)
		l.Pass("the last", 1<<30, 0)
		l.save()
		l = openLedger(path, silent)
		if len(l.all) > maxAccounts {
			t.Errorf("%d accounts are kept", len(l.all))
		}
		for i := range 500 {
			if a := l.get(fmt.Sprint("honest ", i)); a.Taken != 1<<10 || a.Given != 1<<20 {
				t.Fatalf("what peer %d gave is forgotten: %+v", i, a)
			}
		}
		for i := 3000 - maxBad; i < 3000; i++ {
			if !l.Bad(fmt.Sprint("liar ", i)) {
				t.Fatalf("liar %d is forgotten", i)
			}
		}
		if a := l.get("the last"); a.Given == 0 {
			t.Error("who came last is forgotten, where there is room")
		}
		// Nobody keeps his place for good: what was given long ago counts less.
		time.Sleep(12 * fades)
		for i := range 2 * maxAccounts {
			l.Pass(fmt.Sprint("new ", i), 0, 1)
		}
		l.save()
		if a := l.get("honest 0"); a.Taken != 0 {
			t.Errorf("a source that was not seen for a year, %+v, is kept before new ones", a)
		}
	})
}

// Whatever stands in the file, the ledger works, and what it writes it reads.
func FuzzLedger(f *testing.F) {
	f.Add([]byte(`{"a":{"given":1,"taken":2,"seen":"2026-01-02T03:04:05Z","bad":"2126-01-02T03:04:05Z"},"b":null}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"a":{"given":18446744073709551615,"taken":18446744073709551615,"seen":"9999-12-31T23:59:59Z"}}`))
	f.Add([]byte(`{"a":`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l := openLedger("", silent)
		l.all, _ = parseAccounts(raw)
		l.trim()
		l.Pass("a", 1, 1)
		l.blame("b")
		l.total()
		if !l.Bad("b") || len(l.all) > maxAccounts+2 {
			t.Fatalf("%d accounts", len(l.all))
		}
		written, err := json.Marshal(l.all)
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseAccounts(written)
		if err != nil || !maps.EqualFunc(l.all, again, func(x, y *Account) bool {
			return x.Given == y.Given && x.Taken == y.Taken && x.Seen.Equal(y.Seen) && x.Bad.Equal(y.Bad)
		}) {
			t.Fatalf("%s was written, %v read: %v", written, again, err)
		}
	})
}
