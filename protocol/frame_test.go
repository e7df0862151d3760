package protocol

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"math"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func read(b []byte, maxPayload int) (*Frame, []byte, error) {
	return ReadFrame(bufio.NewReader(bytes.NewReader(b)), maxPayload)
}

func TestFrameRoundTrip(t *testing.T) {
	payload := AppendTensor(nil, TensorCodec_TENSOR_CODEC_F32, []float32{1, -2, 3, 0.5})
	f := &Frame{Kind: &Frame_Step{Step: &Step{Epoch: 2, Base: 64, Rows: 2, Sample: true}}}
	b, err := AppendFrame(nil, f, payload)
	if err != nil {
		t.Fatal(err)
	}
	// A vector: varint length, protobuf, payload.
	const want = "0c08102a080802104018023001" + "0000803f000000c0000040400000003f"
	if hex.EncodeToString(b) != want {
		t.Errorf("bytes %x", b)
	}
	r := bufio.NewReader(bytes.NewReader(append(b, b...)))
	for range 2 {
		got, p, err := ReadFrame(r, 1<<10)
		if err != nil || !proto.Equal(got, f) || !bytes.Equal(p, payload) {
			t.Fatalf("came back as %v %x, %v", got, p, err)
		}
	}
	if _, _, err := ReadFrame(r, 0); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestFrameRefused(t *testing.T) {
	good, _ := AppendFrame(nil, &Frame{Kind: &Frame_Bye{Bye: &Bye{}}}, make([]byte, 100))
	oversized := binary.AppendUvarint(nil, 1<<40)
	hugePayload, _ := proto.Marshal(&Frame{PayloadLen: math.MaxUint32, Kind: &Frame_Bye{Bye: &Bye{}}})
	for name, b := range map[string][]byte{
		"oversized header":         oversized,
		"oversized payload":        append(binary.AppendUvarint(nil, uint64(len(hugePayload))), hugePayload...),
		"payload past what is due": good,
		"overlong varint":          bytes.Repeat([]byte{0xff}, 11),
		"no kind":                  {0},
		"garbage":                  {3, 0xff, 0xff, 0xff},
	} {
		if _, _, err := read(b, 99); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := 1; i < len(good); i++ {
		if _, _, err := read(good[:i], 100); err != io.ErrUnexpectedEOF {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	if _, err := AppendFrame(nil, &Frame{}, make([]byte, MaxPayload+1)); !errors.Is(err, ErrFrame) {
		t.Errorf("wrote an oversized payload: %v", err)
	}
}

// A frame takes memory as its bytes come, and no more than the reader allows.
func TestFrameWithin(t *testing.T) {
	open := &Frame{Kind: &Frame_Open{Open: &Open{Session: make([]byte, 16), Prefix: make([]uint64, 4000)}}}
	b, err := AppendFrame(nil, open, nil)
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	full := errors.New("no room")
	within := func(b []byte, header, most int) error {
		taken = 0
		_, _, err := ReadFrameWithin(bufio.NewReader(bytes.NewReader(b)), Limits{Header: header, Take: func(n int) error {
			if taken += n; taken > most {
				return full
			}
			return nil
		}})
		return err
	}
	if err := within(b, MaxFirst, len(b)); err != nil || taken > len(b) {
		t.Errorf("%d bytes taken for %d: %v", taken, len(b), err)
	}
	if err := within(b, len(b)/2, len(b)); !errors.Is(err, ErrFrame) || taken != 0 {
		t.Errorf("a longer frame than is allowed: %d bytes taken, %v", taken, err)
	}
	if err := within(b[:100], MaxFirst, 8<<10); err != io.ErrUnexpectedEOF {
		t.Errorf("announced, and not sent: %d bytes taken, %v", taken, err)
	}
	if err := within(b, MaxFirst, 8<<10); err != full {
		t.Errorf("more than there is room for: %v", err)
	}
	unknown := protowire.AppendBytes(protowire.AppendTag(nil, 127, protowire.BytesType), make([]byte, 1000))
	unknown = protowire.AppendBytes(protowire.AppendTag(unknown, 9, protowire.BytesType), nil) // a Ping
	f, _, err := read(append(binary.AppendUvarint(nil, uint64(len(unknown))), unknown...), 0)
	if err != nil || len(f.ProtoReflect().GetUnknown()) > 0 {
		t.Errorf("fields that nobody knows: %d bytes of them are kept, %v", len(f.ProtoReflect().GetUnknown()), err)
	}
}

// The greatest honest Open, of a vocabulary of two million tokens, is a first
// frame that readers take; tokens of an answer fill what room it leaves.
func TestGreatestOpen(t *testing.T) {
	ids := func(n int) []int32 {
		out := make([]int32, n)
		for i := range out {
			out[i] = 1<<21 - 1
		}
		return out
	}
	o := &Open{
		Session: make([]byte, 16), Model: make([]byte, 36), From: 1000, To: 2000, Index: 1000, Stages: MaxStages, Epoch: math.MaxUint64,
		MaxTokensTotal: math.MaxUint32, Prev: make([]byte, 38), Wait: true, Again: true, Prefix: make([]uint64, MaxOpenPrefix), Trace: string(make([]byte, MaxTrace)),
		Next: &Hop{Peer: make([]byte, 38), Index: 1000, Offer: make([]byte, MaxOffer)},
		Sampling: &Sampling{
			Temperature: 1, TopK: 1000, TopP: 1, MinP: 1, RepeatPenalty: 2, PresencePenalty: 1, FrequencyPenalty: 1, Seed: 1, TopLogprobs: 64, Logprobs: true,
			PromptTokens: math.MaxUint32, MaxTokens: math.MaxUint32, StopIds: ids(1024), History: ids(4096),
		},
	}
	piece := &Piece{Kind: &Piece_Text{Text: string(make([]byte, MaxFormat/4096-2))}}
	for range 4096 { // as many pieces and as many bytes as a format may have
		o.Sampling.Format = append(o.Sampling.Format, piece)
	}
	b, err := AppendFrame(nil, &Frame{Kind: &Frame_Open{Open: o}}, nil)
	if err != nil || len(b) > MaxFirst {
		t.Errorf("%d bytes, where %d are taken; %v", len(b), MaxFirst, err)
	}
	t.Logf("%d bytes", len(b))
}

func FuzzFrame(f *testing.F) {
	b, _ := AppendFrame(nil, &Frame{Kind: &Frame_Open{Open: &Open{Session: make([]byte, 16), Stages: 3, Next: &Hop{}}}}, []byte("payload"))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, p, err := read(b, 1<<20)
		if err != nil {
			return
		}
		again, err := AppendFrame(nil, fr, p)
		if err != nil {
			t.Fatal(err)
		}
		if fr2, p2, err := read(again, 1<<20); err != nil || !proto.Equal(fr, fr2) || !bytes.Equal(p, p2) {
			t.Fatalf("not the same again: %v", err)
		}
	})
}

func TestTensorCodecs(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, 96)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	for codec, bound := range map[TensorCodec]float64{
		TensorCodec_TENSOR_CODEC_F32: 0, TensorCodec_TENSOR_CODEC_F16: 2e-3, TensorCodec_TENSOR_CODEC_Q8_0: 2e-2,
	} {
		b := AppendTensor(nil, codec, x)
		if len(b) != TensorSize(codec, len(x)) {
			t.Fatalf("%s: %d bytes, TensorSize says %d", codec, len(b), TensorSize(codec, len(x)))
		}
		y, err := Tensor(codec, b, len(x))
		if err != nil {
			t.Fatal(err)
		}
		for i := range x {
			if d := math.Abs(float64(x[i] - y[i])); d > bound {
				t.Fatalf("%s: value %d is off by %g", codec, i, d)
			}
		}
		if _, err := Tensor(codec, b[:len(b)-1], len(x)); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: took a short payload: %v", codec, err)
		}
	}
	for _, v := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
		if _, err := Tensor(0, AppendTensor(nil, 0, []float32{0, v}), 2); !errors.Is(err, ErrFrame) {
			t.Errorf("took %v", v)
		}
	}
	if _, err := Tensor(9, make([]byte, 8), 2); !errors.Is(err, ErrFrame) {
		t.Errorf("took an unknown codec: %v", err)
	}
}

