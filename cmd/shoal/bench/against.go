package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/shoalnet/shoal/cmd/shoal/term"
	"github.com/shoalnet/shoal/contrib/randommodel"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/cut"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

const (
	againstRows   = 512 // of prefill, and the depth at which decode is measured
	againstTokens = 32  // decoded per measurement
	againstCells  = againstRows + 2*againstTokens
)

// againstTypes are the weight types of the models that are measured if none is named.
var againstTypes = []string{"Q4_0", "Q4_K", "Q5_0", "Q8_0", "F16"}

// Whole is a model that a library computes as a whole in this process.
type Whole interface {
	Run(tokens []int32, at int) error
	Remove(at int)
	Close()
}

// againstResult is what `shoal bench engine --against --json` prints.
type againstResult struct {
	Engine  string         `json:"engine"`
	Library string         `json:"library"` // folder
	Threads int            `json:"threads"`
	Rows    int            `json:"prefill_rows"`
	Depth   int            `json:"decode_depth"`
	Models  []againstModel `json:"models"`
}

type againstModel struct {
	Weights string      `json:"weights"`
	Prefill againstWork `json:"prefill"`
	Decode  againstWork `json:"decode"`
}

// againstWork holds tokens per second of wall time, and ratios round by round: of those,
// and of processor time (0 where it cannot be read).
type againstWork struct {
	Library  spread  `json:"library"`
	One      spread  `json:"one_stage"`
	Three    spread  `json:"three_stages"`
	OneTo    spread  `json:"one_to_library"`
	ThreeTo  spread  `json:"three_to_library"`
	OneCPU   spread  `json:"one_to_library_cpu"`
	ThreeCPU spread  `json:"three_to_library_cpu"`
	OneOK    *target `json:"one_target,omitempty"` // with the library's own engine
	ThreeOK  *target `json:"three_target,omitempty"`
}

// Against compares the engine, in one stage and in three, with llama.cpp's library as
// it computes the whole model by itself: the same file, the same number of threads.
func Against(ctx context.Context, sh Shell, o Options) (err error) {
	if err := beEngine(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "shoal-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{Shell: sh, Options: o, ctx: ctx, dir: dir}
	if b.Threads < 1 {
		b.Threads = runtime.NumCPU()
	}
	res := againstResult{Engine: o.Engine, Library: o.Against, Threads: b.Threads, Rows: againstRows, Depth: againstRows}
	types := againstTypes
	if o.Model != "" {
		types = []string{""}
	}
	for _, name := range types {
		m, err := b.against(name)
		if err != nil {
			return err
		}
		res.Models = append(res.Models, m)
	}
	b.progress("")
	if b.JSON {
		return term.PrintJSON(b.Out, res)
	}
	return res.print(b.Out)
}

func (r *againstResult) print(out io.Writer) error {
	fmt.Fprintf(out, "%s against the library in %s; %d threads; prefill of %d rows, decode at depth %d; tokens/s\n\n", r.Engine, r.Library, r.Threads, r.Rows, r.Depth)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WEIGHTS\tWORK\tLIBRARY\tONE STAGE\tTHREE\tONE TO LIBRARY\tTHREE TO LIBRARY\tBY PROCESSOR TIME\t")
	for _, m := range r.Models {
		for _, x := range []struct {
			name string
			of   againstWork
		}{{"prefill", m.Prefill}, {"decode", m.Decode}} {
			k := x.of
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.2f, %.2f\t\n", m.Weights, x.name, term.Rate(k.Library.Median), term.Rate(k.One.Median), term.Rate(k.Three.Median),
				k.OneTo.ratio(), k.ThreeTo.ratio(), k.OneCPU.Median, k.ThreeCPU.Median)
		}
	}
	return w.Flush()
}

