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
	maxAccounts = 1024 // sources that are remembered
	maxBad      = maxAccounts / 4
	badTime     = time.Hour
	saveEvery   = 30 * time.Second
	fades       = 30 * 24 * time.Hour // after so long without a source, what it gave counts half
)

// Account is what passed between this node and a source: a peer, or an origin.
type Account struct {
	Given uint64    `json:"given"`        // bytes of blocks sent to it, in all
	Taken uint64    `json:"taken"`        // bytes of blocks received from it, in all
	Seen  time.Time `json:"seen"`         // when something last passed
	Bad   time.Time `json:"bad,omitzero"` // it sent what it was not asked for, and is not asked before this time
}

// ledger keeps an account per source over restarts, in a file of at most
// maxAccounts. Anybody can make up a thousand names and take a little, or lie, under
// each; that cannot push out the accounts of sources that gave something. It is safe
// for concurrent use.
type ledger struct {
	path string // "": in memory only
	log  *slog.Logger

	mu      sync.Mutex
	all     map[string]*Account // by peer ID as text, or an origin's name
	changed bool
	saved   time.Time

	writing sync.Mutex // the file; taken before mu
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

// parseAccounts parses the file. With an error it returns an empty map, or what
// could be read.
func parseAccounts(raw []byte) (map[string]*Account, error) {
	var all map[string]*Account
	if err := json.Unmarshal(raw, &all); err != nil || all == nil {
		return map[string]*Account{}, err
	}
	maps.DeleteFunc(all, func(_ string, a *Account) bool { return a == nil })
	return all, nil
}

// account returns a source's account, and makes it if there is none. Called with mu held.
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

// worth is the bytes that a source gave, halved for each month in which it was not
// seen.
func (a *Account) worth(now time.Time) float64 {
	return float64(a.Taken) * math.Exp2(-float64(max(0, now.Sub(a.Seen)))/float64(fades))
}

// trim keeps the sources that lied last, a quarter of maxAccounts at most; then
// those that gave most; then those seen last. Called with mu held.
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

// Pass adds bytes that were given to and taken from a source. At times it writes
// the file.
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

// balance is the bytes that a peer gave minus those it was given.
func (l *ledger) balance(p peer.ID) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.all[p.String()]; a != nil {
		return int64(a.Taken) - int64(a.Given)
	}
	return 0
}

// blame remembers that a source lied, and writes the file.
func (l *ledger) blame(name string) {
	l.mu.Lock()
	l.account(name).Bad = time.Now().Add(badTime).UTC().Truncate(time.Second)
	l.mu.Unlock()
	l.save()
}

// Bad reports whether a source lied in the last badTime.
func (l *ledger) Bad(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.all[name]
	return a != nil && a.Bad.After(time.Now())
}

// get returns a copy of a source's account.
func (l *ledger) get(name string) Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a := l.all[name]; a != nil {
		return *a
	}
	return Account{}
}

// total adds up all accounts.
func (l *ledger) total() (sum Account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.all {
		sum.Given += a.Given
		sum.Taken += a.Taken
	}
	return sum
}

// save writes the file if there is something new, whole or not at all. Accounts can
// be used meanwhile.
func (l *ledger) save() {
	l.writing.Lock()
	defer l.writing.Unlock()
	raw, err := l.encode()
	if raw == nil && err == nil {
		return
	}
	if err == nil {
		err = files.Replace(l.path, raw, 0o600)
	}
	if err != nil {
		l.log.Warn("the ledger cannot be kept", "error", err)
		l.mu.Lock()
		l.changed = true
		l.mu.Unlock()
	}
}

// encode returns the file's content; nil: the file has it already.
func (l *ledger) encode() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saved = time.Now()
	if l.path == "" || !l.changed {
		return nil, nil
	}
	l.trim()
	l.changed = false
	return json.MarshalIndent(l.all, "", " ")
}
