package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/fence"
	"github.com/shoalnet/shoal/node/proc"
	"github.com/shoalnet/shoal/node/remedy"
)

// TestMain makes this test program what its argument says: one of the programs
// that are no engine's, or its own engine child.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 {
		if program, ok := programs[os.Args[1]]; ok {
			os.Exit(program())
		}
	}
	ChildMain(refusing{})
	os.Exit(m.Run())
}

// programs that do not call ChildMain.
var programs = map[string]func() int{
	"goes on as itself and ends": func() int { return 3 },
	"goes on for good":           forGood,
	"writes something else": func() int {
		_, _ = os.NewFile(3, "").WriteString("HTTP/1.1 200 OK\r\n\r\n")
		return forGood()
	},
	"is killed": func() int {
		_ = proc.Signal(os.Getpid(), syscall.SIGKILL)
		return forGood()
	},
	"asks whether it may start engines": func() int {
		if err := CanStart(); !errors.Is(err, ErrNoChild) || remedy.Of(err) == nil {
			fmt.Println(err)
			return 1
		}
		if _, err := Start(context.Background(), nil, Config{}, nil); !errors.Is(err, ErrNoChild) {
			fmt.Println(err)
			return 1
		}
		return 0
	},
}

// forGood does not return. Without C, Go would end a program that only waits.
func forGood() int {
	for {
		time.Sleep(time.Hour)
	}
}

// A program that does not serve as its own engine is found out, and ended.
func TestProgramsThatForget(t *testing.T) {
	exe, err := fence.ThisProgram()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		program  string
		patience time.Duration
		is       error
		mend     bool
		says     string
	}{
		{"goes on as itself and ends", time.Hour, ErrNoChild, true, "exit status 3"},
		{"goes on for good", 50 * time.Millisecond, ErrLost, true, "said nothing for 50ms"},
		{"writes something else", time.Hour, ErrNoChild, true, "engine.ChildMain"},
		{"is killed", time.Hour, ErrLost, false, "signal: killed"},
	} {
		e, err := start(t.Context(), []string{exe, c.program}, Config{}, nil, c.patience)
		if err == nil {
			e.Close()
			t.Errorf("one that %s is an engine", c.program)
			continue
		}
		r := remedy.Of(err)
		if !errors.Is(err, c.is) || (r != nil) != c.mend || !strings.Contains(err.Error(), c.says) {
			t.Errorf("one that %s: %v, with remedy %v", c.program, err, r)
		}
		if r != nil && r.Kind != remedy.CallChildMain {
			t.Errorf("one that %s: the remedy is %s", c.program, r.Kind)
		}
	}
}

// One that has not called ChildMain may not start engines.
func TestCanStart(t *testing.T) {
	if err := CanStart(); err != nil {
		t.Errorf("this program calls ChildMain: %v", err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.StartProcess(exe, []string{exe, "asks whether it may start engines"}, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := p.Wait(); err != nil || !st.Success() {
		t.Errorf("a program that does not: %v, %v", st, err)
	}
}

// refusals by the path that is to be loaded.
var refusals = map[string]error{
	"unsupported": fmt.Errorf("%w: of some kind", ErrUnsupported),
	"device":      remedy.For(fmt.Errorf("%w: no such device", ErrUnsupported), remedy.ChooseDevice, "a", "b"),
	"memory":      remedy.For(fmt.Errorf("%w: full", ErrMemory), remedy.RaiseMemory),
	"batch":       fmt.Errorf("%w: of nothing", ErrBatch),
	"lost":        fmt.Errorf("%w: gone", ErrLost),
	"other":       errors.New("something else"),
}

// refusing is a back end that loads nothing.
type refusing struct{}

func (refusing) Load(_ context.Context, cfg Config, _ *slog.Logger) (Engine, error) {
	return nil, refusals[cfg.Path]
}
func (refusing) Fence(*Config) fence.Rules { return fence.Rules{} }

// Errors come out of a child with what they wrap, their words and their remedy.
func TestErrorsCross(t *testing.T) {
	all := []error{ErrUnsupported, ErrMemory, ErrBatch, ErrLost, ErrNoChild}
	for path, want := range refusals {
		_, err := InChild()(t.Context(), Config{Path: path}, nil)
		if err == nil || err.Error() != want.Error() {
			t.Errorf("%s: %v, want %v", path, err, want)
			continue
		}
		for _, is := range all {
			if errors.Is(err, is) != errors.Is(want, is) {
				t.Errorf("%s: %v is a %v: %v", path, err, is, errors.Is(err, is))
			}
		}
		got, mend := remedy.Of(err), remedy.Of(want)
		if (got == nil) != (mend == nil) || got != nil && (got.Kind != mend.Kind || len(got.Args)+len(mend.Args) > 0 && !reflect.DeepEqual(got.Args, mend.Args)) {
			t.Errorf("%s: remedy %+v, want %+v", path, got, mend)
		}
	}
}

// Of what a process writes at its end, the line that says why is part of the error.
func TestCause(t *testing.T) {
	long := strings.Repeat("x", 500)
	for text, want := range map[string]string{
		"SIGSEGV: segmentation violation\nPC=0x0\n":                                               "SIGSEGV: segmentation violation",
		"fatal error: all goroutines are asleep\n":                                                "fatal error: all goroutines are asleep",
		"/a/b c/ggml.c:2072: GGML_ASSERT(ggml_can_repeat(b, a)) failed\nSIGABRT: abort\nPC=0x0\n": "GGML_ASSERT(ggml_can_repeat(b, a)) failed",
		"C:\\a\\llama-context.cpp:7: fatal error\r\n":                                             "fatal error",
		"x.cpp:1: " + long + "\n":                                                                 long[:maxCause],
		"SIG" + long:                                                                              "",
		"something else.\nx.txt:3: a mistake\n":                                                   "",
	} {
		var t1 tail
		_, _ = t1.Write([]byte(text))
		if t1.cause != want {
			t.Errorf("%q: %q, want %q", text, t1.cause, want)
		}
	}
}
