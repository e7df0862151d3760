package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

// For any file, its shards cover it, it has the same identity however it is
// imported, and it is exported unchanged.
func TestAnyLayout(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 7))
		blocks := 1 + rng.IntN(6)
		raw := synth(rng, blocks, 0.3)
		path := writeFile(t, "Synth.gguf", raw)
		s := open(t, t.TempDir())
		m := add(t, s, path, nil)
		if err := m.man.Check(); err != nil {
			t.Fatal(err)
		}
		for _, sh := range m.man.Shards {
			for i, e := range sh.Extents[1:] {
				if last := sh.Extents[i]; last.File == e.File && last.Offset+last.Length == e.Offset {
					t.Errorf("seed %d: adjacent extents are not merged", seed)
				}
			}
		}
		from := rng.IntN(blocks)
		span := protocol.Span{From: from, To: from + 1 + rng.IntN(blocks-from)}
		checkStage(t, m, raw, span)
		if got, _ := os.ReadFile(export(t, m)); !bytes.Equal(got, raw) {
			t.Errorf("seed %d: another file came out", seed)
		}

		srv := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(path))))
		part := add(t, open(t, t.TempDir()), srv.URL+"/Synth.gguf", &span)
		srv.Close()
		if part.id != m.id {
			t.Errorf("seed %d: %s from disk, %s from HTTP and in part", seed, m.id, part.id)
		}
		checkStage(t, part, raw, span)
		for i, held := range part.Holds() {
			if held != slices.Contains(m.man.ShardsFor(span), i) {
				t.Errorf("seed %d: shard %d held: %v", seed, i, held)
			}
		}
		pull(t, s, part, every(part))
		if got, _ := os.ReadFile(export(t, part)); !bytes.Equal(got, raw) {
			t.Errorf("seed %d: another file came out after a pull", seed)
		}
	}
}

// crashed returns a store as it would be found if the process using dir had
// been killed now.
func crashed(t testing.TB, dir string) (*Store, string) {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if err != nil || d.IsDir() {
			return errors.Join(err, os.MkdirAll(filepath.Join(to, rel), 0o755))
		}
		raw, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(filepath.Join(to, rel), raw, 0o644))
	})
	if err != nil {
		t.Fatal(err)
	}
	return open(t, to), to
}

