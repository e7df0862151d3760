package keys

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/files"
)

// Default is the name of the key that the settings have.
const Default = "default"

const (
	maxKeys  = 1000
	maxFile  = 4 << 20 // bytes
	maxList  = 100     // models of a key
	writeLag = time.Minute
)

// Book is the keys of a node. It is safe for concurrent use.
type Book struct {
	path  string
	log   *slog.Logger
	count func(name string, more api.KeyUsage)
	write sync.Mutex // held while the file is written, before mu

	mu      sync.Mutex
	keys    []*key // by name
	dirty   *time.Timer
	closed  bool
	special *key // Default; nil: there is none
}

// key is one key. It is guarded by Book.mu.
type key struct {
	book *Book
	api.KeyLimits
	name    string
	hash    [sha256.Size]byte
	created time.Time
	usage   usage
	pace    *rate.Limiter // nil: no limit
	running int           // answers
}

// usage is what a key was used for.
type usage struct {
	Total api.KeyUsage `json:"total"`
	Day   string       `json:"day"` // of Today, as 2006-01-02 in UTC
	Today api.KeyUsage `json:"today"`
	Last  time.Time    `json:"last"` // zero: never
}

// file is what Book.path has.
type file struct {
	Keys  []fileKey         `json:"keys"`
	Usage map[string]*usage `json:"usage"` // by name
}

type fileKey struct {
	Name    string    `json:"name"`
	SHA256  string    `json:"sha256"`
	Created time.Time `json:"created"`
	api.KeyLimits
}

// Open reads the keys in a file, which need not exist. count is called with all
// that keys are used for; it may be nil. An error means that the file is damaged, and
// that its keys cannot be told from wrong ones.
func Open(path string, log *slog.Logger, count func(name string, more api.KeyUsage)) (*Book, error) {
	b := &Book{path: path, log: log, count: count}
	if count == nil {
		b.count = func(string, api.KeyUsage) {}
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = b.parse(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("the file of keys %s: %w", path, err)
	}
	return b, nil
}

// parse reads a file into an empty book.
func (b *Book) parse(raw []byte) error {
	var f file
	if len(raw) > maxFile {
		return fmt.Errorf("it has more than %d MiB", maxFile>>20)
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	if len(f.Keys) > maxKeys {
		return fmt.Errorf("it has more than %d keys", maxKeys)
	}
	for _, v := range f.Keys {
		hash, err := hex.DecodeString(v.SHA256)
		switch {
		case err != nil || len(hash) != sha256.Size:
			return fmt.Errorf("the hash of %q is damaged", v.Name)
		case b.find(v.Name) != nil:
			return fmt.Errorf("%q is there twice", v.Name)
		}
		if err := check(v.Name, v.KeyLimits); err != nil {
			return err
		}
		k := b.newKey(v.Name, [sha256.Size]byte(hash), v.KeyLimits)
		k.created = v.Created
		if u := f.Usage[v.Name]; u != nil {
			k.usage = *u
		}
		b.keys = append(b.keys, k)
	}
	slices.SortFunc(b.keys, func(x, y *key) int { return strings.Compare(x.name, y.name) })
	if u := f.Usage[Default]; u != nil { // counts if there is such a key
		b.special = b.newKey(Default, [sha256.Size]byte{}, api.KeyLimits{})
		b.special.usage = *u
	}
	return nil
}

func (b *Book) newKey(name string, hash [sha256.Size]byte, l api.KeyLimits) *key {
	k := &key{book: b, KeyLimits: l, name: name, hash: hash, created: time.Now().UTC().Truncate(time.Second)}
	if n := l.RequestsPerMinute; n > 0 {
		k.pace = rate.NewLimiter(rate.Limit(float64(n)/60), n)
	}
	return k
}

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// check returns a BadInput if a key cannot be named or limited so.
func check(name string, l api.KeyLimits) error {
	switch {
	case !goodName.MatchString(name):
		return &api.Error{Kind: api.BadInput, Param: "name", Message: fmt.Sprintf("name %q: write up to 64 letters, digits, dots, dashes, underscores or @", name)}
	case name == Default:
		return &api.Error{Kind: api.BadInput, Param: "name", Message: "name default: this is the key in the node's settings"}
	case l.RequestsPerMinute < 0, l.TokensPerDay < 0, l.Sessions < 0:
		return api.Errorf(api.BadInput, "the limits of a key must not be negative")
	case len(l.Models) > maxList:
		return api.Errorf(api.BadInput, "a key names at most %d models", maxList)
	}
	return nil
}

// SetDefault sets the key of the settings; "": there is none.
func (b *Book) SetDefault(secret string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.special == nil {
		b.special = b.newKey(Default, [sha256.Size]byte{}, api.KeyLimits{})
	}
	b.special.hash = [sha256.Size]byte{}
	if secret != "" {
		b.special.hash = sha256.Sum256([]byte(secret))
	}
}

// set reports whether a key is one, and not only the usage of an earlier one.
func (k *key) set() bool { return k != nil && k.hash != [sha256.Size]byte{} }

// Any reports whether there is a key. Expired ones count: they keep the door closed.
func (b *Book) Any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.keys) > 0 || b.special.set()
}

