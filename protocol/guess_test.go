package protocol

import "testing"

// The reference implementation's vectors: the key 00 01 ... 0f, messages 00 01 ... of
// the given length.
func TestSipHash(t *testing.T) {
	key, msg := make([]byte, TagKeySize), make([]byte, 16)
	for i := range key {
		key[i], msg[i] = byte(i), byte(i)
	}
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 15: 0xa129ca6149be45e5} {
		if got := sipHash(key, msg[:n]); got != want {
			t.Errorf("of %d bytes: %x, want %x", n, got, want)
		}
	}
}

// Each part of what a tag stands for changes it, and none is 0.
func TestGuessTag(t *testing.T) {
	key := make([]byte, TagKeySize)
	seen := map[uint64]bool{0: true}
	for _, tag := range []uint64{
		GuessTag(key, 1, 2, 3, 4), GuessTag(key, 2, 2, 3, 4), GuessTag(key, 1, 3, 3, 4), GuessTag(key, 1, 2, 4, 4), GuessTag(key, 1, 2, 3, 5),
		GuessTag([]byte("another session's key")[:TagKeySize], 1, 2, 3, 4),
	} {
		if seen[tag] {
			t.Errorf("%x twice, or 0", tag)
		}
		seen[tag] = true
	}
}
