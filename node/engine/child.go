package engine

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shoalnet/shoal/node/fence"
	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/node/remedy"
)

// Child is an engine in a process of its own. It is safe for concurrent use.
type Child struct {
	info Info
	cmd  *exec.Cmd
	conn io.ReadWriteCloser
	r    *bufio.Reader
	log  *slog.Logger

	mu      sync.Mutex // one request at a time
	buf     []byte
	gone    atomic.Bool // the process has ended, or must not be used
	closing atomic.Bool // Close was called

	once sync.Once
	done chan struct{}
	err  error
	tail tail
}

// spin is how long OpenMP's threads spin at a barrier before they sleep, in
// iterations: long enough for the gaps inside a pass, far too short to burn a
// core between passes. Measured against a passive wait and ggml's own barriers.
const spin = "20000"

// noBacktrace keeps ggml from starting a debugger before it aborts: a fence forbids that,
// and elsewhere the debugger may take minutes.
const noBacktrace = "GGML_NO_BACKTRACE=1"

// role is what fence.Role reports in an engine's process.
const role = "engine"

// Argument is what a program gets on its command line when it is started as its
// own engine, for people who look at processes.
const Argument = "engine-child"

// helloTime is how long a child may take from its start to its first message.
// Nothing is loaded before it, so that even a busy machine needs far less.
const helloTime = 10 * time.Second

// InChild is a Loader of engines in processes of their own, which Start starts.
func InChild(command ...string) Loader {
	return func(ctx context.Context, cfg Config, log *slog.Logger) (Engine, error) {
		c, err := Start(ctx, command, cfg, log)
		if err != nil {
			return nil, err // and not a nil *Child, which would be an Engine
		}
		return c, nil
	}
}

// Start starts command as an engine's process, hands it one end of a connection, and has it load a span; without a command it starts this
// program again. The child ends when its end of the connection is closed, so it
// never outlives this process. log may be nil.
//
// Errors wrap ErrNoChild if the program does not call ChildMain, ErrUnsupported or
// ErrMemory if its back end says so, ErrLost if the process ended otherwise, and
// ctx's error if it ended first.
func Start(ctx context.Context, command []string, cfg Config, log *slog.Logger) (*Child, error) {
	return start(ctx, command, cfg, log, helloTime)
}

func start(ctx context.Context, command []string, cfg Config, log *slog.Logger, patience time.Duration) (*Child, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if len(command) == 0 {
		if err := CanStart(); err != nil {
			return nil, err
		}
		exe, err := fence.ThisProgram()
		if err != nil {
			return nil, err
		}
		command = []string{exe, Argument}
	}
	mine, theirs, err := connection()
	if err != nil {
		return nil, fmt.Errorf("engine: making a connection: %w", err)
	}
	defer theirs.Close()
	c := &Child{conn: mine, r: bufio.NewReaderSize(mine, 256<<10), log: log, done: make(chan struct{})}
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Args[0] = os.Args[0] // for people who look at processes
	c.cmd.Env = append(Spinning(fence.Environ(role)), noBacktrace)
	theirs.hand(c.cmd)
	c.cmd.Stderr = &c.tail
	c.cmd.WaitDelay = time.Second // a process of its own may have stderr, too

	proc.Apart(c.cmd)
	if err := c.cmd.Start(); err != nil {
		mine.Close()
		return nil, fmt.Errorf("engine: starting its process: %w", err)
	}
	go c.wait()
	stop := context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })
	defer stop()
	err = c.greeted(patience)
	if err == nil {
		if err = c.load(cfg); errors.Is(err, ErrLost) && c.gone.Load() {
			err = fmt.Errorf("%w, while it was loading", err)
		}
	}
	if err != nil {
		c.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return c, nil
}

// greeted waits for the child's hello. A program that does not say it has not
// called ChildMain: it would go on as itself, and start a node in this node.
func (c *Child) greeted(patience time.Duration) error {
	late := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	kind, body, err := readMessage(c.r)
	if err == nil && kind == opHello && string(body) == hello {
		late.Stop()
		return nil
	}
	other := err == nil || errors.Is(err, errMessage) // it said something else
	if other {
		_ = c.cmd.Process.Kill()
	}
	<-c.done
	switch {
	case !late.Stop():
		return noChild(fmt.Errorf("%w: its process said nothing for %s", ErrLost, patience))
	case !other && c.cmd.ProcessState.ExitCode() < 0: // by a signal, which is not its own fault
		return c.err
	}
	return noChild(fmt.Errorf("%w: started as that, it ended with %s", ErrNoChild, c.cmd.ProcessState))
}

// noChild says what would help.
func noChild(err error) error {
	return remedy.For(fmt.Errorf("%w; its main function must call engine.ChildMain before anything else", err), remedy.CallChildMain)
}

