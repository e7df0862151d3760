package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/proc"
)

// absolutePath is absolute for files that will be written, which need not exist.
func absolutePath(p string) string {
	if abs, err := filepath.Abs(p); err == nil {
		return abs
	}
	return p
}

func peersCommand() *cli.Command {
	return &cli.Command{Name: "peers", Usage: "list connected peers", Flags: clientFlags(), Action: func(c *cli.Context) error {
		if err := noArgs(c); err != nil {
			return err
		}
		cl, done, err := connect(c, true)
		if err != nil {
			return err
		}
		defer done()
		list, err := cl.Peers(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, list)
		}
		if len(list) == 0 {
			fmt.Fprintln(c.App.ErrWriter, "no peers; name one with --bootstrap, or start a node on this LAN")
			return nil
		}
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "PEER\tRTT\tVIA\tVERSION\tGIVEN\tTAKEN\tSERVES")
		for _, p := range list {
			via := p.Transport
			if p.Relayed {
				via += " (relayed)"
			}
			if p.BadUntil != nil {
				via += " (sent corrupt data; ignored until " + p.BadUntil.Local().Format("15:04") + ")"
			}
			fmt.Fprintf(w, "%s\t%.1f ms\t%s\t%s\t%s\t%s\t%s\n", p.Peer, p.RTTMs, via, cell(p.Version),
				bytesText(int64(p.Given)), bytesText(int64(p.Taken)), cell(strings.Join(p.Serves, ", ")))
		}
		return w.Flush()
	}}
}

func drainCommand() *cli.Command {
	return &cli.Command{Name: "drain", Usage: "make the node refuse new sessions, hand over running ones, and stop", Flags: clientFlags(), Action: asking(func(c *cli.Context, cl *api.Client, _ []string) error {
		pid := 0
		if c.String("api") == "" {
			pid = wordOf(c.String("home")).PID
		}
		if err := cl.Drain(c.Context); err != nil {
			return err
		}
		for c.Context.Err() == nil { // it answers until it has left
			if _, err := cl.Status(c.Context); err != nil {
				break
			}
			select {
			case <-c.Context.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
		// Wait until it has closed its store, too, which the next node to start needs.
		for end := time.Now().Add(closeTime); proc.Alive(pid) && time.Now().Before(end) && c.Context.Err() == nil; {
			time.Sleep(20 * time.Millisecond)
		}
		if err := c.Context.Err(); err != nil || !c.Bool("json") {
			return err
		}
		return printJSON(c.App.Writer, map[string]any{"drained": true})
	})}
}

func statusCommand() *cli.Command {
	return &cli.Command{Name: "status", Usage: "print the state of the node", Flags: clientFlags(), Action: asking(func(c *cli.Context, cl *api.Client, _ []string) error {
		s, err := cl.Status(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, s)
		}
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		if s.Light && s.API == "" {
			fmt.Fprintf(w, "no node is running in\t%s\n", s.Home)
		} else {
			fmt.Fprintf(w, "node\t%s\n", s.Peer)
			fmt.Fprintf(w, "up\t%s, version %s\n", s.Uptime.Round(time.Second), s.Version)
			fmt.Fprintf(w, "home\t%s\n", s.Home)
			if s.API != "" {
				fmt.Fprintf(w, "API\thttp://%s/v1\n", s.API)
			}
			for i, a := range s.Addrs {
				name := "addresses"
				if i > 0 {
					name = ""
				}
				fmt.Fprintf(w, "%s\t%s\n", name, a)
			}
			fmt.Fprintf(w, "peers\t%d\n", s.Peers)
			fmt.Fprintf(w, "memory lent\t%s\n", bytesText(s.Memory))
			fmt.Fprintf(w, "sent, received\t%s, %s; in total %s, %s\n", bytesText(int64(s.Given)), bytesText(int64(s.Taken)), bytesText(int64(s.GivenAll)), bytesText(int64(s.TakenAll)))
			if s.Up > 0 || s.Down > 0 {
				limit := func(n int64) string {
					if n == 0 {
						return "unlimited"
					}
					return bytesText(n) + "/s"
				}
				fmt.Fprintf(w, "at most\t%s up, %s down\n", limit(s.Up), limit(s.Down))
			}
		}
		fmt.Fprintf(w, "models on disk\t%s, %s of it not pinned", bytesText(s.Allocated), bytesText(s.QuotaUsed))
		if s.Quota > 0 {
			fmt.Fprintf(w, " (quota %s)", bytesText(s.Quota))
		}
		fmt.Fprintln(w)
		for _, v := range s.Serving {
			fmt.Fprintf(w, "%s %d-%d\t%s", cell(v.Name), v.From, v.To, v.State)
			if v.Ready {
				fmt.Fprintf(w, "; %s, %d sessions, %d of %d KV tokens free, %.1f tokens/s", bytesText(int64(v.Memory)), v.Sessions, v.KVFree, v.KVTokens, v.TokensPerS)
			}
			fmt.Fprintln(w)
			if len(v.Fence)+len(v.Unfenced) > 0 {
				fmt.Fprintf(w, "  its fence\t%s", strings.Join(v.Fence, ", "))
				if len(v.Unfenced) > 0 {
					fmt.Fprintf(w, "; not %s", cell(strings.Join(v.Unfenced, "; ")))
				}
				fmt.Fprintln(w)
			}
		}
		for _, m := range s.Warnings {
			fmt.Fprintf(w, "warning\t%s\n", m)
		}
		return w.Flush()
	})}
}
