package main

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

// FuzzWord: whatever stands where a daemon leaves its word, it brings nobody down,
// and no process is taken for a daemon that is none.
func FuzzWord(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	dir := f.TempDir()
	path := filepath.Join(dir, "api.json")
	f.Add([]byte(`{"api":"127.0.0.1:11500","pid":1}`))
	f.Add([]byte(`{"api":"127.0.0.1:11500","pid":-1}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if d := wordOf(dir); d.Alive && d.PID <= 0 {
			t.Errorf("%+v", d)
		}
	})
}
