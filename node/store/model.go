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

	"github.com/shoalnet/shoal/protocol"
)

// Model is one model of a store, held in part or whole. It is safe for
// concurrent use.
//
// Locks, in the order in which they are taken: loading, syncing, io, mu.
type Model struct {
	id  cid.Cid
	man *protocol.Manifest
	raw []byte // of the manifest
	dir string
	log *slog.Logger

	data, journal, nodesF *os.File
	base                  []int64 // where each file begins in data; base[0] is the room for a stage header

	loading sync.Mutex   // the stage header is in use
	syncing sync.Mutex   // one sync at a time
	saving  sync.Mutex   // one write of the record at a time; taken before mu, and to remove the model
	io      sync.RWMutex // shared by those who read or write leaves, exclusive for those who drop them

	mu          sync.RWMutex // of everything below; never held over a leaf's I/O
	rec         record
	nodes       map[cid.Cid][]byte
	wanted      map[cid.Cid]bool // nodes that are lacking
	shards      []shard
	where       map[digest]place
	twins       map[digest][]place // further places of leaves with the same content
	journalSize int64
	nodesSize   int64
	durable     int64 // journal before this is on disk; changed with syncing held too
	gone        bool  // removed: its files are closed, or about to be
}

// shard is what is known of a shard's leaves.
type shard struct {
	runs   []run
	leaves []digest // nil until the nodes are there
	held   []bool
	bad    map[int]bool // leaves that were found damaged, and have not come again
	count  int          // leaves held
	bytes  int64        // in them
	users  int          // imports, fetches, loads, exports and spans served
	claims int          // fetches: the quota counts all of it
}

// run is an extent: its first leaf, its place in the data file, its length.
type run struct {
	leaf   int
	at     int64
	length int64
}

// place is a leaf's: each has exactly one.
type place struct{ shard, leaf int }

// at gives a leaf's position in the data file, and its size.
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

// layShards says where everything goes: the room for a stage header, then the
// files, each at a multiple of 1 MiB.
func layShards(man *protocol.Manifest) (base []int64, shards []shard) {
	// A stage header lists tensors of all files' headers, and has defaults
	// written into it.
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

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// maxModel is a size that no model reaches; a forged manifest might, and have
// the bookkeeping for it fill the memory.
const maxModel = 8 << 40

// openModel opens a model's directory. After an unclean end it hashes again
// what the journal names since it was last synced.
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

// readModel reads what a model's directory says of the model, and opens nothing.
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
		return nil, fmt.Errorf("%w: the manifest is that of %s", ErrCorrupt, id)
	}
	m := &Model{id: id, man: man, raw: raw, dir: dir, log: log,
		nodes: map[cid.Cid][]byte{}, wanted: map[cid.Cid]bool{}, where: map[digest]place{}, twins: map[digest][]place{}}
	if rec, err := os.ReadFile(filepath.Join(dir, "record.json")); err == nil {
		_ = json.Unmarshal(rec, &m.rec) // names and origins are no more than convenience
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
	m.data, m.journal, m.nodesF = open("data.gguf"), open("journal"), open("nodes")
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
	lost := 0 // nobody shares the model yet: no lock is needed
	for _, p := range doubtful {
		if !m.shards[p.shard].held[p.leaf] {
			continue
		}
		if _, ok, err := m.readLeaf(p, nil); err != nil {
			return err
		} else if !ok { // in flight when the power went, and not damaged since
			lost++
			if err := m.note(opDropped, p); err != nil && !errors.Is(err, ErrFull) {
				return err
			}
		}
	}
	if len(doubtful) > 0 {
		m.log.Info("the store was not closed; checked the model's last leaves", "model", m.id, "checked", len(doubtful), "lost", lost)
	}
	// What a crash left in the file that nothing names.
	err = m.punchGaps(nil)
	if len(doubtful) > 0 {
		err = errors.Join(err, m.Sync())
	}
	if errors.Is(err, ErrFull) { // what is here can be read all the same
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
	if errors.Is(err, ErrFull) { // what is there is there, and is hashed again by open
		m.log.Warn("the model's journal cannot be closed", "model", m.id, "error", err)
		err = nil
	}
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	return errors.Join(err, m.closeFiles())
}

// failed says why a model's file could not be written.
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

// ID is the model's identity.
func (m *Model) ID() cid.Cid { return m.id }

// Manifest of the model; not to be changed.
func (m *Model) Manifest() *protocol.Manifest { return m.man }

// Allocated is what the model takes on disk, in bytes.
func (m *Model) Allocated() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.allocated()
}

