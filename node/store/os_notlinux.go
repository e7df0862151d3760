//go:build !linux

package store

import "os"

// written is how far a file's first stretch of data goes: here nobody can tell.
func written(*os.File) int64 { return 0 }

// punch cannot give space back here: what is dropped takes its place on disk
// until the model is removed.
func punch(*os.File, int64, int64) error { return nil }
