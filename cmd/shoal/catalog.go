package main

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/catalog"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/remedy"
)

func searchCommand() *cli.Command {
	return &cli.Command{
		Name: "search", Usage: "list the models of the catalogue, or those that match all words", ArgsUsage: "[WORDS]", Flags: clientFlags(), Action: modelSearch,
	}
}

func modelSearch(c *cli.Context) error {
	words := c.Args().Slice()
	cl, done, err := connect(c, len(c.StringSlice("bootstrap")) > 0)
	if err != nil {
		return err
	}
	defer done()
	list, err := cl.Search(c.Context, words)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, list)
	}
	if len(list) == 0 {
		fmt.Fprintf(c.App.ErrWriter, "nothing in the catalogue matches; `shoal model add` takes any GGUF file, URL or hf:owner/repo/file.gguf\n")
		return nil
	}
	w := newTable(c.App.Writer)
	fmt.Fprintln(w, "NAME\tPARAMETERS\tQUANTIZATION\tSIZE\tLICENCE\tHERE\tPEERS")
	for _, m := range list {
		fmt.Fprintln(w, safe(strings.Join(listedRow(m), "\t")))
	}
	return w.Flush()
}

func listedRow(m api.Listed) []string {
	size, peers := "?", "-"
	if m.Size > 0 {
		size = bytesText(m.Size)
	}
	if m.Peers > 0 {
		peers = strconv.Itoa(m.Peers)
	}
	row := []string{strings.Join(append([]string{m.Name}, m.Also...), ", "), m.Parameters, m.Quantization, size, m.Licence, m.Here, peers}
	for i, s := range row {
		if s == "" {
			row[i] = "-"
		}
	}
	return row
}

func catalogCommand() *cli.Command {
	return &cli.Command{
		Name: "catalog", Usage: "sign and verify catalogues", Subcommands: []*cli.Command{
			{Name: "keygen", Usage: "write a new private key to a file, and print the public one", ArgsUsage: "KEYFILE", Action: catalogKeygen},
			{
				Name: "sign", Usage: "sign a catalogue, in place", ArgsUsage: "FILE", Action: catalogSign,
				Flags: []cli.Flag{&cli.StringFlag{Name: "key", Required: true, Usage: "the private key's `KEYFILE`"}},
			},
			{
				Name: "verify", Usage: "check a catalogue and its signature, and print the key", ArgsUsage: "FILE", Action: catalogVerify,
				Flags: []cli.Flag{&cli.StringSliceFlag{Name: "catalog-key", Usage: "trust this `KEY` besides the project's; may be repeated"}},
			},
		},
	}
}

func catalogKeygen(c *cli.Context) error {
	args, err := arguments(c, "KEYFILE")
	if err != nil {
		return err
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if os.IsExist(err) {
		return api.Errorf(api.BadInput, "%s exists; a key is never overwritten", args[0])
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, base64.StdEncoding.EncodeToString(key.Seed()))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, base64.StdEncoding.EncodeToString(pub))
	return nil
}

func catalogSign(c *cli.Context) error {
	args, err := arguments(c, "FILE")
	if err != nil {
		return err
	}
	f, err := os.Open(c.String("key"))
	if err != nil {
		return api.Errorf(api.BadInput, "%w", err)
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	seed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
	if err != nil || len(seed) != ed25519.SeedSize {
		return remedy.For(api.Errorf(api.BadInput, "%s does not contain a key", c.String("key")), remedy.MakeKey)
	}
	raw, err := os.ReadFile(args[0])
	if err != nil {
		return api.Errorf(api.BadInput, "%w", err)
	}
	signed, err := catalog.Sign(raw, ed25519.NewKeyFromSeed(seed))
	if err != nil {
		return api.Errorf(api.BadInput, "%s: %w", args[0], err)
	}
	return files.Replace(args[0], signed, 0o644)
}

func catalogVerify(c *cli.Context) error {
	args, err := arguments(c, "FILE")
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(args[0])
	if err != nil {
		return api.Errorf(api.BadInput, "%w", err)
	}
	key, err := catalog.Verify(raw)
	var all *catalog.Catalog
	if err == nil {
		all, err = catalog.Load(splitList(c.StringSlice("catalog-key")), nil, catalog.Source{Name: args[0], Raw: raw})
	}
	if err != nil {
		return api.Errorf(api.BadInput, "%w", err)
	}
	fmt.Fprintln(c.App.Writer, key)
	for _, e := range all.Editions() { // empty if it has no serial number
		fmt.Fprintln(c.App.Writer, strings.TrimSpace(fmt.Sprintf("number %d of %s %s", e.Serial, e.Date, e.Series)))
	}
	return nil
}
