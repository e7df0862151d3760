package protocol

import (
	"crypto/sha256"
	"encoding/binary"
)

// PrefixBlock is how many tokens one more prefix hash covers.
const PrefixBlock = 32

// AppendPrefix completes a chain of prefix hashes for a sequence that has
// grown: hash i stands for the first 32*(i+1) tokens, and is the first eight
// bytes, little-endian, of SHA-256 over the hash before it (eight bytes, absent
// for the first) and its own 32 tokens (four bytes each). Stages that never
// see a token compare these; they do so only between sessions of one client,
// so nobody gains by a collision.
func AppendPrefix(chain []uint64, tokens []int32) []uint64 {
	for n := len(chain); (n+1)*PrefixBlock <= len(tokens); n++ {
		b := make([]byte, 0, 8+4*PrefixBlock)
		if n > 0 {
			b = binary.LittleEndian.AppendUint64(b, chain[n-1])
		}
		for _, id := range tokens[n*PrefixBlock:][:PrefixBlock] {
			b = binary.LittleEndian.AppendUint32(b, uint32(id))
		}
		sum := sha256.Sum256(b)
		chain = append(chain, binary.LittleEndian.Uint64(sum[:]))
	}
	return chain
}

// SharedPrefix is how many tokens two chains agree on.
func SharedPrefix(a, b []uint64) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n * PrefixBlock
}