// against measures one model: the one named in the options, or a random one of a type.
func (b *bench) against(weights string) (m againstModel, err error) {
	path := b.Model
	if weights != "" {
		path = filepath.Join(b.dir, weights+".gguf")
		b.progress("%s: writing the model", weights)
		if err := writeRandom(path, weights); err != nil {
			return m, err
		}
		defer os.Remove(path)
	}
	m.Weights = weights
	if weights == "" {
		m.Weights = filepath.Base(path)
	}
	runs, err := b.contenders(path, m.Weights)
	defer func() {
		for _, c := range runs {
			err = errors.Join(err, c.close())
		}
	}()
	if err != nil {
		return m, err
	}
	if m.Prefill, err = b.compare(m.Weights+", prefill", runs, contender.prefill, againstRows); err != nil {
		return m, err
	}
	m.Decode, err = b.compare(m.Weights+", decode", runs, contender.decode, againstTokens)
	return m, err
}

func writeRandom(path, weights string) error {
	t, err := randommodel.TypeOf(weights)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(randommodel.Write(f, randommodel.Medium(t)), f.Close())
}

// contender computes one model. prefill leaves againstRows positions, decode goes on
// from there and takes its own back.
type contender interface {
	prefill() error
	decode() error
	cpu() time.Duration // processor time so far
	close() error
}

