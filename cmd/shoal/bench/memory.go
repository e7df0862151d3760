package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/protocol"
)

const (
	memorySession = 2048            // tokens of the session
	memoryCells   = 64 << 10        // KV cells, as a node on a usual machine lends them
	memorySeqs    = 32              // sessions, likewise
	memoryBatch   = 512             // rows per pass, likewise
	memoryRest    = 3 * time.Second // after which an engine has given back what it can

	memoryMore = 1.15 // of what llama.cpp's library takes for the same, at most
)

// Memory measures what engines of parts of a model take: idle, with a session, and after
// it. With Options.Against it compares an engine of the whole model with the library by
// itself.
func Memory(ctx context.Context, sh Shell, o Options) error { return prepared(ctx, sh, o, memory) }

// memoryResult is what `shoal bench memory --json` prints.
type memoryResult struct {
	Model   string     `json:"model"`
	Session int        `json:"session_tokens"`
	Parts   []memoryOf `json:"parts"`

	// Against llama.cpp's library.
	Whole   *memoryOf `json:"whole,omitempty"`   // an engine of all blocks
	Library *memoryOf `json:"library,omitempty"` // a process with the library alone
	Ratio   *target   `json:"session_to_library,omitempty"`
}

// memoryOf is what the engine of one part takes, in bytes.
type memoryOf struct {
	Blocks  string   `json:"blocks"`
	Weights int64    `json:"weights"`
	Idle    resident `json:"idle"`    // loaded, and used once
	Session resident `json:"session"` // in the middle of it
	After   resident `json:"after"`   // it has ended
}

// resident is what a process has in memory, in bytes.
type resident struct {
	All  int64 `json:"rss"`
	Anon int64 `json:"anonymous"` // of it, what is no file's
}

func memory(b *bench) error {
	res := memoryResult{Model: b.model.Name(), Session: memorySession}
	blocks, parts := int(b.model.Manifest().Blocks), max(1, b.Nodes)
	if c := int(b.model.Manifest().Context); c > 0 {
		res.Session = min(res.Session, c)
	}
	for i := range parts {
		one, err := b.memoryOf(protocol.Span{From: blocks * i / parts, To: blocks * (i + 1) / parts}, res.Session)
		if err != nil {
			return err
		}
		res.Parts = append(res.Parts, one)
	}
	if b.Against != "" {
		if err := b.memoryAgainst(&res, protocol.Span{To: blocks}); err != nil {
			return err
		}
	}
	return b.report(res, func(w io.Writer) {
		fmt.Fprintf(w, "BLOCKS\tWEIGHTS\tIDLE\tBEYOND WEIGHTS\tSESSION OF %d\tAFTER IT\n", res.Session)
		mib := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
		rows := res.Parts
		if res.Library != nil {
			rows = append(slices.Clone(rows), *res.Whole, *res.Library)
		}
		for _, p := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.Blocks, mib(p.Weights), mib(p.Idle.All), mib(p.Idle.All-p.Weights), mib(p.Session.All), mib(p.After.All))
		}
		if res.Ratio != nil {
			fmt.Fprintf(w, "\na session takes %.2f of what it takes with the library alone: %s\n", res.Ratio.Got, res.Ratio)
		}
	})
}

// memoryOf measures the engine of a span.
func (b *bench) memoryOf(span protocol.Span, session int) (m memoryOf, err error) {
	b.progress("blocks %s", span)
	e, err := b.engineOf(span, engine.Config{KVTokens: memoryCells, MaxSeqs: memorySeqs, MaxBatch: memoryBatch, Threads: b.Threads, Nice: b.Nice}, engine.InChild())
	if err != nil {
		return m, err
	}
	defer e.Close()
	pid := e.(*engine.Child).Pid()
	m.Blocks, m.Weights = span.String(), int64(e.Info().Weights)
	if err := pass(b.ctx, e, 0, benchChunk); err != nil { // so that its weights are in memory
		return m, err
	}
	if m.Idle, err = b.rested(e, pid); err != nil {
		return m, err
	}
	for at := 0; at < session; at += benchChunk {
		b.progress("blocks %s: token %d of %d", span, at, session)
		if err := pass(b.ctx, e, at, min(benchChunk, session-at)); err != nil {
			return m, err
		}
	}
	if m.Session, err = residentOf(pid); err != nil {
		return m, err
	}
	m.After, err = b.rested(e, pid)
	return m, err
}

// rested ends the session, waits, and measures.
func (b *bench) rested(e engine.Engine, pid int) (resident, error) {
	if err := e.Remove(0, 0); err != nil {
		return resident{}, err
	}
	select {
	case <-b.ctx.Done():
		return resident{}, b.ctx.Err()
	case <-time.After(memoryRest):
		return residentOf(pid)
	}
}

// pass computes rows of arbitrary content through any span.
func pass(ctx context.Context, e engine.Engine, at, rows int) error {
	info := e.Info()
	b := &engine.Batch{}
	for i := range rows {
		b.Rows = append(b.Rows, engine.Row{Pos: int32(at + i)})
		if info.First() {
			b.Tokens = append(b.Tokens, int32((at+i)*37%info.Vocab))
		}
	}
	if !info.First() {
		b.Hidden = make([]float32, rows*info.Width)
		for i := range b.Hidden {
			b.Hidden[i] = float32(i%7) - 3
		}
	}
	if info.Last() {
		b.Outputs = []engine.Output{{Row: rows - 1, Position: uint64(at + rows)}}
	}
	_, err := e.Run(ctx, b)
	return err
}

// residentOf asks Linux what a process has in memory.
func residentOf(pid int) (r resident, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return r, fmt.Errorf("the memory of an engine is measured on Linux only, by its user or root: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return r, err
		}
		switch f[0] {
		case "Rss:":
			r.All = n << 10
		case "Anonymous:":
			r.Anon = n << 10
		}
	}
	if r.All == 0 {
		return r, errors.New("the system does not say what an engine has in memory")
	}
	return r, nil
}
