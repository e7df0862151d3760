package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/node/remedy"
)

// absolutePath is absolute for files that will be written, which need not exist.
func absolutePath(p string) string {
	if abs, err := filepath.Abs(p); err == nil {
		return abs
	}
	return p
}

// noPeers says what helps against having no peers.
func noPeers(c *cli.Context, cl *api.Client) error {
	s, err := cl.Status(c.Context)
	if err != nil {
		return err
	}
	if !s.Open {
		remark(c.App.ErrWriter, "no other member is connected; `shoal invite` lets a machine in")
		return nil
	}
	remark(c.App.ErrWriter, "no peers; --bootstrap ADDRESS names one, and other nodes on this LAN are found by themselves")
	return nil
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
		stop := waitingFor(c.App.ErrWriter, "asking the peers")
		list, err := cl.Peers(c.Context)
		stop()
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, list)
		}
		if len(list) == 0 {
			return noPeers(c, cl)
		}
		w := newTable(c.App.Writer)
		fmt.Fprintln(w, "PEER\tRTT\tVIA\tVERSION\tGIVEN\tTAKEN\tSERVES\tID")
		for _, p := range list {
			via := p.Transport
			if p.Relayed {
				via += " (relayed" + notDirectText(p.NotDirect) + ")"
			}
			if p.Swarm != "" {
				via += " in " + cell(p.SwarmName)
			}
			if p.BadUntil != nil {
				via += " (sent corrupt data; ignored until " + p.BadUntil.Local().Format("15:04") + ")"
			}
			fmt.Fprintf(w, "%s\t%.1f ms\t%s\t%s\t%s\t%s\t%s\t%s\n", machineText(p.Name, p.Peer), p.RTTMs, via, cell(p.Version),
				bytesText(int64(p.Given)), bytesText(int64(p.Taken)), cell(strings.Join(servesOf(p), ", ")), p.Peer)
		}
		return w.Flush()
	}}
}

// notDirectText is why a peer is reached over a relay alone.
func notDirectText(why string) string {
	switch why {
	case "nat":
		return ": the routers between let nothing through"
	case "symmetric":
		return ": this router uses another port for each peer"
	case "no-address":
		return ": no address outside is known yet"
	case "unsupported":
		return ": that node cannot do otherwise"
	case "not-tried":
		return ": a direct path is being tried"
	}
	return ""
}

// servesOf lists the spans that a peer serves, and what computes each.
func servesOf(p api.Peer) (out []string) {
	for i, s := range p.Serves {
		if i < len(p.Engines) && p.Engines[i] != "" {
			s += " (" + p.Engines[i] + ")"
		}
		out = append(out, s)
	}
	return out
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
		defer waitingFor(c.App.ErrWriter, "waiting for running sessions to move to other nodes")()
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
	return &cli.Command{Name: "status", Usage: "print the state of the node", Flags: append(clientFlags(), &cli.BoolFlag{Name: "all", Usage: "print all addresses, not only the best one"}), Action: asking(func(c *cli.Context, cl *api.Client, _ []string) error {
		s, err := cl.Status(c.Context)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c.App.Writer, s)
		}
		f := &facts{out: c.App.Writer}
		statusNode(f, s, c.Bool("all"))
		st, err := foresee(c)
		foreseen := err == nil && c.String("api") == ""
		if off := s.Light && s.API == ""; off && foreseen {
			f.row("its next start", "%s", foreseenText(&st))
		}
		statusModels(f, s)
		for _, m := range s.Warnings {
			f.row("warning", "%s", m)
		}
		if err := f.Flush(); err != nil {
			return err
		}
		if foreseen && st.Kept {
			remark(c.App.Writer, keptText)
		}
		return nil
	})}
}

