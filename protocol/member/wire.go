package member

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Why an object is not accepted. ErrMalformed is wrapped with what is wrong.
var (
	ErrMalformed = errors.New("damaged, or of another version of shoal")
	ErrMissing   = errors.New("it shows no membership")
	ErrForeign   = errors.New("it is of another swarm")
	ErrForged    = errors.New("its signature is wrong")
	ErrExpired   = errors.New("it has expired")
	ErrEarly     = errors.New("it is not valid yet: compare the clocks of both machines")
	ErrOther     = errors.New("it was issued to another peer")
	ErrRevoked   = errors.New("it has been revoked")
	ErrIssuer    = errors.New("its issuer may not issue it")
	ErrRoles     = errors.New("it has no role, or one that cannot be given")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// reader takes fields from the front of a byte string. After the first field
// that is not there, every field is zero and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return make([]byte, n)
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() int     { return int(r.take(1)[0]) }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

// field takes up to 255 bytes with their length in front.
func (r *reader) field() []byte { return r.take(r.u8()) }

func (r *reader) key() (k Key)           { copy(k[:], r.take(len(k))); return k }
func (r *reader) swarm() (id SwarmID)    { copy(id[:], r.take(len(id))); return id }
func (r *reader) serial() (s Serial)     { copy(s[:], r.take(len(s))); return s }
func (r *reader) moment() time.Time      { return time.Unix(int64(r.u32()), 0) }
func (r *reader) signature() []byte      { return r.take(64) }
func appendField(b, field []byte) []byte { return append(append(b, byte(len(field))), field...) }

// appendTime appends a time as seconds since 1970, until the year 2106.
func appendTime(b []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(min(max(0, t.Unix()), 1<<32-1)))
}
