package ahead

import (
	"testing"
	"unsafe"
)

// TestMemory: a table takes about 12 bytes per token, also while it grows.
func TestMemory(t *testing.T) {
	var all table
	for i := range int32(300_000) {
		all.add(i)
		bytes := uintptr(cap(all.text)+cap(all.prev)+cap(all.head)) * unsafe.Sizeof(int32(0))
		if n := uintptr(i + 1); n > 1000 && bytes > 16*n {
			t.Fatalf("%d bytes for %d tokens", bytes, n)
		}
	}
}
