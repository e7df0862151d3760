package store

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
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

// Model is one model of a store, held in part or whole.
type Model struct {
	id  cid.Cid
	man *protocol.Manifest
	raw []byte // of the manifest
	dir string

	data    *os.File
	journal *os.File
	nodesF  *os.File
	base    []int64 // where each file begins in data

	loading sync.Mutex // the stage header is being used

	mu     sync.RWMutex
	rec    record
	nodes  map[cid.Cid][]byte
	shards []shard
	where  map[cid.Cid][]place
	users  int // imports, fetches and loads under way
	dirty  int // journal records since the last sync
}

// shard is what is known of a shard's leaves.
type shard struct {
	sizes  []int
	at     []int64   // in data
	leaves []cid.Cid // nil until the nodes are there
	held   []bool
	count  int
}

type place struct{ shard, leaf int }

// Leaf is a leaf that is lacking.
type Leaf struct {
	CID  cid.Cid
	Size int
}

// ID is the model's identity.
func (m *Model) ID() cid.Cid { return m.id }

// Manifest of the model; not to be changed.
func (m *Model) Manifest() *protocol.Manifest { return m.man }

// Name is what the model is called here.
func (m *Model) Name() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.rec.Names) == 0 {
		return defaultName(m.man)
	}
	return m.rec.Names[0]
}

// Names are all the names, and Origins where it came from.
func (m *Model) Names() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.rec.Names)
}

// Origins are the paths or URLs that the model was added from.
func (m *Model) Origins() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.rec.Origins)
}

func (m *Model) called(name string) bool {
	return slices.ContainsFunc(append(m.Names(), defaultName(m.man), slug(m.man.Name)), func(n string) bool { return strings.EqualFold(n, name) })
}

func (m *Model) lastUsed() time.Time {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.rec.Used
}

// Pinned says that the quota does not drop the model.
func (m *Model) Pinned() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.rec.Pinned
}

// Pin protects the model from the quota, or no longer.
func (m *Model) Pin(on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rec.Pinned = on
	return m.saveRecord()
}

// Allocated is what the model takes on disk, in bytes.
func (m *Model) Allocated() int64 {
	var n int64
	for _, f := range []*os.File{m.data, m.journal, m.nodesF} {
		if st, err := f.Stat(); err == nil {
			if sys, ok := st.Sys().(*syscall.Stat_t); ok {
				n += sys.Blocks * 512
			}
		}
	}
	return n
}

func createModel(dir string, id cid.Cid, raw []byte, man *protocol.Manifest) (*Model, error) {
	if err := os.WriteFile(filepath.Join(dir, "manifest"), raw, 0o644); err != nil {
		return nil, full(err)
	}
	m := &Model{id: id, man: man, raw: raw, dir: dir}
	m.rec.Added = time.Now().UTC().Truncate(time.Second)
	m.rec.Used = m.rec.Added
	if err := m.saveRecord(); err != nil {
		return nil, full(err)
	}
	return m, m.openFiles()
}

func openModel(dir string) (*Model, error) {
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
	m := &Model{id: id, man: man, raw: raw, dir: dir}
	if rec, err := os.ReadFile(filepath.Join(dir, "record.json")); err == nil {
		_ = json.Unmarshal(rec, &m.rec) // names and origins are no more than convenience
	}
	return m, m.openFiles()
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
	at := int64(prefixSize(m.man))
	for _, f := range m.man.Files {
		m.base = append(m.base, at)
		at += roundUp(f.Size, 1<<20)
	}
	last := len(m.man.Files) - 1
	if err := m.data.Truncate(m.base[last] + m.man.Files[last].Size); err != nil {
		return full(err)
	}
	m.nodes, m.where = map[cid.Cid][]byte{}, map[cid.Cid][]place{}
	m.shards = make([]shard, len(m.man.Shards))
	for i := range m.man.Shards {
		s := &m.shards[i]
		s.sizes = dagLeaves(&m.man.Shards[i])
		s.held = make([]bool, len(s.sizes))
		for _, e := range m.man.Shards[i].Extents {
			for off := int64(0); off < e.Length; off += protocol.LeafSize {
				s.at = append(s.at, m.base[e.File]+e.Offset+off)
			}
		}
	}
	if err := m.readNodes(); err != nil {
		return err
	}
	for i := range m.shards {
		m.learn(i)
	}
	return m.readJournal()
}

