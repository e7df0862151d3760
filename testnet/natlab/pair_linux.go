package natlab

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/shoalnet/shoal/testnet/nat"
)

// Outcome is what became of a prompt.
type Outcome struct {
	Answer Answer
	Err    error         // it was not answered
	Wall   time.Duration // of the answer
	Paths  []Path        // to the other homes, afterwards
}

// Direct reports whether the home has direct paths to both others.
func (o Outcome) Direct() bool {
	n := 0
	for _, p := range o.Paths {
		if !p.Relayed {
			n++
		}
	}
	return n == Homes-1
}

func (o Outcome) String() string {
	var paths []string
	for _, p := range o.Paths {
		how := "direct"
		if p.Relayed {
			how = "relayed"
		}
		paths = append(paths, fmt.Sprintf("%s %s %.0f ms", how, p.Transport, p.RTT))
	}
	if o.Err != nil {
		why := strings.ReplaceAll(o.Err.Error(), "\n", " ")
		return fmt.Sprintf("no %6.1f s  %s (%s)", o.Wall.Seconds(), why[:min(len(why), 160)], strings.Join(paths, ", "))
	}
	line := fmt.Sprintf("yes  %8.0f ms %6.1f s  %8.1f  %s", o.Answer.First, o.Wall.Seconds(), o.Answer.Rate, strings.Join(paths, ", "))
	if o.Answer.Hoped > 0 {
		line += fmt.Sprintf("; %.2f of the predicted %.1f tokens/s", o.Answer.Rate/o.Answer.Hoped, o.Answer.Hoped)
	}
	for _, m := range o.Answer.Moves {
		line += fmt.Sprintf("; at token %d moved to a better path in %.0f ms, without a stall", m.Token, m.TookMs)
	}
	for _, r := range o.Answer.Recoveries {
		line += fmt.Sprintf("; at token %d a stall of %.1f s, %d positions replayed: %s", r.Token, r.StallMs/1000, r.Replayed, r.Why)
	}
	return line
}

// Pair has a home behind a ask a prompt that it answers with two homes behind b.
// It asks once all have loaded their thirds, until there is an answer or wait is over. The
// error is that of the lab, not of the prompt.
func (l *Lab) Pair(ctx context.Context, a, b nat.Kind, wait time.Duration) (Outcome, error) {
	defer l.Leave()
	homes, err := l.Homes(ctx, Access{IPv4: a}, Access{IPv4: b}, Access{IPv4: b})
	if err != nil {
		return Outcome{}, err
	}
	return ask(ctx, homes, 24, wait), nil
}

// Homes starts the three homes.
func (l *Lab) Homes(ctx context.Context, access ...Access) ([]*Daemon, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	homes, errs := make([]*Daemon, len(access)), make([]error, len(access))
	var wg sync.WaitGroup
	for i, a := range access {
		wg.Go(func() { homes[i], errs[i] = l.Home(ctx, i, a) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return homes, nil
}

const story = "Tell me a long story about a shoal of fish" // which takes 170 tokens

// settle is how long direct paths may take after the answer.
const settle = 4 * time.Second

// ask has the first home answer, and looks how it is connected to the others.
func ask(ctx context.Context, homes []*Daemon, tokens int, wait time.Duration) (o Outcome) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	began := time.Now()
	for {
		o.Answer, o.Err = homes[0].Prompt(ctx, story, tokens)
		if o.Err == nil || ctx.Err() != nil {
			break
		}
	}
	cancel()
	o.Wall = time.Since(began)
	ctx, cancel = context.WithTimeout(context.Background(), settle)
	defer cancel()
	for ctx.Err() == nil && !o.Direct() {
		if paths, err := homes[0].pathsTo(ctx, homes[1:]); err == nil {
			o.Paths = paths
		}
	}
	return o
}
