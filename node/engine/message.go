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

	"github.com/shoalnet/shoal/node/engine/sample"
)

// Messages between a parent and its child, which are the same program: a
// length (uint32), a kind (one byte), and a body in the machine's byte order.
const (
	opLoad = iota + 1
	opRun
	opRemove
	opCopy
	opOK
	opBatch
	opUnsupported
	opMemory
	opFailed
)

const maxMessage = 256 << 20

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

func (b *Batch) append(out []byte) []byte {
	out = binary.AppendUvarint(out, uint64(len(b.Rows)))
	for _, r := range b.Rows {
		out = appendInts(out, int64(r.Seq), int64(r.Pos))
	}
	out = appendNumbers(out, b.Tokens)
	out = appendNumbers(out, b.Hidden)
	out = binary.AppendUvarint(out, uint64(len(b.Outputs)))
	for _, o := range b.Outputs {
		p := o.Params
		flag := int64(0)
		if p.Logprobs {
			flag = 1
		}
		out = appendInts(out, int64(o.Row), int64(o.Position), int64(p.TopK), int64(p.Seed), int64(p.TopLogprobs), int64(p.Prompt), flag)
		for _, f := range []float32{p.Temperature, p.TopP, p.MinP, p.RepeatPenalty, p.PresencePenalty, p.FrequencyPenalty} {
			out = appendFloat(out, f)
		}
		out = appendNumbers(out, o.History)
		out = appendNumbers(out, o.Allowed)
	}
	return out
}

func parseBatch(body []byte) (*Batch, error) {
	r := &reader{b: body}
	b := &Batch{Rows: make([]Row, r.count(2))}
	for i := range b.Rows {
		b.Rows[i] = Row{int(r.int()), int32(r.int())}
	}
	b.Tokens = takeNumbers[int32](r)
	b.Hidden = takeNumbers[float32](r)
	b.Outputs = make([]Output, r.count(32))
	for i := range b.Outputs {
		o := &b.Outputs[i]
		o.Row, o.Position = int(r.int()), uint64(r.int())
		p := &o.Params
		p.TopK, p.Seed, p.TopLogprobs, p.Prompt, p.Logprobs = int(r.int()), uint64(r.int()), int(r.int()), int(r.int()), r.int() == 1
		for _, f := range []*float32{&p.Temperature, &p.TopP, &p.MinP, &p.RepeatPenalty, &p.PresencePenalty, &p.FrequencyPenalty} {
			*f = r.float()
		}
		o.History = takeNumbers[int32](r)
		o.Allowed = takeNumbers[uint64](r)
	}
	if r.err == nil && len(r.b) > 0 {
		r.err = errMessage
	}
	return b, r.err
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
	}
	return out
}

func parseResult(body []byte) (*Result, error) {
	r := &reader{b: body}
	res := &Result{Compute: time.Duration(r.int())}
	res.Hidden = takeNumbers[float32](r)
	for range r.count(6) {
		t := sample.Token{ID: int32(r.int()), Logprob: r.float()}
		for range r.count(5) {
			t.Top = append(t.Top, sample.Top{ID: int32(r.int()), Logprob: r.float()})
		}
		res.Tokens = append(res.Tokens, t)
	}
	if r.err == nil && len(r.b) > 0 {
		r.err = errMessage
	}
	return res, r.err
}
