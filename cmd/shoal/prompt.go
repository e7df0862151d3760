package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/protocol"
)

// answerFlags say how to answer; prompt and chat share them.
func answerFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "model", Aliases: []string{"m"}, EnvVars: []string{"SHOAL_MODEL"}, Usage: "name or CID of a model (default: the only one that is served)"},
		&cli.StringFlag{Name: "system", Usage: "system message"},
		&cli.IntFlag{Name: "max-tokens", Aliases: []string{"n"}, Usage: "maximum tokens of the answer (default: no limit)"},
		&cli.Float64Flag{Name: "temperature", Aliases: []string{"t"}, Value: 0.7, Usage: "randomness of sampling; 0: always the most likely token"},
		&cli.IntFlag{Name: "top-k", Usage: "sample from the K most likely tokens; 0: all"},
		&cli.Float64Flag{Name: "top-p", Usage: "sample from the most likely tokens whose probabilities add up to this; 0 or 1: all"},
		&cli.Float64Flag{Name: "min-p", Usage: "exclude tokens less likely than this fraction of the most likely one's probability"},
		&cli.Float64Flag{Name: "repeat-penalty", Usage: "above 1: make tokens that occurred already less likely"},
		&cli.Float64Flag{Name: "presence-penalty", Usage: "above 0: make tokens less likely once they have occurred at all"},
		&cli.Float64Flag{Name: "frequency-penalty", Usage: "above 0: make tokens less likely in proportion to how often they occurred"},
		&cli.Uint64Flag{Name: "seed", Usage: "the same seed gives the same answer (default: random)"},
		&cli.StringSliceFlag{Name: "stop", Usage: "end the answer before this text; may be repeated"},
		&cli.StringFlag{Name: "route", Usage: "force a route: PEER:FROM-TO,PEER:FROM-TO,..."},
		&cli.BoolFlag{Name: "exact", Usage: "use only stages that compute the same to the last bit whoever else is there, so that a greedy or seeded answer is the same each time"},
		&cli.IntFlag{Name: "max-stages", Usage: "use no route with more stages than this"},
	}, clientFlags()...)
}

// request builds a request from the flags.
func request(c *cli.Context) (*api.GenerateRequest, error) {
	g := &api.GenerateRequest{Model: c.String("model"), MaxTokens: c.Int("max-tokens"), Stop: c.StringSlice("stop"), MaxStages: c.Int("max-stages"), Exact: c.Bool("exact")}
	t := c.Float64("temperature")
	g.Sampling = api.Sampling{
		Temperature: &t, TopK: c.Int("top-k"), MinP: c.Float64("min-p"), RepeatPenalty: c.Float64("repeat-penalty"),
		PresencePenalty: c.Float64("presence-penalty"), FrequencyPenalty: c.Float64("frequency-penalty"),
	}
	if p := c.Float64("top-p"); p != 0 {
		g.Sampling.TopP = &p
	}
	if c.IsSet("seed") {
		seed := c.Uint64("seed")
		g.Sampling.Seed = &seed
	}
	if c.IsSet("max-tokens") && g.MaxTokens < 1 {
		return nil, usageError{"--max-tokens must be at least 1"}
	}
	for _, s := range splitList([]string{c.String("route")}) {
		who, where, ok := strings.Cut(s, ":")
		span, err := protocol.ParseSpan(where)
		if !ok || err != nil {
			return nil, usageError{fmt.Sprintf("--route %q: write it as PEER:FROM-TO,PEER:FROM-TO", s)}
		}
		g.Route = append(g.Route, api.Hop{Peer: who, From: span.From, To: span.To})
	}
	return g, nil
}

func promptCommand() *cli.Command {
	return &cli.Command{
		Name: "prompt", Usage: "answer one prompt, from the arguments or standard input", ArgsUsage: "[TEXT]",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "raw", Usage: "apply no chat template: continue the text as it is"},
			formatFlag(),
			&cli.IntFlag{Name: "logprobs", Value: -1, Usage: "with --json: print log probabilities of the tokens and of their `K` best alternatives"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print only the answer"},
		}, answerFlags()...),
		Action: runPrompt,
	}
}

// readPrompt reads the prompt from the arguments, or else from a pipe.
func readPrompt(c *cli.Context) (string, error) {
	if c.Args().Present() {
		return strings.Join(c.Args().Slice(), " "), nil
	}
	if isTerminal(os.Stdin) {
		return "", usageError{"give a prompt: shoal prompt \"Tell me a story\""}
	}
	raw, err := io.ReadAll(io.LimitReader(os.Stdin, 32<<20))
	if err != nil {
		return "", err
	}
	if len(raw) == 0 {
		return "", api.Errorf(api.BadInput, "the prompt on standard input is empty")
	}
	return strings.TrimSuffix(string(raw), "\n"), nil
}

