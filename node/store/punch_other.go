//go:build !linux

package store

import "os"

// punch cannot give space back here: the leaves are forgotten, the bytes stay
// until the model is removed.
func punch(*os.File, int64, int64) error { return nil }
