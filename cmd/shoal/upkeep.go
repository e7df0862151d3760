package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// The commands that maintain the models on the disk.

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "check one model, or all, against its hashes, and list what is damaged", ArgsUsage: "[MODEL]",
		Description: "Reads everything on disk. Damaged parts are dropped, so that they are neither served nor computed with, and\n" +
			"listed until they have been fetched again. The exit code is 1 if anything is damaged and was not repaired.",
		Flags:  append(clientFlags(), &cli.BoolFlag{Name: "repair", Usage: "fetch damaged parts again, from peers and the model's origin"}),
		Action: modelVerify,
	}
}

func modelVerify(c *cli.Context) error {
	var req api.VerifyRequest
	req.Repair = c.Bool("repair")
	if c.Args().Present() {
		args, err := arguments(c, "MODEL")
		if err != nil {
			return err
		}
		req.Model = args[0]
	}
	cl, done, err := connect(c, req.Repair, func(*node.Node) bool { return true }) // there may be nothing to fetch
	if err != nil {
		return err
	}
	defer done()
	show, end := progressLine(c.App.ErrWriter, "checking")
	list, err := cl.Verify(c.Context, req, show)
	end()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = printJSON(c.App.Writer, list)
	} else {
		printVerified(c.App.Writer, list, req.Repair)
	}
	for _, v := range list {
		if err == nil && len(v.Damaged) > 0 && !v.Repaired {
			return status(1)
		}
	}
	return err
}

func printVerified(w io.Writer, list []api.Verified, repair bool) {
	for _, v := range list {
		name := cell(v.Name)
		if len(v.Damaged) == 0 {
			fmt.Fprintf(w, "%s: %s checked, nothing is damaged\n", name, bytesText(v.Checked))
			continue
		}
		fmt.Fprintf(w, "%s: %s checked\n", name, bytesText(v.Checked))
		for _, d := range v.Damaged {
			fmt.Fprintf(w, "  damaged in %s: %s, %s\n", d.Shard, leavesText(d.Leaves), bytesText(d.Bytes))
		}
		switch {
		case v.Repaired:
			fmt.Fprintln(w, "  all of it was fetched again")
		case repair:
			fmt.Fprintf(w, "  it could not be fetched again: %s\n", cell(v.Error))
		default:
			fmt.Fprintf(w, "  it was dropped; `shoal model verify --repair %s` fetches it again\n", name)
		}
	}
}

func leavesText(n int) string {
	if n == 1 {
		return "1 leaf"
	}
	return fmt.Sprintf("%d leaves", n)
}

// gcRule states what gc frees, for its help; the README says the same.
const gcRule = "Frees the leftovers of interrupted imports, disk space that is allocated but holds nothing, and unpinned shards\n" +
	"beyond the quota, least recently used first; with --unused, all that are neither pinned nor in use. Headers stay."

func gcCommand() *cli.Command {
	return &cli.Command{
		Name: "gc", Usage: "free disk space that nothing needs", Description: gcRule,
		Flags: append(clientFlags(), &cli.BoolFlag{Name: "dry-run", Usage: "only print what would be freed"},
			&cli.BoolFlag{Name: "unused", Usage: "drop everything that is neither pinned nor in use by a running node, whatever the quota"}),
		Action: asking(modelGC),
	}
}

func modelGC(c *cli.Context, cl *api.Client, _ []string) error {
	f, err := cl.GC(c.Context, api.GCRequest{DryRun: c.Bool("dry-run"), Unused: c.Bool("unused")})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, f)
	}
	what := "freed"
	if f.DryRun {
		what = "would free"
	}
	w := c.App.Writer
	fmt.Fprintf(w, "%s %s\n", what, bytesText(f.Total))
	for _, part := range []struct {
		n    int64
		what string
	}{{f.Left, "left by interrupted imports"}, {f.Gaps, "allocated, but holding nothing"}} {
		if part.n > 0 {
			fmt.Fprintf(w, "  %s %s\n", bytesText(part.n), part.what)
		}
	}
	for _, d := range f.Dropped {
		fmt.Fprintf(w, "  %s of %s: %s\n", bytesText(d.Bytes), cell(d.Name), strings.Join(d.Shards, ", "))
	}
	return nil
}

func pinCommand(on bool) *cli.Command {
	cmd := &cli.Command{
		Name: "pin", Usage: "protect a model, or blocks of it, from the quota and gc", ArgsUsage: "MODEL",
		Description: "Parts that are not here yet are protected once they arrive. `shoal model rm` removes pinned parts, too.",
		Flags:       append(clientFlags(), &cli.StringFlag{Name: "span", Usage: "only what blocks FROM-TO need (default: all)"}),
	}
	if !on {
		cmd.Name, cmd.Usage, cmd.Description = "unpin", "undo pin, for a model or blocks of it", ""
	}
	cmd.Action = asking(func(c *cli.Context, cl *api.Client, args []string) error {
		m, err := cl.Pin(c.Context, api.PinRequest{Model: args[0], Span: c.String("span"), Off: !on})
		if err != nil {
			return err
		}
		return printModel(c, m)
	}, "MODEL")
	return cmd
}

func modelRemove(c *cli.Context, cl *api.Client, args []string) error {
	if c.IsSet("span") {
		m, err := cl.Drop(c.Context, api.DropRequest{Model: args[0], Span: c.String("span")})
		if err != nil || !c.Bool("json") {
			return err
		}
		return printModel(c, m)
	}
	if err := cl.Remove(c.Context, args[0]); err != nil || !c.Bool("json") {
		return err
	}
	return printJSON(c.App.Writer, map[string]any{"model": args[0], "removed": true})
}

func modelExport(c *cli.Context) error {
	args, err := arguments(c, "MODEL", "FILE")
	if err != nil {
		return err
	}
	fetch := c.Bool("fetch")
	cl, done, err := connect(c, fetch, func(n *node.Node) bool { return n.Library().HasOrigin(args[0]) })
	if err != nil {
		return err
	}
	defer done()
	what := "exporting"
	if fetch {
		what = "fetching and exporting"
	}
	show, end := progressLine(c.App.ErrWriter, what)
	file := absolutePath(args[1])
	err = cl.Export(c.Context, api.ExportRequest{Model: args[0], Path: file, Fetch: fetch}, show)
	end()
	var e *api.Error
	if errors.As(err, &e) && e.Lack != nil && c.Bool("json") { // for scripts, which should not parse the message
		if perr := printJSON(c.App.Writer, map[string]any{"model": args[0], "missing": e.Lack}); perr != nil {
			return perr
		}
	}
	if err != nil || !c.Bool("json") {
		return err
	}
	return printJSON(c.App.Writer, map[string]any{"model": args[0], "file": file})
}

// heldText formats a model's list of complete shards for people.
func heldText(held []string) string {
	var blocks, out []string
	for _, h := range held {
		if h[0] >= '0' && h[0] <= '9' {
			blocks = append(blocks, h)
			continue
		}
		if len(blocks) > 0 {
			out, blocks = append(out, "blocks "+strings.Join(blocks, ", ")), nil
		}
		out = append(out, h)
	}
	if len(blocks) > 0 {
		out = append(out, "blocks "+strings.Join(blocks, ", "))
	}
	return strings.Join(out, ", ")
}

func pinsText(m *api.Model) string {
	if m.Pinned {
		return "all"
	}
	return strings.Join(m.Pins, ", ")
}