// prefixSize is the room in front of the original file for a stage header.
func prefixSize(man *protocol.Manifest) int64 {
	for _, s := range man.Shards {
		if s.Kind == protocol.ShardHeader {
			return roundUp(s.Extents[0].Length+64<<10, 1<<20)
		}
	}
	return 1 << 20
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

func (m *Model) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.sync(), m.data.Close(), m.journal.Close(), m.nodesF.Close())
}

// sync makes what the journal says durable: data first.
func (m *Model) sync() error {
	m.dirty = 0
	return errors.Join(m.data.Sync(), m.nodesF.Sync(), m.journal.Sync())
}

// readNodes reads the shards' nodes: a length, a checksum, the bytes; a torn
// end is cut off.
func (m *Model) readNodes() error {
	r := bufio.NewReader(io.NewSectionReader(m.nodesF, 0, 1<<62))
	var good int64
	for {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			break
		}
		n := binary.LittleEndian.Uint32(head[:])
		if n > 2<<20 {
			break
		}
		raw := make([]byte, n)
		if _, err := io.ReadFull(r, raw); err != nil || crc32.ChecksumIEEE(raw) != binary.LittleEndian.Uint32(head[4:]) {
			break
		}
		if c, err := nodeBuilder.Sum(raw); err == nil {
			m.nodes[c] = raw
		}
		good += 8 + int64(n)
	}
	if err := m.nodesF.Truncate(good); err != nil {
		return err
	}
	_, err := m.nodesF.Seek(good, io.SeekStart)
	return err
}

func (m *Model) writeNode(c cid.Cid, raw []byte) error {
	if m.nodes[c] != nil {
		return nil
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(raw)))
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(raw))
	if _, err := m.nodesF.Write(append(b, raw...)); err != nil {
		return full(err)
	}
	m.nodes[c] = raw
	return nil
}

// learn lists a shard's leaves if its nodes are all there.
func (m *Model) learn(i int) (lacking []cid.Cid, err error) {
	s := &m.shards[i]
	if s.leaves != nil {
		return nil, nil
	}
	leaves, lacking, err := walkDAG(m.man.Shards[i].Root, s.sizes, func(c cid.Cid) []byte { return m.nodes[c] })
	if err != nil || len(lacking) > 0 {
		return lacking, err
	}
	s.leaves = leaves
	for n, c := range leaves {
		m.where[c] = append(m.where[c], place{i, n})
	}
	return nil, nil
}

// The journal: records of 16 bytes, the last four a checksum of the others.
const (
	journalHeld = iota + 1
	journalDropped
)

const syncEvery = 64 // records

func journalRecord(op, shard, leaf int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(op))
	b = binary.LittleEndian.AppendUint32(b, uint32(shard))
	b = binary.LittleEndian.AppendUint32(b, uint32(leaf))
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

func (m *Model) readJournal() error {
	r := bufio.NewReader(io.NewSectionReader(m.journal, 0, 1<<62))
	var good int64
	for {
		var rec [16]byte
		if _, err := io.ReadFull(r, rec[:]); err != nil || crc32.ChecksumIEEE(rec[:12]) != binary.LittleEndian.Uint32(rec[12:]) {
			break
		}
		good += 16
		op, i, n := binary.LittleEndian.Uint32(rec[:]), int(binary.LittleEndian.Uint32(rec[4:])), int(binary.LittleEndian.Uint32(rec[8:]))
		if i < len(m.shards) && n < len(m.shards[i].held) {
			m.mark(i, n, op == journalHeld)
		}
	}
	if err := m.journal.Truncate(good); err != nil {
		return err
	}
	_, err := m.journal.Seek(good, io.SeekStart)
	return err
}

func (m *Model) mark(i, n int, held bool) {
	s := &m.shards[i]
	if s.held[n] == held {
		return
	}
	s.held[n] = held
	if held {
		s.count++
	} else {
		s.count--
	}
}

func (m *Model) note(op, i, n int) error {
	if _, err := m.journal.Write(journalRecord(op, i, n)); err != nil {
		return full(err)
	}
	m.mark(i, n, op == journalHeld)
	if m.dirty++; m.dirty >= syncEvery {
		return full(m.sync())
	}
	return nil
}

// NeedNodes lists the shards' nodes that are lacking and known to be. When it
// gives none, Missing knows every leaf.
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

