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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/fence"
)

// Child is an engine in a process of its own.
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
// core between passes. Measured against a passive wait and ggml's own barriers
// (see design, section 10).
const spin = "20000"

// Start starts command as an engine's process, hands it one end of a
// socketpair as file descriptor 3, and has it load a span. The child ends when
// its end of the socketpair does, so it never outlives this process.
func Start(ctx context.Context, command []string, cfg Config, log *slog.Logger) (*Child, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if len(command) == 0 {
		return nil, errors.New("engine: no command to start a child with")
	}
	mine, theirs, err := socketpair()
	if err != nil {
		return nil, fmt.Errorf("engine: making a socketpair: %w", err)
	}
	defer theirs.Close()
	c := &Child{conn: mine, r: bufio.NewReaderSize(mine, 256<<10), log: log, done: make(chan struct{})}
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Args[0] = os.Args[0] // for people who look at processes
	c.cmd.Env = append(Spinning(fence.Environ()), "SHOAL_ENGINE_CHILD=1")
	c.cmd.ExtraFiles = []*os.File{theirs}
	c.cmd.Stderr = &c.tail
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in the terminal is the parent's to handle
	if err := c.cmd.Start(); err != nil {
		mine.Close()
		return nil, fmt.Errorf("engine: starting its process: %w", err)
	}
	go c.wait()
	stop := context.AfterFunc(ctx, func() { _ = c.cmd.Process.Kill() })
	defer stop()
	setup, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	reply, err := c.call(opLoad, func(b []byte) []byte { return append(b, setup...) })
	if err == nil {
		err = json.Unmarshal(reply, &c.info)
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

// Spinning is an environment in which OpenMP's threads spin as an engine's
// should, which they read before main. It changes env.
func Spinning(env []string) []string {
	env = slices.DeleteFunc(env, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return name == "OMP_WAIT_POLICY" || name == "GOMP_SPINCOUNT"
	})
	return append(env, "GOMP_SPINCOUNT="+spin)
}

// wait reaps the process and says why it ended.
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
		c.err = fmt.Errorf("%w: %w", ErrLost, err)
		close(c.done)
	})
}

// Info tells what is loaded.
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

// Run makes one pass.
func (c *Child) Run(_ context.Context, b *Batch) (*Result, error) {
	if err := b.check(&c.info); err != nil {
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

// Remove forgets a sequence's positions >= from.
func (c *Child) Remove(seq int, from int32) error {
	_, err := c.call(opRemove, func(b []byte) []byte { return appendInts(b, int64(seq), int64(from)) })
	return err
}

// CopyPrefix makes dst share src's positions < n.
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
	case opBatch:
		return nil, fmt.Errorf("%w: %s", ErrBatch, reply)
	case opUnsupported:
		return nil, fmt.Errorf("%w: %s", ErrUnsupported, reply)
	case opMemory:
		return nil, fmt.Errorf("%w: %s", ErrMemory, reply)
	case opFailed:
		return nil, errors.New(string(reply))
	}
	return nil, c.broken(fmt.Errorf("a reply of unknown kind %d", kind))
}

// broken gives up a child that cannot be talked to any more.
func (c *Child) broken(err error) error {
	c.gone.Store(true)
	_ = c.cmd.Process.Kill()
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// tail keeps the end of what a process writes.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
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
