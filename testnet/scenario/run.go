package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalnet/shoal/testnet"
)

// Options describe where a scenario runs.
type Options struct {
	// Testnet holds what a scenario does not specify: Binary, Dir, ClientConfig,
	// Gateway. Its Dir is kept.
	Testnet testnet.Config
	// Asker returns a client of the API at host:port whose directory is home.
	Asker func(api, home string) Asker
	// Left returns what a node still holds of sessions, "" if nothing. It is called
	// when all sessions have ended. nil: this is not checked.
	Left func(ctx context.Context, n testnet.Node) (string, error)
	// Say receives what happens, line by line; may be nil.
	Say func(string)
	// Status receives the progress, several times per second; may be nil.
	Status func(string)
}

const (
	leastGrace = time.Minute      // for sessions to end after the last fault
	errorPause = time.Second      // of a worker whose session failed
	leftTime   = 30 * time.Second // for nodes to notice that sessions have ended
	stopGrace  = 45 * time.Second // of nodes that drain
)

var errLate = errors.New("it did not end in time")

// Run runs a scenario. If ctx ends during the faults, Run returns the report so far
// together with the error.
func Run(ctx context.Context, s *Scenario, o Options) (*Report, error) {
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if o.Status == nil {
		o.Status = func(string) {}
	}
	w := newWorld(s, o.Say)
	conf := o.Testnet
	conf.Nodes, conf.Replicas, conf.Model, conf.Link = s.Nodes, s.Replicas, s.Model, s.Link
	conf.Cuts, conf.StopGrace, conf.Events = s.cuts(), stopGrace, w.event
	conf.Args, conf.ArgsOf = append(slices.Clone(conf.Args), s.NodeArgs...), s.argsOf()
	o.Say(fmt.Sprintf("starting %d nodes, every span on %d", s.Nodes, s.Replicas))
	net, err := testnet.Start(ctx, conf)
	if err != nil {
		return nil, err
	}
	report, err := run(ctx, s, o, w, net)
	return report, errors.Join(err, net.Close())
}

func run(ctx context.Context, s *Scenario, o Options, w *world, net *testnet.Testnet) (*Report, error) {
	if err := net.WaitReady(ctx, nil); err != nil {
		return nil, err
	}
	api, err := net.API()
	if err != nil {
		return nil, err
	}
	home, err := net.ClientHome()
	if err != nil {
		return nil, err
	}
	r := &runner{s: s, o: o, asker: o.Asker(api, home)}
	calm, err := r.calm(ctx)
	if err != nil {
		return nil, err
	}
	o.Say(fmt.Sprintf("the faults begin; they end after %v", s.Duration))
	w.start(net, net.Model().Blocks)
	sessions := r.churn(ctx, w, calm)
	report := newReport(s, net, w, calm, sessions)
	report.left(r.left(ctx, net))
	return report, ctx.Err()
}

type runner struct {
	s     *Scenario
	o     Options
	asker Asker
}

func (r *runner) question(prompt int) Question {
	a := r.s.Sessions
	return Question{Prompt: a.Prompts[prompt], MaxTokens: a.MaxTokens, Temperature: a.Temperature, Seed: a.Seed}
}

// calm asks each prompt once, with the same concurrency as later. It provides the texts to
// compare with, and the times under the same load.
func (r *runner) calm(ctx context.Context) ([]*Session, error) {
	prompts := len(r.s.Sessions.Prompts)
	r.o.Say(fmt.Sprintf("the undisturbed run: %d prompts, %d at once", prompts, r.s.Sessions.Count))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b := &book{clock: clock{begin: time.Now()}}
	stop := r.watch(b, nil)
	defer stop()
	all := make([]*Session, prompts)
	var next atomic.Int64
	var workers sync.WaitGroup
	for worker := range min(r.s.Sessions.Count, prompts) {
		workers.Go(func() {
			for p := int(next.Add(1)) - 1; p < prompts && ctx.Err() == nil; p = int(next.Add(1)) - 1 {
				if all[p] = b.ask(ctx, r.asker, worker+1, p, r.question(p)); !all[p].Finished {
					cancel()
				}
			}
		})
	}
	workers.Wait()
	for _, s := range all {
		if s != nil && !s.Finished && !s.Cancelled {
			return nil, fmt.Errorf("the undisturbed run failed: %q: %s", r.s.Sessions.Prompts[s.Prompt], s.Error)
		}
	}
	return all, ctx.Err()
}

// churn runs the workers and the faults concurrently.
func (r *runner) churn(ctx context.Context, w *world, calm []*Session) []*Session {
	b := &book{clock: w.clock}
	stop := r.watch(b, w)
	defer stop()
	faults, endFaults := context.WithDeadline(ctx, w.clock.begin.Add(r.s.Duration))
	defer endFaults()
	late := context.AfterFunc(faults, func() {
		if ctx.Err() == nil {
			r.o.Say("no more faults; waiting for running sessions")
		}
	})
	defer late()
	asking, cancel := context.WithDeadlineCause(ctx, w.clock.begin.Add(r.s.Duration+grace(calm)), errLate)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { w.run(faults) })
	var next atomic.Int64
	for worker := range r.s.Sessions.Count {
		all.Go(func() {
			for faults.Err() == nil {
				p := int(next.Add(1)-1) % len(r.s.Sessions.Prompts)
				if s := b.ask(asking, r.asker, worker+1, p, r.question(p)); s.Error != "" && !s.Cancelled {
					r.o.Say(fmt.Sprintf("session %d failed after %d tokens: %s", s.ID, len(s.Tokens), s.Error))
					sleep(faults, errorPause)
				}
			}
		})
	}
	all.Wait()
	for _, s := range b.all {
		if s.Cancelled && errors.Is(context.Cause(asking), errLate) {
			s.Cancelled = false
		}
	}
	return b.all
}

// left lists what nodes still hold of sessions after all have ended.
func (r *runner) left(ctx context.Context, net interface{ Nodes() []testnet.Node }) (all []string) {
	if r.o.Left == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leftTime)
	defer cancel()
	for _, n := range net.Nodes() {
		for n.PID != 0 {
			what, err := r.o.Left(ctx, n)
			if err == nil && what == "" {
				break
			}
			if !sleep(ctx, 200*time.Millisecond) {
				if what != "" {
					all = append(all, n.Name+" still holds "+what)
				}
				break
			}
		}
	}
	return all
}

// grace returns the time that sessions get to finish, which is generous.
func grace(calm []*Session) time.Duration {
	most := leastGrace
	for _, s := range calm {
		most = max(most, 10*time.Duration(s.End-s.Begin))
	}
	return most
}

// watch reports progress until stop is called.
func (r *runner) watch(b *book, w *world) (stop func()) {
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-done:
				r.o.Status("")
				return
			case <-time.After(250 * time.Millisecond):
				r.o.Status(status(b, w))
			}
		}
	})
	return func() { close(done); watching.Wait() }
}

func status(b *book, w *world) string {
	b.mu.Lock()
	text := fmt.Sprintf("%s: %d sessions begun", b.clock.now(), len(b.all))
	b.mu.Unlock()
	if w == nil {
		return text
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	up := 0
	for _, n := range w.nodes {
		if n.live() {
			up++
		}
	}
	return fmt.Sprintf("%s, %d of %d nodes serve", text, up, len(w.nodes))
}