func TestSpan(t *testing.T) {
	for _, text := range []string{"", "5", "-1-3", "3-3", "9-2", "a-b", "1-2-3"} {
		if s, err := ParseSpan(text); err == nil {
			t.Errorf("%q read as %v", text, s)
		}
	}
	if s, err := ParseSpan("10-20"); err != nil || s != (Span{10, 20}) || s.String() != "10-20" {
		t.Errorf("%v %v", s, err)
	}
	got := Uncovered(10, []Span{{2, 4}, {3, 6}, {9, 40}})
	if len(got) != 2 || got[0] != (Span{0, 2}) || got[1] != (Span{6, 9}) {
		t.Errorf("uncovered %v", got)
	}
}

// TestTensorRange: numbers that a codec has no room for become its largest, and do
// not make the next stage refuse them.
func TestTensorRange(t *testing.T) {
	for _, c := range []TensorCodec{TensorCodec_TENSOR_CODEC_F16, TensorCodec_TENSOR_CODEC_Q8_0} {
		x := []float32{1e6, -1e6, 1e9, -1e9, 3e38}
		got, err := Tensor(c, AppendTensor(nil, c, x), len(x))
		if err != nil || got[2] < maxF16 || got[3] > -maxF16 {
			t.Errorf("%s: %v (%v)", c, got, err)
		}
	}
	nan := float32(math.NaN())
	for c := range TensorCodec_name {
		if _, err := Tensor(TensorCodec(c), AppendTensor(nil, TensorCodec(c), []float32{1, nan}), 2); !errors.Is(err, ErrFrame) {
			t.Errorf("codec %d makes a number of what is none: %v", c, err)
		}
	}
}

