package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ollama/ollama/fs/ggml"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

const tiny = "../../contrib/tinymodel/tinytales.gguf"

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func sumOf(t testing.TB, path string) [32]byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(raw)
}

// pull copies the shards of a span from one store to another, as an exchange
// does, and returns the number of leaves.
func pull(t testing.TB, from *Store, m *Model, shards []int) int {
	t.Helper()
	pullNodes(t, from, m, shards)
	leaves, err := m.Missing(shards)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leaves {
		raw, err := from.Get(context.Background(), l.CID)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Put(l.CID, raw); err != nil {
			t.Fatal(err)
		}
	}
	return len(leaves)
}

func sum256(b []byte) [32]byte { return sha256.Sum256(b) }

func pullNodes(t testing.TB, from *Store, m *Model, shards []int) {
	t.Helper()
	for {
		nodes, err := m.NeedNodes(shards)
		if err != nil {
			t.Fatal(err)
		}
		if len(nodes) == 0 {
			return
		}
		for _, c := range nodes {
			raw, err := from.Get(context.Background(), c)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Put(c, raw); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func every(m *Model) []int {
	var all []int
	for i := range m.man.Shards {
		all = append(all, i)
	}
	return all
}

func add(t testing.TB, s *Store, from string, span *protocol.Span) *Model {
	t.Helper()
	m, err := s.Add(t.Context(), from, AddOptions{Span: span})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func export(t testing.TB, m *Model) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "out.gguf")
	if err := m.Export(t.Context(), to, nil); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestAddPullExport(t *testing.T) {
	want := sumOf(t, tiny)
	a, b := open(t, t.TempDir()), open(t, t.TempDir())
	m := add(t, a, tiny, nil)
	if sumOf(t, export(t, m)) != want {
		t.Error("export after add is another file")
	}
	got, err := b.AddManifest(m.raw, m.id, "")
	if err != nil {
		t.Fatal(err)
	}
	third := got.man.ShardsFor(protocol.Span{From: 0, To: 3})
	pull(t, a, got, third)
	var miss *Missing
	if err := got.Export(t.Context(), t.TempDir(), nil); !errors.As(err, &miss) || len(miss.Shards) != len(got.man.Shards)-len(third) {
		t.Errorf("export of a part: %v", err)
	}
	pull(t, a, got, every(got))
	if sumOf(t, export(t, got)) != want {
		t.Error("export after pull is another file")
	}
	if m2 := add(t, a, tiny, nil); m2 != m {
		t.Error("added twice")
	}
}

// A node that holds a third of a model uses a third of its size on disk.
func TestSparse(t *testing.T) {
	s := open(t, t.TempDir())
	m := add(t, s, tiny, &protocol.Span{From: 3, To: 5})
	var held int64
	for _, i := range m.man.ShardsFor(protocol.Span{From: 3, To: 5}) {
		held += m.man.Shards[i].Size
	}
	if n := m.Allocated(); n < held || n > held+held/10+64<<10 {
		t.Errorf("%d bytes on disk for %d bytes of shards", n, held)
	}
	if err := m.Drop(protocol.Span{}); err != nil {
		t.Fatal(err)
	}
	if n := m.Allocated(); n > 512<<10 { // the header shard stays
		t.Errorf("%d bytes on disk after dropping the blocks", n)
	}
}

// checkStage loads a span as an engine does: both this project's reader and the
// engine library's read the file's header, and it lists the span's tensors,
// each with the original's bytes.
func checkStage(t testing.TB, m *Model, raw []byte, span protocol.Span) {
	t.Helper()
	orig, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]gguf.Tensor{}
	for _, tn := range orig.Tensors {
		k := shardOf(tn.Name, int64(orig.Blocks()))
		switch k.kind {
		case protocol.ShardBlock:
			if k.block < int64(span.From) || k.block >= int64(span.To) {
				continue
			}
		case protocol.ShardEmbedding:
			if span.From > 0 && !(m.man.TiedOutput && span.To == orig.Blocks()) {
				continue
			}
		case protocol.ShardOutput:
			if span.To < orig.Blocks() {
				continue
			}
		case protocol.ShardOther:
			continue
		}
		want[tn.Name] = tn
	}
	extra := func(md *gguf.Header) []gguf.KV {
		return []gguf.KV{{Key: "llama.test", Value: strings.Repeat("x", 9000)}, {Key: "general.name", Value: "renamed"}}
	}
	err = m.StageFile(t.Context(), span, extra, func(path string) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		st, _ := f.Stat()
		h, err := gguf.Read(f, st.Size())
		if err != nil {
			return err
		}
		if err := h.Check(st.Size()); err != nil {
			return err
		}
		if len(h.String("llama.test")) != 9000 || h.Blocks() != orig.Blocks() || h.String("general.name") != "renamed" {
			return errors.New("metadata is not what was asked for")
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		lib, err := ggml.Decode(f, -1)
		if err != nil {
			return fmt.Errorf("the engine's library: %w", err)
		}
		if got := lib.KV().Architecture(); got != orig.Architecture() {
			return fmt.Errorf("the engine's library reads architecture %q", got)
		}
		places := map[string]int64{}
		for _, tn := range lib.Tensors().Items() {
			places[tn.Name] = int64(lib.Tensors().Offset + tn.Offset)
		}
		if len(h.Tensors) != len(want) || len(places) != len(want) {
			return fmt.Errorf("%d tensors are listed, %d by the engine's library; %d are due", len(h.Tensors), len(places), len(want))
		}
		for _, tn := range h.Tensors {
			o, ok := want[tn.Name]
			if at := h.DataOffset + int64(tn.Offset); !ok || places[tn.Name] != at {
				return fmt.Errorf("%s: due %v, at %d, for the engine's library at %d", tn.Name, ok, at, places[tn.Name])
			}
			got := make([]byte, tn.Bytes())
			if _, err := f.ReadAt(got, h.DataOffset+int64(tn.Offset)); err != nil {
				return err
			}
			if !bytes.Equal(got, raw[orig.DataOffset+int64(o.Offset):][:o.Bytes()]) {
				return fmt.Errorf("%s: other bytes", tn.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", span, err)
	}
}

func TestStageFile(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	for _, path := range []string{tiny, "../../../shared/models/stories260K.gguf", "../../../shared/models/SmolLM2-135M-Instruct.Q4_1.gguf"} {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Logf("skipped: %v", err)
			continue
		}
		s := open(t, t.TempDir())
		m := add(t, s, path, nil)
		n := int(m.man.Blocks)
		for _, span := range []protocol.Span{m.man.All(), {From: 0, To: n / 3}, {From: n / 3, To: n - 2}, {From: n - 2, To: n}} {
			checkStage(t, m, raw, span)
		}
		if err := m.StageFile(t.Context(), protocol.Span{From: 0, To: n + 1}, nil, func(string) error { return nil }); err == nil {
			t.Error("loaded blocks that the model has not")
		}
		h, err := m.Header()
		if err != nil || len(h.KVs) == 0 || h.Value("tokenizer.ggml.tokens") == nil {
			t.Errorf("header: %v", err)
		}
		if sumOf(t, export(t, m)) != sha256.Sum256(raw) {
			t.Error("the stage headers changed the model")
		}
	}
}

// A byte flipped on disk is detected before it is served or computed with, and
// only its leaf is fetched again.
func TestFlippedByte(t *testing.T) {
	a, b := open(t, t.TempDir()), open(t, t.TempDir())
	add(t, a, tiny, nil)
	m := add(t, b, tiny, nil)
	span := protocol.Span{From: 2, To: 4}
	p := m.where[m.shards[m.man.ShardsFor(span)[1]].leaves[0]]
	at, _ := m.shards[p.shard].at(p.leaf)
	at += 1000
	flip := func() {
		one := make([]byte, 1)
		if _, err := m.data.ReadAt(one, at); err != nil {
			t.Fatal(err)
		}
		one[0] ^= 0x10
		if _, err := m.data.WriteAt(one, at); err != nil {
			t.Fatal(err)
		}
	}
	flip()
	var miss *Missing
	err := m.StageFile(t.Context(), span, nil, func(string) error { t.Error("computed with a damaged leaf"); return nil })
	if !errors.As(err, &miss) || miss.Leaves != 1 {
		t.Fatalf("loading a damaged leaf: %v", err)
	}
	if n := pull(t, a, m, m.man.ShardsFor(span)); n != 1 {
		t.Errorf("%d leaves were fetched again", n)
	}
	if err := m.StageFile(t.Context(), span, nil, func(string) error { return nil }); err != nil {
		t.Error(err)
	}
	flip()
	if _, err := b.Get(t.Context(), m.shards[p.shard].leaves[p.leaf].cid()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("serving a damaged leaf: %v", err)
	}
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	m := add(t, s, tiny, &protocol.Span{From: 1, To: 3})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("two at once: %v", err)
	}
	holds := m.Holds()
	journal, _ := os.ReadFile(filepath.Join(m.dir, "journal"))
	dirM := m.dir
	s.Close()
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("1\n"), 0o644); err != nil { // of a process that died
		t.Fatal(err)
	}
	// A torn record at the end, and an import that was killed.
	if err := os.WriteFile(filepath.Join(dirM, "journal"), append(journal, 1, 2, 3), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "models", tmpPrefix+"1"), 0o755); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	m2, err := s.Find("tinytales")
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(m2.Holds()) != fmt.Sprint(holds) {
		t.Errorf("holds %v, before %v", m2.Holds(), holds)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "models", tmpPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := s.Find(m.id.String()[:12]); err != nil {
		t.Error(err)
	}
	if _, err := s.Find("nobody"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// Any invalid file is refused with a reason and leaves nothing behind.
func TestBadFiles(t *testing.T) {
	good, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	absurd := func(at int) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint64(b[at:], 1<<60)
		return b
	}
	cases := map[string][]byte{
		"empty": {}, "text": []byte("once upon a time\n"), "truncated weights": good[:len(good)-1000],
		"truncated header": good[:5000], "absurd tensor count": absurd(8), "absurd metadata count": absurd(16),
		"absurd key length": absurd(24), "magic only": []byte("GGUF"),
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		b := bytes.Clone(good)
		for range 1 + rng.IntN(8) {
			b[rng.IntN(60_000)] = byte(rng.Uint32())
		}
		cases[fmt.Sprint("random ", i)] = b
	}
	dir := t.TempDir()
	s := open(t, dir)
	for name, b := range cases {
		path := filepath.Join(t.TempDir(), "bad.gguf")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := s.Add(t.Context(), path, AddOptions{})
		if strings.HasPrefix(name, "random") {
			if err == nil { // the change hit nothing that matters
				if err := s.Remove(m.ID()); err != nil {
					t.Fatal(err)
				}
			}
		} else if err == nil {
			t.Errorf("%s: taken", name)
		} else if !errors.Is(err, gguf.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "models")); len(left) > 0 {
			t.Fatalf("%s: left %v behind", name, left)
		}
	}
	if _, err := s.Add(t.Context(), "/nowhere.gguf", AddOptions{}); !errors.Is(err, ErrSource) {
		t.Error(err)
	}
}

// A split model is one model, with the same identity whichever part is named
// and wherever it comes from.
func TestSplit(t *testing.T) {
	raw, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	const parts = 3
	dir := split(t, raw, parts, "tiny")
	s := open(t, t.TempDir())
	m := add(t, s, filepath.Join(dir, "tiny-00002-of-00003.gguf"), nil)
	if m.Name() != "tiny" || len(m.man.Files) != parts {
		t.Errorf("%q with %d files", m.Name(), len(m.man.Files))
	}
	for _, span := range []protocol.Span{m.man.All(), {From: 2, To: 6}} {
		checkStage(t, m, raw, span)
	}
	out := t.TempDir()
	if err := m.Export(t.Context(), out, nil); err != nil {
		t.Fatal(err)
	}
	for i := range parts {
		name := fmt.Sprintf("tiny-%05d-of-%05d.gguf", i+1, parts)
		if sumOf(t, filepath.Join(out, name)) != sumOf(t, filepath.Join(dir, name)) {
			t.Errorf("part %d is another file", i+1)
		}
	}
	if err := m.Export(t.Context(), filepath.Join(out, "tiny-00001-of-00003.gguf"), nil); err == nil {
		t.Error("three files were exported to one")
	}
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer srv.Close()
	if m2 := add(t, open(t, t.TempDir()), srv.URL+"/tiny-00003-of-00003.gguf?x=1", nil); m2.id != m.id {
		t.Errorf("from HTTP it is %s, from disk %s", m2.id, m.id)
	}
	// Parts of different models.
	swap := t.TempDir()
	for i, from := range []int{2, 1, 3} {
		b, _ := os.ReadFile(filepath.Join(dir, fmt.Sprintf("tiny-%05d-of-00003.gguf", from)))
		writeInto(t, swap, fmt.Sprintf("tiny-%05d-of-00003.gguf", i+1), b)
	}
	if _, err := s.Add(t.Context(), filepath.Join(swap, "tiny-00001-of-00003.gguf"), AddOptions{}); !errors.Is(err, gguf.ErrFormat) {
		t.Errorf("swapped parts: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "tiny-00003-of-00003.gguf")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(t.Context(), filepath.Join(dir, "tiny-00001-of-00003.gguf"), AddOptions{}); !errors.Is(err, ErrSource) {
		t.Errorf("a part is not there: %v", err)
	}
}

func writeInto(t testing.TB, dir, name string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// The quota drops the least recently used shards one by one, but none that are
// pinned or in use.
func TestQuota(t *testing.T) {
	s, err := Open(t.TempDir(), Options{Quota: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Add(t.Context(), tiny, AddOptions{}); !errors.Is(err, ErrFull) {
		t.Errorf("3 MiB into 1: %v", err)
	}
	if left, _ := os.ReadDir(s.modelsDir()); len(left) > 0 {
		t.Errorf("left %v behind", left)
	}
	if _, err := s.Add(t.Context(), tiny, AddOptions{Span: &protocol.Span{From: 1, To: 2}}); err != nil {
		t.Error(err)
	}
	if err := s.SetQuota(0); err != nil {
		t.Fatal(err)
	}
	m := add(t, s, tiny, nil)
	holds := func() (blocks []int) {
		for i, h := range m.Holds() {
			if h && m.man.Shards[i].Kind == protocol.ShardBlock {
				blocks = append(blocks, int(m.man.Shards[i].Block))
			}
		}
		return blocks
	}
	block := func(n int) int {
		return slices.IndexFunc(m.man.Shards, func(s protocol.Shard) bool { return s.Block == int64(n) })
	}
	if err := m.PinShards([]int{block(0), block(5)}, true); err != nil {
		t.Fatal(err)
	}
	m.UseShards([]int{block(3)})() // lately used
	inUse := m.UseShards([]int{block(7)})
	size := m.man.Shards[block(7)].Size
	held := func() (n int64) { // what counts against the quota
		for i := range m.shards {
			if !slices.Contains(m.PinnedShards(), i) {
				n += m.shards[i].bytes
			}
		}
		return n
	}
	before := m.Allocated()
	if err := s.SetQuota(held() - 1); err != nil {
		t.Fatal(err)
	}
	kept := 0
	for _, h := range m.Holds() {
		if h {
			kept++
		}
	}
	if kept != len(m.shards)-1 {
		t.Errorf("%d of %d shards were kept, where dropping one was enough", kept, len(m.shards))
	}
	if err := s.SetQuota(m.man.Shards[0].Size + 2*size + 1000); err != nil {
		t.Fatal(err)
	}
	if got := holds(); !slices.Equal(got, []int{0, 3, 5, 7}) {
		t.Errorf("blocks %v were kept", got)
	}
	if m.Allocated() > before-3*size {
		t.Errorf("%d bytes on disk, before %d", m.Allocated(), before)
	}
	was := holds()
	if err := s.SetQuota(1000); !errors.Is(err, ErrFull) || !slices.Equal(holds(), was) {
		t.Errorf("a quota that cannot be kept: %v, blocks %v", err, holds())
	}
	if err := s.Room(100 << 20); !errors.Is(err, ErrFull) {
		t.Errorf("room for more than the quota: %v", err)
	}
	inUse()
	if err := s.SetQuota(m.man.Shards[0].Size); err != nil {
		t.Error(err)
	}
	if got := holds(); !slices.Equal(got, []int{0, 5}) {
		t.Errorf("blocks %v were kept", got)
	}
	if err := m.Pin(false); err != nil || len(m.PinnedShards()) > 0 {
		t.Errorf("pinned: %v, %v", m.PinnedShards(), err)
	}
}

// What is in use is neither dropped nor removed.
func TestBusy(t *testing.T) {
	s := open(t, t.TempDir())
	m := add(t, s, tiny, nil)
	err := m.StageFile(t.Context(), protocol.Span{From: 2, To: 4}, nil, func(string) error {
		if err := m.DropShards(m.man.ShardsFor(protocol.Span{From: 3, To: 4})); !errors.Is(err, ErrBusy) {
			t.Errorf("drop: %v", err)
		}
		if err := s.Remove(m.id); !errors.Is(err, ErrBusy) {
			t.Errorf("remove: %v", err)
		}
		return m.DropShards(m.man.ShardsFor(protocol.Span{From: 5, To: 6})[1:])
	})
	if err != nil {
		t.Error(err)
	}
	if n, err := m.Verify(t.Context(), m.man.ShardsFor(protocol.Span{From: 2, To: 4}), true); n != 0 || err != nil {
		t.Errorf("%d damaged: %v", n, err)
	}
	if err := s.Remove(m.id); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), m.id); !errors.Is(err, ErrNotFound) {
		t.Errorf("a removed model's manifest: %v", err)
	}
	if _, err := m.Verify(t.Context(), nil, false); !errors.Is(err, ErrNotFound) {
		t.Errorf("verify of a removed model: %v", err)
	}
}

func TestFind(t *testing.T) {
	s := open(t, t.TempDir())
	a, err := s.Add(t.Context(), tiny, AddOptions{Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	raw := synth(rand.New(rand.NewPCG(1, 4)), 2, 0.1)
	b := add(t, s, writeFile(t, "Other File.gguf", raw), nil)
	id := a.id.String()
	for name, want := range map[string]*Model{
		"mine": a, "MINE": a, id: a, id[:20]: a, id[len(id)-8:]: a, "other-file": b, "other-file.gguf": b, "synth-model": b,
	} {
		if m, err := s.Find(name); err != nil || m != want {
			t.Errorf("%q: %v, %v", name, m, err)
		}
	}
	for _, name := range []string{"", "nobody", id[:7], "bafyreib" + strings.Repeat("a", 51)} {
		if m, err := s.Find(name); !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrAmbiguous) {
			t.Errorf("%q: %v, %v", name, m, err)
		}
	}
	if _, err := s.Add(t.Context(), writeFile(t, "x.gguf", raw), AddOptions{Name: "mine"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find("mine"); !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), id) {
		t.Errorf("two of that name: %v", err)
	}
}

// All operations concurrently, for the race detector and for deadlocks.
func TestAtOnce(t *testing.T) {
	full := open(t, t.TempDir())
	src := add(t, full, tiny, nil)
	s := open(t, t.TempDir())
	m, err := s.AddManifest(src.raw, src.id, "")
	if err != nil {
		t.Fatal(err)
	}
	pullNodes(t, full, m, every(m))
	var wg sync.WaitGroup
	do := func(f func(rng *rand.Rand) error) {
		for k := range 2 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(k), 3))
				for range 30 {
					if err := f(rng); err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrNotFound) {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	put := func(*rand.Rand) error {
		leaves, err := m.Missing(every(m))
		for _, l := range leaves {
			raw, e := full.Get(t.Context(), l.CID)
			err = errors.Join(err, e, m.Put(l.CID, raw))
		}
		return err
	}
	do(put)
	do(func(rng *rand.Rand) error { return m.DropShards([]int{rng.IntN(len(m.shards))}) })
	do(func(rng *rand.Rand) error {
		n := rng.IntN(len(m.shards))
		_, err := s.Get(t.Context(), src.shards[n].leaves[0].cid())
		return err
	})
	do(func(*rand.Rand) error {
		n, err := m.Verify(t.Context(), nil, false)
		if n > 0 {
			err = fmt.Errorf("%d leaves are damaged", n)
		}
		return err
	})
	do(func(*rand.Rand) error { _, err := s.GC(GCOptions{}); return err })
	do(func(*rand.Rand) error {
		var miss *Missing
		err := m.StageFile(t.Context(), protocol.Span{From: 1, To: 3}, nil, func(string) error { return nil })
		if errors.As(err, &miss) {
			return nil
		}
		return err
	})
	do(func(rng *rand.Rand) error {
		if rng.IntN(10) > 0 {
			return errors.Join(m.Pin(rng.IntN(2) == 0), m.Sync())
		}
		_, err := s.Add(t.Context(), tiny, AddOptions{})
		return err
	})
	wg.Wait()
	if err := put(nil); err != nil {
		t.Fatal(err)
	}
	if sumOf(t, export(t, m)) != sumOf(t, tiny) {
		t.Error("another file came out")
	}
}

// A model is removed and added again while it is filled, served, checked,
// exported and dropped: an operation that is too late gets an error, and none
// gets a wrong byte.
func TestComesAndGoes(t *testing.T) {
	full := open(t, t.TempDir())
	src := add(t, full, tiny, nil)
	s := open(t, t.TempDir())
	out := t.TempDir()
	sum := sumOf(t, tiny)
	var wg sync.WaitGroup
	again := func(what string, f func(m *Model, rng *rand.Rand, k int) error) {
		for k := range 2 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(k), 8))
				for i := range 12 {
					m, err := s.AddManifest(src.raw, src.id, "comes")
					if err == nil {
						err = f(m, rng, 100*k+i)
					}
					if err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrNotFound) && !errors.As(err, new(*Missing)) && !errors.As(err, new(noRoom)) {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		}
	}
	again("rm", func(m *Model, _ *rand.Rand, _ int) error { return s.Remove(m.id) })
	again("add", func(_ *Model, rng *rand.Rand, _ int) error {
		span := &protocol.Span{From: rng.IntN(4), To: 5 + rng.IntN(4)}
		m, err := s.Add(t.Context(), tiny, AddOptions{Span: span, Pin: rng.IntN(2) == 0})
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrBusy) {
			err = errors.New("who adds is never too late: " + err.Error()) // and no reason to try again
		}
		if err == nil {
			_, err = m.Verify(t.Context(), nil, false)
		}
		return err
	})
	again("pull", func(m *Model, rng *rand.Rand, _ int) error {
		shards := m.man.ShardsFor(protocol.Span{From: rng.IntN(4), To: 4 + rng.IntN(4)})
		done, err := s.Claim(m, shards)
		if err != nil {
			return err
		}
		defer done()
		leaves, err := m.Missing(shards) // the tiny model has shards of one leaf, or its nodes are here or not
		for _, l := range leaves {
			raw, e := full.Get(t.Context(), l.CID)
			if err = errors.Join(err, e, m.Put(l.CID, raw)); err != nil {
				return err
			}
		}
		if err == nil && !m.Whole(shards) {
			err = errors.New("what was claimed and came is not all there")
		}
		return err
	})
	again("drop", func(m *Model, rng *rand.Rand, _ int) error { return m.DropShards([]int{rng.IntN(len(m.shards))}) })
	again("gc", func(_ *Model, rng *rand.Rand, _ int) error {
		_, err := s.GC(GCOptions{Unused: rng.IntN(3) == 0, DryRun: rng.IntN(3) == 0})
		return err
	})
	again("quota", func(_ *Model, rng *rand.Rand, _ int) error {
		if err := s.SetQuota(int64(rng.IntN(2)) * 2 << 20); !errors.Is(err, ErrFull) {
			return err
		}
		return s.SetQuota(0)
	})
	again("serve", func(m *Model, rng *rand.Rand, _ int) error {
		n := rng.IntN(m.LeafCount())
		raw, err := m.ReadLeaf(n, nil)
		p, _ := src.numbered(n)
		if err == nil && digest(sum256(raw)) != src.shards[p.shard].leaves[p.leaf] {
			err = errors.New("a wrong byte")
		}
		return err
	})
	again("export", func(m *Model, _ *rand.Rand, k int) error {
		to := filepath.Join(out, fmt.Sprint(k))
		err := m.Export(t.Context(), to, nil)
		if err == nil && sumOf(t, to) != sum {
			err = errors.New("another file came out")
		}
		return err
	})
	again("stage", func(m *Model, _ *rand.Rand, _ int) error {
		return m.StageFile(t.Context(), protocol.Span{From: 1, To: 3}, nil, func(string) error { return nil })
	})
	again("pin", func(m *Model, rng *rand.Rand, _ int) error {
		return m.PinShards([]int{rng.IntN(len(m.shards))}, rng.IntN(2) == 0)
	})
	wg.Wait()
	if err := s.SetQuota(0); err != nil {
		t.Fatal(err)
	}
	if sumOf(t, export(t, add(t, s, tiny, nil))) != sum {
		t.Error("another file came out at the end")
	}
	if left, _ := os.ReadDir(s.modelsDir()); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// big is a file long enough for measurements, on disk and in the page cache.
func big(b *testing.B) (path string, size int64) {
	raw := synth(rand.New(rand.NewPCG(8, 8)), 16, 4)
	path = writeFile(b, "big.gguf", raw)
	b.SetBytes(int64(len(raw)))
	return path, int64(len(raw))
}

// The baseline for the two benchmarks below.
func BenchmarkSha256(b *testing.B) {
	path, _ := big(b)
	for b.Loop() {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		h := sha256.New()
		if _, err := io.CopyBuffer(h, f, make([]byte, 1<<20)); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkAdd(b *testing.B) {
	path, _ := big(b)
	s := open(b, b.TempDir())
	for b.Loop() {
		m, err := s.Add(b.Context(), path, AddOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Remove(m.ID()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkVerify(b *testing.B) {
	path, _ := big(b)
	m := add(b, open(b, b.TempDir()), path, nil)
	for b.Loop() {
		if _, err := m.Verify(b.Context(), nil, true); err != nil {
			b.Fatal(err)
		}
	}
}

// The cost of the check before a load, including the rest of making a stage
// file.
func BenchmarkStageFile(b *testing.B) {
	path, _ := big(b)
	m := add(b, open(b, b.TempDir()), path, nil)
	for b.Loop() {
		if err := m.StageFile(b.Context(), m.man.All(), nil, func(string) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPull(b *testing.B) {
	path, _ := big(b)
	full := open(b, b.TempDir())
	src := add(b, full, path, nil)
	s := open(b, b.TempDir())
	for b.Loop() {
		m, err := s.AddManifest(src.raw, src.id, "")
		if err != nil {
			b.Fatal(err)
		}
		pull(b, full, m, every(m))
		b.StopTimer()
		if err := s.Remove(m.id); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// While a record is written to a slow disk and a model is added or removed,
// look-ups of models do not wait.
func TestLookupsDoNotWait(t *testing.T) {
	s := open(t, t.TempDir())
	m := add(t, s, tiny, nil)
	s.moving.Lock() // as a model that comes or goes has it
	defer s.moving.Unlock()
	m.saving.Lock() // as a write of the record has it
	pinned := make(chan error, 1)
	go func() { pinned <- m.Pin(true) }() // waits for the disk
	for _, found := range []func() bool{
		func() bool { got, err := s.Model(m.ID()); return err == nil && got == m },
		func() bool { got, err := s.Find(m.Name()); return err == nil && got == m },
		func() bool { return len(s.Models()) == 1 && len(m.Names()) > 0 && !m.Pinned() },
		func() bool { return len(m.Holds()) > 0 && len(m.Origins()) > 0 },
	} {
		if !found() {
			t.Error("a look-up fails")
		}
	}
	select {
	case err := <-pinned:
		t.Errorf("a change does not wait for the write before it: %v", err)
	default:
	}
	m.saving.Unlock()
	if err := <-pinned; err != nil || !m.Pinned() {
		t.Error(err)
	}
}
