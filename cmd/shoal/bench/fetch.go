package bench

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/cmd/shoal/bench/plain"
	"github.com/shoalnet/shoal/cmd/shoal/term"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol/gguf"
)

const (
	slowFactor   = 50        // how much slower the slow source is
	corruptEvery = 10        // leaves, of the lying source
	uplink       = 100e6 / 8 // bytes a second of a limited source
)

// FetchCase is one line of `shoal bench fetch --json`.
type FetchCase struct {
	Case          string    `json:"case"`
	Bytes         int64     `json:"bytes"`
	Seconds       float64   `json:"seconds"`
	MiBPerS       float64   `json:"mib_per_s"`
	Low           float64   `json:"mib_per_s_low"`
	High          float64   `json:"mib_per_s_high"`
	RatioToCurl   *float64  `json:"ratio_to_curl"`             // null where there is no curl
	RatioToFlatfs *float64  `json:"ratio_to_flatfs,omitempty"` // to plain bitswap over flatfs
	Ratio         *float64  `json:"ratio,omitempty"`           // to the case named by ratio_to
	RatioTo       string    `json:"ratio_to,omitempty"`
	BadPeer       string    `json:"bad_peer,omitempty"` // the source that lied
	Named         *bool     `json:"bad_peer_named,omitempty"`
	Trouble       []string  `json:"trouble,omitempty"` // as a person is told
	Note          string    `json:"note,omitempty"`
	Targets       []*target `json:"targets,omitempty"`
	rates         []float64
}

// fetchBench is the state of one run.
type fetchBench struct {
	Shell
	rounds int
	ctx    context.Context
	dir    string
	model  *synthetic // whole
	little *synthetic // for limited sources
	cases  []*FetchCase
}

// synthetic is a model generated for the run, as a file and in a store.
type synthetic struct {
	file, store string
	id          cid.Cid
	size        int64
}

// FetchOptions of Fetch.
type FetchOptions struct {
	Size    int64 // of the model, about, in bytes; at least 4 MiB
	Limited int64 // of the model that limited sources give, at most Size
	Rounds  int   // measurements of the cases without a limit
}

// Fetch compares fetching a model with curl and sha256sum, with plain bitswap over
// flatfs, and from one source with several.
func Fetch(ctx context.Context, sh Shell, o FetchOptions) (err error) {
	dir, err := os.MkdirTemp("", "shoal-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &fetchBench{Shell: sh, rounds: o.Rounds, ctx: ctx, dir: dir}
	defer b.progress("")
	if b.model, err = b.make("model", o.Size); err != nil {
		return err
	}
	b.little = b.model
	if o.Limited < o.Size {
		if b.little, err = b.make("little", o.Limited); err != nil {
			return err
		}
	}
	if err := errors.Join(b.unlimited(), b.limited()); err != nil {
		return err
	}
	return b.report()
}

// make writes a GGUF file of random weights, and imports it.
func (b *fetchBench) make(name string, size int64) (*synthetic, error) {
	b.progress("making a model of %s", store.SizeText(size))
	const width, blocks = 64, 16
	h := gguf.Header{Version: 3, KVs: []gguf.KV{
		{Key: "general.architecture", Value: "llama"}, {Key: "general.name", Value: "Bench"},
		{Key: "llama.block_count", Value: uint32(blocks)}, {Key: "llama.embedding_length", Value: uint32(width)},
		{Key: "llama.context_length", Value: uint32(128)}, {Key: "tokenizer.ggml.tokens", Value: slices.Repeat([]string{"token"}, 1000)},
	}}
	var end uint64
	add := func(name string, rows uint64) {
		t := gguf.Tensor{Name: name, Shape: []uint64{width, rows}, Offset: end}
		h.Tensors = append(h.Tensors, t)
		end += t.Bytes()
	}
	add("token_embd.weight", 1000)
	add("output_norm.weight", 1)
	for i := range blocks {
		add(fmt.Sprintf("blk.%d.ffn_up.weight", i), uint64(size)/blocks/(4*width))
	}
	raw, err := h.Append(nil)
	if err != nil {
		return nil, err
	}
	m := &synthetic{file: filepath.Join(b.dir, name+".gguf"), store: filepath.Join(b.dir, name)}
	f, err := os.Create(m.file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	_, _ = w.Write(append(raw, make([]byte, -len(raw)&31)...)) // an error comes again with Flush
	if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{byte(len(name))}), int64(end)); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	s, err := store.Open(m.store, store.Options{})
	if err != nil {
		return nil, err
	}
	model, err := s.Add(b.ctx, m.file, store.AddOptions{Transient: true})
	if err == nil {
		m.id, m.size = model.ID(), model.Manifest().Size()
	}
	return m, errors.Join(err, s.Close())
}

