package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
)

// Errors that callers tell apart.
var (
	ErrNotFound  = errors.New("not in the store")
	ErrAmbiguous = errors.New("more than one model goes by that name")
	ErrCorrupt   = errors.New("damaged on disk")
	ErrFull      = errors.New("the disk is full")
	ErrLocked    = errors.New("the directory is in use by another shoal")
	ErrSource    = errors.New("cannot read the source")
)

// Options of a store.
type Options struct {
	// Check refuses models that this node could not compute. nil: none.
	Check func(md interface{ Value(key string) any }) error
	Quota int64 // bytes on disk for models without a pin; 0: no limit
	Log   *slog.Logger
}

// Store is a directory of models.
type Store struct {
	dir  string
	opt  Options
	lock *os.File

	mu     sync.RWMutex
	models map[cid.Cid]*Model
}

// Open opens or makes a store, and sweeps up what an interrupted import left.
func Open(dir string, opt Options) (*Store, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, opt: opt, models: map[cid.Cid]*Model{}}
	if err := os.MkdirAll(s.modelsDir(), 0o755); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	var err error
	if s.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		s.lock.Close()
		return nil, fmt.Errorf("%w: %s; stop it, or give this one another --home", ErrLocked, dir)
	}
	entries, err := os.ReadDir(s.modelsDir())
	if err != nil {
		s.lock.Close()
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(s.modelsDir(), e.Name())
		if strings.HasPrefix(e.Name(), tmpPrefix) {
			_ = os.RemoveAll(path)
			continue
		}
		m, err := openModel(path)
		if err != nil { // kept for a person to look at, but not used
			opt.Log.Warn("a model in the store cannot be read", "dir", path, "error", err)
			continue
		}
		s.models[m.id] = m
	}
	return s, nil
}

const tmpPrefix = ".tmp-"

func (s *Store) modelsDir() string { return filepath.Join(s.dir, "models") }

// Close writes everything out and gives the directory up.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, m := range s.models {
		errs = append(errs, m.close())
	}
	s.models = nil
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}

// Models lists all models, by name.
func (s *Store) Models() []*Model {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*Model
	for _, m := range s.models {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *Model) int { return strings.Compare(a.Name()+a.id.String(), b.Name()+b.id.String()) })
	return out
}

// Model gives a model by its identity.
func (s *Store) Model(id cid.Cid) (*Model, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m := s.models[id]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("model %s: %w", id, ErrNotFound)
}

// Find gives a model by name, CID, or at least eight characters of a CID's
// beginning or end.
func (s *Store) Find(name string) (*Model, error) {
	if c, err := cid.Decode(name); err == nil {
		return s.Model(c)
	}
	var found []*Model
	for _, m := range s.Models() {
		id := m.id.String()
		if m.called(name) || len(name) >= 8 && (strings.HasPrefix(id, name) || strings.HasSuffix(id, name)) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("model %q: %w", name, ErrNotFound)
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, m := range found {
		ids = append(ids, m.id.String())
	}
	return nil, fmt.Errorf("%q: %w: name one of %s", name, ErrAmbiguous, strings.Join(ids, ", "))
}

// AddManifest begins a model that is learnt from peers: nothing of it is held
// yet. The bytes must hash to id. A model that is there already is given as it
// is.
func (s *Store) AddManifest(raw []byte, id cid.Cid, name string) (*Model, error) {
	if got, err := id.Prefix().Sum(raw); err != nil || got != id {
		return nil, fmt.Errorf("the manifest received is not that of %s", id)
	}
	man, err := protocol.DecodeManifest(raw)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.models[id]; m != nil {
		return m, nil
	}
	tmp, err := os.MkdirTemp(s.modelsDir(), tmpPrefix)
	if err != nil {
		return nil, full(err)
	}
	defer os.RemoveAll(tmp)
	m, err := createModel(tmp, id, raw, man)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = defaultName(man)
	}
	m.rec.Names = []string{name}
	return m, s.settle(m, tmp)
}