func (m *Model) allocated() (n int64) {
	for _, f := range []*os.File{m.data, m.journal, m.nodesF} {
		if st, err := f.Stat(); err == nil {
			n += allocated(st)
		}
	}
	return n
}

// Holds says which shards are whole, in the manifest's order.
func (m *Model) Holds() []bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]bool, len(m.shards))
	for i := range m.shards {
		out[i] = m.shards[i].whole()
	}
	return out
}

// Held counts the bytes of the leaves that are held.
func (m *Model) Held() int64 { return m.HeldOf(m.Shards()) }

// HeldOf is Held of some of the shards.
func (m *Model) HeldOf(shards []int) (n int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, i := range shards {
		n += m.shards[i].bytes
	}
	return n
}

// Whole says that all of the shards are here.
func (m *Model) Whole(shards []int) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return !slices.ContainsFunc(shards, func(i int) bool { return !m.shards[i].whole() })
}

// Shards lists all shards.
func (m *Model) Shards() []int {
	all := make([]int, len(m.man.Shards))
	for i := range all {
		all[i] = i
	}
	return all
}

// learn lists a shard's leaves if its nodes are all there. Called with mu
// held.
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

// NeedNodes lists the shards' nodes that are lacking, as far as is known: the
// nodes it lists may name further ones. When it gives none, Missing knows
// every leaf.
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

// Leaf is a leaf that is lacking.
type Leaf struct {
	CID    cid.Cid
	Number int // over all shards
	Size   int // bytes
	Shard  int
	// Where it lies in the model's files, for sources that are files.
	File   int
	Offset int64
}

// Missing lists the shards' leaves that are not held, each content once. All
// their nodes must be there.
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

// Damaged lists the leaves that were found damaged, by Verify or when they were
// read, and have not come again. They are not held.
func (m *Model) Damaged() []Leaf {
	return m.leaves(m.Shards(), func(s *shard, n int) bool { return s.bad[n] })
}

// leaves lists the leaves of shards that are so, each content once. The shards'
// nodes must be there.
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

// fileAt says which file a position in the data file belongs to.
func (m *Model) fileAt(pos int64) int {
	i, ok := slices.BinarySearch(m.base, pos)
	if !ok {
		i--
	}
	return i
}

// places lists where a leaf goes. Called with mu held.
func (m *Model) places(d digest) []place {
	p, ok := m.where[d]
	if !ok {
		return nil
	}
	return append([]place{p}, m.twins[d]...)
}

// Put keeps a shard's node or a leaf, after checking that it is what its CID
// says and that the model has it: ErrMismatch if not. When it returns, the leaf
// survives the end of the process. Other errors are ErrFull, and ErrNotFound if
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
		return fmt.Errorf("node %s: the model has none such: %w", c, ErrMismatch)
	}
	return m.writeNode(raw)
}

func (m *Model) putLeaf(d digest, raw []byte) error {
	m.io.RLock() // nobody drops the leaf between its writing and its record
	defer m.io.RUnlock()
	m.mu.RLock()
	places := m.places(d)
	lacking := slices.DeleteFunc(slices.Clone(places), func(p place) bool { return m.shards[p.shard].held[p.leaf] })
	m.mu.RUnlock()
	if len(places) == 0 {
		return fmt.Errorf("leaf %s: the model has none such: %w", d.cid(), ErrMismatch)
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

// block gives one of the model's blocks if it is held.
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

// readLeaf reads and checks a held leaf, into buf if it is large enough. One
// that fails is dropped: it counts as missing from then on.
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
		// good as a damaged one.
		return err == nil && s.leaves != nil && digest(sha256.Sum256(raw)) == s.leaves[p.leaf], nil
	}
	m.io.RLock()
	ok, err = good()
	m.io.RUnlock()
	if ok || err != nil {
		return raw, ok, err
	}
	m.io.Lock() // somebody may have dropped or replaced it while it was read
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
		// It must not be served or computed with, also where that cannot be recorded.
		m.mark(p, opDamaged)
		m.log.Warn("the damage cannot be recorded", "model", m.id, "error", err)
	}
	return nil, false, nil
}

// size is a held block's.
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

// file reads one of the model's original files.
func (m *Model) file(i int) *io.SectionReader {
	return io.NewSectionReader(m.data, m.base[i], m.man.Files[i].Size)
}
