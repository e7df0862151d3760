package protocol

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

// vectors are bytes for other implementations to check themselves against.
type vectors struct {
	Frames []struct {
		What    string `json:"what"`
		Bytes   string `json:"bytes"`
		Payload string `json:"payload"`
	} `json:"frames"`
	Tensors []struct {
		Codec  string    `json:"codec"`
		Values []float32 `json:"values"`
		Bytes  string    `json:"bytes"`
	} `json:"tensors"`
	Prefix struct {
		Tokens []int32  `json:"tokens"`
		Hashes []uint64 `json:"hashes"`
	} `json:"prefix"`
	Offer struct {
		Seed     string `json:"ed25519_seed"`
		Peer     string `json:"peer"`
		NowMs    int64  `json:"now_unix_ms"`
		Envelope string `json:"envelope"`
	} `json:"offer"`
	Manifest struct {
		Bytes string `json:"bytes"`
		CID   string `json:"cid"`
	} `json:"manifest"`
	Leaves struct { // of a model of 12
		Watch string `json:"watch"`
		State string `json:"state"`
		News  string `json:"news"`
		Ask   string `json:"ask"`
		Head  string `json:"head"`
		Later string `json:"later"`
	} `json:"leaves"`
}

func makeVectors(t *testing.T) (v vectors) {
	for _, f := range []struct {
		what    string
		frame   *Frame
		payload []byte
	}{
		{"step with tokens", &Frame{Kind: &Frame_Step{Step: &Step{Epoch: 1, Base: 64, Rows: 3, Tokens: []int32{5, 300, 7}, Sample: true}}}, nil},
		{"step with activations", &Frame{Kind: &Frame_Step{Step: &Step{Epoch: 2, Base: 1, Rows: 1}}}, AppendTensor(nil, TensorCodec_TENSOR_CODEC_F32, []float32{1, -2})},
		{"token", &Frame{Kind: &Frame_Token{Token: &Token{Epoch: 1, Index: 4, Id: 9, Finish: Finish_FINISH_LENGTH}}}, nil},
		{"open with a trace", &Frame{Kind: &Frame_Open{Open: &Open{Session: bytes.Repeat([]byte{3}, 16), Model: []byte{1}, To: 2, Stages: 1, Epoch: 1, MaxTokensTotal: 8, Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}}, nil},
		{"open with a format", &Frame{Kind: &Frame_Open{Open: &Open{
			Session: bytes.Repeat([]byte{4}, 16), Model: []byte{1}, To: 2, Stages: 1, Epoch: 1, MaxTokensTotal: 8,
			Sampling: &Sampling{StopIds: []int32{2}, Format: []*Piece{
				{Kind: &Piece_Until{Until: "</think>"}},
				{Kind: &Piece_Either{Either: &Either{Of: []*Pieces{{Pieces: []*Piece{{Kind: &Piece_Text{Text: "none"}}}}, {Pieces: []*Piece{{Kind: &Piece_Schema{Schema: []byte(`{"type":"integer"}`)}}}}}}}},
				{Kind: &Piece_Again{Again: &Pieces{Pieces: []*Piece{{Kind: &Piece_Text{Text: "!"}}}}}},
			}},
		}}}, nil},
		{"opened with a format", &Frame{Kind: &Frame_Opened{Opened: &Opened{UsPerStep: 100, Format: true}}}, nil},
		{"resume", &Frame{Kind: &Frame_Resume{Resume: &Resume{Epoch: 3, At: 40, ForwardFrom: 0, Stages: 2, Next: &Hop{Peer: []byte{1}, Index: 5}}}}, nil},
		{"resume with an offer and tokens", &Frame{Kind: &Frame_Resume{Resume: &Resume{Epoch: 3, At: 40, Stages: 2, Next: &Hop{Peer: []byte{1}, Index: 5, Offer: []byte{9, 8}}, Sampled: []int32{1, 300}}}}, nil},
		{"credit", &Frame{Kind: &Frame_Credit{Credit: &Credit{Rows: 300}}}, nil},
		{"ping", &Frame{Kind: &Frame_Ping{Ping: &Ping{Prefix: []uint64{1, 2}}}}, nil},
	} {
		b, err := AppendFrame(nil, f.frame, f.payload)
		if err != nil {
			t.Fatal(err)
		}
		v.Frames = append(v.Frames, struct {
			What    string `json:"what"`
			Bytes   string `json:"bytes"`
			Payload string `json:"payload"`
		}{f.what, hex.EncodeToString(b), hex.EncodeToString(f.payload)})
	}
	values := make([]float32, 32)
	for i := range values {
		values[i] = float32(i*i)/64 - 4
	}
	for _, codec := range []TensorCodec{TensorCodec_TENSOR_CODEC_F32, TensorCodec_TENSOR_CODEC_F16, TensorCodec_TENSOR_CODEC_Q8_0} {
		v.Tensors = append(v.Tensors, struct {
			Codec  string    `json:"codec"`
			Values []float32 `json:"values"`
			Bytes  string    `json:"bytes"`
		}{codec.String(), values, hex.EncodeToString(AppendTensor(nil, codec, values))})
	}
	for i := range 70 {
		v.Prefix.Tokens = append(v.Prefix.Tokens, int32(i*i%1000))
	}
	v.Prefix.Hashes = AppendPrefix(nil, v.Prefix.Tokens)
	seed := bytes.Repeat([]byte{7}, 32)
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(seed))
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(1_800_000_000_000)
	model := ModelKey(textKey("a model"))
	o, err := SealOffer(&OfferBody{
		Seq: 7, IssuedUnixMs: now.UnixMilli(), ExpiresUnixMs: now.Add(10 * time.Minute).UnixMilli(), Version: "1",
		Spans: []*ServedSpan{{Model: model.Bytes(), From: 0, To: 10, Blocks: 30, Width: 576, Ready: true, UsPerBlock: 500, KvTokens: 8192, KvFree: 8192, MaxContext: 2048, Name: "a"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	v.Offer.Seed, v.Offer.Peer, v.Offer.NowMs, v.Offer.Envelope = hex.EncodeToString(seed), o.From.String(), now.UnixMilli(), hex.EncodeToString(o.Envelope)
	m := aManifest()
	raw, id, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	v.Manifest.Bytes, v.Manifest.CID = hex.EncodeToString(raw), id.String()
	for to, m := range map[*string]proto.Message{
		&v.Leaves.Watch: &LeavesRequest{Model: id.Bytes(), Watch: true, Fetching: true},
		&v.Leaves.State: &LeavesState{Total: 12, Held: []byte{0b101, 0b1000}, Wanted: []byte{0b11111010, 0b0111}},
		&v.Leaves.News:  &LeavesState{Got: []uint32{1, 11}, Fetchers: []*Fetcher{{Peer: []byte(o.From), Addrs: [][]byte{{4, 192, 0, 2, 1, 6, 15, 161}}}}},
		&v.Leaves.Ask:   &LeavesRequest{Model: id.Bytes(), Leaves: []uint32{3, 300}},
	} {
		var b bytes.Buffer
		if err := WriteLeaves(&b, m); err != nil {
			t.Fatal(err)
		}
		*to = hex.EncodeToString(b.Bytes())
	}
	v.Leaves.Head = hex.EncodeToString(LeafHead{Leaf: 3, Size: LeafSize}.Append(nil))
	v.Leaves.Later = hex.EncodeToString(LeafHead{Leaf: 300, Size: LeafLater}.Append(nil))
	return v
}

// What is written today is what was written when the vectors were made, and
// reads back as what it is.
func TestVectors(t *testing.T) {
	const file = "testdata/vectors.json"
	v := makeVectors(t)
	now, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, append(now, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	was, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(was), now) {
		t.Error("the bytes on the wire have changed; if that is meant, and compatible, run with -update")
	}
	for _, f := range v.Frames {
		b, _ := hex.DecodeString(f.Bytes)
		fr, p, err := read(b, 1<<10)
		if err != nil || hex.EncodeToString(p) != f.Payload || proto.Size(fr) == 0 {
			t.Errorf("%s: %v", f.What, err)
		}
	}
	env, _ := hex.DecodeString(v.Offer.Envelope)
	if o, err := OpenOffer(env, time.UnixMilli(v.Offer.NowMs)); err != nil || o.From.String() != v.Offer.Peer {
		t.Error(err)
	}
	raw, _ := hex.DecodeString(v.Manifest.Bytes)
	if _, err := DecodeManifest(raw); err != nil {
		t.Error(err)
	}
	for _, text := range []string{v.Leaves.Watch, v.Leaves.Ask} {
		b, _ := hex.DecodeString(text)
		if _, err := ReadLeavesRequest(bufio.NewReader(bytes.NewReader(b))); err != nil {
			t.Error(err)
		}
	}
	for _, text := range []string{v.Leaves.State, v.Leaves.News} {
		b, _ := hex.DecodeString(text)
		if _, err := ReadLeavesState(bufio.NewReader(bytes.NewReader(b)), 12); err != nil {
			t.Error(err)
		}
	}
	if n := SharedPrefix(v.Prefix.Hashes, AppendPrefix(nil, v.Prefix.Tokens[:40])); n != 32 {
		t.Errorf("%d tokens are shared", n)
	}
}
