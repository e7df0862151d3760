package exchange

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/files"
)

const (
	maxAccounts = 1024 // sources remembered
	maxBad      = maxAccounts / 4
	badTime     = time.Hour
	saveEvery   = 30 * time.Second
	fades       = 30 * 24 * time.Hour // half of what a source gave counts no more when it was not seen for so long
)

// Account is what passed between this node and a source: a peer, or an origin.
type Account struct {
	Given uint64    `json:"given"` // bytes of blocks, in all
	Taken uint64    `json:"taken"`
	Seen  time.Time `json:"seen"`
	Bad   time.Time `json:"bad,omitzero"` // it sent what is not what it was asked for; not asked before then
}

// ledger is kept over restarts: a file of at most maxAccounts accounts. Anybody
// can make up a thousand names, take a little under each or lie under each; what
// that cannot push out is who gave something.
type ledger struct {
	path string // "": kept in memory alone
	log  *slog.Logger

	mu      sync.Mutex
	all     map[string]*Account // by peer ID as text, or an origin's name
	changed bool
	saved   time.Time
}

func openLedger(path string, log *slog.Logger) *ledger {
	l := &ledger{path: path, log: log, all: map[string]*Account{}, saved: time.Now()}
	if path == "" {
		return l
	}
	raw, err := os.ReadFile(path)
	if err == nil {
		l.all, err = parseAccounts(raw)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the ledger of what peers gave and took cannot be read and is begun anew", "file", path, "error", err)
	}
	l.trim()
	return l
}

// parseAccounts reads the file. The map is there at an error, too.
func parseAccounts(raw []byte) (map[string]*Account, error) {
	var all map[string]*Account
	if err := json.Unmarshal(raw, &all); err != nil || all == nil {
		return map[string]*Account{}, err
	}
	maps.DeleteFunc(all, func(_ string, a *Account) bool { return a == nil })
	return all, nil
}

// of gives a source's account. Called with mu held.
func (l *ledger) account(name string) *Account {
	a := l.all[name]
	if a == nil {
		if len(l.all) >= maxAccounts+maxAccounts/8 {
			l.trim()
		}
		a = &Account{}
		l.all[name] = a
	}
	a.Seen, l.changed = time.Now().UTC().Truncate(time.Second), true
	return a
}

// worth is what a source gave, in bytes, of which half fades in a month without
// it.
func (a *Account) worth(now time.Time) float64 {
	return float64(a.Taken) * math.Exp2(-float64(max(0, now.Sub(a.Seen)))/float64(fades))
}

// trim keeps those who lied last, a quarter of the room at most; then those who
// gave most; then those seen last.
func (l *ledger) trim() {
	if len(l.all) <= maxAccounts {
		return
	}
	now := time.Now()
	var liars, others []string
	for name, a := range l.all {
		if a.Bad.After(now) {
			liars = append(liars, name)
		} else {
			others = append(others, name)
		}
	}
	slices.SortFunc(liars, func(a, b string) int { return l.all[b].Bad.Compare(l.all[a].Bad) })
	liars, spare := liars[:min(len(liars), maxBad)], liars[min(len(liars), maxBad):]
	slices.SortFunc(others, func(a, b string) int {
		x, y := l.all[a], l.all[b]
		return cmp.Or(cmp.Compare(y.worth(now), x.worth(now)), y.Seen.Compare(x.Seen))
	})
	for _, name := range append(others, spare...)[min(maxAccounts-len(liars), len(others)+len(spare)):] {
		delete(l.all, name)
	}
}

func (l *ledger) Pass(name string, given, taken int) {
	l.mu.Lock()
	a := l.account(name)
	a.Given += uint64(given)
	a.Taken += uint64(taken)
	due := time.Since(l.saved) > saveEvery
	l.mu.Unlock()
	if due {
		l.save()
	}
}

// balance is what a peer gave less what it was given, in bytes.
func (l *ledger) balance(p peer.ID) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.all[p.String()]; a != nil {
		return int64(a.Taken) - int64(a.Given)
	}
	return 0
}

// blame remembers that a source lied.
func (l *ledger) blame(name string) {
	l.mu.Lock()
	l.account(name).Bad = time.Now().Add(badTime).UTC().Truncate(time.Second)
	l.mu.Unlock()
	l.save()
}

func (l *ledger) Bad(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.all[name]
	return a != nil && a.Bad.After(time.Now())
}

func (l *ledger) get(name string) Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.all[name]; a != nil {
		return *a
	}
	return Account{}
}

func (l *ledger) total() (sum Account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.all {
		sum.Given += a.Given
		sum.Taken += a.Taken
	}
	return sum
}

// save writes the file, whole or not at all.
func (l *ledger) save() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saved = time.Now()
	if l.path == "" || !l.changed {
		return
	}
	l.trim()
	raw, err := json.MarshalIndent(l.all, "", " ")
	if err == nil {
		err = files.Replace(l.path, raw, 0o600)
	}
	if err != nil {
		l.log.Warn("the ledger cannot be kept", "error", err)
		return
	}
	l.changed = false
}
