//go:build !linux

package store

import "os"

// punch cannot give space back here: what is dropped takes its place on disk
// until the model is removed.
func punch(*os.File, int64, int64) error { return nil }
