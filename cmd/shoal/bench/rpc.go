package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/shoalnet/shoal/cmd/shoal/term"
	"github.com/shoalnet/shoal/node/ahead/texts"
	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/link"
)

// rpcTexts are the kinds of text that are written: one that repeats what it has seen, and
// one that nobody can guess much of.
var rpcTexts = []string{"file", "prose"}

// rpcContext is the context of llama.cpp's server, in tokens: enough for any prompt and
// answer.
const rpcContext = 8192

// rpcResult is what `shoal bench ahead --against --json` prints.
type rpcResult struct {
	Model   string   `json:"model"`
	Nodes   int      `json:"nodes"`
	Threads int      `json:"threads"`
	RTTMs   float64  `json:"rtt_ms"`
	Against string   `json:"against"` // folder
	Texts   []rpcRow `json:"texts"`
}

// rpcRow has tokens per second, and ratios round by round.
type rpcRow struct {
	Text         string `json:"text"`
	RPC          spread `json:"rpc_tokens_per_s"`
	RPCGuesses   spread `json:"rpc_with_guesses_tokens_per_s"` // of llama.cpp's own, --spec-default
	Plain        spread `json:"plain_tokens_per_s"`
	Ahead        spread `json:"ahead_tokens_per_s"`
	ToRPC        spread `json:"ahead_to_rpc"`
	ToRPCGuesses spread `json:"ahead_to_rpc_with_guesses"`
	SameText     bool   `json:"same_text"`
}

// AheadAgainst compares answers over an emulated distance with those of llama.cpp's RPC
// backend: the same model file, split over as many servers, each behind the same link.
//
// Both are asked as any client asks, with a request that demands a text by its grammar. So
// both write the same, and compute what the model costs on the way.
func AheadAgainst(ctx context.Context, sh Shell, o Options) error {
	if o.Model == "" {
		return UsageError("--model must name a model that both can load")
	}
	return prepared(ctx, sh, o, againstRPC)
}

func againstRPC(b *bench) (err error) {
	p, err := link.Parse(b.RTT, "", "")
	if err != nil {
		return UsageError(err.Error())
	}
	if err := b.checkNodes(b.Nodes); err != nil {
		return err
	}
	if b.Threads < 1 {
		b.Threads = runtime.NumCPU()
	}
	kinds := slices.DeleteFunc(texts.All(b.Tokens), func(k texts.Kind) bool { return !slices.Contains(rpcTexts, k.Name) })
	res := rpcResult{Model: b.model.Name(), Nodes: b.Nodes, Threads: b.Threads, RTTMs: millis(p.RTT), Against: b.Against}
	for _, k := range kinds {
		res.Texts = append(res.Texts, rpcRow{Text: k.Name, SameText: true})
	}
	own, guessing, err := b.rpcRates(p, kinds, res.Texts)
	if err != nil {
		return err
	}
	plain, fast, err := b.ownRates(p, kinds, res.Texts)
	if err != nil {
		return err
	}
	for i := range res.Texts {
		r := &res.Texts[i]
		r.RPC, r.RPCGuesses, r.Plain, r.Ahead = spreadOf(own[i]), spreadOf(guessing[i]), spreadOf(plain[i]), spreadOf(fast[i])
		r.ToRPC, r.ToRPCGuesses = ratios(fast[i], own[i]), ratios(fast[i], guessing[i])
	}
	b.progress("")
	if b.JSON {
		return term.PrintJSON(b.Out, res)
	}
	return res.print(b.Out)
}

func (r *rpcResult) print(out io.Writer) error {
	fmt.Fprintf(out, "%s on %d machines, %v ms apart; the RPC servers are those in %s; tokens/s\n\n", term.Safe(r.Model), r.Nodes, r.RTTMs, r.Against)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TEXT\tLLAMA.CPP RPC\tWITH ITS GUESSES\tSHOAL PLAIN\tAHEAD\tAHEAD TO RPC\tTO ITS GUESSES\t")
	for _, t := range r.Texts {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", t.Text, term.Rate(t.RPC.Median), term.Rate(t.RPCGuesses.Median), term.Rate(t.Plain.Median), term.Rate(t.Ahead.Median), t.ToRPC.ratio(), t.ToRPCGuesses.ratio())
		if !t.SameText {
			fmt.Fprintln(w, "\tthe answers differ\t")
		}
	}
	return w.Flush()
}

