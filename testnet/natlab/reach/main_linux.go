// Command reach puts three homes behind NATs and has them answer a prompt
// together, for every pair of NATs, and while things happen to them. It needs
// root; package natlab has the rest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/testnet/nat"
	"github.com/shoalnet/shoal/testnet/natlab"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "reach:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var c natlab.Config
	var publicArgs, homeArgs, pairs, scenarios string
	var wait time.Duration
	var homes bool
	flag.StringVar(&c.Binary, "binary", "bin/shoal", "the shoal to test")
	flag.StringVar(&c.Dir, "dir", "", "where homes and logs are kept (default: a temporary directory, removed at the end)")
	flag.DurationVar(&c.Delay, "delay", 10*time.Millisecond, "one way, of each machine's line: a round trip is four of them, eight through a relay")
	flag.IntVar(&c.Publics, "publics", 3, "nodes in the internet")
	flag.StringVar(&publicArgs, "public-args", "", "further arguments of those")
	flag.StringVar(&homeArgs, "home-args", "", "further arguments of the homes")
	flag.StringVar(&pairs, "pairs", "all", "pairs of NATs, like full:symmetric,port:port-noudp (UDP is blocked); all or none (with -homes, all are five)")
	flag.StringVar(&scenarios, "scenarios", "all", "names of scenarios, separated by commas; all or none")
	flag.BoolVar(&homes, "homes", false, "only two homes that make a private swarm with three commands, through one public node that is a stranger to it")
	flag.DurationVar(&wait, "wait", 30*time.Second, "for a prompt's answer")
	flag.Parse()
	if os.Getuid() != 0 {
		return errors.New("this needs root, for network namespaces and TUN devices; nothing was tested")
	}
	c.PublicArgs, c.HomeArgs = strings.Fields(publicArgs), strings.Fields(homeArgs)
	if homes {
		c.PublicArgs = append(c.PublicArgs, "--public")
		c.Publics = 1
	}
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "reach"); err != nil {
			return err
		}
		defer os.RemoveAll(c.Dir)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	lab, err := natlab.New(ctx, c)
	if err != nil {
		return err
	}
	defer lab.Close()
	list, err := parsePairs(pairs)
	if err != nil {
		return err
	}
	if homes {
		if pairs == "all" {
			list = [][2]nat.Kind{{nat.Port, nat.Port}, {nat.Linux, nat.Address}, {nat.Symmetric, nat.Full}, {nat.Symmetric, nat.Port}, {nat.Symmetric, nat.Symmetric}}
		}
		return runHomes(ctx, lab, list, wait+time.Minute)
	}
	if err := runPairs(ctx, lab, list, wait); err != nil {
		return err
	}
	return runScenarios(ctx, lab, scenarios, wait)
}

// runHomes has a person use three commands at two homes, behind these NATs.
func runHomes(ctx context.Context, lab *natlab.Lab, list [][2]nat.Kind, wait time.Duration) error {
	failed := 0
	for _, p := range list {
		v, err := lab.Visit(ctx, p[0], p[1], wait)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err == nil && nat.Punchable(p[0], p[1]) != (v.Direct > 0) {
			err = errors.New("it should be direct where holes can be punched, and only there")
		}
		fmt.Printf("%-9s %-9s  %s\n", p[0].Name, p[1].Name, v)
		if err != nil {
			failed++
			fmt.Printf("%-9s %-9s  FAILED: %v\n", p[0].Name, p[1].Name, err)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d pairs of homes failed", failed)
	}
	return nil
}

// parsePairs returns pairs of kinds: of the home that asks, and of the others.
func parsePairs(s string) (list [][2]nat.Kind, err error) {
	switch s {
	case "none":
		return nil, nil
	case "all":
		for _, a := range nat.Kinds() {
			for _, b := range nat.Kinds() {
				list = append(list, [2]nat.Kind{a, b})
			}
		}
		return list, nil
	}
	for _, p := range strings.Split(s, ",") {
		a, b, _ := strings.Cut(p, ":")
		ka, ok := kindNamed(a)
		kb, ok2 := kindNamed(b)
		if !ok || !ok2 {
			return nil, fmt.Errorf("no pair of NATs: %q", p)
		}
		list = append(list, [2]nat.Kind{ka, kb})
	}
	return list, nil
}

// kindNamed returns a kind of NAT. With -noudp after its name, no UDP passes.
func kindNamed(s string) (nat.Kind, bool) {
	name, blocked := strings.CutSuffix(s, "-noudp")
	k, ok := nat.Named(name)
	k.Name, k.BlockUDP = s, blocked
	return k, ok
}

func runPairs(ctx context.Context, lab *natlab.Lab, list [][2]nat.Kind, wait time.Duration) error {
	if len(list) == 0 {
		return nil
	}
	fmt.Println("asks      others     answers  first token   wall  tokens/s  paths to the others")
	answers, direct := 0, 0
	for _, p := range list {
		r, err := lab.Pair(ctx, p[0], p[1], wait)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			return err
		}
		if r.Err == nil {
			answers++
		}
		if r.Direct() {
			direct++
		}
		fmt.Printf("%-9s %-9s  %s\n", p[0].Name, p[1].Name, r)
	}
	fmt.Printf("%d of %d pairs answer, %d directly\n", answers, len(list), direct)
	return nil
}

// runScenarios plays them.
func runScenarios(ctx context.Context, lab *natlab.Lab, names string, wait time.Duration) error {
	if names == "none" {
		return nil
	}
	failed := 0
	fmt.Println("scenario            answers  first token   wall  tokens/s  paths to the others; repairs")
	for _, s := range natlab.Scenarios() {
		if names != "all" && !slices.Contains(strings.Split(names, ","), s.Name) {
			continue
		}
		o, err := lab.Play(ctx, s, wait+time.Minute)
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		if err != nil {
			return err
		}
		fmt.Printf("%-19s %s\n", s.Name, o)
		if o.Err != nil {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d scenarios failed", failed)
	}
	return nil
}
