package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
	if failed > 0 {
		fmt.Fprintf(os.Stderr, "clients: %d cases failed\n", failed)
		os.Exit(1)
	}
}

func run(ctx context.Context) (failed int, err error) {
	only := flag.String("only", "", "names of clients, separated by commas; all if empty")
	write := flag.Bool("write", false, "write the rows into README.md")
	binary := flag.String("shoal", "bin/shoal", "the program")
	cache := flag.String("cache", defaultCache(), "where clients are installed")
	source := flag.String("source", "contrib/clients", "the folder of the programs")
	flag.Parse()
	chosen, err := choose(*only)
	if err != nil {
		return 0, err
	}
	dir, err := filepath.Abs(*cache)
	if err != nil {
		return 0, err
	}
	nets := &networks{binary: *binary}
	defer nets.close()
	if err := nets.start(ctx); err != nil {
		return 0, err
	}
	for _, c := range chosen {
		start := time.Now()
		fmt.Fprintf(os.Stderr, "%-24s", c.name)
		home := filepath.Join(dir, c.place())
		var out outcome
		if err := c.install(ctx, *source, home); err != nil {
			out = outcome{"list": "it could not be installed: " + err.Error()}
		} else {
			out = c.take(ctx, nets, home)
		}
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
		line := row(c, out)
		fmt.Fprintf(os.Stderr, " %3.0f s  %s\n", time.Since(start).Seconds(), line)
		if *write { // each at once: a run that is cut short keeps what it has seen
			if err := writeRows(map[string]string{c.name: line}); err != nil {
				return failed, err
			}
		}
		for _, name := range cases {
			if why := out[name]; why != "" {
				failed++
				fmt.Fprintf(os.Stderr, "  %s: %s\n", name, why)
			}
		}
	}
	return failed, nil
}

// writeRows puts rows into README.
func writeRows(rows map[string]string) error {
	raw, err := os.ReadFile("README.md")
	if err != nil {
		return err
	}
	text, err := insert(string(raw), rows)
	if err != nil {
		return err
	}
	return os.WriteFile("README.md", []byte(text), 0o644)
}

// defaultCache returns where the user's caches are.
func defaultCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "shoal-clients")
}

// choose returns the clients of a list of names.
func choose(only string) ([]client, error) {
	if only == "" {
		return clients, nil
	}
	var out []client
	for _, name := range strings.Split(only, ",") {
		i := slices.IndexFunc(clients, func(c client) bool { return c.name == name })
		if i < 0 {
			var names []string
			for _, c := range clients {
				names = append(names, c.name)
			}
			return nil, fmt.Errorf("no client is called %q; these are: %s", name, strings.Join(names, ", "))
		}
		out = append(out, clients[i])
	}
	return out, nil
}