// Caller returns the caller whose key this is; nil if it is nobody's, or has expired.
func (b *Book) Caller(secret string) api.Caller {
	hash := sha256.Sum256([]byte(secret))
	b.mu.Lock()
	defer b.mu.Unlock()
	var found *key
	for _, k := range append(b.keys[:len(b.keys):len(b.keys)], b.special) {
		if k.set() && subtle.ConstantTimeCompare(k.hash[:], hash[:]) == 1 {
			found = k
		}
	}
	if found == nil || found.expired(time.Now()) {
		return nil
	}
	return found
}

func (k *key) expired(now time.Time) bool { return k.Expires != nil && !now.Before(*k.Expires) }

// AddKey makes a key and returns it. It cannot be returned again.
func (b *Book) AddKey(name string, l api.KeyLimits) (secret string, err error) {
	if err := check(name, l); err != nil {
		return "", err
	}
	var random [32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	secret = "sk-shoal-" + base64.RawURLEncoding.EncodeToString(random[:])
	b.write.Lock()
	defer b.write.Unlock()
	b.mu.Lock()
	at, there := b.index(name)
	if there || len(b.keys) >= maxKeys {
		b.mu.Unlock()
		if there {
			return "", &api.Error{Kind: api.BadInput, Param: "name", Message: fmt.Sprintf("there is a key named %q: remove it first, or choose another name", name)}
		}
		return "", api.Errorf(api.Refused, "there are %d keys, which is the limit: remove one first", maxKeys)
	}
	old := b.keys
	b.keys = slices.Insert(slices.Clone(old), at, b.newKey(name, sha256.Sum256([]byte(secret)), l))
	raw := b.encode()
	b.mu.Unlock()
	return secret, b.commit(raw, old)
}

// RemoveKey removes a key, and what it was used for. The Kind of the error is NotFound if
// there is none of that name.
func (b *Book) RemoveKey(name string) error {
	b.write.Lock()
	defer b.write.Unlock()
	b.mu.Lock()
	at, there := b.index(name)
	if !there {
		b.mu.Unlock()
		return api.Errorf(api.NotFound, "there is no key named %q", name)
	}
	old := b.keys
	b.keys = slices.Delete(slices.Clone(old), at, at+1)
	raw := b.encode()
	b.mu.Unlock()
	return b.commit(raw, old)
}

// commit writes the file, or takes the change to the keys back. Called with write held.
func (b *Book) commit(raw []byte, old []*key) error {
	err := files.Replace(b.path, raw, 0o600)
	if err != nil {
		b.mu.Lock()
		b.keys = old
		b.mu.Unlock()
	}
	return err
}

func (b *Book) index(name string) (int, bool) {
	return slices.BinarySearchFunc(b.keys, name, func(k *key, name string) int { return strings.Compare(k.name, name) })
}

// find returns a key while the keys are not sorted yet.
func (b *Book) find(name string) *key {
	for _, k := range b.keys {
		if k.name == name {
			return k
		}
	}
	return nil
}

// Keys lists the keys by name, the one of the settings first.
func (b *Book) Keys() []api.Key {
	b.mu.Lock()
	defer b.mu.Unlock()
	out, now := []api.Key{}, time.Now()
	if b.special.set() {
		out = append(out, b.special.describe(now))
	}
	for _, k := range b.keys {
		out = append(out, k.describe(now))
	}
	return out
}

func (k *key) describe(now time.Time) api.Key {
	k.turn(now)
	d := api.Key{Name: k.name, KeyLimits: k.KeyLimits, Expired: k.expired(now), Today: k.usage.Today, Total: k.usage.Total}
	if k.name != Default {
		d.Created = &k.created
	}
	if !k.usage.Last.IsZero() {
		d.LastUsed = &k.usage.Last
	}
	return d
}

// turn begins a new day. Called with Book.mu held.
func (k *key) turn(now time.Time) {
	if day := now.UTC().Format(time.DateOnly); day != k.usage.Day {
		k.usage.Day, k.usage.Today = day, api.KeyUsage{}
	}
}

// encode returns the file's content. Called with mu held.
func (b *Book) encode() []byte {
	f := file{Keys: []fileKey{}, Usage: map[string]*usage{}}
	for _, k := range b.keys {
		f.Keys = append(f.Keys, fileKey{k.name, hex.EncodeToString(k.hash[:]), k.created, k.KeyLimits})
		f.Usage[k.name] = &k.usage
	}
	if b.special != nil && !b.special.usage.Last.IsZero() {
		f.Usage[Default] = &b.special.usage
	}
	raw, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		panic(err) // cannot happen: all of it can be encoded
	}
	return append(raw, '\n')
}

// touch has the file written soon. Called with mu held.
func (b *Book) touch() {
	if b.dirty == nil && !b.closed {
		b.dirty = time.AfterFunc(writeLag, b.flush)
	}
}

// flush writes what is not in the file yet.
func (b *Book) flush() {
	b.write.Lock()
	defer b.write.Unlock()
	b.mu.Lock()
	if b.dirty == nil {
		b.mu.Unlock()
		return
	}
	b.dirty.Stop()
	b.dirty = nil
	raw := b.encode()
	b.mu.Unlock()
	if err := files.Replace(b.path, raw, 0o600); err != nil {
		b.log.Warn("what keys were used for cannot be written", "error", err)
	}
}

// Close writes what is not in the file yet.
func (b *Book) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.flush()
}
