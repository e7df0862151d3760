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
	"os/signal"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/fence"
	"github.com/shoalnet/shoal/node/proc"
)

// called notes that this program can be its own engine.
var called atomic.Bool

// ChildMain is what the main function of a program with a node calls before
// anything else: engines run in processes of their own, which are the same program
// started again. In such a process ChildMain serves, computes with b, and does not
// return; in any other it returns at once.
func ChildMain(b Backend) {
	if fence.Role() == role {
		os.Exit(serve(b))
	}
	called.Store(true)
}

// CanStart returns an error that wraps ErrNoChild where this program would not
// serve as its own engine, because it has not called ChildMain.
func CanStart() error {
	if called.Load() {
		return nil
	}
	return noChild(ErrNoChild)
}

// serve is the life of an engine's process: it serves the connection that Start has
// handed to it, and ends when its parent does. It returns the exit
// code.
func serve(b Backend) int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP) // the parent decides
	_ = os.WriteFile("/proc/self/comm", []byte("shoal-engine"), 0) // Linux's name for it would be that of the link it was started by
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	conn := inherited()
	out := append(beginMessage(nil, opHello), hello...)
	if err := send(conn, out); err != nil {
		fmt.Fprintln(os.Stderr, "this process was not started by a node:", err)
		return 2
	}
	go outlive(os.Getppid())
	r := bufio.NewReaderSize(conn, 256<<10)
	s := &served{backend: b}
	for {
		kind, body, err := readMessage(r)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "engine:", err)
			}
			return 0
		}
		reply, err := s.answer(kind, body)
		kind = opOK
		if err != nil {
			kind, reply = kindOf(err), func(b []byte) []byte { return appendError(b, err) }
		}
		out = reply(beginMessage(out[:0], kind))
		if err := send(conn, out); err != nil {
			return 0
		}
		if s.idle != nil {
			s.idle.Reset(trimAfter)
		}
	}
}

// trimAfter is after how long without a request a child gives back what it can. What it
// gave back costs the next request a few milliseconds.
const trimAfter = 2 * time.Second

// trim gives back what an engine and its process hold without using it: buffers, cells,
// freed memory of Go and of C, and the program's own pages, most of which only a node
// needs.
func trim(e Engine) {
	if t, ok := e.(Trimmer); ok {
		t.Trim()
	}
	debug.FreeOSMemory()
	proc.Shed()
}

// send completes a message and writes it.
func send(w io.Writer, message []byte) error {
	if err := endMessage(message); err != nil {
		return err
	}
	_, err := w.Write(message)
	return err
}

// outlive ends this process when its parent has ended, in the middle of a pass,
// too. Between two passes the socket tells, and at once.
func outlive(parent int) {
	for os.Getppid() == parent && proc.Alive(parent) { // Windows keeps the ID of a parent that has ended
		time.Sleep(250 * time.Millisecond)
	}
	os.Exit(0)
}

// served is what a child has loaded.
type served struct {
	backend Backend
	engine  Engine      // nil: nothing yet
	idle    *time.Timer // trims the engine; nil: nothing is loaded yet
}

func nothing(b []byte) []byte { return b }

// answer does what a request asks for. The reply appends a body.
func (s *served) answer(kind byte, body []byte) (reply func([]byte) []byte, err error) {
	if kind == opLoad {
		return s.load(body)
	}
	if s.engine == nil {
		return nil, errors.New("nothing is loaded")
	}
	r := &reader{b: body}
	switch kind {
	case opRun:
		b, err := parseBatch(body)
		if err != nil {
			return nil, err
		}
		res, err := s.engine.Run(context.Background(), b)
		if err != nil {
			return nil, err
		}
		return res.append, nil
	case opRemove:
		return nothing, s.engine.Remove(int(r.int()), int32(r.int()))
	case opCopy:
		return nothing, s.engine.CopyPrefix(int(r.int()), int(r.int()), int32(r.int()))
	}
	return nil, errMessage
}

func (s *served) load(body []byte) (reply func([]byte) []byte, err error) {
	var cfg Config
	if err := json.Unmarshal(body, &cfg); err != nil {
		return nil, err
	}
	proc.Lower(cfg.Nice)
	behind := fence.Up(s.backend.Fence(&cfg))
	if s.engine, err = s.backend.Load(context.Background(), cfg, slog.Default()); err != nil {
		return nil, err
	}
	behind.Settle()
	s.idle = time.AfterFunc(trimAfter, func() { trim(s.engine) })
	loaded := s.engine.Info()
	loaded.Fence = behind
	info, err := json.Marshal(loaded)
	return func(b []byte) []byte { return append(b, info...) }, err
}
