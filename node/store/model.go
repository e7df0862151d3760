package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/semaphore"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/protocol"
)

// Model is one model of a store, held in part or whole. It is safe for
// concurrent use.
//
// Lock order: loading, syncing, io, laying, mu.
type Model struct {
	id  cid.Cid
	man *protocol.Manifest
	raw []byte // the encoded manifest
	dir string
	log *slog.Logger

	data, journal, nodesF *os.File
	base                  []int64 // where each file begins in data; base[0] is the room for a stage header

	loading *semaphore.Weighted                    // held while the stage header is in use; as long as an engine loads, so waiting for it can be given up
	syncing sync.Mutex                             // serializes syncs
	saving  sync.Mutex                             // serializes writes of the record; taken before mu, and to remove the model
	reserve func(n int64) (done func(), err error) // the store's, for what is made beside the leaves; nil: of no store
	find    func(cid.Cid) (*Model, error)          // the store's, for an adapter's base; nil: of no store
	laying  sync.Mutex                             // serializes the appearance and removal of laid files; taken before mu
	io      sync.RWMutex                           // shared by readers and writers of leaves, exclusive when leaves are dropped

	mu          sync.RWMutex // guards everything below; never held during a leaf's I/O
	rec         record
	nodes       map[cid.Cid][]byte
	wanted      map[cid.Cid]bool // nodes that are missing
	shards      []shard
	where       map[digest]place
	twins       map[digest][]place // further places of leaves with equal content
	journalSize int64
	nodesSize   int64
	durable     int64                   // the journal before this offset is on disk; changed with syncing held too
	laid        map[protocol.Span]int64 // files laid out for spans, with the bytes that they do not share with data
	gone        bool                    // removed: its files are closed, or about to be
}

// shard is what is known about a shard's leaves.
type shard struct {
	runs   []run
	leaves []digest // nil until the nodes are known
	held   []bool
	bad    map[int]bool // leaves that were found damaged and not yet fetched again
	count  int          // leaves held
	bytes  int64        // bytes in the held leaves
	users  int          // imports, fetches, loads, exports and served spans that use it
	claims int          // fetches: the quota counts the whole shard
}

// run is an extent: its first leaf, its place in the data file, its length.
type run struct {
	leaf   int
	at     int64
	length int64
}

// place identifies a leaf's place; each leaf has exactly one.
type place struct{ shard, leaf int }

// at returns a leaf's position in the data file and its size, in bytes.
func (s *shard) at(leaf int) (pos int64, size int) {
	i, ok := slices.BinarySearchFunc(s.runs, leaf, func(r run, n int) int { return r.leaf - n })
	if !ok {
		i--
	}
	r := s.runs[i]
	off := int64(leaf-r.leaf) * protocol.LeafSize
	return r.at + off, int(min(r.length-off, protocol.LeafSize))
}

func (s *shard) size(leaf int) int {
	_, n := s.at(leaf)
	return n
}

func (s *shard) whole() bool { return s.count == len(s.held) }

// layShards lays out the data file: the room for a stage header, then the
// files, each at a multiple of 1 MiB.
func layShards(man *protocol.Manifest) (base []int64, shards []shard) {
	// A stage header lists the tensors of all files' headers, and has defaults
	// added.
	room := int64(64 << 10)
	for _, s := range man.Shards {
		if s.Kind == protocol.ShardHeader {
			room += s.Size
		}
	}
	at := roundUp(room, 1<<20)
	for _, f := range man.Files {
		base = append(base, at)
		at += roundUp(f.Size, 1<<20)
	}
	shards = make([]shard, len(man.Shards))
	for i := range shards {
		leaves := 0
		for _, e := range man.Shards[i].Extents {
			shards[i].runs = append(shards[i].runs, run{leaves, base[e.File] + e.Offset, e.Length})
			leaves += int((e.Length + protocol.LeafSize - 1) / protocol.LeafSize)
		}
		shards[i].held, shards[i].bad = make([]bool, leaves), map[int]bool{}
	}
	return base, shards
}

// dataName is the file of a model's directory that has its leaves.
const dataName = "data.gguf"

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// maxModel exceeds the size of any real model, in bytes. A forged manifest
// might claim more, and the bookkeeping for it would fill the memory.
const maxModel = 8 << 40

// openModel opens a model's directory. After an unclean shutdown it hashes
// again the leaves that the journal names since the last sync.
func openModel(dir string, log *slog.Logger) (*Model, error) {
	m, err := readModel(dir, log)
	if err != nil {
		return nil, err
	}
	if err := m.openFiles(); err != nil {
		return nil, errors.Join(err, m.closeFiles())
	}
	return m, nil
}

