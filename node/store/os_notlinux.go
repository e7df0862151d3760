//go:build !linux

package store

import "os"

// written returns 0: where a file's first stretch of data ends is not known on
// this system.
func written(*os.File) int64 { return 0 }

// punch frees nothing on this system: what is dropped keeps its disk space
// until the model is removed.
func punch(*os.File, int64, int64) error { return nil }

// share shares nothing on this system.
func share(*os.File, int64, *os.File, int64, int64) bool { return false }