// rpcRates measures llama.cpp's server, kind by kind, without guesses of its own and with
// them. It is started once for each: whether it guesses is not a request's to say.
func (b *bench) rpcRates(p link.Params, kinds []texts.Kind, rows []rpcRow) (own, guessing [][]float64, err error) {
	b.spawner = testnet.NewSpawner()
	defer b.spawner.Close()
	servers, err := b.rpcServers(p)
	defer servers.close()
	if err != nil {
		return nil, nil, err
	}
	if own, err = b.llamaServer(servers.addrs, nil, kinds, rows); err != nil {
		return nil, nil, err
	}
	guessing, err = b.llamaServer(servers.addrs, []string{"--spec-default"}, kinds, rows)
	return own, guessing, err
}

// llamaServer measures one llama-server.
func (b *bench) llamaServer(rpc, more []string, kinds []texts.Kind, rows []rpcRow) (rates [][]float64, err error) {
	exe, err := b.find("llama-server")
	if err != nil {
		return nil, err
	}
	at, err := freeAddress()
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(at)
	split := strings.TrimSuffix(strings.Repeat("1,", len(rpc)), ",")
	b.progress("llama.cpp's server sends the model to its RPC servers")
	server, err := b.start(exe, append([]string{
		"--model", b.source, "--host", host, "--port", port, "--rpc", strings.Join(rpc, ","), "--n-gpu-layers", "999", "--tensor-split", split,
		"--fit", "off", "--parallel", "1", "--ctx-size", strconv.Itoa(rpcContext), "--threads", strconv.Itoa(b.Threads),
	}, more...)...)
	if err != nil {
		return nil, err
	}
	defer server.stop()
	if err := server.ready(b.ctx, func() bool { return healthy(b.ctx, at) }); err != nil {
		return nil, err
	}
	for i, k := range kinds {
		var of []float64
		for round := range b.Rounds {
			b.progress("llama.cpp %s, %s, round %d of %d", strings.Join(more, " "), k.Name, round+1, b.Rounds)
			d := b.demand(k, round)
			c, err := complete(b.ctx, at, "", d.request(nil))
			if err != nil {
				return nil, server.because(err)
			}
			rows[i].SameText = rows[i].SameText && c.text == d.answer
			of = append(of, c.rate())
		}
		rates = append(rates, of)
	}
	return rates, nil
}

// ownRates measures a network of this program, kind by kind, without guesses and with
// them.
func (b *bench) ownRates(p link.Params, kinds []texts.Kind, rows []rpcRow) (plain, fast [][]float64, err error) {
	n, err := b.network(b.Nodes, b.Threads, p)
	if err != nil {
		return nil, nil, err
	}
	defer n.Close()
	at := strings.TrimPrefix(n.client.Base, "http://")
	for i, k := range kinds {
		var of [2][]float64
		for round := range b.Rounds {
			b.progress("%s, round %d of %d", k.Name, round+1, b.Rounds)
			d := b.demand(k, round)
			for j, mode := range []string{"off", "auto"} {
				c, err := complete(b.ctx, at, n.client.Token, d.request(map[string]any{"model": n.Model().ID, "shoal": map[string]string{"ahead": mode}}))
				if err != nil {
					return nil, nil, err
				}
				rows[i].SameText = rows[i].SameText && c.text == d.answer
				of[j] = append(of[j], c.rate())
			}
		}
		plain, fast = append(plain, of[0]), append(fast, of[1])
	}
	return plain, fast, nil
}

// demanded is a text that a request demands.
type demanded struct{ prompt, answer string }

// demand returns a text of about as many tokens as the options say, in whole words. Of the
// prompt it takes the beginning, a little more than that: what is measured is decode.
func (b *bench) demand(k texts.Kind, round int) demanded {
	t := k.Texts[round%len(k.Texts)]
	answer := t.Answer[:min(len(t.Answer), 3*b.Tokens)]
	if i := strings.LastIndexAny(answer, "\n "); i > 0 {
		answer = answer[:i]
	}
	return demanded{t.Prompt[:min(len(t.Prompt), len(answer)+100)] + "\n", answer}
}

// request is the body of a request for the text, to either server.
func (d demanded) request(more map[string]any) map[string]any {
	body := map[string]any{
		"prompt": d.prompt, "grammar": exactly(d.answer), "max_tokens": len(d.answer), "temperature": 0,
		"stream": true, "stream_options": map[string]bool{"include_usage": true},
	}
	for k, v := range more {
		body[k] = v
	}
	return body
}

// exactly is a grammar that allows only the text.
func exactly(text string) string {
	return `root ::= "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(text) + `"`
}

// completion is an answer as a client of OpenAI's API sees it.
type completion struct {
	text        string
	tokens      int
	first, last time.Time // when text came
}

// rate returns the tokens per second after the first token.
func (c *completion) rate() float64 { return float64(c.tokens-1) / c.last.Sub(c.first).Seconds() }