// wantModel requests all of a model.
type wantModel struct {
	m      *store.Model
	shards []int
}

func (w wantModel) Next(context.Context) (out []exchange.Need, err error) {
	nodes, err := w.m.NeedNodes(w.shards)
	for _, c := range nodes {
		out = append(out, exchange.Need{CID: c, Number: -1})
	}
	if err != nil || len(out) > 0 {
		return out, err
	}
	leaves, err := w.m.Missing(w.shards)
	for _, l := range leaves {
		out = append(out, exchange.Need{CID: l.CID, Number: l.Number, Size: l.Size, File: l.File, Offset: l.Offset})
	}
	return out, err
}

func (w wantModel) Put(_ context.Context, c cid.Cid, data []byte) error {
	return w.m.PutVerified(c, data)
}

// fetch fetches a model from sources into a new store, and returns how long that took and
// which troubles were reported.
func (b *fetchBench) fetch(m *synthetic, what string, from []*giver) (took time.Duration, trouble []string, err error) {
	dir, err := os.MkdirTemp(b.dir, "fetched-")
	if err != nil {
		return 0, nil, err
	}
	defer os.RemoveAll(dir)
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		return 0, nil, err
	}
	defer s.Close()
	h, err := benchHost()
	if err != nil {
		return 0, nil, err
	}
	defer h.Close()
	var find fixed
	for _, g := range from {
		p, err := g.peer()
		if err != nil {
			return 0, nil, err
		}
		find = append(find, p)
	}
	x := exchange.New(s, exchange.Options{Leaves: storeLeaves(s, 0), Log: slog.New(slog.DiscardHandler)}, exchange.Net{Host: h, Find: find})
	defer x.Close()
	raw, err := x.Manifest(b.ctx, m.id)
	if err != nil {
		return 0, nil, err
	}
	model, err := s.AddManifest(raw, m.id, "")
	if err != nil {
		return 0, nil, err
	}
	want := wantModel{m: model}
	for i := range model.Manifest().Shards {
		want.shards = append(want.shards, i)
	}
	begin := time.Now()
	err = x.Fetch(b.ctx, m.id, want, func(p exchange.Progress) {
		if p.Blocks%16 == 0 {
			b.progress("%s: %s of %s", what, store.SizeText(p.Bytes), store.SizeText(m.size))
		}
		trouble = p.Trouble
	})
	took = time.Since(begin)
	if err == nil && slices.Contains(model.Holds(), false) {
		err = errors.New("the model is not whole")
	}
	return took, trouble, err
}

// curl fetches the file and hashes it, as people do that do not trust a server.
func (b *fetchBench) curl(from *giver) (time.Duration, error) {
	to := filepath.Join(b.dir, "curled")
	defer os.Remove(to)
	begin := time.Now()
	if out, err := exec.CommandContext(b.ctx, "curl", "-sSf", "-o", to, from.word.URL).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("curl: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if err := exec.CommandContext(b.ctx, "sha256sum", to).Run(); err != nil {
		return 0, fmt.Errorf("sha256sum: %w", err)
	}
	return time.Since(begin), nil
}

