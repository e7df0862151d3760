package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/keys"
)

func keyCommand() *cli.Command {
	flags := []cli.Flag{homeFlag(), jsonFlag()}
	return &cli.Command{
		Name: "key", Usage: "make, list and remove keys for callers of the API",
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "make a key, and print it this once", ArgsUsage: "NAME",
				Description: "As long as there is a key, every caller needs one, those on this machine included; shoal's own commands do not.\n" +
					"A running node knows the key at once. For example:\n\n" +
					"shoal key add alice --requests-per-minute 20 --tokens-per-day 200000 --expires 30d",
				Flags: append([]cli.Flag{
					&cli.IntFlag{Name: "requests-per-minute", Usage: "requests per minute, at most; 0: no limit"},
					&cli.Int64Flag{Name: "tokens-per-day", Usage: "tokens of prompts and answers per day (UTC), at most; 0: no limit"},
					&cli.IntFlag{Name: "sessions", Usage: "answers at the same time, at most; 0: no limit"},
					&cli.StringSliceFlag{Name: "models", Usage: "only for these `MODELS`, by the names that requests use, with commas (default: all)"},
					&cli.StringFlag{Name: "expires", Usage: "valid for this `TIME`, such as 12h or 30d (default: until it is removed)"},
				}, flags...),
				Action: addKey,
			},
			{Name: "ls", Usage: "list keys, their limits, and what they were used for", Flags: flags, Action: listKeys},
			{
				Name: "rm", Usage: "remove a key: its next request is refused", ArgsUsage: "NAME", Flags: flags,
				Action: func(c *cli.Context) error {
					args, err := arguments(c, "NAME")
					if err != nil {
						return err
					}
					return withKeys(c, func(k keyBook) error { return k.RemoveKey(c.Context, args[0]) })
				},
			},
		},
	}
}

// keyBook is a running node's keys, or those of a home without one.
type keyBook interface {
	Keys(context.Context) ([]api.Key, error)
	AddKey(context.Context, api.AddKeyRequest) (*api.NewKey, error)
	RemoveKey(context.Context, string) error
}

// homeKeys are the keys in a home whose node does not run.
type homeKeys struct{ *keys.Book }

func (h homeKeys) Keys(context.Context) ([]api.Key, error) { return h.Book.Keys(), nil }

func (h homeKeys) AddKey(_ context.Context, req api.AddKeyRequest) (*api.NewKey, error) {
	secret, err := h.Book.AddKey(req.Name, req.KeyLimits)
	return &api.NewKey{Name: req.Name, Key: secret}, err
}

func (h homeKeys) RemoveKey(_ context.Context, name string) error { return h.Book.RemoveKey(name) }

func withKeys(c *cli.Context, do func(keyBook) error) error {
	dir := c.String("home")
	if cl := running(c.Context, dir); cl != nil {
		return do(cl)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := keys.Open(home.Home(dir).Keys(), slog.Default(), nil)
	if err != nil {
		return err
	}
	defer b.Close()
	return do(homeKeys{b})
}

func addKey(c *cli.Context) error {
	args, err := arguments(c, "NAME")
	if err != nil {
		return err
	}
	req := api.AddKeyRequest{Name: args[0], KeyLimits: api.KeyLimits{
		RequestsPerMinute: c.Int("requests-per-minute"), TokensPerDay: c.Int64("tokens-per-day"), Sessions: c.Int("sessions"), Models: splitList(c.StringSlice("models")),
	}}
	if s := c.String("expires"); s != "" {
		d, err := parseDays("--expires", s)
		if err != nil {
			return err
		}
		at := time.Now().Add(d).UTC().Truncate(time.Second)
		req.Expires = &at
	}
	return withKeys(c, func(k keyBook) error {
		made, err := k.AddKey(c.Context, req)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, made)
		}
		if isTerminal(c.App.ErrWriter) {
			fmt.Fprintf(c.App.ErrWriter, "The key of %s, which nothing prints again; clients send it as an OpenAI API key:\n", cell(made.Name))
		}
		_, err = fmt.Fprintln(c.App.Writer, made.Key)
		return err
	})
}

// parseDays reads a positive duration that may be in days.
func parseDays(flag, s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= 36500 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, usageError{fmt.Sprintf("%s %q: write a time like 12h or 30d", flag, s)}
	}
	return d, nil
}

func listKeys(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	return withKeys(c, func(k keyBook) error {
		list, err := k.Keys(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			if list == nil {
				list = []api.Key{}
			}
			return printJSON(c.App.Writer, list)
		}
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tTODAY: REQUESTS\tTOKENS\tTOTAL: REQUESTS\tPROMPT\tANSWER\tLAST USED\tLIMITS")
		for _, v := range list {
			last := "never"
			if v.LastUsed != nil {
				last = v.LastUsed.Local().Format("2006-01-02 15:04")
			}
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\n", cell(v.Name), v.Today.Requests, v.Today.PromptTokens+v.Today.AnswerTokens,
				v.Total.Requests, v.Total.PromptTokens, v.Total.AnswerTokens, last, limitsText(v))
		}
		return w.Flush()
	})
}

// limitsText is a key's limits for a person.
func limitsText(k api.Key) string {
	var parts []string
	if k.RequestsPerMinute > 0 {
		parts = append(parts, fmt.Sprintf("%d requests per minute", k.RequestsPerMinute))
	}
	if k.TokensPerDay > 0 {
		parts = append(parts, fmt.Sprintf("%d tokens per day", k.TokensPerDay))
	}
	if k.Sessions > 0 {
		parts = append(parts, fmt.Sprintf("%d at a time", k.Sessions))
	}
	if len(k.Models) > 0 {
		parts = append(parts, "only "+cell(strings.Join(k.Models, ", ")))
	}
	switch {
	case k.Expired:
		parts = append(parts, "expired")
	case k.Expires != nil:
		parts = append(parts, "until "+k.Expires.Local().Format("2006-01-02 15:04"))
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
