package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
)

// Errors that callers distinguish.
var (
	ErrNotFound  = errors.New("not in the store")
	ErrAmbiguous = errors.New("more than one model goes by that name")
	ErrCorrupt   = errors.New("damaged on disk")
	ErrMismatch  = errors.New("not what its CID says")
	ErrFull      = errors.New("the disk is full")
	ErrBusy      = errors.New("in use")
	ErrLocked    = errors.New("the directory is in use by another shoal")
	ErrSource    = errors.New("cannot read the source")
	ErrSpan      = errors.New("no such blocks")
)

// Options are the options of a store.
type Options struct {
	// Check returns an error for models that this node cannot compute. nil: no
	// check.
	Check func(md interface{ Value(key string) any }) error
	Quota int64 // bytes of shards without a pin; 0: no limit
	Log   *slog.Logger
}

// Store is a directory of models. It is safe for concurrent use.
type Store struct {
	dir  string
	opt  Options
	lock *os.File

	moving sync.Mutex // serializes adding and removing models' directories; taken before mu

	mu     sync.RWMutex // guards what follows; not held during I/O, except to choose the name of a new directory
	models map[cid.Cid]*Model
	tmp    map[string]bool // imports under way
	swept  int64           // bytes left by crashes that Open removed; the next GC reports them

	quota quota
}

// Open opens or creates a store, and deletes what interrupted imports left.
// Errors are ErrLocked if another process uses it, ErrFull if there is not even
// room for its directory, and those of package os.
func Open(dir string, opt Options) (*Store, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, opt: opt, models: map[cid.Cid]*Model{}, tmp: map[string]bool{}}
	s.quota.limit = opt.Quota
	if err := os.MkdirAll(s.modelsDir(), 0o755); err != nil {
		return nil, fmt.Errorf("opening the store: %w", full(err))
	}
	var err error
	if s.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, fmt.Errorf("opening the store: %w", full(err))
	}
	if err := files.Lock(s.lock, false); err != nil {
		defer s.lock.Close()
		err := fmt.Errorf("%w%s: %s; stop it, or use another home directory", ErrLocked, holder(s.lock), dir)
		return nil, remedy.For(err, remedy.OtherHome)
	}
	s.sign(strconv.Itoa(os.Getpid()))
	entries, err := os.ReadDir(s.modelsDir())
	if err != nil {
		_ = files.Unlock(s.lock)
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.modelsDir(), e.Name())
		if strings.HasPrefix(e.Name(), tmpPrefix) {
			s.swept += sweep(path)
			continue
		}
		left, _ := filepath.Glob(filepath.Join(path, "*"+files.Mark+"*"))
		for _, f := range left {
			s.swept += sweep(f)
		}
		m, err := openModel(path, opt.Log)
		if err != nil { // kept for a person to examine, but not used
			opt.Log.Warn("a model in the store cannot be read", "dir", path, "error", err)
			continue
		}
		m.reserve, m.find = s.reserve, s.Model
		s.models[m.id] = m
	}
	return s, nil
}

const tmpPrefix = ".tmp-" // of directories

// sign writes this process's ID into the lock file, for the message of another
// process that finds it locked, or clears it. The lock itself ends with the
// process, so what a crash leaves in the file blocks nobody. It overwrites in
// place, which works on a full disk too.
func (s *Store) sign(pid string) {
	_, _ = s.lock.WriteAt(fmt.Appendf(nil, "%-10s\n", pid), 0) // at worst that message says less
}

// holder returns, for a message, the process that signed a lock file.
func holder(lock *os.File) string {
	raw, _ := io.ReadAll(io.NewSectionReader(lock, 0, 32))
	if pid, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && pid > 0 {
		return fmt.Sprintf(", process %d", pid)
	}
	return ""
}

// sweep removes what a crash has left, and returns how many bytes of disk that
// took.
func sweep(path string) int64 {
	n := used(path)
	_ = os.RemoveAll(path)
	return n
}