func (c *Child) load(cfg Config) error {
	setup, err := json.Marshal(cfg)
	if err != nil {
		return err
	}
	reply, err := c.call(opLoad, func(b []byte) []byte { return append(b, setup...) })
	if err != nil {
		return err
	}
	return json.Unmarshal(reply, &c.info)
}

// Spinning returns an environment in which OpenMP's threads spin as an engine's
// should; they read it before main. It changes env.
func Spinning(env []string) []string {
	env = slices.DeleteFunc(env, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "OMP_WAIT_POLICY" || name == "GOMP_SPINCOUNT"
	})
	return append(env, "GOMP_SPINCOUNT="+spin)
}

// wait reaps the process and notes why it ended.
func (c *Child) wait() {
	err := c.cmd.Wait()
	c.gone.Store(true)
	c.conn.Close()
	c.once.Do(func() {
		if err == nil {
			err = errors.New("exited")
		}
		if last := c.tail.String(); last != "" && !c.closing.Load() {
			c.log.Warn("the engine's last words", "text", last)
		}
		if c.err = fmt.Errorf("%w: %w", ErrLost, err); c.tail.cause != "" {
			c.err = fmt.Errorf("%w (%s)", c.err, c.tail.cause)
		}
		close(c.done)
	})
}

// Info describes what is loaded.
func (c *Child) Info() Info { return c.info }

// Pid is the process ID.
func (c *Child) Pid() int { return c.cmd.Process.Pid }

// Done is closed when the process has ended; Err then says why.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err is why the process ended, nil while it lives.
func (c *Child) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Run makes one pass, as Engine says. Errors wrap ErrBatch, or ErrLost if the
// process has ended.
func (c *Child) Run(ctx context.Context, b *Batch) (*Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := b.Check(&c.info); err != nil {
		return nil, err
	}
	reply, err := c.call(opRun, b.append)
	if err != nil {
		return nil, err
	}
	res, err := parseResult(reply)
	if err != nil {
		return nil, c.broken(err)
	}
	return res, nil
}

// Remove forgets a sequence's positions >= from, as Engine says.
func (c *Child) Remove(seq int, from int32) error {
	_, err := c.call(opRemove, func(b []byte) []byte { return appendInts(b, int64(seq), int64(from)) })
	return err
}

// CopyPrefix makes dst share src's positions < n, as Engine says.
func (c *Child) CopyPrefix(src, dst int, n int32) error {
	_, err := c.call(opCopy, func(b []byte) []byte { return appendInts(b, int64(src), int64(dst), int64(n)) })
	return err
}

// Close ends the process.
func (c *Child) Close() error {
	c.closing.Store(true)
	c.gone.Store(true)
	c.conn.Close()
	select {
	case <-c.done:
	case <-time.After(3 * time.Second): // in the middle of a pass, or hanging
		_ = c.cmd.Process.Kill()
		<-c.done
	}
	return nil
}

// call sends one request and waits for its reply.
func (c *Child) call(op byte, body func([]byte) []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone.Load() {
		return nil, fmt.Errorf("%w: its process has ended", ErrLost)
	}
	c.buf = body(beginMessage(c.buf[:0], op))
	if err := endMessage(c.buf); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(c.buf); err != nil {
		return nil, c.broken(err)
	}
	kind, reply, err := readMessage(c.r)
	if err != nil {
		return nil, c.broken(err)
	}
	switch kind {
	case opOK:
		return reply, nil
	}
	refused, err := parseError(kind, reply)
	if err != nil {
		return nil, c.broken(err)
	}
	return nil, refused
}

// broken gives up a child that cannot be talked to any more. Of one that has closed its
// end, how it ended says more than that it did.
func (c *Child) broken(err error) error {
	c.gone.Store(true)
	_ = c.cmd.Process.Kill()
	if errors.Is(err, io.EOF) {
		select {
		case <-c.done:
			return c.err
		case <-time.After(time.Second):
		}
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// tail keeps the end of what a process writes.
type tail struct {
	mu    sync.Mutex
	b     []byte
	cause string // the line in which the process begins to say why it ends
}

// aborted matches what ggml writes before it aborts: where, and what was not so.
var aborted = regexp.MustCompile(`\.(?:c|cc|cpp|cuh?|h|hpp|mm?):\d+: (.+)`)

// causeOf returns why a process ends, if a line that it writes begins to say so, as Go's
// runtime and ggml do; "" if not.
func causeOf(line string) string {
	line = strings.TrimSpace(line)
	if m := aborted.FindStringSubmatch(line); m != nil {
		return strings.ToValidUTF8(m[1][:min(len(m[1]), maxCause)], "")
	}
	if len(line) < maxCause && (strings.HasPrefix(line, "SIG") || strings.HasPrefix(line, "fatal error: ")) {
		return line
	}
	return ""
}

// maxCause is how many bytes of a cause are kept.
const maxCause = 100

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range strings.Lines(string(p)) {
		if t.cause == "" {
			t.cause = causeOf(line)
		}
	}
	t.b = append(t.b, p...)
	if n := len(t.b) - 4096; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
