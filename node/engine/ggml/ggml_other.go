//go:build !linux

package ggml

import "unsafe"

// setThreads is not to be had here: the number set at load stays.
func setThreads(unsafe.Pointer, int) bool { return false }

// clearLazily is not to be had here.
func clearLazily(unsafe.Pointer) bool { return false }
