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
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/fence"
)

// ChildMain is the life of an engine's process: it serves the socket that
// Start has left as file descriptor 3, and ends when its parent does. The
// result is the exit code.
func ChildMain() int {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP) // the parent decides
	_ = os.WriteFile("/proc/self/comm", []byte("shoal-engine"), 0) // Linux's name for it would be that of the link it was started by
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	conn := os.NewFile(3, "engine")
	if conn == nil {
		fmt.Fprintln(os.Stderr, "this command is started by a shoal node, not by people")
		return 2
	}
	go outlive(os.Getppid())
	r := bufio.NewReaderSize(conn, 256<<10)
	var e *Local
	var out []byte
	for {
		kind, body, err := readMessage(r)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "engine:", err)
			}
			return 0
		}
		reply, err := answer(&e, message{kind, body})
		kind = opOK
		if err != nil {
			kind, reply = kindOf(err), func(b []byte) []byte { return append(b, err.Error()...) }
		}
		out = reply(beginMessage(out[:0], kind))
		if err := endMessage(out); err != nil {
			return 1
		}
		if _, err := conn.Write(out); err != nil {
			return 0
		}
	}
}

// outlive ends this process when its parent has ended, in the middle of a pass,
// too. Between two passes the socket tells, and at once.
func outlive(parent int) {
	for os.Getppid() == parent {
		time.Sleep(250 * time.Millisecond)
	}
	os.Exit(0)
}

type message struct {
	kind byte
	body []byte
}

func nothing(b []byte) []byte { return b }

func answer(e **Local, m message) (reply func([]byte) []byte, err error) {
	if m.kind == opLoad {
		var cfg Config
		if err := json.Unmarshal(m.body, &cfg); err != nil {
			return nil, err
		}
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, cfg.Nice)
		behind := fence.Up(fenceRules(&cfg))
		if *e, err = Load(context.Background(), cfg, slog.Default()); err != nil {
			return nil, err
		}
		behind.Settle()
		loaded := (*e).Info()
		loaded.Fence = behind
		info, err := json.Marshal(loaded)
		return func(b []byte) []byte { return append(b, info...) }, err
	}
	if *e == nil {
		return nil, errors.New("nothing is loaded")
	}
	r := &reader{b: m.body}
	switch m.kind {
	case opRun:
		b, err := parseBatch(m.body)
		if err != nil {
			return nil, err
		}
		res, err := (*e).Run(context.Background(), b)
		if err != nil {
			return nil, err
		}
		return res.append, nil
	case opRemove:
		return nothing, (*e).Remove(int(r.int()), int32(r.int()))
	case opCopy:
		return nothing, (*e).CopyPrefix(int(r.int()), int(r.int()), int32(r.int()))
	}
	return nil, errMessage
}

func kindOf(err error) byte {
	switch {
	case errors.Is(err, ErrBatch):
		return opBatch
	case errors.Is(err, ErrUnsupported):
		return opUnsupported
	case errors.Is(err, ErrMemory):
		return opMemory
	}
	return opFailed
}