// The store compared with a set that models it: a random walk over all
// operations that change what is held, checked after every step.
func TestAgainstASet(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 9))
		path := writeFile(t, "synth.gguf", synth(rng, 4, 0.4))
		full := open(t, t.TempDir())
		src := add(t, full, path, nil)
		dir := t.TempDir()
		s := open(t, dir)
		m, err := s.AddManifest(src.raw, src.id, "walk")
		if err != nil {
			t.Fatal(err)
		}
		pullNodes(t, full, m, every(m))
		held := map[place]bool{} // what must be held
		bad := map[place]bool{}  // those of them that were damaged on disk
		var all []place
		for i := range m.shards {
			for n := range m.shards[i].held {
				all = append(all, place{i, n})
			}
		}
		leafOf := func(p place) digest { return src.shards[p.shard].leaves[p.leaf] }
		check := func(step string) {
			t.Helper()
			for i := range m.shards {
				var bytes int64
				for n, h := range m.shards[i].held {
					if h != held[place{i, n}] {
						t.Fatalf("seed %d, after %s: leaf %d of shard %d held: %v", seed, step, n, i, h)
					}
					if h {
						bytes += int64(m.shards[i].size(n))
					}
				}
				if bytes != m.shards[i].bytes {
					t.Fatalf("seed %d, after %s: shard %d counts %d bytes, %d are held", seed, step, i, m.shards[i].bytes, bytes)
				}
			}
			missing, err := m.Missing(every(m))
			if err != nil {
				t.Fatal(err)
			}
			lack := map[digest]bool{}
			for _, p := range all {
				if !held[p] {
					lack[leafOf(p)] = true
				}
			}
			if len(missing) != len(lack) {
				t.Fatalf("seed %d, after %s: %d leaves missing, %d are", seed, step, len(missing), len(lack))
			}
		}
		for step := range 150 {
			p := all[rng.IntN(len(all))]
			name := "put"
			switch op := rng.IntN(20); {
			case op < 11:
				raw, err := full.Get(t.Context(), leafOf(p).cid())
				if err == nil {
					err = m.Put(leafOf(p).cid(), raw)
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, q := range all { // all places of that content
					if leafOf(q) == leafOf(p) {
						held[q] = true
					}
				}
			case op < 12:
				name = "put of garbage"
				if err := m.Put(leafOf(p).cid(), []byte("garbage")); !errors.Is(err, ErrMismatch) {
					t.Fatal(err)
				}
			case op < 14:
				name = "drop"
				if err := m.DropShards([]int{p.shard}); err != nil {
					t.Fatal(err)
				}
				for _, q := range all {
					if q.shard == p.shard {
						delete(held, q)
						delete(bad, q)
					}
				}
			case op < 16:
				name = "flip"
				if held[p] && !bad[p] {
					flip(t, m, p, rng)
					bad[p] = true
				}
			case op < 17:
				name = "get"
				raw, err := s.Get(t.Context(), leafOf(p).cid())
				good := false // the first sound place serves, damaged ones before it are dropped
				for _, q := range all {
					if leafOf(q) != leafOf(p) || !held[q] || good {
						continue
					}
					if good = !bad[q]; !good {
						delete(held, q)
						delete(bad, q)
					}
				}
				if good != (err == nil) || good && digest(sum256(raw)) != leafOf(p) {
					t.Fatalf("seed %d: get of a leaf that is good: %v: %v", seed, good, err)
				}
			case op < 18:
				name = "verify"
				n, err := m.Verify(t.Context(), nil, false)
				if err != nil || n != len(bad) {
					t.Fatalf("seed %d: found %d damaged of %d: %v", seed, n, len(bad), err)
				}
				for q := range bad {
					delete(held, q)
				}
				clear(bad)
			case op < 19:
				name = "gc"
				if _, err := s.GC(GCOptions{}); err != nil {
					t.Fatal(err)
				}
			default:
				name = "reopen"
				if rng.IntN(2) == 0 {
					name = "kill"
					if err := m.Sync(); err != nil { // so that flips are found by verify and get alone
						t.Fatal(err)
					}
					s, dir = crashed(t, dir)
				} else {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = open(t, dir)
				}
				if m, err = s.Find("walk"); err != nil {
					t.Fatal(err)
				}
			}
			check(fmt.Sprintf("step %d, %s", step, name))
		}
		pull(t, full, m, every(m))
		if _, err := m.Verify(t.Context(), nil, false); err != nil {
			t.Fatal(err)
		}
		pull(t, full, m, every(m))
		if sumOf(t, export(t, m)) != sumOf(t, path) {
			t.Errorf("seed %d: another file came out at the end", seed)
		}
	}
}

// After a power cut the journal may name leaves whose bytes never reached the
// disk. Open detects them.
func TestPowerCut(t *testing.T) {
	full := open(t, t.TempDir())
	src := add(t, full, tiny, nil)
	dir := t.TempDir()
	s := open(t, dir)
	m, err := s.AddManifest(src.raw, src.id, "")
	if err != nil {
		t.Fatal(err)
	}
	pull(t, full, m, every(m))
	lost := place{2, 0}
	at, size := m.shards[lost.shard].at(lost.leaf)
	if err := punch(m.data, at, int64(size)); err != nil {
		t.Fatal(err)
	}
	s2, _ := crashed(t, dir)
	m2, err := s2.Model(m.id)
	if err != nil {
		t.Fatal(err)
	}
	missing, err := m2.Missing(every(m2))
	if err != nil || len(missing) != 1 || missing[0].CID != src.shards[lost.shard].leaves[lost.leaf].cid() {
		t.Errorf("missing after the cut: %v, %v", missing, err)
	}
	// What was synced is trusted: opening must not read whole models.
	if err := m2.Sync(); err != nil {
		t.Fatal(err)
	}
	again := &Model{man: m2.man, journal: m2.journal}
	again.base, again.shards = layShards(m2.man)
	if doubtful, err := again.readJournal(); err != nil || len(doubtful) != 0 {
		t.Errorf("%d leaves would be hashed again after a sync: %v", len(doubtful), err)
	}
}

func flip(t testing.TB, m *Model, p place, rng *rand.Rand) {
	t.Helper()
	at, size := m.shards[p.shard].at(p.leaf)
	at += int64(rng.IntN(size))
	one := make([]byte, 1)
	if _, err := m.data.ReadAt(one, at); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 1 << rng.IntN(8)
	if _, err := m.data.WriteAt(one, at); err != nil {
		t.Fatal(err)
	}
}
