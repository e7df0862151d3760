package bench

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet/link"
)

// quantiles of a duration, in ms.
type quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

func quantilesOf(all []time.Duration) quantiles {
	if len(all) == 0 {
		return quantiles{}
	}
	slices.Sort(all)
	at := func(p int) float64 { return millis(all[min(len(all)-1, len(all)*p/100)]) }
	return quantiles{at(50), at(99)}
}

// serveResult is what `shoal bench serve --json` prints.
type serveResult struct {
	Model          string    `json:"model"`
	Nodes          int       `json:"nodes"`
	RTTMs          float64   `json:"rtt_ms"`
	Sessions       int       `json:"sessions"`
	TokensPerS     float64   `json:"tokens_per_s"` // of all sessions together
	One            float64   `json:"one_session_tokens_per_s"`
	SpeedupOverOne float64   `json:"speedup_over_one"`
	Engine         float64   `json:"engine_tokens_per_s"` // the engine alone, a row of each session in a pass
	RatioToEngine  float64   `json:"ratio_to_engine"`
	TTFT           quantiles `json:"ttft_ms"`
	ITL            quantiles `json:"itl_ms"` // between two tokens
}

// serve compares many concurrent sessions with one, and with the engine alone.
func serve(b *bench) error {
	p, err := link.Parse(b.RTT, "", "")
	if err != nil {
		return UsageError(err.Error())
	}
	res := serveResult{Model: b.model.Name(), Nodes: b.Nodes, RTTMs: millis(p.RTT), Sessions: b.Sessions}
	if err := b.checkNodes(res.Nodes); err != nil {
		return err
	}
	threads := b.Threads
	if threads < 1 {
		threads = runtime.NumCPU()
	}
	n, err := b.network(res.Nodes, threads, p)
	if err != nil {
		return err
	}
	defer n.Close()
	e, err := b.engine(false, threads)
	if err != nil {
		return err
	}
	defer e.Close()
	var one, many, alone []float64
	var first, between []time.Duration
	rounds := b.Rounds
	for round := range rounds + 1 {
		b.progress("round %d of %d", round, rounds)
		single, err := b.crowd(n, 1)
		if err != nil {
			return err
		}
		all, err := b.crowd(n, res.Sessions)
		if err != nil {
			return err
		}
		engine, err := decodeRate(b.ctx, e, min(res.Sessions, benchSeqs))
		if err != nil {
			return err
		}
		if round == 0 { // warms up: threads are chosen, costs are learnt
			continue
		}
		one, many, alone = append(one, together(single)), append(many, together(all)), append(alone, engine)
		for _, a := range all {
			first = append(first, a.at[0].Sub(a.begin))
			for i := range a.at[1:] {
				between = append(between, a.at[i+1].Sub(a.at[i]))
			}
		}
	}
	res.TokensPerS, res.One, res.Engine = spreadOf(many).Median, spreadOf(one).Median, spreadOf(alone).Median
	res.SpeedupOverOne, res.RatioToEngine = ratios(many, one).Median, ratios(many, alone).Median
	res.TTFT, res.ITL = quantilesOf(first), quantilesOf(between)
	return b.report(res, func(w io.Writer) {
		fmt.Fprintf(w, "one session\t%s\n%d sessions\t%s\nthe engine alone, %d rows a pass\t%s\n\n", spreadOf(one), res.Sessions, spreadOf(many), min(res.Sessions, benchSeqs), spreadOf(alone))
		fmt.Fprintf(w, "over one session\t%s times\nto the engine\t%s\n", ratios(many, one).ratio(), ratios(many, alone).ratio())
		fmt.Fprintf(w, "first token, ms\tp50 %.0f, p99 %.0f\nbetween tokens, ms\tp50 %.1f, p99 %.1f\n", res.TTFT.P50, res.TTFT.P99, res.ITL.P50, res.ITL.P99)
	})
}

// crowd has the network generate n concurrent answers, to prompts that begin differently.
func (b *bench) crowd(n *benchNet, sessions int) ([]*answer, error) {
	all, errs := make([]*answer, sessions), make([]error, sessions)
	var wg sync.WaitGroup
	for i := range sessions {
		wg.Go(func() {
			all[i], errs[i] = b.askOne(n, fmt.Sprintf("Story %d. Once upon a time, in a %s,", i+1, places[i%len(places)]))
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

var places = []string{"small house", "dark forest", "busy town", "deep sea", "green valley", "cold castle", "sunny garden", "old mill"}

func (b *bench) askOne(n *benchNet, prompt string) (*answer, error) {
	a := &answer{begin: time.Now()}
	greedy := 0.0
	req := &api.GenerateRequest{Model: n.Model().ID, Raw: true, Prompt: prompt, MaxTokens: b.Tokens, Sampling: api.Sampling{Temperature: &greedy}}
	err := n.client.Generate(b.ctx, req, a.take)
	if err != nil {
		return nil, err
	}
	return a, a.check()
}

// together returns the tokens per second of all answers, while all of them were running.
func together(all []*answer) float64 {
	from, to := all[0].at[0], all[0].at[len(all[0].at)-1]
	for _, a := range all {
		if a.at[0].After(from) {
			from = a.at[0]
		}
		if end := a.at[len(a.at)-1]; end.Before(to) {
			to = end
		}
	}
	count := 0
	for _, a := range all {
		for _, t := range a.at {
			if t.After(from) && !t.After(to) {
				count++
			}
		}
	}
	return float64(count) / to.Sub(from).Seconds()
}
