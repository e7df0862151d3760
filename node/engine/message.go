package engine

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
	"unsafe"

	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
)

// Messages between a parent and its child, which are the same program: a
// length (uint32), a kind (one byte), and a body in the machine's byte order. The
// child says hello, then answers each request: with opOK, or with an error.
const (
	opHello = iota + 1
	opLoad
	opRun
	opRemove
	opCopy
	opOK
	opBatch
	opUnsupported
	opMemory
	opLost
	opFailed
)

const maxMessage = 256 << 20

// hello is the body of a child's first message.
const hello = "shoal-engine"

var errMessage = errors.New("malformed message")

func beginMessage(b []byte, kind byte) []byte { return append(b, 0, 0, 0, 0, kind) }

func endMessage(b []byte) error {
	n := len(b) - 5
	if n > maxMessage {
		return fmt.Errorf("%w: %d bytes", ErrBatch, n)
	}
	binary.NativeEndian.PutUint32(b, uint32(n))
	return nil
}

func readMessage(r *bufio.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.NativeEndian.Uint32(head[:])
	if n > maxMessage {
		return 0, nil, fmt.Errorf("%w: %d bytes", errMessage, n)
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return head[4], body, err
}

func appendInts(b []byte, xs ...int64) []byte {
	for _, x := range xs {
		b = binary.AppendVarint(b, x)
	}
	return b
}

func appendBytes[T ~string | []byte](b []byte, x T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(x))), x...)
}

// appendNumbers appends numbers as they lie in memory.
func appendNumbers[T int32 | float32 | uint64](b []byte, xs []T) []byte {
	b = binary.AppendUvarint(b, uint64(len(xs)))
	if len(xs) == 0 {
		return b
	}
	return append(b, unsafe.Slice((*byte)(unsafe.Pointer(&xs[0])), int(unsafe.Sizeof(xs[0]))*len(xs))...)
}

// reader takes a message's body apart; the first error sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.err = errMessage
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count is a length of things that take at least size bytes each.
func (r *reader) count(size int) int {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > uint64(len(r.b)-n)/uint64(size) {
		r.err = errMessage
		return 0
	}
	r.b = r.b[n:]
	return int(v)
}

// bytes is a part of the message itself.
func (r *reader) bytes() []byte {
	n := r.count(1)
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func takeNumbers[T int32 | float32 | uint64](r *reader) []T {
	size := int(unsafe.Sizeof(T(0)))
	n := r.count(size)
	if n == 0 || r.err != nil {
		return nil
	}
	xs := make([]T, n)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&xs[0])), size*n), r.b)
	r.b = r.b[size*n:]
	return xs
}

func appendFloat(b []byte, x float32) []byte {
	return binary.NativeEndian.AppendUint32(b, math.Float32bits(x))
}

func (r *reader) float() float32 {
	if len(r.b) < 4 {
		r.err = errMessage
		return 0
	}
	v := math.Float32frombits(binary.NativeEndian.Uint32(r.b))
	r.b = r.b[4:]
	return v
}

// bit writes a bool as a number.
func bit(set bool) int {
	if set {
		return 1
	}
	return 0
}

func (b *Batch) append(out []byte) []byte {
	out = binary.AppendUvarint(out, uint64(len(b.Rows)))
	for _, r := range b.Rows {
		out = appendInts(out, int64(r.Seq), int64(r.Pos))
	}
	out = appendNumbers(out, b.Tokens)
	out = appendNumbers(out, b.Hidden)
	out = binary.AppendUvarint(out, uint64(len(b.Outputs)))
	for _, o := range b.Outputs {
		out = appendInts(out, int64(o.Row), int64(o.Position))
		out = appendSampling(out, o.Sampling)
		out = appendNumbers(out, o.Sampled)
		out = appendNumbers(out, o.Allowed)
	}
	return appendInts(out, int64(bit(b.Embed)))
}

// appendSampling encodes all parameters there are, so that a new one needs nothing
// here. It does not fail: the only text in a Sampling is in its Format, and that
// was decoded from the wire.
func appendSampling(out []byte, p *protocol.Sampling) []byte {
	raw, _ := proto.Marshal(p)
	return appendBytes(out, raw)
}

