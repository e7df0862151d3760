package stage

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"
)

// TestReplay holds replay buffers that share a budget, and must spill, against
// plain slices, through whatever a session may do to them.
func TestReplay(t *testing.T) {
	const row = 8
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	b := &budget{dir: t.TempDir()}
	const memory = 300 * row // the others' rows go to disk
	b.left.Store(memory)
	type pair struct {
		r    *replay
		want []byte
	}
	pairs := []*pair{{r: newReplay(b, row)}, {r: newReplay(b, row)}, {r: newReplay(b, row)}}
	rows := func(n int) []byte {
		out := make([]byte, n*row)
		for i := range out {
			out[i] = byte(rnd.Uint32())
		}
		return out
	}
	spilled := false
	for range 3000 {
		p := pairs[rnd.IntN(len(pairs))]
		have := len(p.want) / row
		switch rnd.IntN(10) {
		case 0: // taken back
			n := rnd.IntN(have + 1)
			p.r.truncate(n)
			p.want = p.want[:n*row]
		case 1: // ended; another begins with a part of its beginning
			n := rnd.IntN(have + 1)
			c := p.r.clone(n)
			p.r.close()
			if p.r.has(0) {
				t.Fatal("a closed buffer says that it can replay")
			}
			p.r, p.want = c, p.want[:n*row]
		case 2: // an epoch that begins earlier
			n := rnd.IntN(have + 1)
			more := rows(1 + rnd.IntN(5))
			p.r.put(n, more, false)
			p.want = append(p.want[:n*row:n*row], more...)
		default:
			if have > 700 {
				continue
			}
			more := rows(1 + rnd.IntN(90))
			p.r.put(have, more, false)
			p.want = append(p.want, more...)
		}
		spilled = spilled || p.r.file != nil
		have = len(p.want) / row
		if !p.r.has(have) || p.r.has(have+1) {
			t.Fatalf("it does not have the %d rows that it was given", have)
		}
		if have > 0 {
			at := rnd.IntN(have)
			n := min(1+rnd.IntN(replayChunk), have-at)
			got, err := p.r.read(at, n)
			if err != nil || !bytes.Equal(got, p.want[at*row:(at+n)*row]) {
				t.Fatalf("rows %d-%d of %d: %v", at, at+n, have, err)
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
	r := newReplay(b, 4)
	r.put(0, make([]byte, 8), false) // neither memory nor disk takes it
	if r.has(1) {
		t.Error("rows that could not be kept are said to be there")
	}
	if _, err := r.read(0, 1); err == nil {
		t.Error("rows that could not be kept were read")
	}
	b.left.Store(1 << 20)
	r = newReplay(b, 4)
	r.put(0, make([]byte, 8), false)
	r.put(3, make([]byte, 4), false)
	if r.has(1) {
		t.Error("a buffer with a gap is said to be whole")
	}
}