// used returns what a file or directory takes on disk, in bytes.
func used(path string) (n int64) {
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			if st, err := d.Info(); err == nil {
				n += files.Allocated(st)
			}
		}
		return nil //nolint:nilerr // what has disappeared takes nothing
	})
	return n
}

func (s *Store) modelsDir() string { return filepath.Join(s.dir, "models") }

// Close writes everything out and unlocks the directory. It returns the errors
// of that; the store is closed in any case.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, m := range s.models {
		errs = append(errs, m.close())
	}
	s.models = map[cid.Cid]*Model{}
	s.sign("")
	errs = append(errs, files.Unlock(s.lock))
	return errors.Join(errs...)
}

// Models returns all models, sorted by name.
func (s *Store) Models() []*Model {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return byName(s.models)
}

func byName(models map[cid.Cid]*Model) []*Model {
	return slices.SortedFunc(maps.Values(models), func(a, b *Model) int { return strings.Compare(a.Name()+a.id.String(), b.Name()+b.id.String()) })
}

// Model returns a model by its CID, or ErrNotFound.
func (s *Store) Model(id cid.Cid) (*Model, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m := s.models[id]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("model %s: %w", id, ErrNotFound)
}

// Find returns a model by its CID, by a name, by a prefix that only one name
// has, or by the beginning or end that only one CID has. Errors are ErrNotFound
// and ErrAmbiguous.
func (s *Store) Find(name string) (*Model, error) { return find(name, s.Model, s.Models()) }

// find is Store.Find among some models; byID returns one of them.
func find(name string, byID func(cid.Cid) (*Model, error), models []*Model) (*Model, error) {
	if c, err := cid.Decode(name); err == nil {
		return byID(c)
	}
	var named []*Model
	best := protocol.MatchBegin
	for _, m := range models {
		switch fit := m.match(name); {
		case fit > best:
			named, best = []*Model{m}, fit
		case fit == best:
			named = append(named, m)
		}
	}
	switch len(named) {
	case 0:
		return nil, fmt.Errorf("model %q: %w", name, ErrNotFound)
	case 1:
		return named[0], nil
	}
	var ids []string
	for _, m := range named {
		ids = append(ids, m.id.String())
	}
	return nil, fmt.Errorf("%q: %w: name one of %s", name, ErrAmbiguous, strings.Join(ids, ", "))
}

// AddManifest adds a model whose manifest came from peers: none of its leaves
// are held yet. If the model exists, it is returned with name added to its
// names. Errors are ErrMismatch if the bytes do not hash to id,
// protocol.ErrManifest, and ErrFull.
func (s *Store) AddManifest(raw []byte, id cid.Cid, name string) (*Model, error) {
	if p := id.Prefix(); !id.Defined() || p.Codec != cid.DagCBOR || p.MhLength != len(digest{}) {
		return nil, fmt.Errorf("%s is not a model's CID", id)
	}
	if got, err := id.Prefix().Sum(raw); err != nil || got != id {
		return nil, fmt.Errorf("manifest of %s: %w", id, ErrMismatch)
	}
	man, err := protocol.DecodeManifest(raw)
	if err != nil {
		return nil, err
	}
	if man.Size() > maxModel {
		return nil, fmt.Errorf("%w: a model of %d GiB", protocol.ErrManifest, man.Size()>>30)
	}
	rec := newRecord(name)
	if name == "" {
		rec.Names = []string{defaultName(man)}
	}
	if m, err := s.Model(id); err == nil {
		return m, m.addRecord(rec)
	}
	tmp, done, err := s.tempDir()
	if err != nil {
		return nil, err
	}
	defer done()
	m, used, err := s.settle(tmp, id, raw, rec)
	if err == nil {
		used()
	}
	return m, err
}

// tempDir creates a directory for a model that is not in the store yet. done
// removes it if it is still there.
func (s *Store) tempDir() (dir string, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, err = os.MkdirTemp(s.modelsDir(), tmpPrefix)
	if err != nil {
		return "", nil, full(err)
	}
	s.tmp[dir] = true
	return dir, func() {
		_ = os.RemoveAll(dir)
		s.own(dir, false)
	}, nil
}

