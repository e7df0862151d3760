package store

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/protocol"
)

// checkAllocated compares what a model takes on disk with what it holds: less
// than 1 % more, apart from rounding to the disk's blocks at the ends of held
// stretches, and small files.
func checkAllocated(t testing.TB, m *Model) {
	t.Helper()
	st, err := m.data.Stat()
	if err != nil {
		t.Fatal(err)
	}
	rounded := roundUp(min(m.base[0], written(m.data)), diskBlock) // of the last stage header
	runs := m.heldRuns()
	for _, r := range runs {
		rounded += roundUp(r.at+r.length, diskBlock) - r.at/diskBlock*diskBlock
	}
	held := m.Held()
	if n := files.Allocated(st); n > rounded+held/100+8<<10 { // and what the file system needs to list many extents
		t.Errorf("%d bytes on disk for %d held in %d stretches, which take %d", n, held, len(runs), rounded)
	}
}

// Whatever is dropped in whatever order, the rest takes only what it holds,
// even where shards share blocks of the disk with their neighbours.
func TestAllocated(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("holes are made on Linux alone")
	}
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 12))
		file := writeFile(t, "holes.gguf", synth(rng, 12, 0.02+0.2*rng.Float64()))
		s := open(t, t.TempDir())
		m := add(t, s, file, nil)
		full := open(t, t.TempDir())
		add(t, full, file, nil)
		checkAllocated(t, m)
		for range 40 {
			i := rng.IntN(len(m.shards))
			if rng.IntN(3) > 0 { // more often fewer
				if err := m.DropShards([]int{i}); err != nil {
					t.Fatal(err)
				}
			} else {
				pull(t, full, m, []int{i})
			}
			checkAllocated(t, m)
		}
		if err := m.StageFile(t.Context(), m.man.All(), nil, func(string) error { return nil }); err == nil {
			checkAllocated(t, m)
		}
		// Allocated but not held, as after a crash.
		if err := m.DropShards(m.Shards()); err != nil {
			t.Fatal(err)
		}
		left := m.man.Size() - 1000
		if _, err := m.data.WriteAt(make([]byte, left), m.base[0]+1000); err != nil {
			t.Fatal(err)
		}
		dry, err := s.GC(GCOptions{DryRun: true})
		if err != nil || dry.Gaps < left {
			t.Errorf("a dry run finds %+v, %v", dry, err)
		}
		freed, err := s.GC(GCOptions{})
		if err != nil || freed.Gaps < left || m.Allocated() > 64<<10 {
			t.Errorf("freed %+v, %d bytes remain: %v", freed, m.Allocated(), err)
		}
	}
}

// Every span of a model takes its shards and less than 1 % more.
func TestSpanOnDisk(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("holes are made on Linux alone")
	}
	file := writeFile(t, "spans.gguf", synth(rand.New(rand.NewPCG(3, 3)), 5, 6))
	for from := range 5 {
		span := protocol.Span{From: from, To: from + 1}
		m := add(t, open(t, t.TempDir()), file, &span)
		if held, n := m.Held(), m.Allocated(); n > held+held/100+4*diskBlock {
			t.Errorf("%s: %d bytes on disk, %d held", span, n, held)
		}
	}
}
