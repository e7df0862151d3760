package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/shoalnet/shoal/cmd/shoal/term"
	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/testnet"
)

// WholeCommand is the hidden command of this program that runs [MemoryOfWhole].
const WholeCommand = "whole"

// memoryAgainst measures an engine of all blocks, and the library by itself.
func (b *bench) memoryAgainst(res *memoryResult, all protocol.Span) error {
	ours, err := b.memoryOf(all, res.Session)
	if err != nil {
		return err
	}
	library, err := b.memoryOfLibrary(res.Session)
	if err != nil {
		return err
	}
	library.Weights = ours.Weights
	ratio := atMost(memoryMore, float64(ours.Session.All)/float64(library.Session.All))
	res.Whole, res.Library, res.Ratio = &ours, &library, &ratio
	return nil
}

// memoryOfLibrary starts a process that has the library compute the model's own file.
func (b *bench) memoryOfLibrary(session int) (m memoryOf, err error) {
	b.progress("the library alone")
	path := b.source
	if path == testnet.TinyModel {
		path = filepath.Join(b.dir, "tiny.gguf")
		if err := os.WriteFile(path, tinymodel.GGUF(), 0o600); err != nil {
			return m, err
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return m, err
	}
	cmd := exec.CommandContext(b.ctx, exe, "bench", WholeCommand, "--against", b.Against, "--model", path,
		"--tokens", strconv.Itoa(session), "--threads", strconv.Itoa(b.threads()))
	cmd.Stderr = b.Err
	out, err := cmd.Output()
	if err != nil {
		return m, fmt.Errorf("the library by itself: %w", err)
	}
	return m, json.Unmarshal(out, &m)
}

func (b *bench) threads() int {
	if b.Threads > 0 {
		return b.Threads
	}
	return runtime.NumCPU()
}

// MemoryOfWhole measures this process while the library in Options.Against computes a
// session of Options.Tokens tokens of the model in the file Options.Model, and prints it as
// JSON.
func MemoryOfWhole(ctx context.Context, sh Shell, o Options) error {
	w, err := sh.Whole(o.Against, o.Model, o.Threads, memoryBatch, o.Tokens)
	if err != nil {
		return err
	}
	defer w.Close()
	run := func(from, to int) error {
		for at := from; at < to; at += memoryBatch {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(memoryBatch, to-at)
			if err := w.Run(prompt(n), at); err != nil {
				return err
			}
		}
		return nil
	}
	rested := func() (resident, error) {
		w.Remove(0)
		select {
		case <-ctx.Done():
			return resident{}, ctx.Err()
		case <-time.After(memoryRest):
			return residentOf(os.Getpid())
		}
	}
	m := memoryOf{Blocks: "the library"}
	if err := run(0, benchChunk); err != nil { // so that its weights are in memory
		return err
	}
	if m.Idle, err = rested(); err != nil {
		return err
	}
	if err := run(0, o.Tokens); err != nil {
		return err
	}
	if m.Session, err = residentOf(os.Getpid()); err != nil {
		return err
	}
	if m.After, err = rested(); err != nil {
		return err
	}
	return term.PrintJSON(sh.Out, m)
}
