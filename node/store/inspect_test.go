package store

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A store that is open and locked can be inspected; that changes nothing,
// whatever is found.
func TestInspect(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	m := add(t, s, tiny, nil)
	look := func(limit int64) []Inspection {
		t.Helper()
		before := sumOf(t, filepath.Join(m.dir, "journal"))
		last := int64(0)
		found, err := Inspect(t.Context(), dir, limit, func(done, _ int64) { last = done })
		if err != nil || len(found) == 0 {
			t.Fatal(found, err)
		}
		if found[0].Err == nil && (found[0].Held != m.Held() || last != found[0].Checked) {
			t.Errorf("%+v, of %d bytes, %d told", found, m.Held(), last)
		}
		if sumOf(t, filepath.Join(m.dir, "journal")) != before {
			t.Error("the journal has changed")
		}
		return found
	}
	if found := look(0); len(found[0].Damaged) != 0 || found[0].Checked != m.Held() || found[0].Name != m.Name() || found[0].Blocks != 8 {
		t.Errorf("%+v", found)
	}
	if found := look(m.Held() / 3); found[0].Checked == 0 || found[0].Checked > m.Held()/2 {
		t.Errorf("a third is %d of %d", found[0].Checked, m.Held())
	}
	shard := slices.IndexFunc(m.man.ShardsFor(m.man.All()), func(i int) bool { return m.shardName(i) == "block 3" })
	at, _ := m.shards[shard].at(0)
	b := make([]byte, 1)
	if _, err := m.data.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := m.data.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is not mended by looking
		if found := look(0); found[0].Leaves != 1 || !slices.Equal(found[0].Damaged, []string{"block 3"}) {
			t.Errorf("%+v", found)
		}
	}
	if damaged, err := m.Verify(t.Context(), nil, false); err != nil || damaged != 1 {
		t.Fatal(damaged, err)
	}
	if found := look(0); found[0].Leaves != 1 { // dropped, and missed
		t.Errorf("%+v", found)
	}
	if err := m.DropShards([]int{shard}); err != nil {
		t.Fatal(err)
	}
	if found := look(0); found[0].Leaves != 0 {
		t.Errorf("what was given up is no damage: %+v", found)
	}
	if names := Names(dir); !slices.Equal(names, []string{m.Name()}) {
		t.Error(names)
	}
	if err := os.WriteFile(filepath.Join(m.dir, "manifest"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found := look(0); found[0].Err == nil {
		t.Errorf("%+v", found)
	}
	if found, err := Inspect(t.Context(), t.TempDir(), 0, nil); len(found) != 0 || err != nil {
		t.Error("of no store: ", found, err)
	}
}
