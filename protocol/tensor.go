package protocol

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/x448/float16"
)

// q8Block is how many values share a scale in Q8_0, as in ggml.
const q8Block = 32

// TensorSize is how many bytes n values take. For Q8_0 the width of a row
// must be a multiple of 32, which it is for every known model.
func TensorSize(c TensorCodec, n int) int {
	switch c {
	case TensorCodec_TENSOR_CODEC_F16:
		return 2 * n
	case TensorCodec_TENSOR_CODEC_Q8_0:
		return (n + q8Block - 1) / q8Block * (q8Block + 2)
	}
	return 4 * n
}

// AppendTensor appends activations in the given codec, little-endian. F32 is
// exact; F16 rounds to nearest even; Q8_0 is ggml's: per 32 values a scale in
// F16 (the largest magnitude / 127) and 32 signed bytes. What F16 is too small for
// becomes its largest number: an infinite one would be refused.
func AppendTensor(b []byte, c TensorCodec, x []float32) []byte {
	le := binary.LittleEndian
	switch c {
	case TensorCodec_TENSOR_CODEC_F16:
		for _, v := range x {
			b = le.AppendUint16(b, toF16(v).Bits())
		}
	case TensorCodec_TENSOR_CODEC_Q8_0:
		for len(x) > 0 {
			n := min(q8Block, len(x))
			b = appendQ8(b, x[:n])
			x = x[n:]
		}
	default:
		at := len(b)
		b = append(b, make([]byte, 4*len(x))...)
		for i, v := range x {
			le.PutUint32(b[at+4*i:], math.Float32bits(v))
		}
	}
	return b
}

// maxF16 is the largest finite number of F16.
const maxF16 = 65504

func toF16(v float32) float16.Float16 {
	return float16.Fromfloat32(max(-maxF16, min(maxF16, v)))
}

func appendQ8(b []byte, x []float32) []byte {
	var top float32
	for _, v := range x {
		top = max(top, float32(math.Abs(float64(v))))
	}
	scale := toF16(top / 127)
	b = binary.LittleEndian.AppendUint16(b, scale.Bits())
	inv := float32(0)
	if s := scale.Float32(); s > 0 {
		inv = 1 / s
	}
	for i := range q8Block {
		var q float64
		if i < len(x) {
			q = math.RoundToEven(float64(x[i] * inv))
		}
		b = append(b, byte(int8(max(-127, min(127, q)))))
	}
	return b
}

// Tensor reads n values. An ErrFrame is a payload of another length, or any value
// that is not finite: no model computes with those, and a peer that sends them
// is broken or hostile.
func Tensor(c TensorCodec, payload []byte, n int) ([]float32, error) {
	if want := TensorSize(c, n); n < 0 || len(payload) != want {
		return nil, fmt.Errorf("%w: %d bytes of activations, where %d values in %s take %d", ErrFrame, len(payload), n, c, want)
	}
	le := binary.LittleEndian
	x := make([]float32, n)
	switch c {
	case TensorCodec_TENSOR_CODEC_F32:
		for i := range x {
			x[i] = math.Float32frombits(le.Uint32(payload[4*i:]))
		}
	case TensorCodec_TENSOR_CODEC_F16:
		for i := range x {
			x[i] = float16.Frombits(le.Uint16(payload[2*i:])).Float32()
		}
	case TensorCodec_TENSOR_CODEC_Q8_0:
		for i := range x {
			block := payload[i/q8Block*(q8Block+2):]
			x[i] = float16.Frombits(le.Uint16(block)).Float32() * float32(int8(block[2+i%q8Block]))
		}
	default:
		return nil, fmt.Errorf("%w: unknown tensor codec %d", ErrFrame, c)
	}
	for i, v := range x {
		if v-v != 0 { // NaN or infinite
			return nil, fmt.Errorf("%w: activation %d is not a finite number", ErrFrame, i)
		}
	}
	return x, nil
}
