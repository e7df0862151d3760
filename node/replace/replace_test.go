package replace

import (
	"os"
	"path/filepath"
	"testing"
)

// A file that cannot be written leaves the old one, and nothing beside it.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.json")
	if err := File(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := os.WriteFile(path+Mark+"1", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	Sweep(dir)
	taken := filepath.Join(dir, "taken") // a directory cannot be replaced by a file
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := File(taken, []byte("new"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "old" {
		t.Errorf("%q, %v", raw, err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
}