// FuzzTensor: activations of any bytes are refused, or are as many finite numbers
// as were asked for, which say the same when they are sent on.
func FuzzTensor(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	x := []float32{0, 1, -1, 0.5, 65504, -1e-3, 1e-8}
	for codec := range TensorCodec_name {
		f.Add(AppendTensor(nil, TensorCodec(codec), x), codec, len(x))
		f.Add(bytes.Repeat([]byte{0xff, 0x7b}, 68), codec, 64) // the largest scale, and others
	}
	f.Add([]byte{0, 0, 128, 127}, int32(TensorCodec_TENSOR_CODEC_F32), 1)                  // infinite
	f.Add([]byte{0xff, 0x7b, 128, 31: 0, 33: 0}, int32(TensorCodec_TENSOR_CODEC_Q8_0), 32) // more than a scale can say of its first value
	f.Add([]byte{}, int32(9), -1)
	f.Fuzz(func(t *testing.T, raw []byte, codec int32, n int) {
		c := TensorCodec(codec)
		got, err := Tensor(c, raw, n)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Fatal(err)
			}
			return
		}
		if len(got) != n || TensorCodec_name[codec] == "" {
			t.Fatalf("%d of %d values in codec %d", len(got), n, codec)
		}
		again := AppendTensor(nil, c, got)
		if c != TensorCodec_TENSOR_CODEC_Q8_0 && !bytes.Equal(again, raw) {
			t.Fatalf("%v is %x again, not %x", got, again, raw)
		}
		back, err := Tensor(c, again, n)
		if err != nil {
			t.Fatalf("%v is refused when it is sent on: %v", got, err)
		}
		var top float64
		for i, v := range got {
			top = max(top, math.Abs(float64(v)))
			if i%q8Block == q8Block-1 || i == len(got)-1 {
				for k := i - i%q8Block; k <= i; k++ {
					if math.Abs(float64(back[k]-got[k])) > top/127+127*0x1p-25 { // half of the smallest scale, 127 times
						t.Fatalf("value %d of %v is %g when it is sent on", k, got, back[k])
					}
				}
				top = 0
			}
		}
	})
}

func BenchmarkTensorF32(b *testing.B) {
	x := make([]float32, 64*576)
	raw := AppendTensor(nil, 0, x)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		raw = AppendTensor(raw[:0], 0, x)
		if _, err := Tensor(0, raw, len(x)); err != nil {
			b.Fatal(err)
		}
	}
}
