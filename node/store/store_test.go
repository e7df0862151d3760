package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

// pull brings the shards of a span from one store to another, as an exchange
// does, and returns how many leaves it took.
func pull(t testing.TB, from *Store, m *Model, shards []int) int {
	t.Helper()
	for {
		nodes, err := m.NeedNodes(shards)
		if err != nil {
			t.Fatal(err)
		}
		if len(nodes) == 0 {
			break
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

// A node that holds a third has a third on its disk.
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

func TestStageFile(t *testing.T) {
	raw, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	orig, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	m := add(t, s, tiny, nil)
	for _, span := range []protocol.Span{{From: 0, To: 8}, {From: 0, To: 3}, {From: 6, To: 8}, {From: 3, To: 6}} {
		err := m.StageFile(t.Context(), span, func(md *gguf.Header) []gguf.KV {
			return []gguf.KV{{Key: "llama.test", Value: strings.Repeat("x", 9000)}}
		}, func(path string) error {
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
			if len(h.String("llama.test")) != 9000 || h.Blocks() != 8 {
				return errors.New("metadata is not what was asked for")
			}
			blocks := 0
			for _, tn := range h.Tensors {
				for _, o := range orig.Tensors {
					if o.Name != tn.Name {
						continue
					}
					got := make([]byte, tn.Bytes())
					if _, err := f.ReadAt(got, h.DataOffset+int64(tn.Offset)); err != nil {
						return err
					}
					if !bytes.Equal(got, raw[orig.DataOffset+int64(o.Offset):][:o.Bytes()]) {
						return fmt.Errorf("%s: other bytes", tn.Name)
					}
				}
				if strings.HasSuffix(tn.Name, "attn_q.weight") {
					blocks++
				}
			}
			if blocks != span.Len() {
				return fmt.Errorf("%d blocks listed", blocks)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", span, err)
		}
	}
	if sumOf(t, export(t, m)) != sha256.Sum256(raw) {
		t.Error("the stage headers changed the model")
	}
}

// A byte that flips on disk is found before it is served or computed with, and
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
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("two at once: %v", err)
	}
	holds := m.Holds()
	journal, _ := os.ReadFile(filepath.Join(m.dir, "journal"))
	dirM := m.dir
	s.Close()
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

// Whatever is wrong with a file, it is refused with a reason and leaves nothing.
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

// A split model is one model, with the same identity from disk and from HTTP.
func TestSplit(t *testing.T) {
	raw, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	const parts = 3
	for i := range parts {
		part := gguf.Header{Version: 3, KVs: []gguf.KV{{Key: "split.no", Value: uint16(i)}}}
		if i == 0 {
			part.KVs = append(h.KVs, part.KVs...)
		}
		var data []byte
		for n, tn := range h.Tensors {
			if n*parts/len(h.Tensors) == i {
				src := raw[h.DataOffset+int64(tn.Offset):][:tn.Bytes()]
				tn.Offset = uint64(len(data))
				part.Tensors = append(part.Tensors, tn)
				data = append(data, src...)
				data = append(data, make([]byte, (32-len(data)%32)%32)...)
			}
		}
		b, err := part.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, make([]byte, (32-len(b)%32)%32)...)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("tiny-%05d-of-%05d.gguf", i+1, parts)), append(b, data...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, t.TempDir())
	m := add(t, s, filepath.Join(dir, "tiny-00002-of-00003.gguf"), nil)
	if m.Name() != "tiny" || len(m.man.Files) != parts {
		t.Errorf("%q with %d files", m.Name(), len(m.man.Files))
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
	srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer srv.Close()
	if m2 := add(t, open(t, t.TempDir()), srv.URL+"/tiny-00001-of-00003.gguf", nil); m2.id != m.id {
		t.Errorf("from HTTP it is %s, from disk %s", m2.id, m.id)
	}
}

// A transfer that breaks off goes on where it stopped.
func TestHTTPBreaksOff(t *testing.T) {
	raw, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	var served int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := 0
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(raw)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		n, _ := w.Write(raw[from:min(len(raw), from+1_500_000)])
		served += n
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	s := open(t, t.TempDir())
	m := add(t, s, srv.URL+"/tiny.gguf", nil)
	if sumOf(t, export(t, m)) != sumOf(t, tiny) {
		t.Error("another file came over")
	}
}

func TestQuota(t *testing.T) {
	s, err := Open(t.TempDir(), Options{Quota: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Add(t.Context(), tiny, AddOptions{}); !errors.Is(err, ErrFull) {
		t.Errorf("3 MiB into 1: %v", err)
	}
	if _, err := s.Add(t.Context(), tiny, AddOptions{Span: &protocol.Span{From: 1, To: 2}}); err != nil {
		t.Error(err)
	}
}

func BenchmarkAdd(b *testing.B) {
	st, err := os.Stat(tiny)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(st.Size())
	s := open(b, b.TempDir())
	for b.Loop() {
		m, err := s.Add(b.Context(), tiny, AddOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Remove(m.ID()); err != nil {
			b.Fatal(err)
		}
	}
}