// readModel reads a model's description from its directory without opening its
// files.
func readModel(dir string, log *slog.Logger) (*Model, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "manifest"))
	if err != nil {
		return nil, err
	}
	man, err := protocol.DecodeManifest(raw)
	if err != nil {
		return nil, err
	}
	_, id, err := man.Encode()
	if err != nil {
		return nil, err
	}
	if filepath.Base(dir) != id.String() {
		return nil, fmt.Errorf("%w: its manifest is of model %s", ErrCorrupt, id)
	}
	m := &Model{id: id, man: man, raw: raw, dir: dir, log: log, loading: semaphore.NewWeighted(1),
		nodes: map[cid.Cid][]byte{}, wanted: map[cid.Cid]bool{}, where: map[digest]place{}, twins: map[digest][]place{}, laid: map[protocol.Span]int64{}}
	if rec, err := os.ReadFile(filepath.Join(dir, "record.json")); err == nil {
		_ = json.Unmarshal(rec, &m.rec) // names and origins are only a convenience
	}
	m.base, m.shards = layShards(man)
	return m, nil
}

func (m *Model) openFiles() (err error) {
	open := func(name string) *os.File {
		f, e := os.OpenFile(filepath.Join(m.dir, name), os.O_CREATE|os.O_RDWR, 0o644)
		err = errors.Join(err, e)
		return f
	}
	m.data, m.journal, m.nodesF = open(dataName), open("journal"), open("nodes")
	if err != nil {
		return full(err)
	}
	last := len(m.man.Files) - 1
	if err := m.data.Truncate(m.base[last] + m.man.Files[last].Size); err != nil {
		return full(err)
	}
	if err := m.readNodes(); err != nil {
		return err
	}
	for i := range m.shards {
		if _, err := m.learn(i); err != nil {
			return err
		}
	}
	doubtful, err := m.readJournal()
	if err != nil {
		return err
	}
	lost := 0 // the model is not shared yet: no lock is needed
	for _, p := range doubtful {
		if !m.shards[p.shard].held[p.leaf] {
			continue
		}
		if _, ok, err := m.readLeaf(p, nil); err != nil {
			return err
		} else if !ok { // in flight when the power failed, and not damaged since
			lost++
			if err := m.note(opDropped, p); err != nil && !errors.Is(err, ErrFull) {
				return err
			}
		}
	}
	if len(doubtful) > 0 {
		m.log.Info("the store was not closed; checked the model's last leaves", "model", m.id, "checked", len(doubtful), "lost", lost)
	}
	m.findLaid()
	// Free what a crash left in the file outside the held leaves.
	err = m.punchGaps(nil)
	if len(doubtful) > 0 {
		err = errors.Join(err, m.Sync())
	}
	if errors.Is(err, ErrFull) { // what is held can still be read
		m.log.Warn("the model's journal cannot be written", "model", m.id, "error", err)
		return nil
	}
	return err
}

func (m *Model) close() error {
	m.syncing.Lock()
	defer m.syncing.Unlock()
	m.io.Lock()
	defer m.io.Unlock()
	err := m.sync()
	if errors.Is(err, ErrFull) { // the data is on disk, and open hashes it again
		m.log.Warn("the model's journal cannot be closed", "model", m.id, "error", err)
		err = nil
	}
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	return errors.Join(err, m.closeFiles())
}

// failed returns the reason why a model's file could not be written.
func (m *Model) failed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return m.removed()
	}
	return full(err)
}

func (m *Model) removed() error {
	return fmt.Errorf("model %s was closed or removed: %w", m.id, ErrNotFound)
}

func (m *Model) closeFiles() error {
	var errs []error
	for _, f := range []*os.File{m.data, m.journal, m.nodesF} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// ID returns the CID of the model's manifest, which identifies it.
func (m *Model) ID() cid.Cid { return m.id }

// Manifest returns the model's manifest, which must not be changed.
func (m *Model) Manifest() *protocol.Manifest { return m.man }

// Allocated returns the bytes that the model takes on disk.
func (m *Model) Allocated() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.allocated()
}

func (m *Model) allocated() (n int64) {
	for _, f := range []*os.File{m.data, m.journal, m.nodesF} {
		if st, err := f.Stat(); err == nil {
			n += files.Allocated(st)
		}
	}
	for _, copied := range m.laid {
		n += copied
	}
	return n
}

// Holds reports for each shard, in the manifest's order, whether all of it is
// held.
func (m *Model) Holds() []bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]bool, len(m.shards))
	for i := range m.shards {
		out[i] = m.shards[i].whole()
	}
	return out
}

// Held returns the bytes of the held leaves.
func (m *Model) Held() int64 { return m.HeldOf(m.Shards()) }

