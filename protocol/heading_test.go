package protocol

import (
	"bufio"
	"bytes"
	"errors"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

func headingCID(t testing.TB, of string) cid.Cid {
	t.Helper()
	c, err := cid.V1Builder{Codec: cid.Raw, MhType: multihash.SHA2_256}.Sum([]byte(of))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHeadingRequests(t *testing.T) {
	a, b := headingCID(t, "a"), headingCID(t, "b")
	got, err := ReadHeadingRequest(sent(t, &HeadingRequest{Blocks: [][]byte{a.Bytes(), b.Bytes()}}))
	if err != nil || len(got) != 2 || got[0] != a || got[1] != b {
		t.Errorf("%v, %v", got, err)
	}
	many := make([][]byte, MaxHeadingAsked+1)
	for i := range many {
		many[i] = a.Bytes()
	}
	if _, err := ReadHeadingRequest(sent(t, &HeadingRequest{Blocks: many[1:]})); err != nil {
		t.Error(err)
	}
	for name, blocks := range map[string][][]byte{"none": nil, "too many": many, "no CID": {{1, 2, 3}}, "too long": {make([]byte, maxHeadingAsk)}} {
		if _, err := ReadHeadingRequest(sent(t, &HeadingRequest{Blocks: blocks})); !errors.Is(err, ErrLeaves) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for h, ok := range map[LeafHead]bool{
		{3, 0}: true, {3, LeafSize}: true, {3, LeafLater}: true, {3, HeadingRefused}: true,
		{2, 1}: false, {3, LeafSize + 1}: false, {3, HeadingRefused - 1}: false,
	} {
		got, err := ReadHeadingHead(bytes.NewReader(h.Append(nil)), 3)
		if got != h || ok != (err == nil) || !ok && !errors.Is(err, ErrLeaves) {
			t.Errorf("%v: %v, %v", h, got, err)
		}
	}
}

func FuzzHeading(f *testing.F) {
	var b bytes.Buffer
	c := headingCID(f, "a")
	if err := WriteLeaves(&b, &HeadingRequest{Blocks: [][]byte{c.Bytes(), c.Bytes()}}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes(), 0)
	f.Add(LeafHead{2, HeadingRefused}.Append(nil), 2)
	f.Fuzz(func(t *testing.T, raw []byte, i int) {
		if list, err := ReadHeadingRequest(bufio.NewReader(bytes.NewReader(raw))); err == nil && (len(list) == 0 || len(list) > MaxHeadingAsked) {
			t.Errorf("%d blocks", len(list))
		}
		if h, err := ReadHeadingHead(bytes.NewReader(raw), i); err == nil && (int(h.Leaf) != i || h.Size > LeafSize && h.Size < HeadingRefused) {
			t.Errorf("%v", h)
		}
	})
}
