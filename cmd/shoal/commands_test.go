package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdCode is `code N shoal ARGS`: runs shoal and asks for this exit code. What
// it printed is in the files out and err.
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARGS")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // what goes on for ever has no code
	defer cancel()
	cmd := scriptCommand(ctx, ts, args[1:])
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), out.Bytes(), 0o644))
	ts.Check(os.WriteFile(ts.MkAbs("err"), errOut.Bytes(), 0o644))
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("exit code %d, want %d\n%s%s", got, want, out.String(), errOut.String())
	}
	if bytes.Contains(errOut.Bytes(), []byte("goroutine ")) {
		ts.Fatalf("it panicked:\n%s", errOut.String())
	}
}

// scriptCommand is a program with its arguments, in the script's directory and home.
func scriptCommand(ctx context.Context, ts *testscript.TestScript, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if args[0] == "shoal" {
		cmd.Path, cmd.Err = os.Args[0], nil
	}
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = append(os.Environ(), "SHOAL_HOME="+ts.Getenv("SHOAL_HOME"), "SHOAL_NO_MDNS=true", "SHOAL_QUIET_BUILD=1")
	return cmd
}

// cmdStays is `stays REGEX PROGRAM ARGS`: a daemon writes a line like that to stderr,
// goes on running, and ends in order when it is told to.
func cmdStays(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: stays REGEX PROGRAM ARGS")
	}
	want := regexp.MustCompile(args[0])
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := scriptCommand(ctx, ts, args[1:])
	said, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	told := false
	for lines := bufio.NewScanner(said); lines.Scan(); {
		ts.Logf("%s", lines.Text())
		if !told && want.MatchString(lines.Text()) {
			told = true
			ts.Check(cmd.Process.Signal(os.Interrupt))
		}
	}
	if err := cmd.Wait(); err != nil || !told {
		ts.Fatalf("it ended with %v; it said what was wanted: %v", err, told)
	}
}

// cmdTruncate is `truncate FROM TO BYTES`.
func cmdTruncate(ts *testscript.TestScript, _ bool, args []string) {
	raw, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), raw[:n], 0o644))
}

// cmdSame is `same A B`: the files have the same sha256.
func cmdSame(ts *testscript.TestScript, _ bool, args []string) {
	var sums [2][32]byte
	for i := range sums {
		raw, err := os.ReadFile(ts.MkAbs(args[i]))
		ts.Check(err)
		sums[i] = sha256.Sum256(raw)
	}
	if sums[0] != sums[1] {
		ts.Fatalf("%s and %s differ", args[0], args[1])
	}
}
