package store

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// FuzzLayout: whatever a file's header says, each byte of the file is in one
// shard, and each has one place on disk.
func FuzzLayout(f *testing.F) {
	for blocks := 1; blocks < 4; blocks++ {
		raw := synth(rand.New(rand.NewPCG(uint64(blocks), 5)), blocks, 0.01)
		h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw[:h.DataOffset], int64(len(raw)))
	}
	f.Fuzz(func(t *testing.T, head []byte, size int64) {
		if size < int64(len(head)) || size > maxModel {
			return
		}
		h, err := gguf.Read(bytes.NewReader(head), size)
		if err != nil || h.Check(size) != nil || h.Blocks() < 1 || h.Blocks() > 1<<16 || h.Width() < 1 {
			return // as an import refuses it
		}
		l := newLayout(int64(h.Blocks()))
		if l.file(size, h) != nil {
			return
		}
		man, err := l.manifest(h)
		if err != nil {
			return
		}
		var sum int64
		for _, s := range man.Shards {
			sum += s.Size
		}
		base, shards := layShards(man)
		var laid int64
		for _, s := range shards {
			for _, r := range s.runs {
				if laid += r.length; r.at < base[0] || r.at+r.length > base[0]+size {
					t.Fatalf("%+v lies outside of the file, which is at %d and of %d bytes", r, base[0], size)
				}
			}
		}
		if sum != size || laid != size {
			t.Fatalf("a file of %d bytes has shards of %d, which take %d on disk", size, sum, laid)
		}
	})
}
