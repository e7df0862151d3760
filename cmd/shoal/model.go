package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/library"
)

func modelCommand() *cli.Command {
	span := &cli.StringFlag{Name: "span", Usage: "only blocks FROM-TO (default: all)"}
	return &cli.Command{
		Name: "model", Usage: "add, list, fetch, check, pin, remove, export models",
		Action: needSubcommand,
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "import a GGUF file, a URL, hf:owner/repo/file.gguf, a name in the catalogue, a directory of safetensors, or tinytales (the model inside this program)", ArgsUsage: "SOURCE",
				Flags: append(clientFlags(), span, &cli.StringFlag{Name: "name", Usage: "name for the model (default: the file's name)"},
					&cli.StringFlag{Name: "base", Usage: "SOURCE is an adapter (LoRA, as GGUF) that adds to this model; the two together go by MODEL+ADAPTER"},
					&cli.StringFlag{Name: "quantize", Usage: "quantize a directory of safetensors: q8_0, q4_K_M or f16 (default: keep its types)"}),
				Action: asking(modelAdd, "SOURCE"),
			},
			searchCommand(), catalogCommand(),
			{Name: "ls", Usage: "list models on this disk and those served by peers", Flags: clientFlags(), Action: asking(modelList)},
			{Name: "show", Usage: "print details of a model", ArgsUsage: "MODEL", Flags: clientFlags(), Action: asking(modelShow, "MODEL")},
			{Name: "pull", Usage: "fetch a model from peers and its origin", ArgsUsage: "MODEL", Flags: append(clientFlags(), span), Action: modelPull},
			verifyCommand(), gcCommand(), pinCommand(true), pinCommand(false),
			{
				Name: "rm", Usage: "delete a model, or blocks of it, from this disk", ArgsUsage: "MODEL", Action: asking(modelRemove, "MODEL"),
				Flags: append(clientFlags(), &cli.StringFlag{Name: "span", Usage: "only blocks FROM-TO, and what no other block needs (default: everything, including the model's entry)"}),
			},
			{
				Name: "export", Usage: "write a model's original file", ArgsUsage: "MODEL FILE", Action: modelExport,
				Flags: append(clientFlags(), &cli.BoolFlag{Name: "fetch", Usage: "fetch missing parts first"}),
			},
			{
				Name: "tokenize", Usage: "print the token IDs of standard input", ArgsUsage: "MODEL|FILE",
				Flags:  append(clientFlags(), &cli.BoolFlag{Name: "special", Usage: "add special tokens, and recognize them in the text"}),
				Action: modelTokenize,
			},
		},
	}
}

// arguments returns the arguments, which must be exactly the named ones.
func arguments(c *cli.Context, names ...string) ([]string, error) {
	if len(names) == 0 {
		return nil, noArgs(c)
	}
	args := c.Args().Slice()
	if len(args) != len(names) {
		return nil, usageError{fmt.Sprintf("`%s` takes %s", commandName(c), strings.Join(names, " and "))}
	}
	return args, nil
}

// commandName is the whole name of the command, such as shoal model pin.
func commandName(c *cli.Context) string {
	return strings.TrimSpace(c.Command.HelpName)
}

func modelAdd(c *cli.Context, cl *api.Client, args []string) error {
	show, end := progressLine(c.App.ErrWriter, "adding")
	m, err := cl.Add(c.Context, api.AddRequest{Source: absolute(args[0]), Name: c.String("name"), Span: c.String("span"), Base: c.String("base"), Quantize: c.String("quantize")}, show)
	end()
	if err != nil {
		return err
	}
	return printModel(c, m)
}

func modelPull(c *cli.Context) error {
	args, err := arguments(c, "MODEL")
	if err != nil {
		return err
	}
	// Without peers there may be an origin; if not, the answer is that nobody knows the model.
	cl, done, err := connect(c, true, func(*node.Node) bool { return true })
	if err != nil {
		return err
	}
	defer done()
	show, end := progressLine(c.App.ErrWriter, "fetching")
	m, err := cl.Pull(c.Context, api.PullRequest{Model: args[0], Span: c.String("span")}, show)
	end()
	if err != nil {
		return err
	}
	return printModel(c, m)
}

