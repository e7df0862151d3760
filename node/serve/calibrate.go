package serve

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/store"
)

// maxBatch is the most rows per pass: eight prefill chunks, or a decode of every
// session and some.
const maxBatch = 512

// engineConfig is how the engine of a target is to be loaded; its path is still
// empty.
func (s *Server) engineConfig(t target, z size) engine.Config {
	limits := s.limits()
	sessions, embeds := limits.MaxSessions, pooling(t.model) != engine.NoPooling
	if embeds {
		sessions = max(sessions, textsPerPass)
	}
	return engine.Config{
		From: t.span.From, To: t.span.To, KVTokens: z.cells, MaxSeqs: sessions, Embeds: embeds,
		MaxBatch: z.batch, KVType: s.cfg.KVType, Threads: limits.Threads, Nice: s.cfg.Nice, Devices: s.cfg.Devices, Exact: s.cfg.Exact,
		Memory: max(limits.Memory, z.bytes) + loadRoom + MachineMemory()/4,
	}
}

// loadRoom plus a quarter of the machine's memory is what an engine may take while it
// loads, beyond what is lent, or what its weights and KV cells take: the buffers of a
// pass are not known before. Its later limit goes by what it has then (see fence).
const loadRoom = 1 << 30

// kvTokens is how many KV cells a quarter of the memory lent holds, but at most those
// of eight sessions of the model's whole context, or 64k tokens.
func (s *Server) kvTokens(t target) int64 {
	man, c := t.model.Manifest(), s.costsOf(t)
	want := max(512, min(8*max(man.Context, 512), 64<<10))
	return max(256, min(want, s.limits().Memory/4/max(1, c.Token+c.Windowed)))
}

// kvBytes is what a token's keys and values take in one block of a model, on average, in
// bytes.
func (s *Server) kvBytes(m *store.Model) int64 {
	c, n := s.costsOf(target{m, m.Manifest().All()}), max(1, m.Manifest().Blocks)
	return (c.Token + c.Windowed + n - 1) / n
}

// calibrateTime is after how long a measurement takes no further pass, so that it
// ends soon on a machine that is slow for its span.
const calibrateTime = 300 * time.Millisecond

// calibrate measures what a row costs, alone and in a chunk. It also proves that the
// span computes at all.
func calibrate(ctx context.Context, e engine.Engine) (m measured, err error) {
	info := e.Info()
	blocks := time.Duration(info.To - info.From)
	base := 0
	pass := func(rows int) (time.Duration, error) {
		b := &engine.Batch{Embed: info.Pooling != engine.NoPooling}
		if b.Embed {
			base = 0 // nothing of a text stays
		}
		for i := range rows {
			b.Rows = append(b.Rows, engine.Row{Seq: 0, Pos: int32(base + i)})
		}
		if info.From == 0 {
			b.Tokens = make([]int32, rows)
		} else {
			b.Hidden = make([]float32, rows*info.Width)
			for i := range b.Hidden {
				b.Hidden[i] = float32(i%7) - 3
			}
		}
		if info.To == info.Blocks && !b.Embed {
			b.Outputs = []engine.Output{{Row: rows - 1, Position: uint64(base + rows)}}
		}
		res, err := e.Run(ctx, b)
		if err != nil {
			return 0, fmt.Errorf("the engine does not compute: %w", err)
		}
		base += rows
		return res.Compute, nil
	}
	// The engine settles on a number of threads meanwhile, so only the later half
	// counts.
	typical := func(passes, rows int) (time.Duration, error) {
		var all []time.Duration
		begin := time.Now()
		for range passes {
			d, err := pass(rows)
			if err != nil {
				return 0, err
			}
			if all = append(all, d); time.Since(begin) > calibrateTime {
				break
			}
		}
		all = all[len(all)/2:]
		slices.Sort(all)
		return all[len(all)/2], nil
	}
	rows := min(route.Chunk, info.MaxBatch, max(1, info.KVTokens/4))
	chunk, err := typical(2, rows)
	if err != nil {
		return m, err
	}
	one, err := typical(min(12, max(1, info.KVTokens/4)), 1)
	if err != nil {
		return m, err
	}
	m = measured{decode: one / blocks, prefill: chunk / time.Duration(rows) / blocks}
	return m, e.Remove(0, 0)
}
