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

// passes makes passes of arbitrary content, of one sequence.
type passes struct {
	e    engine.Engine
	base int // positions so far
}

// run makes a pass and returns what it took.
func (p *passes) run(ctx context.Context, rows int) (time.Duration, error) {
	info := p.e.Info()
	b := &engine.Batch{Embed: info.Pooling != engine.NoPooling}
	if b.Embed {
		p.base = 0 // nothing of a text stays
	}
	for i := range rows {
		b.Rows = append(b.Rows, engine.Row{Seq: 0, Pos: int32(p.base + i)})
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
		b.Outputs = []engine.Output{{Row: rows - 1, Position: uint64(p.base + rows)}}
	}
	res, err := p.e.Run(ctx, b)
	if err != nil {
		return 0, fmt.Errorf("the engine does not compute: %w", err)
	}
	p.base += rows
	return res.Compute, nil
}

// several makes up to n passes, and returns what each took, of the later half: meanwhile
// the engine settles on a number of threads.
func (p *passes) several(ctx context.Context, n, rows int) (took []time.Duration, err error) {
	begin := time.Now()
	for range n {
		d, err := p.run(ctx, rows)
		if err != nil {
			return nil, err
		}
		if took = append(took, d); time.Since(begin) > calibrateTime {
			break
		}
	}
	took = took[len(took)/2:]
	slices.Sort(took)
	return took, nil
}

// chunkOf is how many rows a measurement of a prompt has.
func chunkOf(info engine.Info) int {
	return min(route.Chunk, info.MaxBatch, max(1, info.KVTokens/4))
}

// calibrate measures what a row costs, alone and in a chunk. It also proves that the
// span computes at all.
func calibrate(ctx context.Context, e engine.Engine) (m measured, err error) {
	info := e.Info()
	blocks, rows, p := time.Duration(info.To-info.From), chunkOf(info), passes{e: e}
	chunk, err := p.several(ctx, 2, rows)
	if err != nil {
		return m, err
	}
	one, err := p.several(ctx, min(12, max(1, info.KVTokens/4)), 1)
	if err != nil {
		return m, err
	}
	m = measured{decode: one[len(one)/2] / blocks, prefill: chunk[len(chunk)/2] / time.Duration(rows) / blocks}
	return m, e.Remove(0, 0)
}

const (
	raceRounds = 5
	raceSteps  = 8
	// How much longer than the quickest the middle one of several equal measurements takes
	// on a machine that others use.
	scatter = 1.4
)

// race measures what engines are compared by: of several rounds the quickest, since what
// else runs on a machine only ever makes them slower. steady is false if they differ so
// much that even that may be wrong.
func race(ctx context.Context, e engine.Engine) (m measured, steady bool, err error) {
	info := e.Info()
	blocks, rows := time.Duration(info.To-info.From), chunkOf(info)
	var chunks, ones []time.Duration
	for range raceRounds {
		p := passes{e: e}
		chunk, err := p.run(ctx, rows)
		if err != nil {
			return m, false, err
		}
		one, err := p.several(ctx, min(raceSteps, max(1, info.KVTokens/4)), 1)
		if err != nil {
			return m, false, err
		}
		if err := e.Remove(0, 0); err != nil {
			return m, false, err
		}
		chunks, ones = append(chunks, chunk), append(ones, one...)
	}
	slices.Sort(chunks)
	slices.Sort(ones)
	m = measured{decode: ones[0] / blocks, prefill: chunks[0] / time.Duration(rows) / blocks}
	return m, !scattered(chunks) && !scattered(ones), nil
}

// scattered reports whether measurements, sorted, differ too much to trust one of them.
func scattered(took []time.Duration) bool {
	return float64(took[len(took)/2]) > scatter*float64(took[0])
}