func modelShow(c *cli.Context, cl *api.Client, args []string) error {
	m, err := cl.Show(c.Context, args[0])
	if err != nil {
		return err
	}
	return printModel(c, m)
}

func printModel(c *cli.Context, m *api.Model) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, m)
	}
	f := &facts{out: c.App.Writer}
	row := func(k string, v any) {
		if s := fmt.Sprint(v); s != "" && s != "0" {
			f.row(k, "%s", cell(s))
		}
	}
	row("name", strings.Join(append([]string{m.Name}, others(m)...), ", "))
	row("id", m.ID)
	row("architecture", m.Architecture)
	row("quantization", m.Quantization)
	row("licence", m.Licence)
	if m.Parameters > 0 {
		row("parameters", fmt.Sprintf("%.1f M", float64(m.Parameters)/1e6))
	}
	row("blocks", m.Blocks)
	row("context", m.Context)
	if m.Size > 0 {
		row("size", bytesText(m.Size))
	}
	if m.Remote {
		row("here", "nothing; peers serve it")
	} else {
		row("on disk", fmt.Sprintf("%s: %s", bytesText(m.Allocated), heldText(m.Held)))
		row("in part", strings.Join(m.Partial, ", "))
		for _, d := range m.Damaged {
			row("damaged", fmt.Sprintf("%s, %s of %s; `shoal model verify --repair` fetches them again", leavesText(d.Leaves), bytesText(d.Bytes), d.Shard))
		}
		row("pinned", pinsText(m))
		for _, o := range m.Origins {
			row("from", o)
		}
		for _, warning := range m.Warnings {
			row("warning", warning)
		}
	}
	return f.Flush()
}

func others(m *api.Model) []string {
	var out []string
	for _, n := range m.Names {
		if n != m.Name {
			out = append(out, n)
		}
	}
	return out
}

func modelList(c *cli.Context, cl *api.Client, _ []string) error {
	list, err := cl.Models(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, list)
	}
	if len(list) == 0 {
		remark(c.App.ErrWriter, "no models yet; `shoal run tinytales` tries the one inside this program, `shoal search` lists others, and `shoal run NAME` fetches one and chats with it")
		return nil
	}
	w := newTable(c.App.Writer)
	fmt.Fprintln(w, "NAME\tID\tARCHITECTURE\tBLOCKS\tSIZE\tPINNED\tHERE")
	for _, m := range list {
		here := heldText(m.Held)
		switch {
		case m.Remote:
			here = "served by peers"
		case m.Complete:
			here = "all"
		case here == "":
			here = "nothing yet"
		}
		if len(m.Partial) > 0 {
			here += "; in part " + strings.Join(m.Partial, ", ")
		}
		if len(m.Damaged) > 0 {
			here += " (damaged)"
		}
		pins := pinsText(&m)
		if pins == "" {
			pins = "-"
		}
		size := "?"
		if m.Size > 0 {
			size = bytesText(m.Size)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", cell(m.Name), short(m.ID), cell(m.Architecture), m.Blocks, size, pins, here)
	}
	return w.Flush()
}

func modelTokenize(c *cli.Context) error {
	args, err := arguments(c, "MODEL or FILE")
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(os.Stdin, 64<<20))
	if err != nil {
		return err
	}
	var ids []int32
	if st, serr := os.Stat(args[0]); serr == nil && !st.IsDir() {
		ids, err = library.TokenizeFile(c.Context, args[0], string(raw), c.Bool("special"))
	} else {
		cl, done, cerr := connect(c, false)
		if cerr != nil {
			return cerr
		}
		defer done()
		ids, err = cl.Tokenize(c.Context, args[0], string(raw), c.Bool("special"))
	}
	if err != nil {
		return err
	}
	if ids == nil {
		ids = []int32{}
	}
	return printJSON(c.App.Writer, struct {
		IDs []int32 `json:"ids"`
	}{ids})
}