// Missing lists the shards' leaves that are not held, each once.
func (m *Model) Missing(shards []int) ([]Leaf, error) {
	if lacking, err := m.NeedNodes(shards); err != nil || len(lacking) > 0 {
		return nil, errors.Join(err, fmt.Errorf("%d nodes of the shards are not known yet", len(lacking)))
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []Leaf
	seen := map[cid.Cid]bool{}
	for _, i := range shards {
		s := &m.shards[i]
		for n, held := range s.held {
			if !held && !seen[s.leaves[n]] {
				seen[s.leaves[n]] = true
				out = append(out, Leaf{s.leaves[n], s.sizes[n]})
			}
		}
	}
	return out, nil
}

// Put keeps a shard's node or a leaf, after checking that it is what its CID
// says and that the model has it.
func (m *Model) Put(c cid.Cid, raw []byte) error {
	if got, err := c.Prefix().Sum(raw); err != nil || got != c {
		return fmt.Errorf("block %s: %w", c, ErrCorrupt)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.Prefix().Codec == cid.DagProtobuf {
		return m.writeNode(c, raw)
	}
	places := m.where[c]
	if len(places) == 0 {
		return fmt.Errorf("leaf %s is none of this model's", c)
	}
	for _, p := range places {
		s := &m.shards[p.shard]
		if s.held[p.leaf] {
			continue
		}
		if len(raw) != s.sizes[p.leaf] {
			return fmt.Errorf("leaf %s: %w", c, ErrCorrupt)
		}
		if _, err := m.data.WriteAt(raw, s.at[p.leaf]); err != nil {
			return full(err)
		}
		if err := m.note(journalHeld, p.shard, p.leaf); err != nil {
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
	if raw := m.nodes[c]; raw != nil {
		m.mu.RUnlock()
		return raw, nil
	}
	var at place
	found := false
	for _, p := range m.where[c] {
		if m.shards[p.shard].held[p.leaf] {
			at, found = p, true
			break
		}
	}
	m.mu.RUnlock()
	if !found {
		return nil, fmt.Errorf("block %s: %w", c, ErrNotFound)
	}
	raw, ok, err := m.readLeaf(at)
	if err == nil && !ok {
		err = fmt.Errorf("leaf %s: %w", c, ErrCorrupt)
	}
	return raw, err
}

// readLeaf reads and checks a held leaf; one that fails is dropped.
func (m *Model) readLeaf(p place) (raw []byte, ok bool, err error) {
	s := &m.shards[p.shard]
	raw = make([]byte, s.sizes[p.leaf])
	if _, err := m.data.ReadAt(raw, s.at[p.leaf]); err != nil {
		return nil, false, err
	}
	if got, err := rawBuilder.Sum(raw); err == nil && got == s.leaves[p.leaf] {
		return raw, true, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return nil, false, m.note(journalDropped, p.shard, p.leaf)
}

func (m *Model) size(c cid.Cid) (int, bool) {
	if c == m.id {
		return len(m.raw), true
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if raw := m.nodes[c]; raw != nil {
		return len(raw), true
	}
	for _, p := range m.where[c] {
		if s := &m.shards[p.shard]; s.held[p.leaf] {
			return s.sizes[p.leaf], true
		}
	}
	return 0, false
}

// Holds says which shards are whole.
func (m *Model) Holds() []bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]bool, len(m.shards))
	for i, s := range m.shards {
		out[i] = s.count == len(s.sizes)
	}
	return out
}

// Use marks the model as used, so that the quota leaves it alone until the
// returned function is called.
func (m *Model) Use() (done func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.users++
	m.rec.Used = time.Now().UTC().Truncate(time.Second)
	_ = m.saveRecord()
	return sync.OnceFunc(func() {
		m.mu.Lock()
		m.users--
		m.mu.Unlock()
	})
}

func (m *Model) busy() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.users > 0
}

// Drop gives up all shards but those that keep needs.
func (m *Model) Drop(keep protocol.Span) error {
	stay := m.man.ShardsFor(keep)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.shards {
		if slices.Contains(stay, i) {
			continue
		}
		s := &m.shards[i]
		for n := range s.held {
			if s.held[n] {
				if err := m.note(journalDropped, i, n); err != nil {
					return err
				}
			}
		}
		for _, e := range m.man.Shards[i].Extents {
			if err := punch(m.data, m.base[e.File]+e.Offset, e.Length); err != nil {
				return err
			}
		}
	}
	return m.sync()
}