// statusNode lists what is known of the node itself.
func statusNode(f *facts, s *api.Status, all bool) {
	if s.Light && s.API == "" {
		f.row("no node is running in", "%s", s.Home)
		return
	}
	f.row("node", "%s", nodeText(s.Name, s.Peer))
	if s.API != "" {
		f.row("page", "http://%s in a browser; for programs: http://%s/v1", s.API, s.API)
	}
	f.row("up", "%s, version %s", s.Uptime.Round(time.Second), s.Version)
	f.row("home", "%s", s.Home)
	for i, a := range shownAddrs(s.Addrs, all) {
		f.row([]string{"address", ""}[min(i, 1)], "%s", a)
	}
	f.row("who may use it", "%s", networksText(s.Networks, s.Light))
	f.row("peers", "%d", s.Peers)
	f.row("memory lent", "%s", bytesText(s.Memory))
	f.row("sent, received", "%s, %s; in total %s, %s", bytesText(int64(s.Given)), bytesText(int64(s.Taken)), bytesText(int64(s.GivenAll)), bytesText(int64(s.TakenAll)))
	if s.Ahead != nil {
		f.row("run-ahead", "%s", aheadText(s.Ahead))
	}
	if s.Up > 0 || s.Down > 0 {
		limit := func(n int64) string {
			if n == 0 {
				return "unlimited"
			}
			return bytesText(n) + "/s"
		}
		f.row("at most", "%s up, %s down", limit(s.Up), limit(s.Down))
	}
}

// shownAddrs returns the address to join through, or all. With more than one, the best
// is first.
func shownAddrs(addrs []string, all bool) []string {
	here, there := bootstrapAddrs(addrs)
	best := cmp.Or(there, here)
	if best == "" {
		return nil
	}
	out := []string{best}
	for _, a := range addrs {
		if all && a != best {
			out = append(out, a)
		}
	}
	return out
}

// draftText says which model guesses for a span, and how often it is right; "": none does.
func draftText(d *api.Draft) string {
	switch {
	case d == nil || d.Name == "" && d.Trouble == "":
		return ""
	case d.Trouble != "":
		return "none: " + cell(d.Trouble)
	}
	text := cell(d.Name)
	if n := d.Right + d.Wrong; n > 0 {
		text += fmt.Sprintf(", %.0f%% of %d guesses right, %.1f ms each", 100*float64(d.Right)/float64(n), n, d.TokenMs)
	}
	if !d.Loaded {
		text += "; not loaded: nobody wants guesses now"
	}
	return text
}

// statusModels lists the models on disk and the spans that are served.
func statusModels(f *facts, s *api.Status) {
	disk := fmt.Sprintf("%s, %s of it not pinned", bytesText(s.Allocated), bytesText(s.QuotaUsed))
	if s.Quota > 0 {
		disk += fmt.Sprintf(" (quota %s)", bytesText(s.Quota))
	}
	f.row("models on disk", "%s", disk)
	for _, v := range s.Serving {
		state := v.State
		if v.Ready {
			state += fmt.Sprintf("; %s, %d sessions, %d of %d KV tokens free, %.1f tokens/s", bytesText(int64(v.Memory)), v.Sessions, v.KVFree, v.KVTokens, v.TokensPerS)
		}
		f.row(fmt.Sprintf("%s %d-%d", cell(v.Name), v.From, v.To), "%s", state)
		if v.Engine != "" {
			f.row("  its engine", "%s", cell(v.Engine))
		}
		if v.EngineTrouble != "" {
			f.row("  trouble", "%s; the built-in engine computes instead; %s", cell(v.EngineTrouble), remedies[remedy.ReplaceEngine].text)
		}
		if text := draftText(v.Draft); text != "" {
			f.row("  its drafter", "%s", text)
		}
		if len(v.Fence)+len(v.Unfenced) > 0 {
			fence := strings.Join(v.Fence, ", ")
			if len(v.Unfenced) > 0 {
				fence += "; not " + cell(strings.Join(v.Unfenced, "; "))
			}
			f.row("  its fence", "%s", fence)
		}
	}
}