// settle completes the directory of a new model, moves it to its place in one
// step, and opens it, in use until done is called. If another call was faster,
// it returns that call's model.
func (s *Store) settle(tmp string, id cid.Cid, raw []byte, rec record) (m *Model, done func(), err error) {
	if err := errors.Join(files.Replace(filepath.Join(tmp, "manifest"), raw, 0o644), rec.save(tmp), files.SyncDir(tmp)); err != nil {
		return nil, nil, full(err)
	}
	s.moving.Lock()
	defer s.moving.Unlock()
	if m, done := s.take(id); m != nil {
		return m, done, nil
	}
	final := filepath.Join(s.modelsDir(), id.String())
	if _, err := os.Stat(final); err == nil { // one that could not be opened
		aside := filepath.Join(s.modelsDir(), tmpPrefix+"broken-"+id.String())
		if err := errors.Join(os.RemoveAll(aside), os.Rename(final, aside)); err != nil {
			return nil, nil, err
		}
		defer os.RemoveAll(aside)
	}
	if err := os.Rename(tmp, final); err != nil {
		return nil, nil, full(err)
	}
	if m, err = openModel(final, s.opt.Log); err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(final))
	}
	if err := files.SyncDir(s.modelsDir()); err != nil {
		return nil, nil, errors.Join(full(err), m.closeFiles(), os.RemoveAll(final))
	}
	m.reserve, m.find = s.reserve, s.Model
	s.mu.Lock()
	s.models[id] = m
	done, _ = m.hold(m.Shards())
	s.mu.Unlock()
	m.saveUse()
	return m, done, nil
}

// Remove deletes a model. Errors are ErrNotFound, ErrBusy if it is in use, and
// those of the disk.
func (s *Store) Remove(id cid.Cid) error {
	s.moving.Lock()
	defer s.moving.Unlock()
	m, err := s.Model(id)
	if err != nil {
		return err
	}
	for _, a := range s.all() {
		if to := a.man.Base; to != nil && to.Equals(id) {
			return fmt.Errorf("%w: %s adds to it; remove that first", ErrBusy, a.Name())
		}
	}
	tmp := filepath.Join(s.modelsDir(), tmpPrefix+"removed-"+id.String())
	s.own(tmp, true)
	defer s.own(tmp, false)
	_ = os.RemoveAll(tmp) // left by an earlier attempt
	if err := m.leave(tmp); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.models, id)
	s.mu.Unlock()
	m.io.Lock()
	err = m.closeFiles()
	m.io.Unlock()
	return errors.Join(err, os.RemoveAll(tmp))
}

// own notes that a directory under a temporary name has an owner, or no longer
// has.
func (s *Store) own(dir string, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if yes {
		s.tmp[dir] = true
	} else {
		delete(s.tmp, dir)
	}
}

// Get returns a held block: a manifest, a shard's node, or a leaf, which is
// checked again. Peers are served by it. Errors are ErrNotFound if the block is
// not held, ErrCorrupt if it turned out damaged, and ctx's.
func (s *Store) Get(ctx context.Context, c cid.Cid) ([]byte, error) { return s.whole().Get(ctx, c) }

// Has reports whether a block is held, without checking its bytes. The error is
// always nil; the signature is that of a block store.
func (s *Store) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := s.Size(ctx, c)
	return err == nil, nil
}

// Size returns a held block's size in bytes. The error is ErrNotFound.
func (s *Store) Size(ctx context.Context, c cid.Cid) (int, error) { return s.whole().Size(ctx, c) }

func (s *Store) whole() *View { return s.Only(func(cid.Cid) bool { return true }) }

// all returns the models in no particular order.
func (s *Store) all() []*Model {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*Model, 0, len(s.models))
	for _, m := range s.models {
		out = append(out, m)
	}
	return out
}

// full wraps the error of a full disk in ErrFull.
func full(err error) error {
	if errors.Is(err, ErrFull) {
		return err
	}
	if files.Full(err) {
		return fmt.Errorf("%w: %w; free some space and try again", ErrFull, err)
	}
	return err
}
