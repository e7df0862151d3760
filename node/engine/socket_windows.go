package engine

import (
	"errors"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/windows"
)

// pipes is a connection of two pipes: Windows has no socketpair.
type pipes struct {
	io.Reader
	io.Writer
	files []*os.File
}

// Close ends reads and writes under way on both sides.
func (p *pipes) Close() error {
	var errs []error
	for _, f := range p.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// handle is the end of a connection that a child inherits.
type handle struct{ in, out *os.File }

// hand has a command inherit the handle as its standard input and output.
func (h handle) hand(cmd *exec.Cmd) { cmd.Stdin, cmd.Stdout = h.in, h.out }

// Close closes this process's copy.
func (h handle) Close() error { return errors.Join(h.in.Close(), h.out.Close()) }

// inherited returns the connection that the parent has handed to this process. What
// else writes to standard output goes to standard error from now on.
func inherited() io.ReadWriter {
	c := &pipes{Reader: os.Stdin, Writer: os.Stdout}
	os.Stdout = os.Stderr
	_ = windows.SetStdHandle(windows.STD_OUTPUT_HANDLE, windows.Handle(os.Stderr.Fd()))
	return c
}

// connection returns this process's end, and the one for a child.
func connection() (mine io.ReadWriteCloser, theirs handle, err error) {
	in, theirOut, err := os.Pipe()
	if err != nil {
		return nil, handle{}, err
	}
	theirIn, out, err := os.Pipe()
	if err != nil {
		return nil, handle{}, errors.Join(err, in.Close(), theirOut.Close())
	}
	return &pipes{Reader: in, Writer: out, files: []*os.File{in, out}}, handle{theirIn, theirOut}, nil
}