// bitswap fetches the same bytes as blocks, into flatfs.
func (b *fetchBench) bitswap(from *giver) (time.Duration, error) {
	dir, err := os.MkdirTemp(b.dir, "flatfs-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	h, err := benchHost()
	if err != nil {
		return 0, err
	}
	defer h.Close()
	n, err := plain.New(h, filepath.Join(dir, "blocks"))
	if err != nil {
		return 0, err
	}
	defer n.Close()
	p, err := from.peer()
	if err != nil {
		return 0, err
	}
	if err := h.Connect(b.ctx, p); err != nil {
		return 0, err
	}
	var list []cid.Cid
	for _, s := range from.word.Blocks {
		c, err := cid.Decode(s)
		if err != nil {
			return 0, err
		}
		list = append(list, c)
	}
	begin := time.Now()
	err = n.Fetch(b.ctx, list)
	return time.Since(begin), err
}

// add records a case.
func (b *fetchBench) add(name string, bytes int64, took ...time.Duration) *FetchCase {
	c := &FetchCase{Case: name, Bytes: bytes}
	for _, t := range took {
		c.rates = append(c.rates, float64(bytes)/(1<<20)/t.Seconds())
	}
	s := spreadOf(c.rates)
	c.MiBPerS, c.Low, c.High = s.Median, s.Low, s.High
	c.Seconds = float64(bytes) / (1 << 20) / s.Median
	b.cases = append(b.cases, c)
	return c
}

func (c *FetchCase) aim(want float64, got *float64) {
	t := atLeast(want, *got)
	c.Targets = append(c.Targets, &t)
}

// unlimited compares curl, plain bitswap and one source, which take turns.
func (b *fetchBench) unlimited() error {
	hasCurl := true
	for _, tool := range []string{"curl", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(b.Err, "%s is missing here, so nothing is compared with it; install it and try again\n", tool)
			hasCurl = false
		}
	}
	var givers [3]*giver
	for i, args := range [][]string{{"--file", b.model.file}, {"--flatfs", filepath.Join(b.dir, "blocks"), b.model.file}, {"--store", b.model.store}} {
		b.progress("starting source %d of 3", i+1)
		g, err := b.start(args...)
		if err != nil {
			return err
		}
		defer g.stop()
		givers[i] = g
	}
	var curls, flats, ones []time.Duration
	rounds := b.rounds
	for round := range rounds {
		if hasCurl {
			b.progress("curl and sha256sum, round %d of %d", round+1, rounds)
			t, err := b.curl(givers[0])
			if err != nil {
				return err
			}
			curls = append(curls, t)
		}
		t, _, err := b.fetch(b.model, "one source", givers[2:])
		if err != nil {
			return err
		}
		ones = append(ones, t)
		b.progress("plain bitswap over flatfs, round %d of %d", round+1, rounds)
		if t, err = b.bitswap(givers[1]); err != nil {
			return err
		}
		flats = append(flats, t)
	}
	var curl *FetchCase
	if hasCurl {
		curl = b.add("curl", b.model.size, curls...)
		curl.Note = "curl, then sha256sum"
	}
	flat := b.add("flatfs_bitswap", b.model.size, flats...)
	one := b.add("one_source", b.model.size, ones...)
	r := ratios(one.rates, flat.rates).Median
	one.RatioToFlatfs = &r
	if curl != nil {
		for _, c := range []*FetchCase{curl, flat, one} {
			r := ratios(c.rates, curl.rates).Median
			c.RatioToCurl = &r
		}
		one.aim(0.5, one.RatioToCurl)
	}
	one.aim(1.5, one.RatioToFlatfs)
	return nil
}

