package stage

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

// TestReplay holds replay buffers that share a budget, and must spill, against
// plain slices, through whatever a session may do to them.
func TestReplay(t *testing.T) {
	const width, row = 32, 4 * 32 // numbers, and bytes of a row at most
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	b := &budget{dir: t.TempDir()}
	const memory = 300 * row // the others' rows go to disk
	b.left.Store(memory)
	type pair struct {
		r    *replay
		want []rowsOut // one each
	}
	pairs := []*pair{{r: newReplay(b, width)}, {r: newReplay(b, width)}, {r: newReplay(b, width)}}
	rows := func(at, n int) (all rowsOut, each []rowsOut) {
		c := protocol.TensorCodec(rnd.IntN(3))
		all = rowsOut{base: at, end: at + n, codec: c, row: protocol.TensorSize(c, width)}
		all.bytes = make([]byte, n*all.row)
		for i := range all.bytes {
			all.bytes[i] = byte(rnd.Uint32())
		}
		for i := at; i < at+n; i++ {
			each = append(each, rowsOut{base: i, end: i + 1, codec: c, row: all.row, bytes: all.part(i, i+1)})
		}
		return all, each
	}
	spilled := false
	for range 3000 {
		p := pairs[rnd.IntN(len(pairs))]
		have := len(p.want)
		switch rnd.IntN(10) {
		case 0: // taken back
			n := rnd.IntN(have + 1)
			p.r.truncate(n)
			p.want = p.want[:n]
		case 1: // ended; another begins with a part of its beginning
			n := rnd.IntN(have + 1)
			c := p.r.clone(n)
			p.r.close()
			if p.r.has(0) {
				t.Fatal("a closed buffer says that it can replay")
			}
			p.r, p.want = c, p.want[:n]
		case 2: // an epoch that begins earlier
			n := rnd.IntN(have + 1)
			more, each := rows(n, 1+rnd.IntN(5))
			p.r.put(more, false)
			p.want = append(p.want[:n:n], each...)
		default:
			if have > 700 {
				continue
			}
			more, each := rows(have, 1+rnd.IntN(90))
			p.r.put(more, false)
			p.want = append(p.want, each...)
		}
		spilled = spilled || p.r.file != nil
		have = len(p.want)
		if !p.r.has(have) || p.r.has(have+1) {
			t.Fatalf("it does not have the %d rows that it was given", have)
		}
		if have > 0 {
			at := rnd.IntN(have)
			n := min(1+rnd.IntN(replayChunk), have-at)
			got, err := p.r.read(at, n)
			if err != nil || got.base != at || got.end <= at || got.end > at+n {
				t.Fatalf("rows %d-%d of %d: %d-%d, %v", at, at+n, have, got.base, got.end, err)
			}
			for _, want := range p.want[at:got.end] {
				if got.codec != want.codec || !bytes.Equal(got.part(want.base, want.end), want.bytes) {
					t.Fatalf("row %d of %d is another, or in another codec", want.base, have)
				}
			}
		}
	}
	if !spilled {
		t.Error("nothing went to disk")
	}
	for _, p := range pairs {
		p.r.close()
	}
	if left := b.left.Load(); left != memory {
		t.Errorf("%d bytes of the budget are free after all were closed, of %d", left, memory)
	}
	if files, err := os.ReadDir(b.dir); err != nil || len(files) > 0 {
		t.Errorf("files left behind: %v %v", files, err)
	}
}

// TestReplayGap: what was not kept is not replayed, and said not to be.
func TestReplayGap(t *testing.T) {
	b := &budget{dir: t.TempDir() + "/missing"}
	r := newReplay(b, 1)
	r.put(zeros(0, 2), false) // neither memory nor disk takes it
	if r.has(1) {
		t.Error("rows that could not be kept are said to be there")
	}
	if _, err := r.read(0, 1); err == nil {
		t.Error("rows that could not be kept were read")
	}
	b.left.Store(1 << 20)
	r = newReplay(b, 1)
	r.put(zeros(0, 2), false)
	r.put(zeros(3, 1), false)
	if r.has(1) {
		t.Error("a buffer with a gap is said to be whole")
	}
}

// zeros are rows of one number each.
func zeros(at, n int) rowsOut {
	return rowsOut{base: at, end: at + n, row: 4, bytes: make([]byte, 4*n)}
}
