package natlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/testnet/nat"
)

// Scenario is three homes and something that happens while they answer.
type Scenario struct {
	Name   string
	Access [Homes]Access
	Tokens int
	// Happen runs once the first home has been asked for a while. nil: nothing.
	Happen func(ctx context.Context, l *Lab, homes []*Daemon) error
	// Every home must reach the others directly in the end.
	Direct bool
	// Nothing passes between the homes directly until Happen lets it.
	Walled bool
	// The answer must have moved to a better path without a repair.
	Moves bool
}

// noUDP is a kind of NAT behind a firewall that lets no UDP out.
func noUDP(k nat.Kind) nat.Kind {
	k.BlockUDP = true
	return k
}

func each(kinds ...nat.Kind) (all [Homes]Access) {
	for i := range all {
		all[i].IPv4 = kinds[min(i, len(kinds)-1)]
	}
	return all
}

// longTokens is how long an answer is during which something happens: ten
// seconds and more.
const longTokens = 150

// Scenarios returns all scenarios.
func Scenarios() []Scenario {
	relayed := each(nat.Port, nat.Symmetric, nat.Port)
	return []Scenario{
		{Name: "long-direct", Access: each(nat.Port), Tokens: longTokens, Direct: true},
		{Name: "long-relayed", Access: each(nat.Symmetric), Tokens: longTokens},
		{Name: "udp-blocked-one", Access: each(noUDP(nat.Port), nat.Port), Tokens: 24, Direct: true},
		{Name: "udp-blocked-all", Access: each(noUDP(nat.Port)), Tokens: 24, Direct: true},
		{Name: "ipv6-alone", Access: [Homes]Access{{IPv6: nat.Port}, {IPv6: nat.Port}, {IPv6: nat.Port}}, Tokens: 24, Direct: true},
		{Name: "ipv6-and-symmetric", Access: [Homes]Access{{nat.Symmetric, nat.Port}, {nat.Symmetric, nat.Port}, {nat.Symmetric, nat.Port}}, Tokens: 24, Direct: true},
		{Name: "relay-killed", Access: relayed, Tokens: longTokens, Happen: killRelay},
		{Name: "address-changes", Access: each(nat.Port), Tokens: longTokens, Happen: func(_ context.Context, _ *Lab, homes []*Daemon) error {
			return homes[1].on.Move(netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("6.9.0.1"))
		}},
		{Name: "asker-moves", Access: each(nat.Port), Tokens: longTokens, Happen: func(_ context.Context, _ *Lab, homes []*Daemon) error {
			return homes[0].on.Move(netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("6.9.0.1"))
		}},
		{Name: "punch-in-mid-answer", Access: each(nat.Port), Tokens: longTokens, Walled: true, Moves: true, Happen: func(_ context.Context, l *Lab, _ []*Daemon) error {
			l.wall(false)
			return nil
		}},
		{Name: "server-sleeps", Access: each(nat.Port), Tokens: longTokens, Happen: sleeps(1)},
		{Name: "asker-sleeps", Access: each(nat.Port), Tokens: longTokens, Happen: sleeps(0)},
	}
}

// sleeps has a home sleep for 40 seconds.
func sleeps(i int) func(context.Context, *Lab, []*Daemon) error {
	return func(ctx context.Context, _ *Lab, homes []*Daemon) error {
		if err := homes[i].Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		select {
		case <-time.After(40 * time.Second):
		case <-ctx.Done():
		}
		return homes[i].Signal(syscall.SIGCONT)
	}
}

// wall keeps the homes' packets from each other, or lets them pass.
func (l *Lab) wall(on bool) {
	for i := range Homes {
		for j := range i {
			l.net.Wall(outsideOf(i), outsideOf(j), on)
		}
	}
}

// killRelay ends the public node through which the asker reaches another home,
// or any if it reaches them directly, and starts it again at the end.
func killRelay(ctx context.Context, l *Lab, homes []*Daemon) error {
	paths, err := homes[0].pathsTo(ctx, homes[1:])
	if err != nil {
		return err
	}
	dead := 0
	for i, d := range l.publics {
		for _, p := range paths {
			if p.Relayed && p.Relay == d.Peer {
				dead = i
			}
		}
	}
	l.publics[dead].Kill()
	return nil
}

// before is how long after the question a scenario's event comes.
const before = 3 * time.Second

// Play plays a scenario. The error is that of the lab; the outcome has the
// prompt's. The text of a long answer must be that of the first one.
func (l *Lab) Play(ctx context.Context, s Scenario, wait time.Duration) (Outcome, error) {
	defer l.Leave()
	if err := l.revive(ctx); err != nil {
		return Outcome{}, err
	}
	l.wall(s.Walled)
	defer l.wall(false)
	homes, err := l.Homes(ctx, s.Access[:]...)
	if err != nil {
		return Outcome{}, err
	}
	if s.Happen == nil {
		return l.judge(ask(ctx, homes, s.Tokens, wait), s), nil
	}
	if o := ask(ctx, homes, 1, wait); o.Err != nil { // the network has found itself
		return o, nil
	}
	happened := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-time.After(before):
			happened <- s.Happen(ctx, l, homes)
		case <-ctx.Done():
			happened <- nil
		}
	}()
	o := ask(ctx, homes, s.Tokens, wait)
	select {
	case err = <-happened:
	default:
		cancel()
		err = errors.Join(fmt.Errorf("%s: the answer was over before anything had happened", s.Name), <-happened)
	}
	return l.judge(o, s), err
}

func (l *Lab) judge(o Outcome, s Scenario) Outcome {
	if o.Err == nil && s.Tokens == longTokens && l.text == "" {
		l.text = o.Answer.Text
	}
	switch {
	case o.Err != nil:
	case s.Tokens == longTokens && o.Answer.Text != l.text:
		o.Err = fmt.Errorf("another text: %q", o.Answer.Text)
	case s.Moves && (len(o.Answer.Moves) == 0 || len(o.Answer.Recoveries) > 0):
		o.Err = fmt.Errorf("answered, but with %d moves and %d repairs", len(o.Answer.Moves), len(o.Answer.Recoveries))
	case s.Direct && !o.Direct():
		o.Err = fmt.Errorf("answered, but not directly")
	}
	return o
}

// revive starts public nodes that a scenario has killed.
func (l *Lab) revive(ctx context.Context) error {
	for i, d := range l.publics {
		select {
		case <-d.exited:
		default:
			continue
		}
		again, err := d.on.Start(ctx, l.conf.Binary, d.Home, d.args...)
		if err != nil {
			return err
		}
		l.publics[i] = again
	}
	return nil
}
