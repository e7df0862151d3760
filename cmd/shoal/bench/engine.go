package bench

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/shoalnet/shoal/node/engine"
)

const (
	benchSeqs    = 16  // sequences of an engine
	benchContext = 256 // tokens of each, at most
	benchPrompt  = 64  // tokens of each, at least
	benchChunk   = 64  // rows of a prefill pass
)

// decoder decodes sequences in one batch, all at the same position, which stays between
// benchPrompt and benchContext.
type decoder struct {
	e    engine.Engine
	rows int
	pos  int
	ids  []int32
}

// newDecoder prefills one prompt per sequence.
func newDecoder(ctx context.Context, e engine.Engine, rows int) (*decoder, error) {
	d := &decoder{e: e, rows: rows, pos: benchPrompt, ids: make([]int32, rows)}
	for seq := range rows {
		if _, err := e.Run(ctx, chunk(e.Info(), seq, 0)); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// chunk returns a prefill of arbitrary tokens.
func chunk(info engine.Info, seq, base int) *engine.Batch {
	b := &engine.Batch{}
	for i := range benchChunk {
		b.Rows = append(b.Rows, engine.Row{Seq: seq, Pos: int32(base + i)})
		b.Tokens = append(b.Tokens, int32((base+i)*37%info.Vocab))
	}
	return b
}

// step decodes one token per sequence. compute is the time that the engine reports for
// the pass.
func (d *decoder) step(ctx context.Context) (took, compute time.Duration, err error) {
	if d.pos == benchContext {
		d.pos = benchPrompt
		for seq := range d.rows {
			if err := d.e.Remove(seq, benchPrompt); err != nil {
				return 0, 0, err
			}
		}
	}
	b := &engine.Batch{Tokens: d.ids}
	for seq := range d.rows {
		b.Rows = append(b.Rows, engine.Row{Seq: seq, Pos: int32(d.pos)})
		b.Outputs = append(b.Outputs, engine.Output{Row: seq, Position: uint64(d.pos + 1)})
	}
	begin := time.Now()
	res, err := d.e.Run(ctx, b)
	if err != nil {
		return 0, 0, err
	}
	took = time.Since(begin)
	for i, t := range res.Tokens {
		d.ids[i] = t.ID
	}
	d.pos++
	return took, res.Compute, ctx.Err()
}

func (d *decoder) close() error {
	for seq := range d.rows {
		if err := d.e.Remove(seq, 0); err != nil {
			return err
		}
	}
	return nil
}

// decodeRate decodes for a fixed time and returns the rate.
func decodeRate(ctx context.Context, e engine.Engine, rows int) (perSecond float64, err error) {
	d, err := newDecoder(ctx, e, rows)
	if err != nil {
		return 0, err
	}
	const steps, most = 24, 3 * time.Second
	begin, n := time.Now(), 0
	for ; n < steps && time.Since(begin) < most; n++ {
		if _, _, err := d.step(ctx); err != nil {
			return 0, err
		}
	}
	perSecond = float64(rows*n) / time.Since(begin).Seconds()
	return perSecond, d.close()
}

func prefillRate(ctx context.Context, e engine.Engine) (perSecond float64, err error) {
	begin := time.Now()
	for at := 0; at < benchContext; at += benchChunk {
		if _, err := e.Run(ctx, chunk(e.Info(), 0, at)); err != nil {
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
	perSecond = benchContext / time.Since(begin).Seconds()
	return perSecond, e.Remove(0, 0)
}

// engineResult is what `shoal bench engine --json` prints.
type engineResult struct {
	Model   string   `json:"model"`
	Threads int      `json:"threads"` // at most
	Rates   []rateOf `json:"rates"`
	Step    crossing `json:"step"`
	Target  target   `json:"child_costs_ms"`
}

// rateOf holds the tokens per second of one kind of work.
type rateOf struct {
	Work      string `json:"work"`
	InProcess spread `json:"in_process"`
	Child     spread `json:"child"`
	Ratio     spread `json:"child_to_in_process"`
}

// crossing holds the duration of a decode step on one thread, in ms.
type crossing struct {
	Steps     int     `json:"steps"`
	InProcess float64 `json:"in_process_ms"`
	Child     float64 `json:"child_ms"`
	Compute   float64 `json:"child_compute_ms"` // of which the child computes
}

func engines(b *bench) error {
	res := engineResult{Model: b.model.Name(), Threads: b.Threads}
	if res.Threads < 1 {
		res.Threads = runtime.NumCPU()
	}
	err := b.pair(res.Threads, func(pair [2]engine.Engine) (err error) {
		res.Rates, err = b.engineRates(pair)
		return err
	})
	if err != nil {
		return err
	}
	// With more than one thread, each engine chooses how many it uses.
	err = b.pair(1, func(pair [2]engine.Engine) (err error) {
		res.Step, err = b.cross(pair)
		return err
	})
	if err != nil {
		return err
	}
	more := res.Step.Child - res.Step.InProcess
	res.Target = atMost(0.1, more)
	return b.report(res, func(w io.Writer) {
		fmt.Fprintf(w, "UP TO %d THREADS\tIN PROCESS\tCHILD\tCHILD TO IN PROCESS\n", res.Threads)
		for _, r := range res.Rates {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Work, r.InProcess, r.Child, r.Ratio.ratio())
		}
		fmt.Fprintf(w, "\na step on one thread: %.3f ms in process, %.3f ms in the child, of which it computes %.3f ms\n", res.Step.InProcess, res.Step.Child, res.Step.Compute)
		fmt.Fprintf(w, "the child costs %.3f ms a step, in the median of %d: %s\n", more, res.Step.Steps, res.Target)
	})
}

// pair loads the model in this process and in a child.
func (b *bench) pair(threads int, use func([2]engine.Engine) error) error {
	var pair [2]engine.Engine
	for i, child := range []bool{false, true} {
		b.progress("loading")
		e, err := b.engine(child, threads)
		if err != nil {
			return err
		}
		defer e.Close()
		pair[i] = e
	}
	return use(pair)
}

// engineRates measures every kind of work, with both engines taking turns.
func (b *bench) engineRates(pair [2]engine.Engine) (out []rateOf, err error) {
	type work struct {
		name string
		run  func(context.Context, engine.Engine) (float64, error)
	}
	var kinds []work
	for _, rows := range []int{1, 4, 16} {
		kinds = append(kinds, work{fmt.Sprintf("decode, rows: %d", rows), func(ctx context.Context, e engine.Engine) (float64, error) {
			return decodeRate(ctx, e, rows)
		}})
	}
	kinds = append(kinds, work{fmt.Sprintf("prefill, chunks of %d", benchChunk), prefillRate})
	rounds := b.Rounds
	for _, k := range kinds {
		var rates [2][]float64
		for round := range rounds + 1 {
			b.progress("%s: round %d of %d", k.name, round, rounds)
			for i, e := range pair {
				r, err := k.run(b.ctx, e)
				if err != nil {
					return nil, err
				}
				if round > 0 { // the first warms up
					rates[i] = append(rates[i], r)
				}
			}
		}
		out = append(out, rateOf{k.name, spreadOf(rates[0]), spreadOf(rates[1]), ratios(rates[1], rates[0])})
	}
	return out, nil
}

// cross measures single steps, with both engines taking turns.
func (b *bench) cross(pair [2]engine.Engine) (x crossing, err error) {
	var d [2]*decoder
	for i, e := range pair {
		if d[i], err = newDecoder(b.ctx, e, 1); err != nil {
			return x, err
		}
	}
	const most = 20 * time.Second
	var took [2][]float64
	var compute []float64
	for begin := time.Now(); x.Steps < 400 && time.Since(begin) < most; x.Steps++ {
		b.progress("a step in the child: %d", x.Steps)
		for i := range d {
			t, c, err := d[i].step(b.ctx)
			if err != nil {
				return x, err
			}
			took[i] = append(took[i], millis(t))
			if i == 1 {
				compute = append(compute, millis(c))
			}
		}
	}
	x.InProcess, x.Child, x.Compute = spreadOf(took[0]).Median, spreadOf(took[1]).Median, spreadOf(compute).Median
	return x, nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
