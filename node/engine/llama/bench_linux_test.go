package llama

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/enginetest"
)

// BenchmarkOverhead compares passes through the engine with the library's own, of the
// same model and settings, in turns: the ratio of their speeds by processor time, 1
// where the engine costs nothing.
func BenchmarkOverhead(b *testing.B) {
	library(b)
	path := "../../../../shared/models/SmolLM2-135M-Instruct.Q4_1.gguf"
	if _, err := os.Stat(path); err != nil {
		b.Skip("no reference models beside this clone: ", path)
	}
	c := enginetest.CutBy(b, stageFile, path, 1, Load, func(cfg *engine.Config) { cfg.Threads, cfg.MaxBatch = 1, 512 })
	l := c[0].(*local)
	for _, rows := range []int{1, 512} {
		b.Run(map[int]string{1: "decode", 512: "prefill"}[rows], func(b *testing.B) {
			batch := &engine.Batch{Tokens: wordsOf(rows), Outputs: []engine.Output{{Row: rows - 1}}}
			positions, seqs, outputs := make([]int32, rows), make([]int32, rows), make([]int8, rows)
			outputs[rows-1] = 1
			var through, direct time.Duration
			c.Remove(b, 0, 0)
			base, turn := 0, 0
			for b.Loop() {
				if base+rows > 1024 {
					c.Remove(b, 0, 0)
					base = 0
				}
				batch.Rows = batch.Rows[:0]
				for i := range rows {
					batch.Rows = append(batch.Rows, engine.Row{Pos: int32(base + i)})
					positions[i] = int32(base + i)
				}
				for i := range 2 { // in either order, since the second finds warm caches
					begin := processorTime(b)
					var err error
					if whole := (turn+i)%2 == 0; whole {
						_, err = l.Run(b.Context(), batch)
						through += processorTime(b) - begin
					} else {
						err = l.direct(batch, positions, seqs, outputs)
						direct += processorTime(b) - begin
					}
					if err != nil {
						b.Fatal(err)
					}
					if i == 0 {
						c.Remove(b, 0, base)
					}
				}
				turn++
				base += rows
			}
			b.ReportMetric(float64(direct)/float64(through), "of-the-library")
		})
	}
}

// direct is the library's own pass of a batch.
func (l *local) direct(b *engine.Batch, positions, seqs []int32, outputs []int8) error {
	if err := l.kv.follow(b.Rows); err != nil {
		return err
	}
	_, _ = l.run(l.kv.context, false, b, span{0, len(b.Rows)}, positions, seqs, outputs)
	l.logits(len(b.Rows) - 1)
	for _, r := range b.Rows {
		l.kv.slots[r.Seq].next = r.Pos + 1
	}
	return nil
}

// processorTime is what this process has computed.
func processorTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}
