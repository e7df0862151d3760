package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ergochat/readline"
	"github.com/urfave/cli/v2"

	"github.com/shoalnet/shoal/node/api"
)

const chatHelp = `Type a message and Enter. Put """ around a message of several lines, or \ at the end of each line but the last.
  /clear          forget the conversation
  /system TEXT    set the system message, and start a new conversation
  /save FILE      write the conversation as JSON
  /context        print how full the model's context is; the oldest turns are left out when it is full
  /help           print this help
  /exit           leave, as does Ctrl-D; Ctrl-C only stops an answer`

func chatCommand() *cli.Command {
	flags := slices.DeleteFunc(answerFlags(), func(f cli.Flag) bool { return f.Names()[0] == "json" })
	return &cli.Command{Name: "chat", Usage: "chat with a model", Description: chatHelp, Flags: flags, Action: runChat}
}

func runChat(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	g, err := request(c)
	if err != nil {
		return err
	}
	cl, done, err := connectAsking(c, g)
	if err != nil {
		return err
	}
	defer done()
	if err := awaitServed(c, cl, g.Model); err != nil {
		return err
	}
	return chatWith(c, cl, g)
}

// chatWith talks with the model of a request until the person leaves.
func chatWith(c *cli.Context, cl *api.Client, g *api.GenerateRequest) error {
	t := &talk{client: cl, req: g, out: c.App.Writer, err: c.App.ErrWriter, show: shower{brief: c.Command.Name == "run" && !c.Bool("verbose"), verbose: c.Bool("verbose")}}
	t.reset(c.String("system"))
	lines, closeLines, err := t.input(c.String("home"))
	if err != nil {
		return err
	}
	defer closeLines()
	// During a chat Ctrl-C stops an answer, not the program.
	signal.Reset(os.Interrupt)
	return t.loop(context.WithoutCancel(c.Context), lines)
}

// talk is a conversation.
type talk struct {
	history
	client   *api.Client
	req      *api.GenerateRequest
	show     shower // how answers are shown
	out, err io.Writer
}

// errAgain reports that the user discarded the line being typed.
var errAgain = errors.New("interrupted")

// input returns a function that reads lines (on a terminal, with editing and history)
// and one that closes the input.
func (t *talk) input(home string) (func(prompt string) (string, error), func(), error) {
	if !isTerminal(os.Stdin) || !isTerminal(os.Stdout) {
		r := bufio.NewReader(os.Stdin)
		return func(string) (string, error) {
			line, err := r.ReadString('\n')
			if line != "" {
				err = nil
			}
			return strings.TrimRight(line, "\r\n"), err
		}, func() {}, nil
	}
	fmt.Fprintln(t.err, "Ask away. /help lists commands, Ctrl-D leaves.")
	_ = os.MkdirAll(home, 0o700)
	rl, err := readline.NewFromConfig(&readline.Config{HistoryFile: filepath.Join(home, "chat_history"), DisableAutoSaveHistory: true})
	if err != nil {
		return nil, nil, err
	}
	return func(prompt string) (string, error) {
		rl.SetPrompt(prompt)
		line, err := rl.ReadLine()
		if errors.Is(err, readline.ErrInterrupt) {
			return "", errAgain
		}
		if err == nil && strings.TrimSpace(line) != "" {
			_ = rl.SaveToHistory(line)
		}
		return line, err
	}, func() { _ = rl.Close() }, nil
}

func (t *talk) loop(ctx context.Context, read func(string) (string, error)) error {
	for {
		text, err := readMessage(read, t.mark())
		switch {
		case errors.Is(err, errAgain):
			fmt.Fprintln(t.err, "(Ctrl-D leaves)")
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if strings.TrimSpace(text) == "" {
			continue
		}
		if strings.HasPrefix(text, "/") {
			if leave := t.command(text); leave {
				return nil
			}
			continue
		}
		t.say(ctx, text)
	}
}

// readMessage reads one message, which may span several lines.
// mark stands at the beginning of a line.
func readMessage(read func(string) (string, error), mark string) (string, error) {
	line, err := read(mark)
	if err != nil {
		return "", err
	}
	var lines []string
	if rest, ok := strings.CutPrefix(strings.TrimSpace(line), `"""`); ok {
		for {
			if before, found := strings.CutSuffix(rest, `"""`); found {
				return strings.Join(append(lines, before), "\n"), nil
			}
			lines = append(lines, rest)
			if rest, err = read("… "); err != nil {
				return "", err
			}
		}
	}
	for {
		before, more := strings.CutSuffix(line, `\`)
		lines = append(lines, before)
		if !more {
			return strings.Join(lines, "\n"), nil
		}
		if line, err = read("… "); err != nil {
			return "", err
		}
	}
}

func (t *talk) command(line string) (leave bool) {
	name, arg, _ := strings.Cut(line, " ")
	arg = strings.TrimSpace(arg)
	switch name {
	case "/exit", "/quit", "/bye":
		return true
	case "/clear":
		t.reset(t.system)
		fmt.Fprintln(t.err, "conversation forgotten")
	case "/system":
		t.reset(arg)
		fmt.Fprintln(t.err, "a new conversation begins")
	case "/save":
		raw, err := json.MarshalIndent(t.messages(0), "", "  ")
		if err == nil && arg == "" {
			err = errors.New("name a file: /save talk.json")
		}
		if err == nil {
			err = os.WriteFile(arg, append(raw, '\n'), 0o600)
		}
		if err != nil {
			fmt.Fprintln(t.err, "shoal:", err)
		} else {
			fmt.Fprintln(t.err, "saved to", arg)
		}
	case "/context":
		fmt.Fprintln(t.err, t.fullness())
	case "/help", "/?":
		fmt.Fprintln(t.err, chatHelp)
	default:
		fmt.Fprintf(t.err, "there is no command %s; /help lists all\n", name)
	}
	return false
}

// say sends a message and prints the answer. An answer that Ctrl-C cuts short stays in
// the conversation; a message without any answer does not. What no longer fits into the
// model's context is left out, oldest first.
func (t *talk) say(ctx context.Context, text string) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	t.makeRoom(text, t.req.MaxTokens)
	for {
		t.tellSkipped()
		req, show := *t.req, t.show
		req.Messages = append(t.messages(t.skip), api.Message{Role: "user", Content: text})
		show.out, show.err = t.out, t.err
		err := show.ask(ctx, t.client, &req)
		if answer := show.text.String(); answer != "" {
			t.add(turn{text, answer, 0}, len(show.result.PromptTokens)+len(show.result.Tokens))
			t.learnLimit(ctx, t.client, show.result.Model)
		}
		if tooLong(err) && t.skipOne() {
			continue
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			fmt.Fprintln(t.err, "(stopped)")
		default:
			remark(t.err, "shoal: "+withRemedy(err))
		}
		return
	}
}

// tellSkipped says, once, that the conversation does not fit any more.
func (t *talk) tellSkipped() {
	if t.skip == 0 || t.told {
		return
	}
	t.told = true
	limit := "context"
	if t.limit > 0 {
		limit = fmt.Sprintf("context of %d tokens", t.limit)
	}
	remark(t.err, fmt.Sprintf("(the conversation is longer than the model's %s: from now on its oldest turns are left out; /context shows how full it is)", limit))
}
