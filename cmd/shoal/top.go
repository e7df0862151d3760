package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/proc"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "watch the node: sessions, tokens, KV, peers, fetches",
		Description: "On a terminal it redraws each second; q or Ctrl-C leaves. In a pipe it prints one line per second,\nor one object per second with --json. With --once it prints one snapshot and exits.",
		Flags:       append([]cli.Flag{&cli.BoolFlag{Name: "once", Usage: "print one snapshot and exit"}}, clientFlags()...),
		Action:      runTop,
	}
}

// look is a snapshot of a node, with rates since the previous one. `shoal top --json`
// prints one per second.
type look struct {
	Time       time.Time     `json:"time"`
	Error      string        `json:"error,omitempty"` // why there was no answer; all else is then as it was
	Peer       string        `json:"peer"`
	Name       string        `json:"name,omitempty"`
	API        string        `json:"api,omitempty"` // host:port of the page and the API
	Version    string        `json:"version"`
	UptimeS    int64         `json:"uptime_s"`
	Sessions   int           `json:"sessions"`
	TokensPerS float64       `json:"tokens_per_s"`
	KVTokens   int           `json:"kv_tokens"`
	KVFree     int           `json:"kv_free"`
	PassesPerS float64       `json:"passes_per_s"`
	RowsPass   float64       `json:"rows_per_pass"`
	Queued     int           `json:"queued_rows"`
	Memory     int64         `json:"memory"`      // bytes to lend
	MemoryUsed int64         `json:"memory_used"` // of Memory
	Disk       int64         `json:"disk"`        // bytes of models
	Given      uint64        `json:"bytes_given"`
	Taken      uint64        `json:"bytes_taken"`
	GivenPerS  float64       `json:"bytes_given_per_s"`
	TakenPerS  float64       `json:"bytes_taken_per_s"`
	Paused     string        `json:"paused,omitempty"`
	Ahead      *api.Ahead    `json:"ahead,omitempty"` // of the node's answers since its start
	Serving    []api.Serving `json:"serving"`
	Fetches    []api.Fetch   `json:"fetches"`
	Peers      []api.Peer    `json:"peers"`

	passes, rows int64
}

// next returns the snapshot that follows l, from a new status.
func (l look) next(now time.Time, s *api.Status) look {
	n := look{
		Time: now, Peer: s.Peer, Name: s.Name, API: s.API, Version: s.Version, UptimeS: int64(s.Uptime.Seconds()), Memory: s.Memory, Disk: s.Allocated, Given: s.Given, Taken: s.Taken,
		Serving: s.Serving, Peers: l.Peers, Fetches: l.Fetches, Paused: l.Paused, Ahead: s.Ahead,
	}
	for _, v := range s.Serving {
		n.Sessions += v.Sessions
		n.TokensPerS += v.TokensPerS
		n.KVTokens += v.KVTokens
		n.KVFree += v.KVFree
		n.Queued += v.Queued
		n.MemoryUsed += int64(v.Memory)
		n.passes += v.Passes
		n.rows += v.Rows
	}
	dt := now.Sub(l.Time).Seconds()
	if l.Time.IsZero() || dt <= 0 || n.UptimeS < l.UptimeS || n.passes < l.passes { // the first, or the node was restarted
		return n
	}
	n.PassesPerS = float64(n.passes-l.passes) / dt
	if n.passes > l.passes {
		n.RowsPass = float64(n.rows-l.rows) / float64(n.passes-l.passes)
	}
	if n.Given >= l.Given && n.Taken >= l.Taken {
		n.GivenPerS, n.TakenPerS = float64(n.Given-l.Given)/dt, float64(n.Taken-l.Taken)/dt
	}
	return n
}

// watcher keeps a snapshot up to date. Peers are polled separately: the node asks each
// of them in turn, and a silent one must not delay the rest of the screen.
type watcher struct {
	client *api.Client

	mu   sync.Mutex
	last look
}

// status polls the node itself.
func (w *watcher) status(ctx context.Context) look {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := w.client.Status(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.last.Error = withRemedy(err)
		return w.last
	}
	w.last = w.last.next(time.Now(), s)
	return w.last
}