// contenders loads the library's whole model, one stage, and three.
func (b *bench) contenders(path, name string) (out []contender, err error) {
	b.progress("%s: loading", name)
	w, err := b.Whole(b.Against, path, b.Threads, againstRows, againstCells)
	if err != nil {
		return nil, err
	}
	out = append(out, &whole{w})
	for _, n := range []int{1, 3} {
		c, err := b.chain(path, n)
		if c != nil {
			out = append(out, c)
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// compare lets the contenders take turns in each round.
func (b *bench) compare(name string, runs []contender, work func(contender) error, tokens int) (w againstWork, err error) {
	rates, cpu := make([][]float64, len(runs)), make([][]float64, len(runs))
	for round := range b.Rounds + 1 {
		b.progress("%s: round %d of %d", name, round, b.Rounds)
		for k := range runs {
			i := (k + round) % len(runs)
			before, begin := runs[i].cpu(), time.Now()
			if err := work(runs[i]); err != nil {
				return w, err
			}
			took, used := time.Since(begin), runs[i].cpu()-before
			if b.ctx.Err() != nil {
				return w, b.ctx.Err()
			}
			if round > 0 { // the first warms up
				rates[i] = append(rates[i], float64(tokens)/took.Seconds())
				cpu[i] = append(cpu[i], float64(used))
			}
		}
	}
	w = againstWork{
		Library: spreadOf(rates[0]), One: spreadOf(rates[1]), Three: spreadOf(rates[2]),
		OneTo: ratios(rates[1], rates[0]), ThreeTo: ratios(rates[2], rates[0]),
	}
	if spreadOf(cpu[0]).Low > 0 && spreadOf(cpu[1]).Low > 0 && spreadOf(cpu[2]).Low > 0 {
		w.OneCPU, w.ThreeCPU = ratios(cpu[0], cpu[1]), ratios(cpu[0], cpu[2])
	}
	if b.Engine == engine.Llama {
		one, three := atLeast(0.97, w.OneTo.Median), atLeast(0.95, w.ThreeTo.Median)
		w.OneOK, w.ThreeOK = &one, &three
	}
	return w, nil
}

// prompt returns arbitrary tokens of any vocabulary.
func prompt(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32(i*37%240 + 3)
	}
	return out
}

// whole is the library by itself.
type whole struct{ w Whole }

func (c *whole) prefill() error {
	c.w.Remove(0)
	return c.w.Run(prompt(againstRows), 0)
}

func (c *whole) decode() error {
	for i, id := range prompt(againstTokens) {
		if err := c.w.Run([]int32{id}, againstRows+i); err != nil {
			return err
		}
	}
	c.w.Remove(againstRows)
	return nil
}

func (c *whole) cpu() time.Duration { return processorTime(os.Getpid()) }

func (c *whole) close() error {
	c.w.Close()
	return nil
}

// chain is the engine in stages, each in a process of its own.
type chain []engine.Engine

func (b *bench) chain(path string, n int) (c chain, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h, err := gguf.Read(f, info.Size())
	if err != nil {
		return nil, err
	}
	blocks := h.Blocks()
	for i := range n {
		span := protocol.Span{From: blocks * i / n, To: blocks * (i + 1) / n}
		file := filepath.Join(b.dir, fmt.Sprintf("%d-%d.gguf", span.From, span.To))
		if err := b.stageFile(f, h, span, file); err != nil {
			return c, err
		}
		defer os.Remove(file) //nolint:gocritic // the engines have it open
		e, err := engine.InChild()(b.ctx, engine.Config{
			Engine: b.Engine, Library: b.Library, Path: file, From: span.From, To: span.To,
			KVTokens: againstCells, MaxSeqs: 1, MaxBatch: againstRows, Threads: b.Threads,
		}, nil)
		if err != nil {
			return c, err
		}
		c = append(c, e)
	}
	return c, nil
}

// stageFile writes what an engine loads of a model.
func (b *bench) stageFile(f *os.File, h *gguf.Header, span protocol.Span, name string) (err error) {
	layout, err := cut.Of(h, span)
	if b.Engine == engine.BuiltIn || b.Engine == "" {
		layout, err = inPlace(f, h)
	}
	if err != nil {
		return err
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(layout.Size); err != nil {
		return err
	}
	if _, err := out.WriteAt(layout.Header, 0); err != nil {
		return err
	}
	for _, p := range layout.Pieces {
		if _, err := io.Copy(io.NewOffsetWriter(out, p.At), io.NewSectionReader(f, p.From, p.Length)); err != nil {
			return err
		}
	}
	return nil
}

// inPlace is the file for the built-in engine: a header of its own before the model's
// weights, of which it loads what the span needs.
func inPlace(f *os.File, h *gguf.Header) (*gguf.Layout, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const room = 8 << 20
	var defaults []gguf.KV
	for k, v := range engine.Defaults(h) {
		defaults = append(defaults, gguf.KV{Key: k, Value: v})
	}
	head, err := h.Stage(defaults, func(t gguf.Tensor) int64 { return room + h.DataOffset + int64(t.Offset) })
	if err != nil {
		return nil, err
	}
	if len(head) > room {
		return nil, fmt.Errorf("a header of %d bytes", len(head))
	}
	data := gguf.Piece{From: h.DataOffset, At: room + h.DataOffset, Length: info.Size() - h.DataOffset}
	return &gguf.Layout{Header: head, Pieces: []gguf.Piece{data}, Size: data.At + data.Length}, nil
}

func (c chain) pass(ids []int32, at int) error {
	pass := &engine.Batch{Tokens: ids}
	for i := range ids {
		pass.Rows = append(pass.Rows, engine.Row{Pos: int32(at + i)})
	}
	for i, e := range c {
		if i == len(c)-1 {
			pass.Outputs = []engine.Output{{Row: len(ids) - 1, Position: uint64(at + len(ids))}}
		}
		res, err := e.Run(context.Background(), pass)
		if err != nil {
			return err
		}
		pass = &engine.Batch{Rows: pass.Rows, Hidden: res.Hidden}
	}
	return nil
}

func (c chain) remove(at int) (err error) {
	for _, e := range c {
		err = errors.Join(err, e.Remove(0, int32(at)))
	}
	return err
}

func (c chain) prefill() error {
	if err := c.remove(0); err != nil {
		return err
	}
	return c.pass(prompt(againstRows), 0)
}

func (c chain) decode() error {
	for i, id := range prompt(againstTokens) {
		if err := c.pass([]int32{id}, againstRows+i); err != nil {
			return err
		}
	}
	return c.remove(againstRows)
}

func (c chain) cpu() (sum time.Duration) {
	for _, e := range c {
		if child, ok := e.(*engine.Child); ok {
			sum += processorTime(child.Pid())
		}
	}
	return sum
}

func (c chain) close() (err error) {
	for _, e := range c {
		err = errors.Join(err, e.Close())
	}
	return err
}