func (r *reader) sampling() *protocol.Sampling {
	p := &protocol.Sampling{}
	if err := proto.Unmarshal(r.bytes(), p); err != nil {
		r.err = errMessage
	}
	return p
}

func parseBatch(body []byte) (*Batch, error) {
	r := &reader{b: body}
	b := &Batch{Rows: make([]Row, r.count(2))}
	for i := range b.Rows {
		b.Rows[i] = Row{int(r.int()), int32(r.int())}
	}
	b.Tokens = takeNumbers[int32](r)
	b.Hidden = takeNumbers[float32](r)
	b.Outputs = make([]Output, r.count(5))
	for i := range b.Outputs {
		b.Outputs[i] = Output{
			Row: int(r.int()), Position: uint64(r.int()), Sampling: r.sampling(),
			Sampled: takeNumbers[int32](r), Allowed: takeNumbers[uint64](r),
		}
	}
	b.Embed = r.int() != 0
	if r.err == nil && len(r.b) > 0 {
		r.err = errMessage
	}
	return b, r.err
}

// appendError is the body of an error's message.
func appendError(out []byte, err error) []byte {
	r := remedy.Of(err)
	if r == nil {
		r = &remedy.Error{}
	}
	out = appendBytes(out, r.Kind)
	out = binary.AppendUvarint(out, uint64(len(r.Args)))
	for _, a := range r.Args {
		out = appendBytes(out, a)
	}
	return appendBytes(out, err.Error())
}

// parseError makes the error of a message; malformed if it is none.
func parseError(kind byte, body []byte) (refused, malformed error) {
	r := &reader{b: body}
	mend := remedy.Kind(r.bytes())
	args := make([]string, r.count(1))
	for i := range args {
		args[i] = string(r.bytes())
	}
	text := string(r.bytes())
	sentinel, known := sentinels[kind]
	if r.err != nil || len(r.b) > 0 || !known {
		return nil, errMessage
	}
	refused = &farError{text, sentinel}
	if mend != "" {
		refused = remedy.For(refused, mend, args...)
	}
	return refused, nil
}

// sentinels are what errors wrap that cross from a child; nil: none of them.
var sentinels = map[byte]error{opBatch: ErrBatch, opUnsupported: ErrUnsupported, opMemory: ErrMemory, opLost: ErrLost, opFailed: nil}

// farError is an error of a child.
type farError struct {
	text string
	is   error // may be nil
}

func (e *farError) Error() string { return e.text }
func (e *farError) Unwrap() error { return e.is }

func kindOf(err error) byte {
	for kind, sentinel := range sentinels {
		if sentinel != nil && errors.Is(err, sentinel) {
			return kind
		}
	}
	return opFailed
}

func (res *Result) append(out []byte) []byte {
	out = appendInts(out, int64(res.Compute))
	out = appendNumbers(out, res.Hidden)
	out = binary.AppendUvarint(out, uint64(len(res.Tokens)))
	for _, t := range res.Tokens {
		out = appendFloat(appendInts(out, int64(t.ID)), t.Logprob)
		out = binary.AppendUvarint(out, uint64(len(t.Top)))
		for _, a := range t.Top {
			out = appendFloat(appendInts(out, int64(a.ID)), a.Logprob)
		}
		out = appendNumbers(out, t.Labels)
	}
	out = binary.AppendUvarint(out, uint64(len(res.Embeddings)))
	for _, e := range res.Embeddings {
		out = appendNumbers(out, e)
	}
	return out
}

func parseResult(body []byte) (*Result, error) {
	r := &reader{b: body}
	res := &Result{Compute: time.Duration(r.int())}
	res.Hidden = takeNumbers[float32](r)
	for range r.count(7) {
		t := sample.Token{ID: int32(r.int()), Logprob: r.float()}
		for range r.count(5) {
			t.Top = append(t.Top, sample.Top{ID: int32(r.int()), Logprob: r.float()})
		}
		t.Labels = takeNumbers[float32](r)
		res.Tokens = append(res.Tokens, t)
	}
	for range r.count(1) {
		res.Embeddings = append(res.Embeddings, takeNumbers[float32](r))
	}
	if r.err == nil && len(r.b) > 0 {
		r.err = errMessage
	}
	return res, r.err
}
