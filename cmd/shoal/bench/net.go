package bench

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/shoalnet/shoal/cmd/shoal/term"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// benchNet is a testnet with a light client in this process.
type benchNet struct {
	*testnet.Testnet
	client *api.Client
}

// network starts nodes that each serve a part of the model, and waits until they are
// ready. Their engines run at normal priority, like the other variants.
func (b *bench) network(nodes, threads int, p link.Params) (_ *benchNet, err error) {
	b.progress("starting %d nodes", nodes)
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	t, err := testnet.Start(b.ctx, testnet.Config{
		Binary: exe, Nodes: nodes, Model: b.source, Link: p, Threads: threads, Args: b.nodeArgs(), Env: []string{"SHOAL_QUIET_BUILD=1"},
		Gateway: func(dir string, bootstrap []string) (string, func(), error) {
			return b.Gateway(p, dir, bootstrap)
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = t.Close()
		}
	}()
	if err := t.WaitReady(b.ctx, nil); err != nil {
		return nil, err
	}
	at, err := t.API()
	if err != nil {
		return nil, err
	}
	return &benchNet{t, &api.Client{Base: "http://" + at, Token: b.Token(filepath.Join(t.Dir(), "gateway"))}}, nil
}

// checkNodes checks a number of stages against the number of blocks. One stage alone is
// refused: it would send its tokens to itself.
func (b *bench) checkNodes(n int) error {
	if blocks := int(b.model.Manifest().Blocks); n < 2 || n > blocks {
		return UsageError(fmt.Sprintf("--nodes %d: 2 to %d are possible, a block each", n, blocks))
	}
	return nil
}

// answer is one answer and the times at which its tokens arrived.
type answer struct {
	begin       time.Time
	prompt, ids []int32
	stages      int
	at          []time.Time
}

// rate returns the tokens per second after the first token.
func (a *answer) rate() float64 {
	n := len(a.at) - 1
	return float64(n) / a.at[n].Sub(a.at[0]).Seconds()
}

// check refuses answers that are too short to measure.
func (a *answer) check() error {
	if len(a.ids) < 8 {
		return fmt.Errorf("the answer ended after %d tokens: there is nothing to measure", len(a.ids))
	}
	return nil
}

// take returns the function that records an answer's events.
func (a *answer) take(e api.Event) error {
	switch {
	case e.Start != nil:
		a.prompt, a.stages = e.Start.PromptTokens, len(e.Start.Route)
	case e.Token != nil:
		a.ids, a.at = append(a.ids, e.Token.ID), append(a.at, time.Now())
	}
	return nil
}

// ask has the network answer with greedy sampling.
func (b *bench) ask(n *benchNet) (*answer, error) { return b.askOne(n, "Once upon a time") }

// compute generates the same answer with an engine alone.
func (b *bench) compute(e engine.Engine, prompt []int32, tokens int) (*answer, error) {
	a := &answer{prompt: prompt}
	next := prompt
	for at := 0; len(a.ids) < tokens && b.ctx.Err() == nil; {
		batch := &engine.Batch{Tokens: next}
		for i := range next {
			batch.Rows = append(batch.Rows, engine.Row{Pos: int32(at + i)})
		}
		at += len(next)
		batch.Outputs = []engine.Output{{Row: len(next) - 1, Position: uint64(at)}}
		res, err := e.Run(b.ctx, batch)
		if err != nil {
			return nil, err
		}
		next = []int32{res.Tokens[0].ID}
		a.ids, a.at = append(a.ids, next[0]), append(a.at, time.Now())
	}
	if b.ctx.Err() != nil {
		return nil, b.ctx.Err()
	}
	return a, e.Remove(0, 0)
}

// stagesResult is what `shoal bench stages --json` prints.
type stagesResult struct {
	Model       string `json:"model"`
	Nodes       int    `json:"nodes"`
	Threads     int    `json:"threads"` // of each engine, at most
	Engine      spread `json:"engine"`  // tokens/s, the engine alone, in this process
	One         spread `json:"one_node"`
	Many        spread `json:"nodes_many"`
	OneToEngine spread `json:"one_node_to_engine"`
	ManyToOne   spread `json:"nodes_to_one_node"`
	OneTarget   target `json:"one_node_target"`
	ManyTarget  target `json:"nodes_target"`
	SameTokens  bool   `json:"same_tokens"`
}

func stages(b *bench) error {
	res := stagesResult{Model: b.model.Name(), Nodes: b.Nodes, Threads: b.Threads, SameTokens: true}
	if res.Threads < 1 {
		res.Threads = runtime.NumCPU()
	}
	if err := b.checkNodes(res.Nodes); err != nil {
		return err
	}
	one, err := b.network(1, res.Threads, link.Params{})
	if err != nil {
		return err
	}
	defer one.Close()
	many, err := b.network(res.Nodes, res.Threads, link.Params{})
	if err != nil {
		return err
	}
	defer many.Close()
	e, err := b.engine(false, res.Threads)
	if err != nil {
		return err
	}
	defer e.Close()
	rounds := b.Rounds
	first, err := b.ask(one) // warms up, and says what the prompt is in tokens
	if err != nil {
		return err
	}
	variants := []func() (*answer, error){
		func() (*answer, error) { return b.compute(e, first.prompt, len(first.ids)) },
		func() (*answer, error) { return b.ask(one) },
		func() (*answer, error) { return b.ask(many) },
	}
	rates := make([][]float64, len(variants))
	for round := range rounds + 1 {
		b.progress("round %d of %d", round, rounds)
		for k := range variants {
			i := k
			if round%2 == 1 { // what drifts must not favour one
				i = len(variants) - 1 - k
			}
			a, err := variants[i]()
			if err != nil {
				return err
			}
			res.SameTokens = res.SameTokens && slices.Equal(a.ids, first.ids)
			if round > 0 {
				rates[i] = append(rates[i], a.rate())
			}
		}
	}
	res.Engine, res.One, res.Many = spreadOf(rates[0]), spreadOf(rates[1]), spreadOf(rates[2])
	res.OneToEngine, res.ManyToOne = ratios(rates[1], rates[0]), ratios(rates[2], rates[1])
	res.OneTarget, res.ManyTarget = atLeast(0.9, res.OneToEngine.Median), atLeast(0.9, res.ManyToOne.Median)
	return b.report(res, func(w io.Writer) {
		fmt.Fprintf(w, "the engine in this process\t%s\none node\t%s\n%d nodes\t%s\n\n", res.Engine, res.One, res.Nodes, res.Many)
		fmt.Fprintf(w, "one node to the engine\t%s: %s\n", res.OneToEngine.ratio(), res.OneTarget)
		fmt.Fprintf(w, "%d nodes to one\t%s: %s\n", res.Nodes, res.ManyToOne.ratio(), res.ManyTarget)
		if !res.SameTokens {
			fmt.Fprintln(w, "the answers differ")
		}
	})
}

// linkResult is what `shoal bench link --json` prints.
type linkResult struct {
	Model      string  `json:"model"`
	Nodes      int     `json:"nodes"`
	RTTMs      float64 `json:"rtt_ms"`
	TokensPerS spread  `json:"tokens_per_s"`
	Floor      float64 `json:"floor_tokens_per_s"` // of the hops alone
	Target     target  `json:"to_floor"`
}

func distance(b *bench) error {
	p, err := link.Parse(b.RTT, "", "")
	if err != nil {
		return UsageError(err.Error())
	}
	if p.RTT == 0 {
		return UsageError("--rtt must be positive; `shoal bench stages` measures without distance")
	}
	res := linkResult{Model: b.model.Name(), Nodes: b.Nodes, RTTMs: millis(p.RTT)}
	if err := b.checkNodes(res.Nodes); err != nil {
		return err
	}
	res.Floor = 1 / (float64(res.Nodes) * p.RTT.Seconds() / 2)
	n, err := b.network(res.Nodes, 0, p)
	if err != nil {
		return err
	}
	defer n.Close()
	var rates []float64
	rounds := b.Rounds
	for round := range rounds + 1 {
		b.progress("round %d of %d", round, rounds)
		a, err := b.ask(n)
		if err != nil {
			return err
		}
		if a.stages != res.Nodes {
			return fmt.Errorf("the route has %d stages, not %d", a.stages, res.Nodes)
		}
		if round > 0 {
			rates = append(rates, a.rate())
		}
	}
	res.TokensPerS = spreadOf(rates)
	res.Target = atLeast(0.84, res.TokensPerS.Median/res.Floor) // 14 of 16.7 at 3 nodes and 40 ms
	return b.report(res, func(w io.Writer) {
		fmt.Fprintf(w, "%d nodes, %s apart\t%s\n%d hops of %s alone\t%s\n", res.Nodes, p.RTT, res.TokensPerS, res.Nodes, p.RTT/2, term.Rate(res.Floor))
		fmt.Fprintf(w, "\n%.2f of what the distance allows: %s\n", res.Target.Got, res.Target)
	})
}

// nodeArgs are the arguments of the nodes of a benchmark.
func (b *bench) nodeArgs() []string {
	args := []string{"--nice", "0", "--engine", cmp.Or(b.Engine, engine.BuiltIn)}
	if b.Library != "" {
		args = append(args, "--llama", b.Library)
	}
	if b.Draft != "" {
		args = append(args, "--draft", b.Draft)
	}
	return args
}
