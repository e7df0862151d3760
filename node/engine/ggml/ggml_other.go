//go:build !linux

package ggml

import "unsafe"

// setThreads is not to be had here: the number set at load stays.
func setThreads(unsafe.Pointer, int) bool { return false }

// clearLazily is not to be had here.
func clearLazily(unsafe.Pointer) bool { return false }

// giveBack is not to be had here.
func giveBack(unsafe.Pointer, int, int, int, int) {}

// giveBackBuffer is not to be had here.
func giveBackBuffer(unsafe.Pointer) {}

// trimHeap is not to be had here.
func trimHeap() {}
