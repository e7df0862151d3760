package store_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/store"
)

// A store imports a model, names it by the hash of what it is, and gives the
// original file back.
func ExampleOpen() {
	if err := importAndExport(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// tiny: 8 blocks, all of them held: true
	// the same file came out: true
}

func importAndExport() error {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "store-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "tiny.gguf")
	if err := os.WriteFile(file, tinymodel.GGUF(), 0o600); err != nil {
		return err
	}

	s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	m, err := s.Add(ctx, file, store.AddOptions{})
	if err != nil {
		return err
	}
	whole := true
	for _, held := range m.Holds() {
		whole = whole && held
	}
	fmt.Printf("%s: %d blocks, all of them held: %t\n", m.Name(), m.Manifest().Blocks, whole)

	out := filepath.Join(dir, "out.gguf")
	if err := m.Export(ctx, out, nil); err != nil {
		return err
	}
	raw, err := os.ReadFile(out)
	fmt.Println("the same file came out:", bytes.Equal(raw, tinymodel.GGUF()))
	return err
}