// HeldOf is Held for some of the shards.
func (m *Model) HeldOf(shards []int) (n int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, i := range shards {
		n += m.shards[i].bytes
	}
	return n
}

// Whole reports whether all of the given shards are held in full.
func (m *Model) Whole(shards []int) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return !slices.ContainsFunc(shards, func(i int) bool { return !m.shards[i].whole() })
}

// Shards returns the indexes of all shards.
func (m *Model) Shards() []int {
	all := make([]int, len(m.man.Shards))
	for i := range all {
		all[i] = i
	}
	return all
}

// learn lists a shard's leaves if all its nodes are known, and returns the
// missing nodes. Called with mu held.
func (m *Model) learn(i int) (lacking []cid.Cid, err error) {
	s := &m.shards[i]
	if s.leaves != nil {
		return nil, nil
	}
	leaves, lacking, err := walkDAG(m.man.Shards[i].Root, len(s.held), s.size, func(c cid.Cid) []byte { return m.nodes[c] })
	if err != nil {
		return nil, err
	}
	for _, c := range lacking {
		m.wanted[c] = true
	}
	if len(lacking) > 0 {
		return lacking, nil
	}
	s.leaves = leaves
	for n, d := range leaves {
		p := place{i, n}
		if _, ok := m.where[d]; ok {
			m.twins[d] = append(m.twins[d], p)
		} else {
			m.where[d] = p
		}
	}
	return nil, nil
}

// NeedNodes returns the shards' nodes that are missing, as far as is known: the
// nodes it lists may refer to further ones. When it returns none, Missing can
// list every leaf. The error is protocol.ErrManifest if the nodes do not match
// the manifest.
func (m *Model) NeedNodes(shards []int) ([]cid.Cid, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []cid.Cid
	for _, i := range shards {
		lacking, err := m.learn(i)
		if err != nil {
			return nil, err
		}
		out = append(out, lacking...)
	}
	return out, nil
}

// Leaf is a leaf that is missing or damaged.
type Leaf struct {
	CID    cid.Cid
	Number int // within the model
	Size   int // bytes
	Shard  int
	// Where it lies in the model's files, in bytes, for sources that are files.
	File   int
	Offset int64
}

// Missing returns the shards' leaves that are not held, each distinct content
// once. All their nodes must be known, otherwise the error is ErrNotFound.
func (m *Model) Missing(shards []int) ([]Leaf, error) {
	lacking, err := m.NeedNodes(shards)
	if err != nil {
		return nil, err
	}
	if len(lacking) > 0 {
		return nil, fmt.Errorf("%w: %d nodes of the shards, which list their leaves", ErrNotFound, len(lacking))
	}
	return m.leaves(shards, func(s *shard, n int) bool { return !s.held[n] }), nil
}

// Damaged returns the leaves that were found damaged, by Verify or on reading,
// and have not been fetched again. They do not count as held.
func (m *Model) Damaged() []Leaf {
	return m.leaves(m.Shards(), func(s *shard, n int) bool { return s.bad[n] })
}

// leaves returns the leaves of the shards for which are holds, each distinct
// content once. The shards' nodes must be known.
func (m *Model) leaves(shards []int, are func(s *shard, leaf int) bool) (out []Leaf) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	seen := map[digest]bool{}
	for _, i := range shards {
		s := &m.shards[i]
		if s.whole() || s.leaves == nil {
			continue
		}
		first := m.number(place{i, 0})
		for n, d := range s.leaves {
			if seen[d] || !are(s, n) {
				continue
			}
			seen[d] = true
			pos, size := s.at(n)
			file := m.fileAt(pos)
			out = append(out, Leaf{CID: d.cid(), Number: first + n, Size: size, Shard: i, File: file, Offset: pos - m.base[file]})
		}
	}
	return out
}

// fileAt returns the file that a position in the data file belongs to.
func (m *Model) fileAt(pos int64) int {
	i, ok := slices.BinarySearch(m.base, pos)
	if !ok {
		i--
	}
	return i
}

// places returns the places where a leaf belongs. Called with mu held.
func (m *Model) places(d digest) []place {
	p, ok := m.where[d]
	if !ok {
		return nil
	}
	return append([]place{p}, m.twins[d]...)
}

// Put stores a shard's node or a leaf, after checking that it matches its CID
// and belongs to the model. When it returns, the leaf survives the end of the
// process. Errors are ErrMismatch if a check fails, ErrFull, and ErrNotFound if
// the model was removed.
func (m *Model) Put(c cid.Cid, raw []byte) error {
	sum := digest(sha256.Sum256(raw))
	if mh := c.Hash(); !c.Defined() || c.Prefix() != leafPrefix && c.Prefix() != nodePrefix || !bytes.Equal(mh[len(mh)-len(sum):], sum[:]) {
		return fmt.Errorf("block %s: %w", c, ErrMismatch)
	}
	if c.Prefix() == nodePrefix {
		return m.putNode(c, raw)
	}
	if err := m.putLeaf(sum, raw); err != nil {
		return err
	}
	return m.syncIfDue()
}

