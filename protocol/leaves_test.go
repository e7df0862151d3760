package protocol

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
)

func sent(t testing.TB, m proto.Message) *bufio.Reader {
	t.Helper()
	var b bytes.Buffer
	if err := WriteLeaves(&b, m); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(&b)
}

// What is within the limits is read as it was written.
func TestLeaves(t *testing.T) {
	for _, q := range []*LeavesRequest{
		{Model: []byte{1}, Watch: true, Fetching: true},
		{Model: []byte{1}, Leaves: slices.Repeat([]uint32{MaxLeaves - 1}, MaxLeavesAsked)},
	} {
		if got, err := ReadLeavesRequest(sent(t, q)); err != nil || !proto.Equal(got, q) {
			t.Errorf("%v, %v", got, err)
		}
	}
	for _, s := range []*LeavesState{
		{Total: 9, Held: []byte{255, 1}, Wanted: []byte{0, 0}},
		{Total: 9, Held: []byte{255, 1}},
		{Got: []uint32{0, 8}},
		{},
	} {
		if got, err := ReadLeavesState(sent(t, s), 9); err != nil || !proto.Equal(got, s) {
			t.Errorf("%v, %v", got, err)
		}
	}
	most := &LeavesState{Total: MaxLeaves, Held: make([]byte, MaxLeaves/8), Wanted: make([]byte, MaxLeaves/8)}
	if _, err := ReadLeavesState(sent(t, most), MaxLeaves); err != nil {
		t.Error("the greatest model: ", err)
	}
	for _, size := range []uint32{0, 7, LeafLater} {
		h := LeafHead{Leaf: 3, Size: size}
		if got, err := ReadLeafHead(bytes.NewReader(h.Append(nil)), 3, 7); err != nil || got != h {
			t.Errorf("%v, %v", got, err)
		}
	}
}

// What is not is refused, and what ends early is not taken for malformed.
func TestLeavesRefused(t *testing.T) {
	for name, q := range map[string]*LeavesRequest{
		"too many":  {Leaves: make([]uint32, MaxLeavesAsked+1)},
		"too great": {Leaves: []uint32{MaxLeaves}},
		"neither":   {},
		"both":      {Watch: true, Leaves: []uint32{1}},
		"too long":  {Watch: true, Model: make([]byte, 2000)},
	} {
		if _, err := ReadLeavesRequest(sent(t, q)); !errors.Is(err, ErrLeaves) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := &LeavesState{}
	for range MaxFetchers + 1 {
		many.Fetchers = append(many.Fetchers, &Fetcher{})
	}
	for name, s := range map[string]*LeavesState{
		"another total":  {Total: 8, Held: []byte{1}},
		"short":          {Total: 9, Held: []byte{1}},
		"wanted short":   {Total: 9, Held: []byte{1, 1}, Wanted: []byte{1}},
		"no total":       {Held: []byte{1, 1}},
		"beyond the end": {Got: []uint32{9}},
		"many fetchers":  many,
		"many addresses": {Fetchers: []*Fetcher{{Addrs: make([][]byte, 9)}}},
	} {
		if _, err := ReadLeavesState(sent(t, s), 9); !errors.Is(err, ErrLeaves) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, raw := range [][]byte{
		binary.AppendUvarint(nil, 1<<40), bytes.Repeat([]byte{255}, 11), append(binary.AppendUvarint(nil, 3), 255, 255, 255),
	} {
		if _, err := ReadLeavesState(bufio.NewReader(bytes.NewReader(raw)), 9); !errors.Is(err, ErrLeaves) {
			t.Errorf("%x: %v", raw, err)
		}
	}
	for _, h := range []LeafHead{{Leaf: 4, Size: 7}, {Leaf: 3, Size: 6}, {Leaf: 3, Size: 1 << 31}} {
		if _, err := ReadLeafHead(bytes.NewReader(h.Append(nil)), 3, 7); !errors.Is(err, ErrLeaves) {
			t.Errorf("%v: %v", h, err)
		}
	}
	for _, raw := range [][]byte{nil, {5}, {5, 1}} {
		if _, err := ReadLeavesRequest(bufio.NewReader(bytes.NewReader(raw))); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%x: %v", raw, err)
		}
	}
}

// Whatever comes, what is read keeps to the limits.
func FuzzLeaves(f *testing.F) {
	for _, m := range []proto.Message{
		&LeavesRequest{Model: []byte{1, 2}, Watch: true}, &LeavesRequest{Leaves: []uint32{1, 2}},
		&LeavesState{Total: 20, Held: []byte{1, 2, 3}, Wanted: []byte{0, 0, 0}, Fetchers: []*Fetcher{{Peer: []byte{1}, Addrs: [][]byte{{4}}}}},
		&LeavesState{Got: []uint32{19}},
	} {
		var b bytes.Buffer
		if err := WriteLeaves(&b, m); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes(), 20)
	}
	f.Add(binary.AppendUvarint(nil, 1<<62), 1)
	f.Fuzz(func(t *testing.T, raw []byte, total int) {
		total &= 1<<12 - 1
		if q, err := ReadLeavesRequest(bufio.NewReader(bytes.NewReader(raw))); err == nil {
			if len(q.Leaves) > MaxLeavesAsked || q.Watch == (len(q.Leaves) > 0) {
				t.Errorf("%v", q)
			}
		}
		if s, err := ReadLeavesState(bufio.NewReader(bytes.NewReader(raw)), total); err == nil {
			if s.Total != 0 && (int(s.Total) != total || len(s.Held) != (total+7)/8) || len(s.Fetchers) > MaxFetchers {
				t.Errorf("%v", s)
			}
			for _, n := range s.Got {
				if int(n) >= total {
					t.Errorf("leaf %d of %d", n, total)
				}
			}
		}
		if h, err := ReadLeafHead(bytes.NewReader(raw), 3, 100); err == nil && h.Size != 0 && h.Size != 100 && h.Size != LeafLater {
			t.Errorf("%v", h)
		}
	})
}