// complete asks the server at an address for a completion.
func complete(ctx context.Context, at, token string, request any) (*completion, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+at+"/v1/completions", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true // llama.cpp's server ends connections that rest, and nothing asks again after that
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(text))
	}
	c := &completion{}
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok || !bytes.HasPrefix(data, []byte("{")) {
			continue
		}
		if err := c.take(data); err != nil {
			return nil, err
		}
	}
	if c.tokens < 8 {
		return nil, fmt.Errorf("the answer ended after %d tokens: there is nothing to measure", c.tokens)
	}
	return c, nil
}

// take takes one event of the stream.
func (c *completion) take(data []byte) error {
	var e struct {
		Choices []struct {
			Text string `json:"text"`
		} `json:"choices"`
		Usage *struct {
			Completion int `json:"completion_tokens"`
		} `json:"usage"`
		Error *struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	if e.Error != nil {
		return errors.New(e.Error.Message)
	}
	for _, choice := range e.Choices {
		if choice.Text == "" {
			continue
		}
		c.last = time.Now()
		if c.text == "" {
			c.first = c.last
		}
		c.text += choice.Text
	}
	if e.Usage != nil {
		c.tokens = e.Usage.Completion
	}
	return nil
}

// rpcServers are running RPC servers, and the addresses at which each is at a distance.
type rpcServers struct {
	programs  []*program
	listeners []net.Listener
	addrs     []string
}

func (s *rpcServers) close() {
	for _, l := range s.listeners {
		l.Close()
	}
	for _, p := range s.programs {
		p.stop()
	}
}

// rpcServers starts llama.cpp's RPC servers, each a machine of its own. What has been
// started comes with an error, too.
func (b *bench) rpcServers(p link.Params) (s rpcServers, err error) {
	exe, err := b.find("ggml-rpc-server", "rpc-server")
	if err != nil {
		return s, err
	}
	asker := p.Machine()
	for i := range b.Nodes {
		b.progress("starting RPC server %d of %d", i+1, b.Nodes)
		at, err := freeAddress()
		if err != nil {
			return s, err
		}
		host, port, _ := net.SplitHostPort(at)
		server, err := b.start(exe, "--host", host, "--port", port, "--threads", strconv.Itoa(b.Threads))
		if err != nil {
			return s, err
		}
		s.programs = append(s.programs, server)
		if err := server.ready(b.ctx, func() bool { return reachable(at) }); err != nil {
			return s, err
		}
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return s, err
		}
		go func() { _ = link.Forward(l, asker, p.Machine(), at) }()
		s.listeners, s.addrs = append(s.listeners, l), append(s.addrs, l.Addr().String())
	}
	return s, nil
}

// find returns the first of the programs that is in llama.cpp's folder, or in bin below it.
func (b *bench) find(names ...string) (string, error) {
	for _, dir := range []string{b.Against, filepath.Join(b.Against, "bin")} {
		for _, name := range names {
			if file, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return file, nil
			}
		}
	}
	return "", UsageError(fmt.Sprintf("--against %s: there is no program %s; llama.cpp has it if it was built with GGML_RPC=ON", b.Against, names[0]))
}

// program is a running program of llama.cpp.
type program struct {
	cmd  *exec.Cmd
	log  string        // file
	gone chan struct{} // closed when it has ended
}

// start starts a program, whose output goes to a file. It ends with this process.
func (b *bench) start(exe string, args ...string) (*program, error) {
	out, err := os.CreateTemp(b.dir, filepath.Base(exe)+"-*.log")
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.CommandContext(b.ctx, exe, args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := b.spawner.Start(cmd); err != nil {
		return nil, err
	}
	p := &program{cmd: cmd, log: out.Name(), gone: make(chan struct{})}
	go func() {
		defer close(p.gone)
		_ = cmd.Wait()
	}()
	return p, nil
}

// ready waits until the program is.
func (p *program) ready(ctx context.Context, is func() bool) error {
	for !is() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.gone:
			return p.because(fmt.Errorf("%s ended", filepath.Base(p.cmd.Path)))
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// because adds the program's last words to an error.
func (p *program) because(err error) error {
	const most = 400
	words, _ := os.ReadFile(p.log)
	return fmt.Errorf("%w; its last words: %s", err, term.Safe(string(words[max(0, len(words)-most):])))
}

func (p *program) stop() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

// freeAddress returns an address of this machine on which nothing listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func reachable(at string) bool {
	c, err := net.DialTimeout("tcp", at, time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func healthy(ctx context.Context, at string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/health", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