// peers polls the node's peers, fetches and pauses.
func (w *watcher) peers(ctx context.Context) error {
	peers, err := w.client.Peers(ctx)
	if err != nil {
		return err
	}
	h, err := w.client.Health(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last.Peers, w.last.Fetches, w.last.Paused = peers, h.Fetches, h.Paused
	return nil
}

// follow keeps polling the peers, less often if there are many.
func (w *watcher) follow(ctx context.Context) {
	for ctx.Err() == nil {
		_ = w.peers(ctx) // status reports an error, too
		w.mu.Lock()
		pause := time.Second + time.Duration(len(w.last.Peers))*50*time.Millisecond
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func runTop(c *cli.Context) error {
	if err := noArgs(c); err != nil {
		return err
	}
	if c.String("api") == "" && running(c.Context, c.String("home")) == nil {
		return fmt.Errorf("no node is running in %s; start one with `shoal node`, or name one with --api", c.String("home"))
	}
	cl, done, err := connect(c, false)
	if err != nil {
		return err
	}
	defer done()
	w := &watcher{client: cl}
	if err := w.peers(c.Context); err != nil {
		return err
	}
	w.status(c.Context)
	switch {
	case c.Bool("once"):
		return once(c, w)
	case c.Bool("json"), !isTerminal(c.App.Writer):
		return stream(c, w)
	}
	return screen(c.Context, w)
}

// once prints one snapshot, with rates over one second.
func once(c *cli.Context, w *watcher) error {
	select {
	case <-c.Context.Done():
		return c.Context.Err()
	case <-time.After(time.Second):
	}
	l := w.status(c.Context)
	if l.Error != "" {
		return errors.New(l.Error)
	}
	if c.Bool("json") {
		return printJSON(c.App.Writer, l)
	}
	for _, line := range draw(l, nil, cmp.Or(columns(c.App.Writer), 120), 0, false) {
		if _, err := fmt.Fprintln(c.App.Writer, line); err != nil {
			return err
		}
	}
	return nil
}

// stream prints one snapshot per second until its reader or the node has gone.
func stream(c *cli.Context, w *watcher) error {
	ctx, stop := context.WithCancel(c.Context)
	defer stop()
	go w.follow(ctx)
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			return nil // Ctrl-C is how it ends
		case <-tick.C:
		}
		l := w.status(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case l.Error != "":
			return errors.New(l.Error)
		}
		var err error
		if c.Bool("json") {
			err = printJSON(c.App.Writer, l)
		} else {
			_, err = fmt.Fprintln(c.App.Writer, line(l))
		}
		if errors.Is(err, syscall.EPIPE) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line formats a snapshot in one line, for a pipe.
func line(l look) string {
	return fmt.Sprintf("%s sessions %d, %.1f tokens/s, KV %d of %d free, %.1f passes/s of %.1f rows, %d peers, sent %s, received %s, %d fetches",
		l.Time.Format(time.TimeOnly), l.Sessions, l.TokensPerS, l.KVFree, l.KVTokens, l.PassesPerS, l.RowsPass, len(l.Peers), bytesText(int64(l.Given)), bytesText(int64(l.Taken)), len(l.Fetches))
}

// Escape sequences: to the alternate screen without a cursor, and back.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[2J"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
)

// screen redraws a snapshot every second until q or Ctrl-C.
func screen(ctx context.Context, w *watcher) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	in := int(os.Stdin.Fd())
	if term.IsTerminal(in) {
		old, err := term.MakeRaw(in)
		if err != nil {
			return err
		}
		defer func() { _ = term.Restore(in, old) }()
		go readKeys(os.Stdin, stop)
	}
	fmt.Fprint(os.Stdout, enterScreen)
	defer fmt.Fprint(os.Stdout, leaveScreen)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, proc.Resized)
	defer signal.Stop(resized)
	go w.follow(ctx)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var past []float64
	l := w.status(ctx)
	for {
		width, height, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil {
			width, height = 80, 24
		}
		if err := paint(os.Stdout, draw(l, past, width, height, true)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
		case <-tick.C:
			l = w.status(ctx)
			if past = append(past, l.TokensPerS); len(past) > 300 {
				past = past[1:]
			}
		}
	}
}

// readKeys calls stop at q, Ctrl-C or Ctrl-D.
func readKeys(r io.Reader, stop func()) {
	b := make([]byte, 1)
	for {
		if _, err := r.Read(b); err != nil {
			return
		}
		switch b[0] {
		case 'q', 'Q', 3, 4:
			stop()
			return
		}
	}
}

// paint overwrites the lines on the screen, without flicker.
func paint(w io.Writer, lines []string) error {
	b := []byte("\x1b[?2026h\x1b[H")
	for i, l := range lines {
		b = append(b, l...)
		b = append(b, "\x1b[0m\x1b[K"...)
		if i < len(lines)-1 {
			b = append(b, "\r\n"...)
		}
	}
	_, err := w.Write(append(b, "\x1b[J\x1b[?2026l"...))
	return err
}