func (m *Model) putNode(c cid.Cid, raw []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nodes[c] != nil {
		return nil
	}
	if !m.wanted[c] || len(raw) > maxNode {
		return fmt.Errorf("node %s: not part of the model: %w", c, ErrMismatch)
	}
	return m.writeNode(raw)
}

func (m *Model) putLeaf(d digest, raw []byte) error {
	m.io.RLock() // the leaf cannot be dropped between its write and its record
	defer m.io.RUnlock()
	m.mu.RLock()
	places := m.places(d)
	lacking := slices.DeleteFunc(slices.Clone(places), func(p place) bool { return m.shards[p.shard].held[p.leaf] })
	m.mu.RUnlock()
	if len(places) == 0 {
		return fmt.Errorf("leaf %s: not part of the model: %w", d.cid(), ErrMismatch)
	}
	for _, p := range lacking {
		at, size := m.shards[p.shard].at(p.leaf)
		if size != len(raw) {
			return fmt.Errorf("leaf %s of %d bytes, where the manifest has %d: %w", d.cid(), len(raw), size, ErrMismatch)
		}
		if _, err := m.data.WriteAt(raw, at); err != nil {
			return m.failed(err)
		}
		m.mu.Lock()
		err := m.note(opHeld, p)
		m.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// block returns one of the model's blocks if it is held.
func (m *Model) block(c cid.Cid) ([]byte, error) {
	if c == m.id {
		return m.raw, nil
	}
	m.mu.RLock()
	raw := m.nodes[c]
	var held []place
	if d, ok := digestOf(c); ok && raw == nil {
		held = slices.DeleteFunc(m.places(d), func(p place) bool { return !m.shards[p.shard].held[p.leaf] })
	}
	m.mu.RUnlock()
	if raw != nil {
		return raw, nil
	}
	err := fmt.Errorf("block %s: %w", c, ErrNotFound)
	for _, p := range held {
		raw, ok, e := m.readLeaf(p, nil)
		if ok {
			return raw, nil
		}
		if err = e; e == nil {
			err = fmt.Errorf("leaf %s: %w", c, ErrCorrupt)
		}
	}
	return nil, err
}

var errDropped = fmt.Errorf("a leaf was dropped while it was looked for: %w", ErrNotFound)

// readLeaf reads and checks a held leaf, into buf if it is large enough. A leaf
// that fails the check is dropped: it counts as missing from then on.
func (m *Model) readLeaf(p place, buf []byte) (raw []byte, ok bool, err error) {
	s := &m.shards[p.shard]
	at, size := s.at(p.leaf)
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	raw = buf[:size]
	good := func() (bool, error) {
		_, err := m.data.ReadAt(raw, at)
		if errors.Is(err, os.ErrClosed) {
			return false, m.removed()
		}
		// Any other error is the disk's, and a leaf that cannot be read is as
		// good as damaged.
		return err == nil && s.leaves != nil && digest(sha256.Sum256(raw)) == s.leaves[p.leaf], nil
	}
	m.io.RLock()
	ok, err = good()
	m.io.RUnlock()
	if ok || err != nil {
		return raw, ok, err
	}
	m.io.Lock() // it may have been dropped or replaced during the read
	defer m.io.Unlock()
	if ok, err = good(); ok || err != nil {
		return raw, ok, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !s.held[p.leaf] {
		return nil, false, errDropped
	}
	m.log.Warn("a leaf is damaged on disk; it is dropped", "model", m.id, "shard", p.shard, "leaf", p.leaf)
	if err := m.note(opDamaged, p); err != nil {
		// It must not be served or computed with, even if that cannot be
		// recorded.
		m.mark(p, opDamaged)
		m.log.Warn("the damage cannot be recorded", "model", m.id, "error", err)
	}
	return nil, false, nil
}

// size returns the size of a held block, in bytes.
func (m *Model) size(c cid.Cid) (int, bool) {
	if c == m.id {
		return len(m.raw), true
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if raw := m.nodes[c]; raw != nil {
		return len(raw), true
	}
	if d, ok := digestOf(c); ok {
		for _, p := range m.places(d) {
			if s := &m.shards[p.shard]; s.held[p.leaf] {
				return s.size(p.leaf), true
			}
		}
	}
	return 0, false
}

// file returns a reader for one of the model's original files.
func (m *Model) file(i int) *io.SectionReader {
	return io.NewSectionReader(m.data, m.base[i], m.man.Files[i].Size)
}