// limited compares numbers of sources with 100 Mbit/s each, some of them slow or lying.
func (b *fetchBench) limited() error {
	m := b.little
	note := fmt.Sprintf("%s from sources of 100 Mbit/s", store.SizeText(m.size))
	run := func(name string, extra ...[]string) (*FetchCase, []*giver, error) {
		var givers []*giver
		var mu sync.Mutex
		var errs []error
		var wg sync.WaitGroup
		defer func() {
			for _, g := range givers {
				g.stop()
			}
		}()
		for i, more := range extra {
			dir := filepath.Join(b.dir, fmt.Sprintf("source-%d", i))
			if err := os.CopyFS(dir, os.DirFS(m.store)); err != nil { // a store is one process's
				return nil, nil, err
			}
			defer os.RemoveAll(dir)
			wg.Go(func() {
				g, err := b.start(append([]string{"--store", dir}, more...)...)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, err)
					return
				}
				givers = append(givers, g)
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, nil, err
		}
		took, trouble, err := b.fetch(m, name, givers)
		if err != nil {
			return nil, nil, err
		}
		c := b.add(name, m.size, took)
		c.Trouble, c.Note = trouble, note
		if i := slices.IndexFunc(b.cases, func(c *FetchCase) bool { return c.Case == "curl" }); i >= 0 {
			r := c.MiBPerS / b.cases[i].MiBPerS
			c.RatioToCurl = &r
		}
		return c, givers, nil
	}
	up := func(rate float64) []string { return []string{"--up", strconv.FormatFloat(rate, 'f', -1, 64)} }
	good := up(uplink)
	one, _, err := run("one_limited", good)
	if err != nil {
		return err
	}
	four, _, err := run("four_limited", good, good, good, good)
	if err != nil {
		return err
	}
	four.compare(one, 3.5)
	two, _, err := run("two_good", good, good)
	if err != nil {
		return err
	}
	corrupt := []string{"--corrupt", strconv.Itoa(corruptEvery)}
	bad, givers, err := run("two_good_one_slow_one_liar", good, good, up(uplink/slowFactor), append(corrupt, good...))
	if err != nil {
		return err
	}
	bad.compare(two, 0.8)
	named := false
	for _, g := range givers {
		if slices.Contains(g.cmd.Args, corrupt[0]) {
			p, err := g.peer()
			if err != nil {
				return err
			}
			bad.BadPeer = p.ID.String()
			named = slices.ContainsFunc(bad.Trouble, func(s string) bool { return strings.Contains(s, bad.BadPeer) })
		}
	}
	bad.Named = &named
	return nil
}

func (c *FetchCase) compare(with *FetchCase, want float64) {
	r := c.MiBPerS / with.MiBPerS
	c.Ratio, c.RatioTo = &r, with.Case
	c.aim(want, c.Ratio)
}

func (b *fetchBench) report() error {
	b.progress("")
	if b.JSON {
		for _, c := range b.cases {
			if err := term.PrintJSON(b.Out, c); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(b.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CASE\tSIZE\tMiB/s\tTO curl\tTO flatfs\tTO OTHERS\t")
	ratio := func(r *float64, to string) string {
		if r == nil {
			return "-"
		}
		return strings.TrimSpace(fmt.Sprintf("%.2f %s", *r, to))
	}
	for _, c := range b.cases {
		var aims []string
		for _, t := range c.Targets {
			aims = append(aims, t.String())
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%s\t%s\t%s\t%s\n", c.Case, store.SizeText(c.Bytes), c.MiBPerS, ratio(c.RatioToCurl, ""), ratio(c.RatioToFlatfs, ""), ratio(c.Ratio, cmp.Or(c.RatioTo, "")), strings.Join(aims, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, c := range b.cases {
		for _, t := range c.Trouble {
			fmt.Fprintf(b.Out, "%s: %s\n", c.Case, term.Safe(t))
		}
		if c.Named != nil {
			fmt.Fprintf(b.Out, "%s: the liar was %s; named: %t\n", c.Case, c.BadPeer, *c.Named)
		}
	}
	return nil
}
