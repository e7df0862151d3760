package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
)

// maxBridgeFile is the longest that the text of a bridge is read.
const maxBridgeFile = 64 << 10

func bridgeCommand() *cli.Command {
	root := func() cli.Flag {
		return &cli.StringFlag{Name: "root", Usage: "`FILE` with the swarm's root key, if it is not in this home"}
	}
	return &cli.Command{
		Name: "bridge", Usage: "let the members of another swarm use this one, or use another",
		Description: "The members of one swarm, the guests, then send prompts straight to nodes of the other, the lender, for the models that the lender names. They learn nothing else of it.\n" +
			"Both texts may be passed on over any channel that nobody can change; neither is a secret. Both sides need their swarm's root key:\n\n" +
			"shoal swarm bridge request                       on the side that wants to use\n" +
			"shoal swarm bridge new --to REQUEST --models M   on the side that lends; prints a code\n" +
			"shoal swarm bridge accept CODE                   on the side that uses",
		Subcommands: []*cli.Command{
			{Name: "request", Usage: "print the text with which this swarm asks another to lend", Flags: swarmFlags(whichSwarm()), Action: askBridge},
			{
				Name: "new", Usage: "lend this swarm to the one that asks, and print the code for it",
				Description: "It replaces an earlier bridge to the same swarm. Guests of all kinds share the tokens per day, on all nodes together; a token is one of a prompt or of an answer that was computed here.\n" +
					"Roles: use (send prompts), serve (nodes of the guests may compute stages of their prompts, and get weights from here), relay (carry connections over the bridge).",
				Flags: swarmFlags(
					whichSwarm(), root(),
					&cli.StringFlag{Name: "to", Usage: "the other swarm's request, a `FILE` with it, or - for standard input"},
					&cli.StringSliceFlag{Name: "models", Usage: "`MODELS` that guests may use, with commas, or all"},
					&cli.Uint64Flag{Name: "tokens-per-day", Usage: "`N` tokens for all guests together; 0: no limit"},
					&cli.StringFlag{Name: "roles", Value: "use", Usage: "what guests may do: `ROLES` with commas"},
					&cli.StringFlag{Name: "for", Value: "90d", Usage: "how long it is good, such as 24h or 90d"},
				),
				Action: newBridge,
			},
			{
				Name: "accept", Usage: "use the swarm that lends, with the code that it has printed", ArgsUsage: "CODE",
				Description: "CODE may be a file with it; upper or lower case, spaces and line breaks do not matter; with - it is read from standard input. All members of this swarm use the lender from then on.",
				Flags:       swarmFlags(root()), Action: acceptBridge,
			},
			{Name: "ls", Usage: "list bridges", Flags: swarmFlags(whichSwarm()), Action: listBridges},
			{
				Name: "revoke", Usage: "end a bridge, on either side: connections over it are cut everywhere within seconds", ArgsUsage: "SWARM",
				Description: "SWARM is the other swarm's name, or the beginning of its ID or of the bridge's.",
				Flags:       swarmFlags(whichSwarm(), root()), Action: revokeBridge,
			},
		},
	}
}

func askBridge(c *cli.Context) error {
	return asked(c, func(b swarmBook, _ []string) (*api.BridgeRequest, error) {
		return b.AskBridge(c.Context, c.String("swarm"))
	}, func(w io.Writer, v *api.BridgeRequest) error {
		if isTerminal(w) {
			remark(w, fmt.Sprintf("With this, swarm %s asks another to lend. On a machine with the lender's root key:", cell(v.Swarm)))
			fmt.Fprint(w, "\nshoal swarm bridge new --models MODEL --to ")
		}
		_, err := fmt.Fprintln(w, v.Request)
		return err
	})
}

// bridgeText is a text as given, in a file, or on standard input.
func bridgeText(given string) (string, error) {
	in := os.Stdin
	if given != "-" {
		f, err := os.Open(given)
		if errors.Is(err, fs.ErrNotExist) || err != nil && len(given) > 200 { // longer than the names of files
			return given, nil
		}
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxBridgeFile))
	return string(raw), err
}

// rootFlag is --root as an absolute path: a node may have been started elsewhere.
func rootFlag(c *cli.Context) (string, error) {
	if c.String("root") == "" {
		return "", nil
	}
	return filepath.Abs(c.String("root"))
}

func newBridge(c *cli.Context) error {
	life, err := parseDays("--for", c.String("for"))
	if err != nil {
		return err
	}
	req := api.NewBridgeRequest{Models: splitList(c.StringSlice("models")), Roles: splitList([]string{c.String("roles")}), TokensPerDay: c.Uint64("tokens-per-day"), For: life.Seconds()}
	switch {
	case c.String("to") == "":
		return usageError{"--to is missing: the text that `shoal swarm bridge request` prints on the side that wants to use"}
	case len(req.Models) == 0:
		return usageError{"--models is missing: the models that guests may use, or all"}
	}
	if req.To, err = bridgeText(c.String("to")); err != nil {
		return err
	}
	if req.RootFile, err = rootFlag(c); err != nil {
		return err
	}
	return asked(c, func(b swarmBook, _ []string) (*api.Bridge, error) {
		return b.NewBridge(c.Context, c.String("swarm"), req)
	}, func(w io.Writer, v *api.Bridge) error {
		if isTerminal(w) {
			remark(w, fmt.Sprintf("Swarm %s lends %s to the members of swarm %s (%s) until %s. On a machine with the root key of %s:",
				cell(v.Swarm), modelsText(v), cell(v.Other), tokensText(v), v.Until.Local().Format(time.DateOnly), cell(v.Other)))
			fmt.Fprint(w, "\nshoal swarm bridge accept ")
		}
		if _, err := fmt.Fprintln(w, v.Code); err != nil {
			return err
		}
		if !v.Running {
			remark(c.App.ErrWriter, "Nobody can use it until this machine's node, or another member's, runs: `shoal node`")
		}
		return nil
	})
}

