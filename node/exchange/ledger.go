package exchange

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/replace"
)

const (
	maxAccounts = 1024 // sources remembered
	badTime     = time.Hour
	saveEvery   = 30 * time.Second
)

// Account is what passed between this node and a source: a peer, or an origin.
type Account struct {
	Given uint64    `json:"given"` // bytes of blocks, in all
	Taken uint64    `json:"taken"`
	Seen  time.Time `json:"seen"`
	Bad   time.Time `json:"bad,omitzero"` // it sent what is not what it was asked for; not asked before then
}

// ledger is kept over restarts: a file of at most maxAccounts accounts, those
// used last.
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
		err = json.Unmarshal(raw, &l.all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the ledger of what peers gave and took cannot be read and is begun anew", "file", path, "error", err)
	}
	if l.all == nil || err != nil {
		l.all = map[string]*Account{}
	}
	for name, a := range l.all {
		if a == nil {
			delete(l.all, name)
		}
	}
	return l
}

// of gives a source's account. Called with mu held.
func (l *ledger) of(name string) *Account {
	a := l.all[name]
	if a == nil {
		a = &Account{}
		l.all[name] = a
		if len(l.all) > maxAccounts+maxAccounts/8 {
			l.trim()
		}
	}
	a.Seen, l.changed = time.Now().UTC().Truncate(time.Second), true
	return a
}

// trim forgets those not seen for longest, the bad ones last.
func (l *ledger) trim() {
	now := time.Now()
	names := make([]string, 0, len(l.all))
	for name := range l.all {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		x, y := l.all[a], l.all[b]
		if bx, by := x.Bad.After(now), y.Bad.After(now); bx != by {
			if bx {
				return -1
			}
			return 1
		}
		return y.Seen.Compare(x.Seen)
	})
	for _, name := range names[maxAccounts:] {
		delete(l.all, name)
	}
}

func (l *ledger) pass(name string, given, taken int) {
	l.mu.Lock()
	a := l.of(name)
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
	l.of(name).Bad = time.Now().Add(badTime).UTC().Truncate(time.Second)
	l.mu.Unlock()
	l.save()
}

func (l *ledger) bad(name string) bool {
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
	if len(l.all) > maxAccounts {
		l.trim()
	}
	raw, err := json.MarshalIndent(l.all, "", " ")
	if err == nil {
		err = replace.File(l.path, raw, 0o600)
	}
	if err != nil {
		l.log.Warn("the ledger cannot be kept", "error", err)
		return
	}
	l.changed = false
}