// readFormat returns the JSON schema that --format names; nil if none.
func readFormat(name string) (json.RawMessage, error) {
	switch name {
	case "":
		return nil, nil
	case "json":
		return json.RawMessage(`{"type":"object"}`), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, api.Errorf(api.BadInput, "--format: %s; give \"json\", or a file with a JSON schema", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, protocol.MaxFormat+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > protocol.MaxFormat {
		return nil, api.Errorf(api.BadInput, "--format: %s is longer than %d KiB", name, protocol.MaxFormat>>10)
	}
	var schema map[string]json.RawMessage
	if err := json.Unmarshal(raw, &schema); err != nil {
		return nil, api.Errorf(api.BadInput, "--format: %s is not a JSON schema: %s", name, err)
	}
	return raw, nil
}

// promptResult is what `shoal prompt --json` prints.
type promptResult struct {
	Model           string         `json:"model"`
	PromptTokens    []int32        `json:"prompt_tokens"`
	Tokens          []int32        `json:"tokens"`
	Text            string         `json:"text"`
	Reasoning       string         `json:"reasoning,omitempty"`
	FinishReason    string         `json:"finish_reason"`
	Route           []api.Hop      `json:"route"`
	PredictedTokens float64        `json:"predicted_tokens_per_s"`
	TokensPerS      float64        `json:"tokens_per_s"`
	TTFTMs          float64        `json:"ttft_ms"`
	Cached          int            `json:"prompt_tokens_kept,omitempty"`
	Ahead           *api.Ahead     `json:"ahead,omitempty"`
	Note            string         `json:"note,omitempty"`
	Warning         string         `json:"warning,omitempty"`
	Logprobs        []logprobOut   `json:"logprobs,omitempty"`
	Recoveries      []api.Recovery `json:"recoveries,omitempty"`
	Moves           []api.Move     `json:"moves,omitempty"`
}

type logprobOut struct {
	ID      int32    `json:"id"`
	Logprob float64  `json:"logprob"`
	Top     []topOut `json:"top"`
}

type topOut struct {
	ID      int32   `json:"id"`
	Logprob float64 `json:"logprob"`
}

func runPrompt(c *cli.Context) error {
	g, err := request(c)
	if err != nil {
		return err
	}
	text, err := readPrompt(c)
	if err != nil {
		return err
	}
	if g.Format, err = readFormat(c.String("format")); err != nil {
		return err
	}
	if c.Bool("raw") {
		if c.String("system") != "" {
			return usageError{"--raw and --system cannot be combined"}
		}
		g.Raw, g.Prompt = true, text
	} else {
		g.Messages = conversation(c.String("system"), text)
	}
	if k := c.Int("logprobs"); k >= 0 {
		if !c.Bool("json") {
			return usageError{"--logprobs needs --json"}
		}
		if k > 20 {
			return usageError{"--logprobs: at most 20 alternatives"}
		}
		g.Sampling.Logprobs, g.Sampling.TopLogprobs = true, k
	}
	cl, done, err := connectAsking(c, g)
	if err != nil {
		return err
	}
	defer done()
	show := &shower{out: c.App.Writer, err: c.App.ErrWriter, quiet: c.Bool("quiet"), json: c.Bool("json"), logprobs: g.Sampling.Logprobs}
	return show.ask(c.Context, cl, g)
}

// shower prints an answer as it arrives.
type shower struct {
	out, err         io.Writer
	quiet, json      bool
	brief            bool // no line under the answer
	verbose          bool // times under the answer
	logprobs         bool
	text, reasoning  strings.Builder
	result           promptResult
	begun, lineEnded bool
	thinking         bool // what was printed last is reasoning

	rest func() // ends the sign of life; nil: there is none
}

// ask sends a prompt, and shows the answer as it arrives and what is waited for.
func (s *shower) ask(ctx context.Context, cl *api.Client, g *api.GenerateRequest) error {
	s.wait("looking for a route")
	err := cl.Generate(ctx, g, s.event)
	s.wait("")
	if err != nil {
		s.breakOff()
		return err
	}
	return s.end()
}

// wait shows what is waited for until the next call; nothing if what is empty.
func (s *shower) wait(what string) {
	if s.rest != nil {
		s.rest()
		s.rest = nil
	}
	if what != "" && !s.quiet && !s.json {
		s.rest = waitingFor(s.err, what)
	}
}

func (s *shower) event(e api.Event) error {
	switch {
	case e.Start != nil:
		s.wait("")
		defer s.wait("reading the prompt")
		r := &s.result
		r.Model, r.PromptTokens, r.Route, r.PredictedTokens = e.Start.Model, e.Start.PromptTokens, e.Start.Route, e.Start.PredictedRate
		if r.Warning = e.Start.Warning; !s.quiet && !s.json && r.Warning != "" {
			fmt.Fprintln(s.err, "warning:", safe(r.Warning))
		}
		if !s.quiet && !s.json && e.Start.Note != "" {
			fmt.Fprintln(s.err, "note:", e.Start.Note)
		}
	case e.Repair != nil && e.Repair.Route == nil:
		s.wait("a node was lost: looking for another")
	case e.Token != nil:
		s.wait("")
		s.result.Tokens = append(s.result.Tokens, e.Token.ID)
		if s.logprobs {
			l := logprobOut{ID: e.Token.ID, Logprob: e.Token.Logprob, Top: []topOut{}}
			for _, t := range e.Token.Top {
				l.Top = append(l.Top, topOut{t.ID, t.Logprob})
			}
			s.result.Logprobs = append(s.result.Logprobs, l)
		}
		s.think(e.Token.Reasoning)
		s.write(e.Token.Text)
	case e.Done != nil:
		s.think(e.Done.Reasoning)
		s.write(e.Done.Text)
		r := &s.result
		r.FinishReason, r.TokensPerS, r.TTFTMs, r.Note = e.Done.FinishReason, e.Done.TokensPerS, e.Done.TTFTMs, e.Done.Note
		r.Cached, r.Ahead, r.Recoveries, r.Moves = e.Done.Cached, e.Done.Ahead, e.Done.Recoveries, e.Done.Moves
		if len(e.Done.Route) > 0 {
			r.Route = e.Done.Route
		}
	}
	return nil
}

// think shows reasoning to a person who watches, dimmed, and apart from the
// answer, which alone goes to standard output.
func (s *shower) think(text string) {
	s.reasoning.WriteString(text)
	if s.json || s.quiet || text == "" || !isTerminal(s.err) {
		return
	}
	s.thinking = true
	fmt.Fprint(s.err, "\x1b[2m"+clean(s.err, text)+"\x1b[0m")
}

// endThinking sets reasoning off from what comes next.
func (s *shower) endThinking() {
	if s.thinking {
		fmt.Fprint(s.err, "\n\n")
		s.thinking = false
	}
}

func (s *shower) write(text string) {
	s.text.WriteString(text)
	if s.json || text == "" {
		return
	}
	s.endThinking()
	s.begun = true
	text = clean(s.out, text)
	fmt.Fprint(s.out, text)
	if text != "" {
		s.lineEnded = strings.HasSuffix(text, "\n")
	}
}

// breakOff ends the line of an answer that failed or was stopped.
func (s *shower) breakOff() {
	s.endThinking()
	if s.begun && !s.lineEnded {
		fmt.Fprintln(s.out)
	}
}

func (s *shower) end() error {
	r := &s.result
	if s.json {
		r.Text, r.Reasoning = s.text.String(), s.reasoning.String()
		if r.Tokens == nil {
			r.Tokens = []int32{}
		}
		return printJSON(s.out, r)
	}
	s.endThinking()
	if !s.lineEnded {
		fmt.Fprintln(s.out)
	}
	switch {
	case s.verbose:
		return s.times()
	case !s.quiet && !s.brief:
		fmt.Fprintln(s.err, s.summary())
	}
	return nil
}

// summary returns the line under an answer: its route, and the predicted against the
// measured speed.
func (s *shower) summary() string {
	r := &s.result
	line := fmt.Sprintf("route %s · predicted %s tokens/s, got %s · first token after %.0f ms", routeText(r.Route),
		rate(r.PredictedTokens), rate(r.TokensPerS), r.TTFTMs)
	if r.Note != "" && len(r.Route) > 1 {
		line += " · " + r.Note
	}
	if r.Ahead != nil {
		line += " · " + aheadText(r.Ahead)
	}
	for _, v := range r.Recoveries {
		if n := len(v.Engines); n > 0 {
			line += fmt.Sprintf(" · from token %d on, blocks %d-%d were computed by another engine (%s; before: %s), so words may differ from an undisturbed answer's",
				v.Token+1, v.Engines[0].From, v.Engines[n-1].To, cell(cmp.Or(v.Engines[0].Now, "unknown")), cell(v.Engines[0].Was))
		}
	}
	if n := len(r.Recoveries); n > 0 {
		longest := 0.0
		for _, v := range r.Recoveries {
			longest = max(longest, v.StallMs)
		}
		line += fmt.Sprintf(" · the route was repaired %d times, the longest pause was %.1f s", n, longest/1000)
	}
	if r.FinishReason == "length" {
		line += " · cut off at the token limit"
	}
	if n := columns(s.err); n > 0 {
		return "\x1b[2m" + wrapped(line, "  ", n) + "\x1b[0m"
	}
	return line
}

// times lists how long an answer took, in the words of other programs.
func (s *shower) times() error {
	r := &s.result
	f := &facts{out: s.err}
	f.row("", "")
	f.row("prompt eval count", "%d tokens, of which %d were kept from before", len(r.PromptTokens), r.Cached)
	f.row("first token after", "%.0f ms", r.TTFTMs)
	f.row("eval count", "%d tokens", len(r.Tokens))
	f.row("eval rate", "%s tokens/s, predicted %s", rate(r.TokensPerS), rate(r.PredictedTokens))
	if r.Ahead != nil {
		f.row("run-ahead", "%s", aheadText(r.Ahead))
	}
	f.row("route", "%s", routeText(r.Route))
	if r.FinishReason == "length" {
		f.row("cut off", "at the token limit")
	}
	return f.Flush()
}