func modelsText(v *api.Bridge) string {
	if len(v.Models) == 0 {
		return "all its models"
	}
	return count(len(v.Models), "model")
}

func tokensText(v *api.Bridge) string {
	if v.TokensPerDay == 0 {
		return "no limit of tokens"
	}
	return fmt.Sprintf("%d tokens per day", v.TokensPerDay)
}

func acceptBridge(c *cli.Context) error {
	given := strings.Join(c.Args().Slice(), "")
	if given == "" {
		return usageError{fmt.Sprintf("`%s` takes the CODE that `shoal swarm bridge new` prints on the side that lends; `shoal swarm bridge request` prints what that needs", commandName(c))}
	}
	code, err := bridgeText(given)
	if err != nil {
		return err
	}
	root, err := rootFlag(c)
	if err != nil {
		return err
	}
	var v *api.Bridge
	err = withSwarms(c, func(b swarmBook) (err error) {
		v, err = b.AcceptBridge(c.Context, api.AcceptBridgeRequest{Code: code, RootFile: root})
		return err
	})
	if err != nil {
		return err
	}
	w := c.App.Writer
	if c.Bool("json") {
		return printJSON(w, v)
	}
	fmt.Fprintf(w, "the members of %s use swarm %s until %s: %s, %s\n", cell(v.Swarm), cell(v.Other), v.Until.Local().Format(time.DateOnly), modelsText(v), tokensText(v))
	if !v.Running {
		remark(w, "This machine does so from its node's next start on: `shoal node`")
	}
	return nil
}

func listBridges(c *cli.Context) error {
	return asked(c, func(b swarmBook, _ []string) ([]api.Bridge, error) {
		return b.Bridges(c.Context, c.String("swarm"))
	}, func(w io.Writer, list []api.Bridge) error {
		if len(list) == 0 {
			remark(c.App.ErrWriter, "no bridges; `shoal swarm bridge request` asks another swarm for one")
			return nil
		}
		t := newTable(w)
		fmt.Fprintln(t, "SWARM\tBRIDGE\tMODELS\tTOKENS PER DAY\tUSED TODAY\tROLES\tUNTIL\tCONNECTED\tSTATE\tID")
		for _, v := range list {
			way, limit := "uses ", "no limit"
			if v.Lends {
				way = "lends to "
			}
			if v.TokensPerDay > 0 {
				limit = fmt.Sprint(v.TokensPerDay)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.0f\t%s\t%s\t%d\t%s\t%s\n", cell(v.Swarm), way+cell(v.Other), modelsText(&v), limit, v.UsedToday, strings.Join(v.Roles, ","), v.Until.Local().Format(time.DateOnly), v.Connected, bridgeState(v), v.ID[:8])
		}
		return t.Flush()
	})
}

func bridgeState(v api.Bridge) string {
	switch {
	case v.Closed != "":
		return cell(v.Closed)
	case v.Running:
		return "open"
	}
	return "not running"
}

func revokeBridge(c *cli.Context) error {
	root, err := rootFlag(c)
	if err != nil {
		return err
	}
	return asked(c, func(b swarmBook, args []string) (*api.Bridge, error) {
		return b.RevokeBridge(c.Context, c.String("swarm"), api.RevokeBridgeRequest{Bridge: args[0], RootFile: root})
	}, func(w io.Writer, v *api.Bridge) error {
		text := "the members of %s use swarm %s no more\n"
		if v.Lends {
			text = "swarm %s is not lent to the members of swarm %s any more\n"
		}
		_, err := fmt.Fprintf(w, text, cell(v.Swarm), cell(cmp.Or(v.Other, v.OtherID)))
		return err
	}, "SWARM")
}

// homeSwarms has its bridges as its swarms.

func (h homeSwarms) Bridges(_ context.Context, s string) ([]api.Bridge, error) {
	return h.Owner.Bridges(s)
}

func (h homeSwarms) AskBridge(_ context.Context, s string) (*api.BridgeRequest, error) {
	return h.Owner.AskBridge(s)
}

func (h homeSwarms) NewBridge(_ context.Context, s string, req api.NewBridgeRequest) (*api.Bridge, error) {
	return h.Owner.NewBridge(s, req)
}

func (h homeSwarms) AcceptBridge(_ context.Context, req api.AcceptBridgeRequest) (*api.Bridge, error) {
	return h.Owner.AcceptBridge(req)
}

func (h homeSwarms) RevokeBridge(_ context.Context, s string, req api.RevokeBridgeRequest) (*api.Bridge, error) {
	return h.Owner.RevokeBridge(s, req)
}
