package convert

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/fence"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/node/remedy"
)

// The library panics, in goroutines of its own, at directories that it does not
// expect, and allocates whole tensors. So it runs in a child process that may
// die, behind the same fence as engines: the child reads the directory, writes
// the model, and reaches nothing else.

// request is a child's task, in JSON on its standard input, which stays open as
// long as its parent lives.
type request struct {
	Dir, Out, Temp, Quantize string
}

// report is a line of a child's standard output. The last one has Ended set.
type report struct {
	Begun       bool   `json:",omitempty"` // in the first line: this process is a converter
	Done, Total int64  `json:",omitempty"` // bytes, as in Options.Progress
	Ended       bool   `json:",omitempty"`
	Error       string `json:",omitempty"`
	Kind        string `json:",omitempty"` // of the error: directory, unsupported, full
}

// role is what fence.Role returns in a converter's process.
const role = "convert"

// Argument is on the command line of a program that was started as its own
// converter, for people who list processes.
const Argument = "convert-child"

// helloTime is how long a child may take to announce itself as a converter.
const helloTime = 10 * time.Second

// ChildMain must be called before anything else by the main function of a
// program that uses InChild. In a converter's process it converts and does not
// return; in any other it returns at once.
func ChildMain(check func(md interface{ Value(key string) any }) error) {
	if fence.Role() == role {
		os.Exit(childMain(check))
	}
}

func childMain(check func(md interface{ Value(key string) any }) error) int {
	fmt.Println(`{"Begun":true}`)
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	var req request
	if err == nil {
		err = json.Unmarshal(line, &req)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "this command is for shoal's own use")
		return 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, in) // returns when the parent ends
		cancel()
		time.Sleep(2 * time.Second) // the library checks for cancellation only between reads
		os.Exit(1)
	}()
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	say := func(r report) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(r)
	}
	end := report{Ended: true}
	f, err := os.OpenFile(req.Out, os.O_WRONLY|os.O_TRUNC, 0o600)
	fence.Up(fence.Rules{Read: append(targets(req.Dir), req.Dir), Write: []string{req.Temp}})
	if err == nil {
		err = Directory(ctx, req.Dir, f, Options{
			Quantize: req.Quantize, Temp: req.Temp, Check: check, Progress: func(done, total int64) { say(report{Done: done, Total: total}) },
		})
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		end.Error = err.Error()
		switch {
		case files.Full(err):
			end.Kind = "full"
		case errors.Is(err, ErrDirectory):
			end.Kind = "directory"
		case errors.Is(err, ErrUnsupported):
			end.Kind = "unsupported"
		}
	}
	say(end)
	return 0
}

// targets returns the files that a directory's links lead to: download tools
// keep the files themselves elsewhere.
func targets(dir string) (files []string) {
	entries, _ := os.ReadDir(dir) // the conversion reports what is wrong with the directory
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			files = append(files, path)
		}
	}
	return files
}

// failure is an error reported by a child.
type failure struct {
	message string
	is      error
}

func (f *failure) Error() string { return f.message }
func (f *failure) Unwrap() error { return f.is }

// errSilent is the cause of ending a process that did not announce itself as a
// converter.
var errSilent = fmt.Errorf("said nothing for %s", helloTime)

// noChild returns the error for a process that was not a converter; why is how
// it ended.
func noChild(why error) error {
	return remedy.For(fmt.Errorf("%w: started as its converter, it %w; its main function must call convert.ChildMain before anything else", engine.ErrNoChild, why), remedy.CallChildMain)
}

// InChild is Directory in a child process, started by command or, if that is
// empty, by starting this program again. out is the path of an existing file.
// Errors wrap those of Directory, or engine.ErrNoChild if the program does not
// call ChildMain.
func InChild(ctx context.Context, command []string, dir, out string, opt Options) error {
	if len(command) == 0 {
		exe, err := fence.ThisProgram()
		if err != nil {
			return err
		}
		command = []string{exe, Argument}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(helloTime, func() { cancel(errSilent) })
	defer late.Stop()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	var stderr words
	cmd.Stderr = &stderr
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = fence.Environ(role)
	proc.Apart(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the converter: %w", err)
	}
	raw, err := json.Marshal(request{Dir: dir, Out: out, Temp: opt.Temp, Quantize: opt.Quantize})
	if err == nil {
		_, err = in.Write(append(raw, '\n'))
	}
	var end report
	begun := false
	for d := json.NewDecoder(stdout); err == nil && !end.Ended; {
		var r report
		if err = d.Decode(&r); err != nil {
			break
		}
		switch {
		case r.Ended:
			end = r
		case r.Begun:
			begun = true
			late.Stop()
		case opt.Progress != nil:
			opt.Progress(r.Done, r.Total)
		}
	}
	in.Close()
	werr := cmd.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		return noChild(cause)
	} else if cause != nil {
		return cause
	}
	if !begun && cmd.ProcessState.ExitCode() >= 0 {
		return noChild(fmt.Errorf("ended with %s", cmd.ProcessState))
	}
	if !end.Ended {
		if why := stderr.why(); why != "" {
			return errf("the converter failed: %s", why)
		}
		return fmt.Errorf("the converter ended without a message: %w", errors.Join(err, werr))
	}
	if end.Error == "" {
		return nil
	}
	return &failure{end.Error, map[string]error{"directory": ErrDirectory, "unsupported": ErrUnsupported, "full": syscall.ENOSPC}[end.Kind]}
}

// words keeps the beginning of what a child writes before it dies.
type words struct{ b bytes.Buffer }

func (t *words) Write(p []byte) (int, error) {
	if room := 1<<16 - t.b.Len(); room > 0 {
		t.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// why returns the line that says what happened.
func (t *words) why() string {
	lines := strings.Split(strings.TrimSpace(t.b.String()), "\n")
	for _, l := range lines {
		if strings.HasPrefix(l, "panic: ") || strings.Contains(l, "GGML_ASSERT") || strings.HasPrefix(l, "fatal error: ") {
			return l
		}
	}
	return lines[len(lines)-1]
}