// settle moves a finished model directory to its place. Called with mu held.
func (s *Store) settle(m *Model, tmp string) error {
	if err := errors.Join(m.saveRecord(), m.sync()); err != nil {
		m.close()
		return full(err)
	}
	final := filepath.Join(s.modelsDir(), m.id.String())
	if err := os.Rename(tmp, final); err != nil {
		m.close()
		return full(err)
	}
	m.dir = final
	s.models[m.id] = m
	return syncDir(s.modelsDir())
}

// Remove deletes a model.
func (s *Store) Remove(id cid.Cid) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.models[id]
	if m == nil {
		return fmt.Errorf("model %s: %w", id, ErrNotFound)
	}
	tmp := filepath.Join(s.modelsDir(), tmpPrefix+id.String())
	if err := os.Rename(m.dir, tmp); err != nil { // a crash from here on ends in the sweep of Open
		return err
	}
	delete(s.models, id)
	m.close()
	return os.RemoveAll(tmp)
}

// Get gives a block that is held: a manifest, a shard's node, or a leaf, which
// is checked again. It is what peers are served from.
func (s *Store) Get(_ context.Context, c cid.Cid) ([]byte, error) {
	for _, m := range s.Models() {
		if raw, err := m.block(c); err == nil || !errors.Is(err, ErrNotFound) {
			return raw, err
		}
	}
	return nil, fmt.Errorf("block %s: %w", c, ErrNotFound)
}

// Has says that Get would try.
func (s *Store) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := s.Size(ctx, c)
	return err == nil, nil
}

// Size is a held block's size in bytes.
func (s *Store) Size(_ context.Context, c cid.Cid) (int, error) {
	for _, m := range s.Models() {
		if n, ok := m.size(c); ok {
			return n, nil
		}
	}
	return 0, fmt.Errorf("block %s: %w", c, ErrNotFound)
}

// Room makes room for n more bytes of models by dropping shards of those
// without a pin, the longest unused first. It refuses what the quota cannot
// hold at all.
func (s *Store) Room(n int64) error {
	if s.opt.Quota <= 0 {
		return nil
	}
	var unpinned []*Model
	total := n
	for _, m := range s.Models() {
		if !m.Pinned() {
			unpinned = append(unpinned, m)
			total += m.Allocated()
		}
	}
	slices.SortFunc(unpinned, func(a, b *Model) int { return a.lastUsed().Compare(b.lastUsed()) })
	for _, m := range unpinned {
		if total <= s.opt.Quota {
			return nil
		}
		if m.busy() {
			continue
		}
		total -= m.Allocated()
		if err := m.Drop(protocol.Span{}); err != nil {
			return err
		}
		s.opt.Log.Info("dropped a model's shards to keep the quota", "model", m.id)
	}
	if total > s.opt.Quota {
		return fmt.Errorf("%w: %d MiB would exceed the quota of %d MiB; raise --quota or remove models", ErrFull, total>>20, s.opt.Quota>>20)
	}
	return nil
}

// record is what a node knows of a model besides its manifest.
type record struct {
	Names   []string  `json:"names"`
	Origins []string  `json:"origins,omitempty"`
	Added   time.Time `json:"added"`
	Used    time.Time `json:"used"`
	Pinned  bool      `json:"pinned,omitempty"`
}

func (m *Model) saveRecord() error {
	raw, err := json.MarshalIndent(m.rec, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(m.dir, "record.json"), raw)
}

// replaceFile writes a file so that it is whole or the old one at any instant.
func replaceFile(path string, raw []byte) error {
	tmp := path + ".new"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// full names a full disk as such.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("%w: %w; free some space and try again, what was written is resumed or removed", ErrFull, err)
	}
	return err
}

func defaultName(man *protocol.Manifest) string {
	name := man.Name
	if name == "" {
		name = man.Architecture
	}
	return slug(name + "." + man.Quantization)
}

// slug is a name that is easy to type.
func slug(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '.', r == '_', r == ':':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	return strings.Trim(name, "-.")
}
