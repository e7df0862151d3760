package protocol

import (
	"encoding/binary"
	"math/bits"
)

const (
	// MaxInFlight is the most rows of guessed tokens that a session may have on their
	// way round the ring at once.
	MaxInFlight = 256

	// TagKeySize is the length of Open.tag_key, in bytes.
	TagKeySize = 16
)

// GuessTag is the tag of a row whose token is a guess: SipHash-2-4, with the session's
// tag_key of TagKeySize bytes, of the step's epoch, line and base and of the token, all
// little-endian, in 8, 4, 4 and 4 bytes. 1 stands for a hash of 0. So the last stage
// recognizes the token, and stages between, which have no key, learn nothing of it.
func GuessTag(key []byte, epoch uint64, line, position uint32, token int32) uint64 {
	var msg [20]byte
	binary.LittleEndian.PutUint64(msg[:], epoch)
	binary.LittleEndian.PutUint32(msg[8:], line)
	binary.LittleEndian.PutUint32(msg[12:], position)
	binary.LittleEndian.PutUint32(msg[16:], uint32(token))
	return max(1, sipHash(key, msg[:]))
}

// sipHash is SipHash-2-4 (Aumasson and Bernstein, 2012).
func sipHash(key, msg []byte) uint64 {
	k0, k1 := binary.LittleEndian.Uint64(key), binary.LittleEndian.Uint64(key[8:])
	v0, v1, v2, v3 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d, k0^0x6c7967656e657261, k1^0x7465646279746573
	rounds := func(n int) {
		for range n {
			v0 += v1
			v1 = bits.RotateLeft64(v1, 13) ^ v0
			v0 = bits.RotateLeft64(v0, 32)
			v2 += v3
			v3 = bits.RotateLeft64(v3, 16) ^ v2
			v0 += v3
			v3 = bits.RotateLeft64(v3, 21) ^ v0
			v2 += v1
			v1 = bits.RotateLeft64(v1, 17) ^ v2
			v2 = bits.RotateLeft64(v2, 32)
		}
	}
	var last [8]byte
	last[7] = byte(len(msg))
	whole := len(msg) / 8 * 8
	copy(last[:], msg[whole:])
	block := func(m uint64) {
		v3 ^= m
		rounds(2)
		v0 ^= m
	}
	for at := 0; at < whole; at += 8 {
		block(binary.LittleEndian.Uint64(msg[at:]))
	}
	block(binary.LittleEndian.Uint64(last[:]))
	v2 ^= 0xff
	rounds(4)
	return v0 ^ v1 ^ v2 ^ v3
}
