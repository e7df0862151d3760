package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
)

// `shoal embed`: embeddings of texts.

func embedCommand() *cli.Command {
	return &cli.Command{
		Name: "embed", Usage: "print the embeddings of texts, from the arguments or lines of standard input", ArgsUsage: "MODEL [TEXT...|-]",
		Description: "It prints a line of numbers per text. MODEL is an embedding model, which a node serves or which is whole on this disk.",
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "dimensions", Usage: "print only the first `N` numbers, normalized once more, where the model is made for that (default: all)"},
		}, clientFlags()...),
		Action: runEmbed,
	}
}

const (
	textsPerRequest = 2048     // as many as the API takes
	longestLine     = 16 << 20 // bytes
)

func runEmbed(c *cli.Context) error {
	if !c.Args().Present() {
		return usageError{"`shoal embed` needs MODEL, and texts"}
	}
	if c.IsSet("dimensions") && c.Int("dimensions") < 1 {
		return usageError{"--dimensions must be at least 1"}
	}
	texts, err := readTexts(c.Args().Tail())
	if err != nil {
		return err
	}
	g := &api.GenerateRequest{Model: c.Args().First()}
	cl, done, err := connectAsking(c, g)
	if err != nil {
		return err
	}
	defer done()
	if err := awaitServed(c, cl, g.Model); err != nil {
		return err
	}
	all := &api.Embeddings{Embeddings: [][]float32{}}
	out := bufio.NewWriter(c.App.Writer)
	for part := range slices.Chunk(texts, textsPerRequest) {
		stop := waitingFor(c.App.ErrWriter, "computing embeddings")
		e, err := cl.Embeddings(c.Context, g.Model, part, c.Int("dimensions"))
		stop()
		if err != nil {
			return err
		}
		if c.Bool("json") {
			all.Model, all.Tokens = e.Model, all.Tokens+e.Tokens
			all.Embeddings = append(all.Embeddings, e.Embeddings...)
			continue
		}
		if err := printVectors(out, e.Embeddings); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, all)
	}
	return nil
}

// readTexts returns the texts of the arguments, or else the lines of standard input.
func readTexts(args []string) ([]string, error) {
	switch {
	case len(args) > 0 && !slices.Equal(args, []string{"-"}):
		if i := slices.Index(args, ""); i >= 0 {
			return nil, api.Errorf(api.BadInput, "text %d is empty", i+1)
		}
		return args, nil
	case len(args) == 0 && isTerminal(os.Stdin):
		return nil, usageError{"give texts: shoal embed MODEL \"first text\" \"second text\", or - for the lines of standard input"}
	}
	return readLines(os.Stdin)
}

// readLines returns the lines of a text, of which none may be empty.
func readLines(r io.Reader) (lines []string, err error) {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, longestLine)
	for scan.Scan() {
		if scan.Text() == "" {
			return nil, api.Errorf(api.BadInput, "line %d of standard input is empty; each line is a text", len(lines)+1)
		}
		lines = append(lines, scan.Text())
	}
	switch {
	case scan.Err() != nil:
		return nil, api.Errorf(api.BadInput, "line %d of standard input: %w", len(lines)+1, scan.Err())
	case len(lines) == 0:
		return nil, api.Errorf(api.BadInput, "standard input is empty; each of its lines is a text")
	}
	return lines, nil
}

// printVectors prints a line per vector.
func printVectors(out *bufio.Writer, list [][]float32) error {
	for _, v := range list {
		line := make([]byte, 0, 12*len(v))
		for i, x := range v {
			if i > 0 {
				line = append(line, ' ')
			}
			line = strconv.AppendFloat(line, float64(x), 'g', -1, 32)
		}
		if _, err := fmt.Fprintf(out, "%s\n", line); err != nil {
			return err
		}
	}
	return out.Flush()
}
